"""W3C Trace Context: which headers of a request are kept, and which are dropped."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.core.trace_context import MAX_TRACESTATE, TraceContext, log_fields, read_trace, without_own

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
GOOD = f"00-{TRACE}-{PARENT}-01"


@pytest.mark.parametrize(
    ("given_", "kept"),
    [
        (GOOD, GOOD),
        (f" {GOOD}\t", GOOD),
        (f"00-{TRACE}-{PARENT}-00", f"00-{TRACE}-{PARENT}-00"),
        (f"00-{TRACE}-{PARENT}-ff", f"00-{TRACE}-{PARENT}-ff"),
        (f"01-{TRACE}-{PARENT}-03", GOOD),
        (f"cc-{TRACE}-{PARENT}-01-what-the-future-brings", GOOD),
        (f"cc-{TRACE}-{PARENT}-00", f"00-{TRACE}-{PARENT}-00"),
        (f"cc-{TRACE}-{PARENT}-01.what", None),
        (f"00-{TRACE}-{PARENT}-01-more", None),
        (f"00-{TRACE}-{PARENT}-01-", None),
        (f"ff-{TRACE}-{PARENT}-01", None),
        (f"00-{'0' * 32}-{PARENT}-01", None),
        (f"00-{TRACE}-{'0' * 16}-01", None),
        (f"00-{TRACE.upper()}-{PARENT}-01", None),
        (f"00-{TRACE[:-1]}-{PARENT}-01", None),
        (f"00-{TRACE}-{PARENT}0-01", None),
        (f"00-{TRACE}-{PARENT}-1", None),
        (f"00-{TRACE}-{PARENT}", None),
        (f"0-{TRACE}-{PARENT}-01", None),
        (f"{GOOD},{GOOD}", None),
        (f"{GOOD}\n", None),
        ("", None),
        ("\u0660" * 55, None),
    ],
)
def test_a_malformed_traceparent_is_dropped_with_its_tracestate(given_: str, kept: str | None) -> None:
    assert read_trace([given_], []) == (None if kept is None else TraceContext(kept))
    found = read_trace([given_], ["a=1"])
    assert found == (None if kept is None else TraceContext(kept, "a=1"))


def test_a_request_has_at_most_one_traceparent() -> None:
    assert read_trace([], []) is None
    assert read_trace([], ["a=1"]) is None
    assert read_trace([GOOD, GOOD], ["a=1"]) is None


@pytest.mark.parametrize(
    ("values", "kept"),
    [
        (["rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"], "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"),
        (["a=1", "b=2,c=3"], "a=1,b=2,c=3"),
        (["a=1 , \tb=2\t"], "a=1,b=2"),
        (["a=1,,b=2,"], "a=1,b=2"),
        (["fw529a3039@dt=FfAgA"], "fw529a3039@dt=FfAgA"),
        (["0tenant@vendor=1"], "0tenant@vendor=1"),
        (["a*/-_9=1"], "a*/-_9=1"),
        (["a=b c"], "a=b c"),
        ([f"{'k' * 256}=1"], f"{'k' * 256}=1"),
        ([f"a={'v' * 256}"], f"a={'v' * 256}"),
        ([""], None),
        (["a"], None),
        (["a="], None),
        (["=1"], None),
        (["A=1"], None),
        (["a =1"], None),
        (["a=1=2"], None),
        (["a=\u00e9"], None),
        (["a=1\x00"], None),
        (["a@B=1"], None),
        (["a@b@c=1"], None),
        (["a=1,a=2"], None),
        (["a=1,b"], None),
        ([f"{'k' * 257}=1"], None),
        ([f"a={'v' * 257}"], None),
        ([",".join(f"k{number}=1" for number in range(33))], None),
    ],
)
def test_a_malformed_tracestate_is_dropped_alone(values: list[str], kept: str | None) -> None:
    assert read_trace([GOOD], values) == TraceContext(GOOD, kept)


def test_a_long_tracestate_loses_its_large_members_first_and_then_its_last_ones() -> None:
    large, medium = f"large={'x' * 200}", [f"m{number}={'y' * 90}" for number in range(5)]
    found = read_trace([GOOD], [",".join([large, *medium])])
    assert found == TraceContext(GOOD, ",".join(medium))
    many = [f"n{number}={'y' * 100}" for number in range(8)]
    found = read_trace([GOOD], [",".join(many)])
    assert found == TraceContext(GOOD, ",".join(many[:4]))
    two = [f"a={'x' * 250}", f"b={'x' * 250}"]
    assert read_trace([GOOD], [",".join(two)]) == TraceContext(GOOD, ",".join(two))
    three = [*two, "c=1234567"]
    assert read_trace([GOOD], [",".join(three)]) == TraceContext(GOOD, f"{two[0]},c=1234567")


@given(values=st.lists(st.text(st.sampled_from("ab=@,-*/ \t\u00e9" + "z" * 5), max_size=300), max_size=4))
def test_what_is_kept_is_short_and_is_kept_again(values: list[str]) -> None:
    found = read_trace([GOOD], values)
    assert found is not None
    if found.state is not None:
        assert 1 <= len(found.state) <= MAX_TRACESTATE
        assert read_trace([GOOD], [found.state]) == found


def test_a_watchs_own_header_has_precedence() -> None:
    headers = TraceContext(GOOD, "a=1").headers()
    assert headers == {"traceparent": GOOD, "tracestate": "a=1"}
    assert without_own(headers, {"X-App": "1"}) == headers
    assert without_own(headers, {"TraceParent": "mine"}) == {}
    assert TraceContext(GOOD).headers() == {"traceparent": GOOD}


# --- exact values -----------------------------------------------------------------------------------------------------


def state_of(*values: str) -> str | None:
    trace = read_trace([GOOD], values)
    assert trace is not None
    return trace.state


def test_a_trace_without_a_state_has_one_header_and_one_log_field() -> None:
    trace = read_trace([f"\t{GOOD} "], [])
    assert trace == TraceContext(GOOD)
    assert log_fields(trace) == {"traceparent": GOOD}
    assert log_fields(TraceContext(GOOD, "a=1")) == {"traceparent": GOOD, "tracestate": "a=1"}
    assert log_fields(None) == {}
    assert read_trace([f"X{GOOD}"], []) is None
    assert read_trace([f"\n{GOOD}"], []) is None


@pytest.mark.parametrize(("flags", "kept"), [("03", "01"), ("fe", "00"), ("11", "01"), ("a0", "00"), ("0f", "01")])
def test_of_a_later_version_only_the_flag_sampled_is_passed_on(flags: str, kept: str) -> None:
    trace = read_trace([f"cc-{TRACE}-{PARENT}-{flags}"], [])
    assert trace is not None
    assert trace.parent == f"{GOOD[:-2]}{kept}"


def test_a_state_has_at_most_32_members_with_blanks_around_them() -> None:
    members = [f"k{number}=v" for number in range(33)]
    assert state_of(",".join(members[:32])) == ",".join(members[:32])
    assert state_of(",".join(members)) is None
    assert state_of(" a=1\t, b=2") == "a=1,b=2"
    assert state_of("a=1,\nb=2") is None
    assert state_of("a=1,Xb=2") is None


def test_a_state_of_512_characters_is_kept_whole() -> None:
    small = [f"k{number}={'v' * 56}" for number in range(8)]
    at_limit = [*small, f"z={'v' * (512 - len(','.join(small)) - 3)}"]
    assert len(",".join(at_limit)) == 512
    assert state_of(",".join(at_limit)) == ",".join(at_limit)
    assert state_of(",".join([*at_limit[:-1], at_limit[-1] + "v"])) == ",".join(small)


def test_members_of_more_than_128_characters_are_removed_from_the_end_until_the_rest_fits() -> None:
    exact, large = f"e={'v' * 126}", f"l={'v' * 127}"
    others = [f"m{number}={'v' * 130}" for number in range(3)]
    assert (len(exact), len(large)) == (128, 129)
    assert state_of(",".join([exact, large, *others])) == ",".join([exact, large, others[0]])
    assert state_of(",".join([*others, exact, "a=1"])) == ",".join([*others[:2], exact, "a=1"])


def test_no_more_large_members_are_removed_than_needed() -> None:
    large, larger = f"a={'v' * 128}", f"z={'v' * 198}"
    small = [f"b={'v' * 124}", f"c={'v' * 124}", f"d={'v' * 125}"]
    assert len(",".join([large, *small])) == MAX_TRACESTATE
    assert state_of(",".join([large, *small, larger])) == ",".join([large, *small])

"""The rules for the fields of a registration, and for when two registrations are the same."""

import json
import re
import sys
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.core.model import TERMINAL_EVENTS, EventType
from bridge.core.registration import (
    check_api_key,
    check_headers,
    check_idempotency_key,
    check_task_id,
    compact,
    options_text,
    read_json,
)

OPTIONS: dict[str, Any] = {
    "events": TERMINAL_EVENTS,
    "context": {"a": 1, "b": {"c": [1, 2], "d": 2**80}},
    "timeout_seconds": 60.0,
    "headers": {"X-A": "1", "X-B": "2"},
    "secret": "whsec_x",
    "credential": "configured",
}


@given(st.text(max_size=200))
def test_an_accepted_task_id_is_one_segment_of_a_path(text: str) -> None:
    try:
        check_task_id(text)
    except ValueError:
        return
    assert text.isascii()
    assert 1 <= len(text) <= 191
    assert not set(text) & set("/\\?#%& \r\n\t\x00")
    assert set(text) != {"."}


@pytest.mark.parametrize("text", ["a", "X", "A-z.0_9:", "..a", "task_" + "x" * 186, "-", "1"])
def test_these_task_ids_are_accepted(text: str) -> None:
    assert check_task_id(text) == text


@pytest.mark.parametrize("text", ["", ".", "...", "a b", "a/b", "x" * 192])
def test_these_task_ids_are_refused(text: str) -> None:
    rule = "must be 1 to 191 of the characters A-Z a-z 0-9 . _ : - and not only dots"
    with pytest.raises(ValueError, match=f"^{re.escape(rule)}$"):
        check_task_id(text)


def test_at_most_ten_headers_are_accepted() -> None:
    good = {f"X-{number}": "v" for number in range(10)}
    assert check_headers(good) == good
    with pytest.raises(ValueError, match="at most 10"):
        check_headers(good | {"X-10": "v"})


def test_a_header_has_a_name_of_up_to_128_and_a_value_of_up_to_4096_characters() -> None:
    assert check_headers({"n" * 128: "v" * 4096})
    with pytest.raises(ValueError, match="^the name of entry 2 must be 1 to 128 ASCII letters, digits or "):
        check_headers({"X-A": "v", "n" * 129: "v"})
    with pytest.raises(
        ValueError, match="^the value of X-A must be up to 4,096 printable ASCII characters, without line"
    ):
        check_headers({"X-A": "v" * 4097})


@pytest.mark.parametrize(
    "name",
    [
        *("Host", "host", "EXPECT", "User-Agent", "Accept-Encoding", "Connection", "Keep-Alive", "TE", "Trailer"),
        *("Upgrade", "HTTP2-Settings", "Proxy-Authenticate", "Proxy-Authorization", "Proxy-Connection"),
        *("Transfer-Encoding", "Content-Type", "CONTENT-LENGTH", "content-x", "Webhook-Id", "webhook-x"),
    ],
)
def test_headers_that_the_request_sets_itself_are_refused_in_any_case(name: str) -> None:
    with pytest.raises(ValueError, match=f"^must not set {name}, because the bridge sets it$"):
        check_headers({name: "v"})


def test_one_header_in_two_spellings_is_refused() -> None:
    with pytest.raises(ValueError, match="^must not name one header twice; upper and lower case count as the same$"):
        check_headers({"X-A": "1", "x-a": "1"})


@given(st.text(max_size=12), st.text(max_size=12))
def test_no_accepted_header_breaks_its_line(name: str, value: str) -> None:
    try:
        check_headers({name: value})
    except ValueError as error:
        assert "\n" not in str(error)  # noqa: PT017  the message is tested
        return
    line = f"{name}: {value}".encode("ascii")
    assert b"\r" not in line
    assert b"\n" not in line
    assert b"\x00" not in line
    assert not name.lower().startswith(("content-", "webhook-"))


def test_keys_must_be_visible_ascii() -> None:
    for check, most in ((check_api_key, 512), (check_idempotency_key, 255)):
        assert check("k" * most)
        for bad in ("", "k" * (most + 1), "a b", "a\n", "é", "\x7f"):
            with pytest.raises(ValueError, match="visible ASCII"):
                check(bad)


# --- JSON ---------------------------------------------------------------------------------------------------------


def test_integers_of_any_size_are_exact() -> None:
    for number in (2**63, 2**64, -(2**63) - 1, 10**30):
        assert read_json(b'{"a":%d}' % number) == {"a": number}
        assert compact({"a": number}) == b'{"a":%d}' % number


@pytest.mark.parametrize("body", [b"", b"NaN", b"[1e999]", b"\xef\xbb\xbf{}", b'"\\ud800"', b"9" * 5000, b"[" * 5000])
def test_invalid_json_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        read_json(body)


def test_a_context_is_at_most_4_kib_of_utf8() -> None:
    assert len(compact({"a": "é" * 2044})) == 4096
    with pytest.raises(ValueError, match=r"at most 4,096 bytes as compact JSON; it is 4,098"):
        compact({"a": "é" * 2045})
    assert compact({"b": 1, "a": [None, 1.5]}) == b'{"b":1,"a":[null,1.5]}'


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="json's limit is deeper than orjson's from 3.12 on")
def test_json_that_only_orjson_can_nest_so_deeply_is_refused() -> None:
    body = b"[" * 1000 + b"9" * 19 + b"]" * 1000
    assert orjson.loads(body)
    with pytest.raises(ValueError, match="^the JSON is nested too deeply$"):
        read_json(body)


def test_a_context_is_written_by_orjson_or_exactly_by_json() -> None:
    assert compact({"a": float("nan"), "b": "é"}) == '{"a":null,"b":"é"}'.encode()
    assert compact({"a": 2**64, "b": "é"}) == '{"a":18446744073709551616,"b":"é"}'.encode()
    with pytest.raises(ValueError, match="^must not be nested hundreds of levels deep$"):
        compact({"a": 2**64, "b": float("nan")})


def test_a_context_that_is_nested_too_deeply_is_refused() -> None:
    deep: dict[str, Any] = {}
    for _ in range(3000):
        deep = {"": deep}
    with pytest.raises(ValueError, match="nested"):
        compact(deep)


@given(st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=5), st.integers() | st.text("aé\x00\n")))
def test_a_compact_context_is_equal_to_the_given_one(context: dict[str, Any]) -> None:
    try:
        written = compact(context)
    except ValueError:
        return
    assert json.loads(written) == context


# --- equal registrations ------------------------------------------------------------------------------------------


def options(**changed: Any) -> bytes:
    return options_text(**OPTIONS | changed)


def test_the_canonical_form_stays_the_same_across_versions() -> None:
    """The store keeps fingerprints of this form. Other bytes would turn a repeated registration into a conflict."""
    expected = (
        b'[["video.completed","video.failed","video.timed_out","video.unavailable"],'
        b'{"a":1,"b":{"c":[1,2],"d":1208925819614629174706176}},60.0,[["x-a","1"],["x-b","2"]],"whsec_x","configured"]'
    )
    assert options() == expected
    small = options(context={"b": 1, "a": 2}, headers={"X_a": "1", "X-a": "2", "XA": "3"}, secret=None)
    assert small.endswith(b'{"a":2,"b":1},60.0,[["x-a","2"],["x_a","1"],["xa","3"]],null,"configured"]')
    assert b",null,60.0," in options(context=None)
    with_body = options(body={"b": {"d": 2**80, "c": "{{type}}"}, "a": []})
    assert with_body == expected[:-1] + b',{"a":[],"b":{"c":"{{type}}","d":1208925819614629174706176}}]'
    assert options(body={}) == expected[:-1] + b",{}]", "an empty body is not as none"


@pytest.mark.parametrize(
    "same",
    [
        {"context": {"b": {"d": 2**80, "c": [1, 2]}, "a": 1}},
        {"headers": {"x-b": "2", "x-A": "1"}},
        {"timeout_seconds": 60},
    ],
    ids=repr,
)
def test_the_order_of_keys_and_the_case_of_header_names_do_not_count(same: dict[str, Any]) -> None:
    assert options(**same) == options()


@pytest.mark.parametrize(
    "other",
    [
        {"events": frozenset({EventType.FAILED})},
        {"context": None},
        {"context": {}},
        {"context": {"a": 1, "b": {"c": [2, 1], "d": 2**80}}},
        {"context": {"a": 1, "b": {"c": [1, 2], "d": 2**80 + 1}}},
        {"timeout_seconds": 60.5},
        {"headers": {}},
        {"headers": {"X-A": "2", "X-B": "1"}},
        {"secret": None},
        {"credential": "other"},
    ],
    ids=repr,
)
def test_a_registration_with_another_option_is_another_one(other: dict[str, Any]) -> None:
    assert options(**other) != options()
    orjson.loads(options(**other))

"""Receivers: their names in one form, their health, the durations of their attempts, the spread after a pause."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.core.errors import InvalidRequest
from bridge.core.model import Problem
from bridge.core.receivers import (
    LONGEST_SPREAD_SECONDS,
    Figures,
    LastAnswer,
    Receiver,
    ReceiverHealth,
    due_times,
    duration_bin,
    duration_quantile,
    health_of,
    receiver_of,
    spread_seconds,
)
from bridge.core.targets import TargetPolicy, parse_target


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("app.example:443", "app.example:443"),
        ("APP.Example.:0443", "app.example:443"),
        ("bücher.example:80", "xn--bcher-kva.example:80"),
        ("127.0.0.1:8080", "127.0.0.1:8080"),
        ("[2001:DB8:0::1]:8080", "[2001:db8::1]:8080"),
        ("[::1]:1", "[::1]:1"),
    ],
)
def test_a_receiver_has_one_name_in_any_spelling(text: str, name: str) -> None:
    assert receiver_of(text) == name


@pytest.mark.parametrize("url", ["http://App.Example/x", "https://[2606:4700::A]:8443/", "http://8.8.8.8:81"])
def test_the_name_is_the_one_that_deliveries_have(url: str) -> None:
    key = parse_target(url, TargetPolicy()).host_key
    assert receiver_of(key.upper()) == key


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            ":80",
            "app.example",
            "app.example:",
            "app.example:0",
            "app.example:65536",
            "a b:80",
            "user@a.example:80",
        ),
        *("2001:db8::1:80", "[2001:db8::1]", "[fe80::1%eth0]:80", "[nonsense]:80", "0x7f.1:80", "a/b:80", "x\0y:80"),
    ],
)
def test_what_is_no_host_and_port_is_refused_with_the_field(text: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        receiver_of(text)
    assert [name for name, _ in refused.value.fields] == ["receiver"]


@pytest.mark.parametrize(
    ("failures", "answered", "health"),
    [
        (0, None, ReceiverHealth.UNKNOWN),
        (0, True, ReceiverHealth.HEALTHY),
        (0, False, ReceiverHealth.DOUBTFUL),
        (1, None, ReceiverHealth.DOUBTFUL),
        (1, True, ReceiverHealth.DOUBTFUL),
        (2, False, ReceiverHealth.DOUBTFUL),
        (3, None, ReceiverHealth.FAILING),
        (3, True, ReceiverHealth.FAILING),
    ],
)
def test_health_follows_from_failures_in_a_row_and_the_last_answer(
    failures: int, *, answered: bool | None, health: ReceiverHealth
) -> None:
    assert health_of(failures, answered=answered) is health


@pytest.mark.parametrize(
    ("last", "health"),
    [
        (None, ReceiverHealth.UNKNOWN),
        (LastAnswer(1.0, 200, None), ReceiverHealth.HEALTHY),
        (LastAnswer(1.0, 500, Problem("http_500", "the receiver answered 500")), ReceiverHealth.DOUBTFUL),
    ],
)
def test_operators_see_a_receiver_as_healthy_that_accepted_the_last_event(
    last: LastAnswer | None, health: ReceiverHealth
) -> None:
    assert Receiver("app.example:443", 0, Figures(last=last), 0, 0, None).health is health


@given(st.lists(st.floats(0.0, 100.0), min_size=1), st.sampled_from([0.5, 0.99]))
def test_a_quantile_is_right_to_five_percent(durations: list[float], share: float) -> None:
    counts: dict[int, int] = {}
    for seconds in durations:
        counts[duration_bin(seconds)] = counts.get(duration_bin(seconds), 0) + 1
    found = duration_quantile(counts, share)
    needed = next(n for n in range(1, len(durations) + 1) if n >= share * len(durations))
    exact = max(sorted(durations)[needed - 1], 0.001)
    assert found == pytest.approx(exact, rel=0.05)


def test_without_attempts_there_is_no_quantile() -> None:
    assert duration_quantile({}, 0.5) is None


def test_figures_of_several_processes_add_up_and_the_last_answer_is_the_latest() -> None:
    first, second = Figures(), Figures()
    error = Problem("http_500", "no")
    first.add(0.2, LastAnswer(20.0, 500, error), delivered=False)
    second.add(0.2, LastAnswer(10.0, 204, None), delivered=True)
    total = Figures()
    for one in (first, second, Figures()):
        total.merge(one)
    assert (total.attempts, total.delivered, total.last) == (2, 1, LastAnswer(20.0, 500, error))
    assert total.durations == {duration_bin(0.2): 2}
    assert first.attempts == 1


@given(st.integers(1, 300_000), st.integers(0, 300_000))
def test_resumed_deliveries_are_due_one_after_the_other(waiting: int, already: int) -> None:
    times = due_times(1000.0, waiting, already, 3)
    assert 1000.0 < times[0] < times[1] < times[2]
    assert spread_seconds(waiting) <= LONGEST_SPREAD_SECONDS
    if already + 3 <= waiting:
        assert times[-1] <= 1000.0 + spread_seconds(waiting) + 0.001


def test_few_deliveries_are_due_at_once_and_many_are_not() -> None:
    assert spread_seconds(1) <= 0.01
    assert spread_seconds(10_000) == 100.0
    assert spread_seconds(1_000_000) == LONGEST_SPREAD_SECONDS


# --- exact values -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("app.example", "must be a host and a port, such as example.com:443 or [2001:db8::1]:80"),
        ("app.example:0", "must have a port from 1 to 65535"),
        ("[fe80::1%eth0]:80", "addresses with a zone are not allowed"),
    ],
)
def test_a_name_is_refused_with_the_rule(text: str, rule: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        receiver_of(text)
    assert refused.value.fields == [("receiver", rule)]


def test_attempts_are_counted_one_by_one_and_keep_the_last_answer() -> None:
    figures, first = Figures(), LastAnswer(1.0, 200, None)
    figures.add(0.5, first, delivered=True)
    before = figures.copy()
    last = LastAnswer(2.0, 500, Problem("http_500", "the receiver answered 500"))
    figures.add(0.5, last, delivered=False)
    figures.add(0.5, last, delivered=True)
    assert figures == Figures(3, 2, {duration_bin(0.5): 3}, last)
    assert before == Figures(1, 1, {duration_bin(0.5): 1}, first)
    merged = Figures()
    merged.merge(figures)
    merged.merge(Figures(1, 0, {0: 1}, LastAnswer(2.0, None, None)))
    assert merged == Figures(4, 2, {duration_bin(0.5): 3, 0: 1}, last), "of two last answers at one time the first"


def test_durations_of_up_to_a_millisecond_share_the_first_bin() -> None:
    assert [duration_bin(seconds) for seconds in (0.0, 0.001, 0.0011, 0.002)] == [0, 0, 2, 9]
    assert duration_quantile({0: 3}, 0.5) == 0.001
    assert duration_quantile({9: 1}, 0.5) == pytest.approx(0.001 * 2 ** (8.5 / 8))


def test_one_delivery_is_due_after_its_hundredth_of_a_second_and_none_has_no_time() -> None:
    assert due_times(50.0, 1, 0, 1) == [50.0 + spread_seconds(1)]
    assert due_times(50.0, 4, 2, 2) == pytest.approx([50.0 + spread_seconds(4) * share for share in (0.75, 1.0)])
    assert due_times(50.0, 0, 0, 0) == []

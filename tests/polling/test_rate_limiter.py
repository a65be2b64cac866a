"""The rate limit holds in every window of a second, however polls are asked for."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.polling.pace import RateLimiter


def starts_of(pace: RateLimiter, pauses: list[float]) -> list[float]:
    """When polls begin that are asked for one after another, each as soon as it may, after a pause of the caller's."""
    now, starts = 1000.0, []
    for pause in pauses:
        now = max(now + pause, pace.opens_at(now + pause))
        pace.begin(now)
        starts.append(now)
    return starts


def most_in_a_second(starts: list[float]) -> int:
    return max(sum(1 for later in starts if start <= later < start + 1.0) for start in starts)


@given(
    rate=st.one_of(st.floats(0.05, 200), st.sampled_from([0.5, 1.0, 1.5, 2.5, 3.0, 7.99, 50.0])),
    pauses=st.lists(st.one_of(st.just(0.0), st.floats(0, 0.01), st.floats(0, 3)), min_size=1, max_size=400),
)
def test_no_second_sees_more_starts_than_the_rate(rate: float, pauses: list[float]) -> None:
    starts = starts_of(RateLimiter(rate), pauses)
    assert most_in_a_second(starts) <= max(1, int(rate))
    if rate < 1:
        assert all(later - start >= 1 / rate for start, later in pairwise(starts))


@pytest.mark.parametrize("rate", [0.5, 1.0, 4.0, 25.0, 300.0])
def test_the_rate_is_used_but_for_a_twentieth(rate: float) -> None:
    starts = starts_of(RateLimiter(rate), [0.0] * int(20 * max(rate, 1)))
    seconds = starts[-1] - starts[0]
    assert (len(starts) - 1) / seconds == pytest.approx(rate / 1.05, rel=0.01)


def test_starts_are_spaced_and_a_pause_is_no_licence_for_a_burst() -> None:
    pace = RateLimiter(100.0)
    starts_of(pace, [0.0] * 10)
    after_a_rest = starts_of(pace, [30.0] + [0.0] * 60)
    within_50_ms = [start for start in after_a_rest if start < after_a_rest[0] + 0.05]
    assert len(within_50_ms) <= 12  # 5 in time, 5 of catching up, and the ends


def test_a_fraction_counts() -> None:
    assert most_in_a_second(starts_of(RateLimiter(2.5), [0.0] * 50)) == 2

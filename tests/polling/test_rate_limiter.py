"""The rate limit holds in each window of one second, whenever polls are requested."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.polling.schedule import RATE_WINDOW_SECONDS, RateLimiter


def starts_of(limiter: RateLimiter, pauses: list[float]) -> list[float]:
    """Returns when polls begin. The caller requests each after one of `pauses`, and each begins as early as allowed."""
    now, starts = 1000.0, []
    for pause in pauses:
        now = max(now + pause, limiter.opens_at(now + pause))
        limiter.begin(now)
        starts.append(now)
    return starts


def most_within(seconds: float, starts: list[float]) -> int:
    return max(sum(1 for later in starts if start <= later < start + seconds) for start in starts)


@given(
    rate=st.one_of(st.floats(0.05, 200), st.sampled_from([0.5, 1.0, 1.5, 2.5, 3.0, 7.99, 50.0])),
    pauses=st.lists(st.one_of(st.just(0.0), st.floats(0, 0.01), st.floats(0, 3)), min_size=1, max_size=400),
)
def test_no_second_has_more_starts_than_the_rate(rate: float, pauses: list[float]) -> None:
    starts = starts_of(RateLimiter(rate), pauses)
    assert most_within(1.0, starts) <= max(1, int(rate))
    # This window is 50 ms longer than a second, because polls may arrive at amux closer together than they began.
    assert most_within(RATE_WINDOW_SECONDS - 0.001, starts) <= max(1, int(rate))
    if rate < 1:
        assert all(later - start >= 1 / rate for start, later in pairwise(starts))


@pytest.mark.parametrize("rate", [0.5, 1.0, 4.0, 25.0, 300.0])
def test_all_but_a_twentieth_of_the_rate_can_be_used(rate: float) -> None:
    starts = starts_of(RateLimiter(rate), [0.0] * int(20 * max(rate, 1)))
    seconds = starts[-1] - starts[0]
    assert (len(starts) - 1) / seconds == pytest.approx(rate / 1.05, rel=0.01)


def test_starts_are_spaced_and_a_pause_allows_no_burst() -> None:
    limiter = RateLimiter(100.0)
    starts_of(limiter, [0.0] * 10)
    after_pause = starts_of(limiter, [30.0] + [0.0] * 60)
    within_50_ms = [start for start in after_pause if start < after_pause[0] + 0.05]
    assert len(within_50_ms) <= 12  # 5 in time, 5 that catch up, and both ends


def test_a_rate_may_be_a_fraction() -> None:
    assert most_within(1.0, starts_of(RateLimiter(2.5), [0.0] * 50)) == 2

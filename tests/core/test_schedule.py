"""When to poll and when to try again: never earlier than promised, never later than a tenth."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.core.schedule import (
    LONGEST_PAUSE,
    LONGEST_SLOWDOWN,
    PollPolicy,
    RetryPolicy,
    stretched,
)

JITTER = st.floats(0, 1, exclude_max=True)
POLICY = PollPolicy()


def test_polls_grow_rarer_up_to_the_maximum() -> None:
    delays = [POLICY.delay_after(polls, 0.0) for polls in range(12)]
    assert delays[:3] == [5.0, 5.0, 6.0]
    assert delays == sorted(delays)
    assert delays[-1] == 15.0


@given(st.integers(0, 10**9), JITTER)
def test_a_poll_is_never_early_and_at_most_a_tenth_late(polls: int, jitter: float) -> None:
    exact = POLICY.delay_after(polls, 0.0)
    assert exact <= POLICY.delay_after(polls, jitter) < exact * 1.1 + 1e-9
    assert exact <= POLICY.max_interval


@given(st.integers(1, 10**6), JITTER)
def test_trouble_backs_off_to_the_maximum_and_no_further(troubles: int, jitter: float) -> None:
    assert POLICY.interval <= POLICY.delay_after_trouble(troubles, jitter) <= POLICY.max_interval * 1.1


def test_a_refused_key_is_asked_about_after_the_longest_interval_doubling_to_a_minute() -> None:
    assert [POLICY.pause_after(refusals) for refusals in range(1, 6)] == [15.0, 30.0, 60.0, 60.0, 60.0]
    slow = PollPolicy(max_interval=90.0)
    assert slow.pause_after(1) == slow.pause_after(9) == 90.0


@given(st.floats(allow_nan=False) | st.none(), st.integers(1, 10**6))
def test_a_slowdown_is_bounded_whatever_amux_asks_for(retry_after: float | None, slowdowns: int) -> None:
    rest = POLICY.slowdown(retry_after, slowdowns)
    assert 0 <= rest <= (LONGEST_PAUSE if retry_after is None else LONGEST_SLOWDOWN)


def test_retry_after_is_honoured_to_the_second() -> None:
    assert POLICY.slowdown(7.0, 3) == 7.0


@pytest.mark.parametrize(("attempts", "delay"), [(1, 5), (2, 300), (9, 86_400), (10, None), (0, None), (-1, None)])
def test_the_retry_schedule_is_the_contract_s(attempts: int, delay: float | None) -> None:
    assert RetryPolicy().delay_after(attempts) == delay


@given(st.floats(0, 1e6), JITTER)
def test_stretching_never_shortens(delay: float, jitter: float) -> None:
    assert delay <= stretched(delay, jitter) <= delay * 1.1 + 1e-9

"""When to poll and when to try again: never earlier than promised, and at most a tenth later."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.core.model import Observation, TaskNotFound, TaskRecord, TaskStatus, TransientError
from bridge.core.schedule import (
    LONGEST_PAUSE,
    LONGEST_THROTTLE,
    PollEstimate,
    PollPolicy,
    RetryPolicy,
    delay_after_poll,
    with_jitter,
)

JITTER = st.floats(0, 1, exclude_max=True)
POLICY = PollPolicy()


def test_the_poll_interval_grows_up_to_the_maximum() -> None:
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
def test_the_delay_after_failures_is_between_the_interval_and_the_maximum(failures: int, jitter: float) -> None:
    assert POLICY.interval <= POLICY.delay_after_failure(failures, jitter) <= POLICY.max_interval * 1.1


def test_the_delay_after_failures_doubles_from_the_interval_up_to_the_maximum() -> None:
    assert [POLICY.delay_after_failure(failures, 0.0) for failures in range(1, 5)] == [5.0, 10.0, 15.0, 15.0]
    policy = PollPolicy(interval=3.0, max_interval=1e12)
    assert [policy.delay_after_failure(failures, 0.5) for failures in range(1, 5)] == pytest.approx(
        [3.15, 6.3, 12.6, 25.2]
    )
    assert policy.delay_after_failure(33, 0.0) == policy.delay_after_failure(34, 0.0) == 3.0 * 2**32


def test_a_refused_key_is_paused_for_the_longest_interval_doubling_to_a_minute() -> None:
    assert [POLICY.pause_after(refusals) for refusals in range(1, 6)] == [15.0, 30.0, 60.0, 60.0, 60.0]
    slow = PollPolicy(max_interval=90.0)
    assert slow.pause_after(1) == slow.pause_after(9) == 90.0


@given(st.floats(allow_nan=False) | st.none(), st.integers(1, 10**6))
def test_a_throttle_is_limited_whatever_amux_asks_for(retry_after: float | None, throttles: int) -> None:
    seconds = POLICY.throttle_after(retry_after, throttles)
    assert 0 <= seconds <= (LONGEST_PAUSE if retry_after is None else LONGEST_THROTTLE)


def test_a_throttle_without_retry_after_doubles_from_the_interval_to_a_minute() -> None:
    assert [POLICY.throttle_after(None, throttles) for throttles in range(1, 7)] == [5.0, 10.0, 20.0, 40.0, 60.0, 60.0]


RUNNING, FAILED = TaskRecord(TaskStatus.IN_PROGRESS), TaskRecord(TaskStatus.FAILED)
NOT_FOUND, TIMEOUT = TaskNotFound("?"), TransientError("timeout", "t")


@pytest.mark.parametrize(
    ("observation", "status", "learned", "unconfirmed", "probe", "failures", "delay"),
    [
        # a task that runs has the delay of its class, whatever the fixed schedule says (10 polls: 15 s)
        (RUNNING, TaskStatus.IN_PROGRESS, 1.25, False, False, 0, 1.25),
        (RUNNING, TaskStatus.IN_PROGRESS, 40.0, False, False, 0, 40.0),
        # learning never makes these polls sooner: a probe, one after an end that is not final, one without a record
        (RUNNING, TaskStatus.IN_PROGRESS, 1.25, False, True, 0, 15.0),
        (FAILED, TaskStatus.FAILED, 1.25, False, False, 0, 15.0),
        (NOT_FOUND, TaskStatus.IN_PROGRESS, 1.25, False, False, 1, 15.0),
        (NOT_FOUND, TaskStatus.IN_PROGRESS, 40.0, False, False, 1, 40.0),
        # a failure is confirmed after one interval
        (RUNNING, TaskStatus.IN_PROGRESS, 40.0, True, False, 0, 5.0),
        (NOT_FOUND, TaskStatus.IN_PROGRESS, 40.0, True, True, 1, 5.0),
        # a transient error makes no poll sooner
        (TIMEOUT, TaskStatus.IN_PROGRESS, 1.25, False, False, 1, 15.0),
        (TIMEOUT, TaskStatus.IN_PROGRESS, 40.0, False, False, 1, 40.0),
        (TIMEOUT, TaskStatus.IN_PROGRESS, 40.0, True, False, 1, 5.0),
        (TIMEOUT, TaskStatus.IN_PROGRESS, 40.0, True, False, 2, 10.0),
    ],
)
def test_the_delay_after_a_poll_depends_on_what_it_showed(  # noqa: PLR0917
    observation: Observation,
    status: TaskStatus,
    learned: float,
    unconfirmed: bool,  # noqa: FBT001
    probe: bool,  # noqa: FBT001
    failures: int,
    delay: float,
) -> None:
    assert delay == delay_after_poll(
        POLICY,
        observation,
        status,
        learned=learned,
        polls=10,
        failures=failures,
        unconfirmed=unconfirmed,
        probe=probe,
        jitter=0.0,
    )


def test_the_delay_after_a_transient_error_grows_with_the_errors_and_with_the_jitter() -> None:
    policy = PollPolicy(interval=3.0, max_interval=1e12)
    delays = [
        delay_after_poll(
            policy,
            TIMEOUT,
            TaskStatus.QUEUED,
            learned=0.0,
            polls=1,
            failures=failures,
            unconfirmed=False,
            probe=False,
            jitter=0.5,
        )
        for failures in (1, 2, 3)
    ]
    assert delays == pytest.approx([3.15, 6.3, 12.6])


@pytest.mark.parametrize(
    ("polls", "ago", "estimate"),
    [(0, 0, 0), (0, 999, 0), (1, 0, 3), (1, 12, 4), (1, 3600, 8), (9, 3600, 11), (40, 5, 42)],
)
def test_the_polls_since_the_row_was_written_are_estimated(polls: int, ago: float, estimate: int) -> None:
    assert PollEstimate(POLICY).after(polls, ago) == estimate


def test_the_estimate_is_bounded_for_a_backoff_that_does_not_grow() -> None:
    assert PollEstimate(PollPolicy(interval=0.01, max_interval=5, backoff=1)).after(1, 1e9) == 1 + 51


def test_the_estimate_ends_at_the_last_poll_that_can_have_happened() -> None:
    assert PollEstimate(PollPolicy(interval=5, backoff=1)).after(1, ago=15.0) == 4  # after 5, 10 and 15 s
    assert PollEstimate(PollPolicy(interval=0.01, backoff=1)).after(1, ago=0.95) == 11  # an interval counts as 0.1 s


@given(
    st.builds(PollPolicy, interval=st.sampled_from([0.05, 1.0, 5.0]), backoff=st.sampled_from([1.0, 1.05, 1.2, 3.0])),
    st.integers(1, 300),
    st.floats(0, 10_000),
)
def test_an_estimate_counts_the_delays_until_the_longest_one(policy: PollPolicy, polls: int, ago: float) -> None:
    counted, passed = polls, 0.0
    while passed < ago and policy.delay_after(counted, 0.0) < policy.max_interval and counted <= polls + 50:
        passed += max(policy.delay_after(counted, 0.0), 0.1)
        counted += 1
    assert PollEstimate(policy).after(polls, ago) == max(counted, polls + 2)


@pytest.mark.parametrize(("retry_after", "seconds"), [(-1.0, 0.0), (0.0, 0.0), (300.0, 300.0), (300.5, 300.0)])
def test_a_throttle_with_retry_after_is_between_0_and_five_minutes(retry_after: float, seconds: float) -> None:
    assert POLICY.throttle_after(retry_after, 1) == seconds


def test_retry_after_is_followed_exactly() -> None:
    assert POLICY.throttle_after(7.0, 3) == 7.0


@pytest.mark.parametrize(("attempts", "delay"), [(1, 5), (2, 300), (9, 86_400), (10, None), (0, None), (-1, None)])
def test_the_retry_schedule_is_as_in_the_contract(attempts: int, delay: float | None) -> None:
    assert RetryPolicy().delay_after(attempts) == delay


@given(st.floats(0, 1e6), JITTER)
def test_jitter_never_shortens_a_delay(delay: float, jitter: float) -> None:
    assert delay <= with_jitter(delay, jitter) <= delay * 1.1 + 1e-9

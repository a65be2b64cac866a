"""How a watch ends after its task's poll: by the observation, else by its deadline."""

import pytest

from bridge.core.model import (
    NO_REFUSALS,
    UNSEEN,
    Observation,
    Outcome,
    Problem,
    RefusalCounts,
    TaskNotFound,
    TaskRecord,
    TaskSnapshot,
    TaskStatus,
    TransientError,
    Watch,
)
from bridge.core.watch import (
    NOT_FOUND_GRACE,
    NOT_FOUND_IN_A_ROW,
    PollResult,
    UnconfirmedFailure,
    ending_of,
    snapshot_after,
    timeout_ending,
)

BEGAN = 1_000.0
BUSY = Problem(429, "vendor is busy")
DONE = TaskRecord(TaskStatus.COMPLETED)
AWAITED = UnconfirmedFailure(10.0, BUSY, None)


@pytest.mark.parametrize(
    ("observation", "failure", "began_at", "outcome"),
    [
        (DONE, None, BEGAN + 1.0, Outcome.COMPLETED),
        (DONE, None, BEGAN + 99.0, Outcome.COMPLETED),  # a terminal status counts also after the deadline
        (TaskRecord(TaskStatus.IN_PROGRESS), None, BEGAN + 89.9, None),  # this poll was not the last one
        (TaskRecord(TaskStatus.IN_PROGRESS), None, BEGAN + 90.0, Outcome.TIMED_OUT),
        (TaskRecord(TaskStatus.UNKNOWN), AWAITED, BEGAN + 90.0, Outcome.FAILED),
        (TransientError("timeout", "t"), None, BEGAN + 90.0, Outcome.TIMED_OUT),
        (None, None, BEGAN + 89.9, None),
        (None, None, BEGAN + 90.0, Outcome.TIMED_OUT),
        (None, AWAITED, BEGAN + 90.0, Outcome.FAILED),
    ],
)
def test_a_watch_ends_by_the_observation_else_by_a_deadline_before_the_poll(
    observation: Observation | None, failure: UnconfirmedFailure | None, began_at: float, outcome: Outcome | None
) -> None:
    watch = Watch("wat_1", "app", "task_1", "", frozenset(), b"null", BEGAN, BEGAN + 90.0, 90.0)
    task = UNSEEN if observation is None else snapshot_after(UNSEEN, observation)
    result = PollResult(task, NO_REFUSALS, observation, None, failure)
    ending = ending_of(result, watch, began_at, began_at + 1.0)
    assert (None if ending is None else ending.outcome) is outcome


def test_a_watch_that_times_out_shows_the_error_of_the_last_poll() -> None:
    watch = Watch("wat_1", "app", "task_1", "", frozenset(), b"null", BEGAN, BEGAN + 90.0, 90.0)
    result = PollResult(TaskSnapshot(TaskStatus.QUEUED), NO_REFUSALS, None, BUSY)
    assert ending_of(result, watch, BEGAN + 90.0, BEGAN + 91.0) == timeout_ending(result.task, BUSY, 90.0)


@pytest.mark.parametrize(
    ("refusals", "age", "outcome"),
    [
        (NOT_FOUND_IN_A_ROW - 1, NOT_FOUND_GRACE, None),
        (NOT_FOUND_IN_A_ROW, NOT_FOUND_GRACE - 0.1, None),  # amux may not have written the row of a new task yet
        (NOT_FOUND_IN_A_ROW, NOT_FOUND_GRACE, Outcome.UNAVAILABLE),
    ],
)
def test_a_task_that_is_not_found_ends_a_watch_after_enough_polls_and_the_grace_time(
    refusals: int, age: float, outcome: Outcome | None
) -> None:
    """The age of the watch counts at the end of the poll, and its deadline at the begin."""
    watch = Watch("wat_1", "app", "task_1", "", frozenset(), b"null", BEGAN, BEGAN + 90.0, 90.0)
    result = PollResult(UNSEEN, RefusalCounts(not_found=refusals), TaskNotFound("no such task"))
    ending = ending_of(result, watch, BEGAN, BEGAN + age)
    assert (None if ending is None else ending.outcome) is outcome

"""What polls and deadlines mean for a watch: the last table of amux's answers, row by row, and in any order."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.core.model import (
    NO_REFUSALS,
    UNSEEN,
    KeyRefused,
    Observation,
    Outcome,
    PollRejected,
    Problem,
    RefusalCounts,
    TaskForbidden,
    TaskNotFound,
    TaskRecord,
    TaskSnapshot,
    TaskStatus,
    Throttled,
    TransientError,
    VideoMetadata,
)
from bridge.core.watch import (
    NOT_FOUND_GRACE,
    Ending,
    ending_after,
    problem_in,
    refusals_after,
    snapshot_after,
    timed_out,
)

BEGAN = 1_000.0
LATER = BEGAN + NOT_FOUND_GRACE
RUNNING = TaskRecord(TaskStatus.IN_PROGRESS, progress=40)
COMPLETED = TaskRecord(TaskStatus.COMPLETED, url="https://v/1", format="mp4", metadata=VideoMetadata(5.0))
FAILED = TaskRecord(TaskStatus.FAILED, error=Problem(7, "no"))
NOT_FOUND, FORBIDDEN, REJECTED = TaskNotFound("gone"), TaskForbidden("theirs"), PollRejected("bad", "no such thing")
SILENT = [
    TransientError("timeout", "t"),
    TransientError("http_404", "t", misrouted=True),
    Throttled("s", 3.0),
    KeyRefused("k"),
]


def after(observations: list[Observation], now: float = LATER) -> Ending | None:
    """The first ending that a run of observations comes to, as a poller carries them."""
    task, strikes = UNSEEN, NO_REFUSALS
    for observation in observations:
        task, strikes = snapshot_after(task, observation), refusals_after(strikes, observation)
        if ending := ending_after(task, strikes, observation, BEGAN, now):
            return ending
    return None


@pytest.mark.parametrize(
    ("observations", "outcome", "code"),
    [
        ([COMPLETED], Outcome.COMPLETED, None),
        ([RUNNING, COMPLETED], Outcome.COMPLETED, None),
        ([FAILED], Outcome.FAILED, 7),
        ([NOT_FOUND] * 3, Outcome.UNAVAILABLE, "task_not_found"),
        ([NOT_FOUND, *SILENT, NOT_FOUND, *SILENT, NOT_FOUND], Outcome.UNAVAILABLE, "task_not_found"),
        ([FORBIDDEN] * 3, Outcome.UNAVAILABLE, "task_forbidden"),
        ([REJECTED] * 5, Outcome.UNAVAILABLE, "poll_rejected"),
        ([NOT_FOUND, NOT_FOUND, COMPLETED], Outcome.COMPLETED, None),
    ],
)
def test_what_ends_a_watch(observations: list[Observation], outcome: Outcome, code: str | int | None) -> None:
    ending = after(observations)
    assert ending is not None
    assert ending.outcome is outcome
    assert (None if ending.error is None else ending.error.code) == code


@pytest.mark.parametrize(
    "observations",
    [
        [RUNNING] * 50,
        [TaskRecord(TaskStatus.UNKNOWN, word="dreaming")] * 50,
        [NOT_FOUND] * 2,
        [NOT_FOUND, NOT_FOUND, RUNNING, NOT_FOUND, NOT_FOUND],
        [FORBIDDEN, FORBIDDEN, RUNNING, FORBIDDEN, FORBIDDEN],
        [REJECTED] * 4,
        [REJECTED] * 4 + [RUNNING] + [REJECTED] * 4,
        [NOT_FOUND, FORBIDDEN, REJECTED, NOT_FOUND, FORBIDDEN],
        SILENT * 50,
    ],
)
def test_what_leaves_a_watch_active(observations: list[Observation]) -> None:
    assert after(observations) is None


def test_a_fresh_task_may_be_unknown_for_a_minute() -> None:
    assert after([NOT_FOUND] * 9, now=LATER - 0.001) is None
    assert after([NOT_FOUND] * 9, now=LATER) is not None


@pytest.mark.parametrize("word", ["unknown", "UNKNOWN", "Unknown"])
def test_unknown_before_anything_else_is_a_task_that_waits(word: str) -> None:
    unknown = TaskRecord(TaskStatus.UNKNOWN, word=word)
    assert snapshot_after(UNSEEN, unknown).status is TaskStatus.QUEUED
    assert snapshot_after(TaskSnapshot(TaskStatus.IN_PROGRESS), unknown).status is TaskStatus.IN_PROGRESS


def test_a_word_we_do_not_know_says_nothing() -> None:
    assert snapshot_after(UNSEEN, TaskRecord(TaskStatus.UNKNOWN, word="dreaming")).status is TaskStatus.UNKNOWN


def test_an_answer_without_progress_keeps_the_last_one() -> None:
    seen = snapshot_after(TaskSnapshot(TaskStatus.QUEUED, progress=10), TaskRecord(TaskStatus.IN_PROGRESS))
    assert seen == TaskSnapshot(TaskStatus.IN_PROGRESS, progress=10)


def test_a_completed_task_has_gone_all_the_way_and_has_no_error() -> None:
    seen = snapshot_after(TaskSnapshot(TaskStatus.IN_PROGRESS, progress=90), COMPLETED)
    assert seen == TaskSnapshot(TaskStatus.COMPLETED, 100, "https://v/1", "mp4", VideoMetadata(5.0), None)


@pytest.mark.parametrize("observation", [NOT_FOUND, FORBIDDEN, REJECTED, *SILENT])
def test_only_a_record_changes_what_was_seen(observation: Observation) -> None:
    task = TaskSnapshot(TaskStatus.IN_PROGRESS, 40)
    assert snapshot_after(task, observation) is task


@pytest.mark.parametrize(
    ("status", "error", "parts"),
    [
        (TaskStatus.IN_PROGRESS, None, ["90 s", "last seen in_progress", "may still finish"]),
        (TaskStatus.QUEUED, Problem("timeout", "amux was silent"), ["last seen queued", "amux was silent"]),
        (TaskStatus.UNKNOWN, Problem("http_502", None), ["was not seen", "http_502"]),
    ],
)
def test_a_timed_out_watch_says_what_was_last_seen(status: TaskStatus, error: Problem | None, parts: list[str]) -> None:
    ending = timed_out(TaskSnapshot(status, 40), error, 90.0)
    assert (ending.outcome, ending.task.status) == (Outcome.TIMED_OUT, status)
    assert ending.error is not None
    assert ending.error.code == "watch_timed_out"
    for part in parts:
        assert part in (ending.error.message or "")


@pytest.mark.parametrize(
    ("observation", "problem"),
    [
        (RUNNING, None),
        (NOT_FOUND, Problem("task_not_found", "gone")),
        (FORBIDDEN, Problem("task_forbidden", "theirs")),
        (REJECTED, Problem("bad", "no such thing")),
        (PollRejected("", "m"), Problem("poll_rejected", "m")),
        (TransientError("timeout", "t"), Problem("timeout", "t")),
        (Throttled("s"), Problem("slowed_down", "s")),
        (KeyRefused("k"), Problem("key_refused", "k")),
    ],
)
def test_what_a_watch_shows_of_a_bad_answer(observation: Observation, problem: Problem | None) -> None:
    assert problem_in(observation) == problem


OBSERVATIONS = st.sampled_from([RUNNING, COMPLETED, FAILED, NOT_FOUND, FORBIDDEN, REJECTED, *SILENT])


@given(st.lists(OBSERVATIONS, max_size=40))
def test_whatever_comes_a_watch_ends_by_the_first_rule_that_is_met(observations: list[Observation]) -> None:
    """Against a count done by hand: refusals since the last record, and the first record that is terminal."""
    counts = {TaskNotFound: 0, TaskForbidden: 0, PollRejected: 0}
    expected = None
    for observation in observations:
        if isinstance(observation, TaskRecord):
            counts = dict.fromkeys(counts, 0)
            if observation.status in {TaskStatus.COMPLETED, TaskStatus.FAILED}:
                expected = Outcome(observation.status)
                break
        elif type(observation) in counts:
            counts[type(observation)] += 1
            if counts[TaskNotFound] == 3 or counts[TaskForbidden] == 3 or counts[PollRejected] == 5:
                expected = Outcome.UNAVAILABLE
                break
    ending = after(observations)
    assert (None if ending is None else ending.outcome) == expected


@given(st.lists(OBSERVATIONS, max_size=40))
def test_strikes_never_outlast_a_record(observations: list[Observation]) -> None:
    strikes = RefusalCounts(2, 2, 4)
    for observation in observations:
        strikes = refusals_after(strikes, observation)
    assert refusals_after(strikes, RUNNING) == NO_REFUSALS

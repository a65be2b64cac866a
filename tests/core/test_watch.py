"""What polls and deadlines mean for a watch: each kind of observation, alone and in any order."""

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
    Ending,
    UnconfirmedFailure,
    confirm_failure,
    deadline_ending,
    ending_after,
    problem_in,
    refusals_after,
    snapshot_after,
    still_runs,
    timeout_ending,
)

BEGAN = 1_000.0
LATER = BEGAN + 60.0
RUNNING = TaskRecord(TaskStatus.IN_PROGRESS, progress=40)
COMPLETED = TaskRecord(TaskStatus.COMPLETED, url="https://v/1", format="mp4", metadata=VideoMetadata(5.0))
FAILED = TaskRecord(TaskStatus.FAILED, error=Problem(7, "no"))
NOT_FOUND, FORBIDDEN, REJECTED = TaskNotFound("gone"), TaskForbidden("theirs"), PollRejected("bad", "no such thing")
UNRELATED = [
    TransientError("timeout", "t"),
    TransientError("http_404", "t", misrouted=True),
    Throttled("s", 3.0),
    KeyRefused("k"),
]


def after(observations: list[Observation], now: float = LATER) -> Ending | None:
    """Returns the first ending in a series of observations, which are processed as by the poller."""
    task, refusals = UNSEEN, NO_REFUSALS
    for observation in observations:
        task, refusals = snapshot_after(task, observation), refusals_after(refusals, observation)
        if ending := ending_after(task, refusals, observation, BEGAN, now):
            return ending
    return None


@pytest.mark.parametrize(
    ("observations", "outcome", "code"),
    [
        ([COMPLETED], Outcome.COMPLETED, None),
        ([RUNNING, COMPLETED], Outcome.COMPLETED, None),
        ([FAILED], Outcome.FAILED, 7),
        ([NOT_FOUND] * 3, Outcome.UNAVAILABLE, "task_not_found"),
        ([NOT_FOUND, *UNRELATED, NOT_FOUND, *UNRELATED, NOT_FOUND], Outcome.UNAVAILABLE, "task_not_found"),
        ([FORBIDDEN] * 3, Outcome.UNAVAILABLE, "task_forbidden"),
        ([REJECTED] * 5, Outcome.UNAVAILABLE, "poll_rejected"),
        ([NOT_FOUND, NOT_FOUND, COMPLETED], Outcome.COMPLETED, None),
    ],
)
def test_these_observations_end_a_watch(
    observations: list[Observation], outcome: Outcome, code: str | int | None
) -> None:
    ending = after(observations)
    assert ending is not None
    assert ending.outcome is outcome
    assert (None if ending.error is None else ending.error.code) == code


@pytest.mark.parametrize(
    ("observations", "ending"),
    [
        ([FAILED], Ending(Outcome.FAILED, TaskSnapshot(TaskStatus.FAILED, error=Problem(7, "no")), Problem(7, "no"))),
        ([NOT_FOUND] * 3, Ending(Outcome.UNAVAILABLE, TaskSnapshot(), Problem("task_not_found", "gone"))),
        ([FORBIDDEN] * 3, Ending(Outcome.UNAVAILABLE, TaskSnapshot(), Problem("task_forbidden", "theirs"))),
        (
            [RUNNING] + [REJECTED] * 5,
            Ending(
                Outcome.UNAVAILABLE,
                TaskSnapshot(),
                Problem("poll_rejected", "amux rejects the poll: no such thing"),
            ),
        ),
        (
            [PollRejected("bad", "")] * 5,
            Ending(Outcome.UNAVAILABLE, TaskSnapshot(), Problem("poll_rejected", "amux rejects the poll: bad")),
        ),
    ],
)
def test_an_ending_has_the_task_and_the_error_of_its_event(observations: list[Observation], ending: Ending) -> None:
    assert after(observations) == ending


def test_a_completed_watch_ends_with_the_snapshot_of_its_task() -> None:
    ending = after([RUNNING, COMPLETED])
    assert ending == Ending(
        Outcome.COMPLETED, TaskSnapshot(TaskStatus.COMPLETED, 100, "https://v/1", "mp4", VideoMetadata(5.0)), None
    )


@pytest.mark.parametrize(
    "observations",
    [
        [RUNNING] * 50,
        [TaskRecord(TaskStatus.UNKNOWN, raw_status="dreaming")] * 50,
        [NOT_FOUND] * 2,
        [NOT_FOUND, NOT_FOUND, RUNNING, NOT_FOUND, NOT_FOUND],
        [FORBIDDEN, FORBIDDEN, RUNNING, FORBIDDEN, FORBIDDEN],
        [REJECTED] * 4,
        [REJECTED] * 4 + [RUNNING] + [REJECTED] * 4,
        [NOT_FOUND, FORBIDDEN, REJECTED, NOT_FOUND, FORBIDDEN],
        UNRELATED * 50,
    ],
)
def test_these_observations_leave_a_watch_active(observations: list[Observation]) -> None:
    assert after(observations) is None


def test_a_new_task_may_be_not_found_for_a_minute() -> None:
    assert after([NOT_FOUND] * 9, now=LATER - 0.001) is None
    assert after([NOT_FOUND] * 9, now=LATER) is not None


@pytest.mark.parametrize("word", ["unknown", "UNKNOWN", "Unknown"])
def test_a_first_status_of_unknown_means_queued(word: str) -> None:
    unknown = TaskRecord(TaskStatus.UNKNOWN, raw_status=word)
    assert snapshot_after(UNSEEN, unknown).status is TaskStatus.QUEUED
    assert snapshot_after(TaskSnapshot(TaskStatus.IN_PROGRESS), unknown).status is TaskStatus.IN_PROGRESS


def test_an_unknown_status_word_changes_nothing() -> None:
    assert snapshot_after(UNSEEN, TaskRecord(TaskStatus.UNKNOWN, raw_status="dreaming")).status is TaskStatus.UNKNOWN


def test_a_record_without_progress_keeps_the_last_one() -> None:
    seen = snapshot_after(TaskSnapshot(TaskStatus.QUEUED, progress=10), TaskRecord(TaskStatus.IN_PROGRESS))
    assert seen == TaskSnapshot(TaskStatus.IN_PROGRESS, progress=10)


def test_a_record_with_progress_replaces_the_last_one() -> None:
    before = TaskSnapshot(TaskStatus.IN_PROGRESS, progress=10)
    assert snapshot_after(before, RUNNING) == TaskSnapshot(TaskStatus.IN_PROGRESS, 40)
    failed = TaskRecord(TaskStatus.FAILED, error=Problem(7, "no"))
    assert snapshot_after(before, failed) == TaskSnapshot(TaskStatus.FAILED, 10, error=Problem(7, "no"))
    completed = TaskRecord(TaskStatus.COMPLETED, progress=99, error=Problem(7, "no"))
    assert snapshot_after(before, completed) == TaskSnapshot(TaskStatus.COMPLETED, 99)


def test_a_completed_task_has_progress_100_and_no_error() -> None:
    seen = snapshot_after(TaskSnapshot(TaskStatus.IN_PROGRESS, progress=90), COMPLETED)
    assert seen == TaskSnapshot(TaskStatus.COMPLETED, 100, "https://v/1", "mp4", VideoMetadata(5.0), None)


@pytest.mark.parametrize("observation", [NOT_FOUND, FORBIDDEN, REJECTED, *UNRELATED])
def test_only_a_record_changes_the_snapshot(observation: Observation) -> None:
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
def test_the_ending_at_the_deadline_says_what_was_last_seen(
    status: TaskStatus, error: Problem | None, parts: list[str]
) -> None:
    ending = timeout_ending(TaskSnapshot(status, 40), error, 90.0)
    assert (ending.outcome, ending.task.status) == (Outcome.TIMED_OUT, status)
    assert ending.error is not None
    assert ending.error.code == "watch_timed_out"
    for part in parts:
        assert part in (ending.error.message or "")


@pytest.mark.parametrize(
    ("task", "error", "status", "message"),
    [
        (TaskSnapshot(), None, TaskStatus.UNKNOWN, "the task was not seen"),
        (TaskSnapshot(TaskStatus.QUEUED, 3), None, TaskStatus.QUEUED, "the task was last seen queued"),
        (
            TaskSnapshot(TaskStatus.FAILED, 40, error=Problem(7, "no")),
            Problem("http_502", None),
            TaskStatus.UNKNOWN,
            "the task was last seen failed; the last poll failed: http_502",
        ),
        (
            TaskSnapshot(TaskStatus.IN_PROGRESS, 40, url="https://v/1"),
            Problem("timeout", "amux was silent"),
            TaskStatus.IN_PROGRESS,
            "the task was last seen in_progress; the last poll failed: amux was silent",
        ),
    ],
)
def test_the_ending_at_the_deadline_is_exactly_this(
    task: TaskSnapshot, error: Problem | None, status: TaskStatus, message: str
) -> None:
    text = f"the watch ended after 90.5 s: {message}; it may still finish at amux"
    shown = TaskSnapshot(status, task.progress)
    assert timeout_ending(task, error, 90.5) == Ending(Outcome.TIMED_OUT, shown, Problem("watch_timed_out", text))


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
def test_each_bad_observation_has_its_problem(observation: Observation, problem: Problem | None) -> None:
    assert problem_in(observation) == problem


OBSERVATIONS = st.sampled_from([RUNNING, COMPLETED, FAILED, NOT_FOUND, FORBIDDEN, REJECTED, *UNRELATED])


@given(st.lists(OBSERVATIONS, max_size=40))
def test_a_watch_ends_by_the_first_rule_that_applies(observations: list[Observation]) -> None:
    """Compares with a simple count of refusals since the last record, and with the first terminal record."""
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
def test_a_record_clears_all_refusals(observations: list[Observation]) -> None:
    refusals = RefusalCounts(2, 2, 4)
    for observation in observations:
        refusals = refusals_after(refusals, observation)
    assert refusals_after(refusals, RUNNING) == NO_REFUSALS


# --- live failures ------------------------------------------------------------------------------------------------

INTERVAL = 5.0
BUSY, NO = Problem(None, "vendor is busy"), Problem(None, "no")
LIVE_FAILED = TaskRecord(TaskStatus.FAILED, error=BUSY, live=True)
LIVE_RUNNING = TaskRecord(TaskStatus.IN_PROGRESS, live=True)
LIVE_DONE = TaskRecord(TaskStatus.COMPLETED, url="https://v/1", live=True)
ROW_RUNNING = TaskRecord(TaskStatus.IN_PROGRESS, 30)
ROW_FAILED = TaskRecord(TaskStatus.FAILED, error=NO)


def outcome_of(polls: list[tuple[float, Observation]]) -> Outcome | None:
    """Returns the outcome of a watch after polls. Each has the time of its answer, and takes 0.1 s."""
    task, refusals, failure = UNSEEN, NO_REFUSALS, None
    for now, polled in polls:
        observation, failure = confirm_failure(failure, polled, now - 0.1, now, INTERVAL)
        task, refusals = snapshot_after(task, observation), refusals_after(refusals, observation)
        if ending := ending_after(task, refusals, observation, BEGAN, LATER):
            return ending.outcome
    return None


@pytest.mark.parametrize(
    ("polls", "outcome"),
    [
        # confirmed by a second live failure, an interval later
        ([(0, LIVE_FAILED)], None),
        ([(0, LIVE_FAILED), (5.1, LIVE_FAILED)], Outcome.FAILED),
        ([(0, LIVE_FAILED), (5.05, LIVE_FAILED)], None),  # the answer came later, but its poll began earlier
        ([(0, LIVE_FAILED), (1, LIVE_FAILED), (4, LIVE_FAILED)], None),
        ([(0, LIVE_FAILED), (1, LIVE_FAILED), (5.1, LIVE_FAILED)], Outcome.FAILED),
        # cleared by a live answer that says anything else
        ([(0, LIVE_FAILED), (5.1, LIVE_RUNNING), (10.2, LIVE_FAILED)], None),
        ([(0, LIVE_FAILED), (5.1, TaskRecord(TaskStatus.QUEUED, live=True)), (10.2, LIVE_FAILED)], None),
        (
            [(0, LIVE_FAILED), (5.1, TaskRecord(TaskStatus.UNKNOWN, raw_status="odd", live=True)), (9, LIVE_FAILED)],
            None,
        ),
        ([(0, LIVE_FAILED), (5.1, LIVE_RUNNING), (10.2, LIVE_FAILED), (15.3, LIVE_FAILED)], Outcome.FAILED),
        ([(0, LIVE_FAILED), (0.2, LIVE_DONE)], Outcome.COMPLETED),
        ([(0, LIVE_FAILED), (0.2, COMPLETED)], Outcome.COMPLETED),
        # confirmed by amux's own row, at once
        ([(0, LIVE_FAILED), (0.2, ROW_FAILED)], Outcome.FAILED),
        ([(0, ROW_FAILED)], Outcome.FAILED),
        # neither: a row that still runs, and answers that are no record
        ([(0, LIVE_FAILED), (5.1, ROW_RUNNING)], None),
        ([(0, LIVE_FAILED), (5.1, ROW_RUNNING), (10.2, LIVE_FAILED)], Outcome.FAILED),
        ([(0, LIVE_FAILED), *((5.1, each) for each in UNRELATED)], None),
        ([(0, LIVE_FAILED), *((5.1, each) for each in UNRELATED), (10.2, LIVE_FAILED)], Outcome.FAILED),
        ([(0, LIVE_FAILED), (5.1, NOT_FOUND), (10.2, REJECTED), (15.3, LIVE_FAILED)], Outcome.FAILED),
    ],
)
def test_a_live_failure_counts_when_it_is_confirmed(
    polls: list[tuple[float, Observation]], outcome: Outcome | None
) -> None:
    assert outcome_of(polls) is outcome


def test_an_unconfirmed_failure_changes_nothing_else() -> None:
    live = TaskRecord(TaskStatus.FAILED, 100, error=BUSY, model="m", platform="54", submitted_at=7.0, live=True)
    live = live._replace(finished_at=9.0)
    observation, failure = confirm_failure(None, live, 9.9, 10.0, INTERVAL)
    assert failure == UnconfirmedFailure(10.0, BUSY, 100)
    assert failure.problem == Problem("failure_unconfirmed", "vendor is busy")
    assert observation == TaskRecord(TaskStatus.UNKNOWN, model="m", platform="54", submitted_at=7.0, live=True)
    for seen in (UNSEEN, TaskSnapshot(TaskStatus.QUEUED), TaskSnapshot(TaskStatus.IN_PROGRESS, 40)):
        assert snapshot_after(seen, observation) == seen
    assert refusals_after(RefusalCounts(2, 2, 4), observation) == NO_REFUSALS


def test_the_latest_reason_of_an_unconfirmed_failure_is_shown() -> None:
    _, failure = confirm_failure(
        UnconfirmedFailure(10.0, BUSY, None), LIVE_FAILED._replace(error=NO), 11.9, 12.0, INTERVAL
    )
    assert failure == UnconfirmedFailure(10.0, NO, None)
    assert UnconfirmedFailure(10.0, None, None).problem.message == "amux says that the task failed"
    assert UnconfirmedFailure(10.0, Problem(7, None), None).problem.message == "amux says that the task failed"


@pytest.mark.parametrize(
    ("error", "problem"),
    [
        (Problem("E1", "vendor is busy"), Problem("E1", "vendor is busy")),
        (None, Problem(None, "amux says that the task failed")),
    ],
)
def test_at_the_deadline_an_unconfirmed_failure_is_the_ending(error: Problem | None, problem: Problem) -> None:
    task = TaskSnapshot(TaskStatus.IN_PROGRESS, 40)
    assert deadline_ending(task, UnconfirmedFailure(10.0, error, 70), None, 90.5).task.progress == 70
    ending = deadline_ending(task, UnconfirmedFailure(10.0, error, None), None, 90.5)
    assert (ending.outcome, ending.task) == (Outcome.FAILED, TaskSnapshot(TaskStatus.FAILED, 40, error=ending.error))
    assert ending.error == Problem(
        problem.code,
        f"{problem.message} (not confirmed: the watch ended after 90.5 s; the task may still finish at amux)",
    )


def test_at_the_deadline_a_watch_without_a_failure_times_out() -> None:
    task = TaskSnapshot(TaskStatus.IN_PROGRESS, 40)
    assert deadline_ending(task, None, BUSY, 90.5) == timeout_ending(task, BUSY, 90.5)


LIVE = st.sampled_from([LIVE_FAILED, LIVE_RUNNING, ROW_RUNNING, *UNRELATED])


@given(st.lists(st.tuples(st.integers(1, 60), LIVE), max_size=30))
def test_two_unconfirmed_live_failures_are_at_least_an_interval_apart(steps: list[tuple[int, Observation]]) -> None:
    """Compares with a search for a failure and another one an interval later, without a running live answer between."""
    now, polls = 0.0, []
    for tenths, observation in steps:
        now += tenths / 10
        polls.append((now, observation))
    settled = False
    for index, (first, observation) in enumerate(polls):
        for later, other in polls[index + 1 :] if observation is LIVE_FAILED else []:
            if other is LIVE_RUNNING:
                break
            settled = settled or (other is LIVE_FAILED and later - 0.1 >= first + INTERVAL)
    assert (outcome_of(polls) is Outcome.FAILED) is settled


@pytest.mark.parametrize("status", TaskStatus)
@pytest.mark.parametrize("known", TaskStatus)
def test_a_record_of_the_same_running_status_says_that_the_task_still_runs(
    known: TaskStatus, status: TaskStatus
) -> None:
    expected = known is status and status in {TaskStatus.QUEUED, TaskStatus.IN_PROGRESS}
    assert still_runs(known, TaskRecord(status, 30)) is expected
    assert not still_runs(known, TaskRecord(status, raw_status="paused"))

"""What an observation or a deadline means for a task and for each watch on it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from bridge.core.model import (
    NO_REFUSALS,
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
    Watch,
)

NOT_FOUND_IN_A_ROW = 3
NOT_FOUND_GRACE = 60.0  # seconds since registration: amux writes the task's row after it has answered the create call
FORBIDDEN_IN_A_ROW = 3
REJECTED_IN_A_ROW = 5

TERMINAL = {TaskStatus.COMPLETED: Outcome.COMPLETED, TaskStatus.FAILED: Outcome.FAILED}


FAILURE_UNCONFIRMED = "failure_unconfirmed"


@dataclass(frozen=True, slots=True)
class UnconfirmedFailure:
    """A failure that awaits confirmation: only live answers have reported it.

    `since` is when the first of them came, by any clock in seconds. `error` and `progress` are of the latest one.
    """

    since: float
    error: Problem | None
    progress: int | None

    @property
    def problem(self) -> Problem:
        """The error that a watch shows until the failure is confirmed or cleared."""
        message = self.error.message if self.error is not None else None
        return Problem(FAILURE_UNCONFIRMED, message or "amux says that the task failed")


@dataclass(frozen=True, slots=True)
class Ending:
    """How a watch ends: its outcome, the task as the event shows it, and the event's error."""

    outcome: Outcome
    task: TaskSnapshot
    error: Problem | None = None


@dataclass(frozen=True, slots=True)
class PollResult:
    """What a poll showed of a task, as far as it can end watches. All fields include the observation.

    `observation` is None if there was no last poll before a deadline: then only deadlines count. `error` is the error
    of the last poll. If amux refuses or throttles the key, so there was no last poll, it is the error of the key.
    """

    task: TaskSnapshot
    refusals: RefusalCounts
    observation: Observation | None
    error: Problem | None = None
    unconfirmed_failure: UnconfirmedFailure | None = None


def refusals_after(refusals: RefusalCounts, observation: Observation) -> RefusalCounts:
    """Counts refusals in a row.

    A task record sets all counts to 0. An observation that says nothing about the task changes no count.
    """
    match observation:
        case TaskRecord():
            return NO_REFUSALS
        case TaskNotFound():
            return replace(refusals, not_found=refusals.not_found + 1)
        case TaskForbidden():
            return replace(refusals, forbidden=refusals.forbidden + 1)
        case PollRejected():
            return replace(refusals, rejected=refusals.rejected + 1)
        case _:
            return refusals


def confirm_failure(
    failure: UnconfirmedFailure | None, observation: Observation, began: float, now: float, interval: float
) -> tuple[Observation, UnconfirmedFailure | None]:
    """Decides whether a live failure counts.

    Returns the observation that counts, and the unconfirmed failure after it.

    For a live task, amux reports a vendor's error with a single request as the failure of the task. So a live failure
    counts only if a second one confirms it. The second poll must begin at least one `interval` after the first failure
    came. A failure in amux's own row also confirms it. A live answer with any other status clears the failure. An
    answer without a record, and a row that still runs, do neither, because the row may be older than the failure. A
    failure that does not count becomes a record that changes nothing.

    `began` and `now` are when the observation's poll began and ended, by the clock of `UnconfirmedFailure.since`.
    """
    if not isinstance(observation, TaskRecord):
        return observation, failure
    if observation.status is not TaskStatus.FAILED:
        is_old_row = not observation.live and observation.status is not TaskStatus.COMPLETED
        return observation, failure if is_old_row else None
    if not observation.live or (failure is not None and began >= failure.since + interval):
        return observation, None
    since = now if failure is None else failure.since
    unchanged = observation._replace(status=TaskStatus.UNKNOWN, progress=None, error=None, finished_at=None)
    return unchanged, UnconfirmedFailure(since, observation.error, observation.progress)


def snapshot_after(task: TaskSnapshot, observation: Observation) -> TaskSnapshot:
    """Returns the task as last seen. Only a record changes it. If the record has no progress, the progress is kept."""
    if not isinstance(observation, TaskRecord):
        return task
    status = _status_after(task.status, observation)
    progress = task.progress if observation.progress is None else observation.progress
    if status not in TERMINAL:
        return replace(task, status=status, progress=progress)
    if status is TaskStatus.COMPLETED and observation.progress is None:
        progress = 100
    error = observation.error if status is TaskStatus.FAILED else None
    return TaskSnapshot(status, progress, observation.url, observation.format, observation.metadata, error)


_IN_PROGRESS, _QUEUED = TaskStatus.IN_PROGRESS, TaskStatus.QUEUED  # the look-up of a member takes 0.1 µs


def still_runs(status: TaskStatus, record: TaskRecord) -> bool:
    """Whether a record says that a task still runs, with the same `status` as before.

    False for a status word that the bridge does not know, because such words are counted.
    """
    return record.status is status and record.raw_status is None and (status is _IN_PROGRESS or status is _QUEUED)


def _status_after(status: TaskStatus, record: TaskRecord) -> TaskStatus:
    if record.status is not TaskStatus.UNKNOWN:
        return record.status
    # A first status of "unknown", which is amux's own word, means a queued task. Any other unknown word means nothing.
    is_queued = status is TaskStatus.UNKNOWN and (record.raw_status or "").lower() == "unknown"
    return TaskStatus.QUEUED if is_queued else status


def ending_after(
    task: TaskSnapshot, refusals: RefusalCounts, observation: Observation, watch_began: float, now: float
) -> Ending | None:
    """Decides whether an observation ends a watch that was registered at `watch_began`, and how.

    `task` and `refusals` already include the observation. Both times are seconds of the same clock. Returns None if the
    watch stays active.
    """
    match observation:
        case TaskRecord() if task.status in TERMINAL:
            return Ending(TERMINAL[task.status], task, task.error)
        case TaskNotFound(message=message):
            in_grace = now < watch_began + NOT_FOUND_GRACE
            if refusals.not_found >= NOT_FOUND_IN_A_ROW and not in_grace:
                return _unavailable("task_not_found", message)
        case TaskForbidden(message=message) if refusals.forbidden >= FORBIDDEN_IN_A_ROW:
            return _unavailable("task_forbidden", message)
        case PollRejected(code=code, message=message) if refusals.rejected >= REJECTED_IN_A_ROW:
            return _unavailable("poll_rejected", f"amux rejects the poll: {message or code}")
        case _:
            pass
    return None


def ending_of(result: PollResult, watch: Watch, began_at: float, now: float) -> Ending | None:
    """Decides how a watch ends: by the observation, else by a deadline that had passed when the poll began.

    Returns None if the watch stays active. A poll that began before the deadline is not the last one: then the next
    poll is the last. `began_at` and `now` are Unix seconds.
    """
    if result.observation is not None:
        ending = ending_after(result.task, result.refusals, result.observation, watch.created_at, now)
        if ending is not None:
            return ending
    if watch.deadline_at <= began_at:
        return deadline_ending(result.task, result.unconfirmed_failure, result.error, watch.timeout_seconds)
    return None


def _unavailable(code: str, message: str) -> Ending:
    return Ending(Outcome.UNAVAILABLE, TaskSnapshot(), Problem(code, message))


def deadline_ending(
    task: TaskSnapshot, failure: UnconfirmedFailure | None, last_error: Problem | None, timeout_seconds: float
) -> Ending:
    """Returns the ending of a watch whose deadline has passed: failed if a failure still awaits confirmation."""
    if failure is None:
        return timeout_ending(task, last_error, timeout_seconds)
    code, message = (None, None) if failure.error is None else (failure.error.code, failure.error.message)
    text = (
        f"{message or 'amux says that the task failed'} (not confirmed: the watch ended after {timeout_seconds:g} s; "
        "the task may still finish at amux)"
    )
    progress = task.progress if failure.progress is None else failure.progress
    shown = TaskSnapshot(TaskStatus.FAILED, progress, error=Problem(code, text))
    return Ending(Outcome.FAILED, shown, shown.error)


def timeout_ending(task: TaskSnapshot, last_error: Problem | None, timeout_seconds: float) -> Ending:
    """Returns the ending of a watch whose deadline has passed. Its error says how the task was last seen."""
    seen = f"the task was last seen {task.status}" if task.status is not TaskStatus.UNKNOWN else "the task was not seen"
    failure = f"; the last poll failed: {last_error.message or last_error.code}" if last_error is not None else ""
    message = f"the watch ended after {timeout_seconds:g} s: {seen}{failure}; it may still finish at amux"
    status = TaskStatus.UNKNOWN if task.status in TERMINAL else task.status
    shown = TaskSnapshot(status=status, progress=task.progress)
    return Ending(Outcome.TIMED_OUT, shown, Problem("watch_timed_out", message))


def problem_in(observation: Observation) -> Problem | None:
    """Returns the error of a poll, as a watch shows it, or None for a task record."""
    if isinstance(observation, TaskRecord):
        return None
    if isinstance(observation, PollRejected | TransientError):
        return Problem(observation.code or "poll_rejected", observation.message)
    return Problem(_PROBLEM_CODES[type(observation)], observation.message)


_PROBLEM_CODES: Mapping[type[Observation], str] = {
    TaskNotFound: "task_not_found",
    TaskForbidden: "task_forbidden",
    Throttled: "slowed_down",
    KeyRefused: "key_refused",
}

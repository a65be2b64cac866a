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
)

NOT_FOUND_IN_A_ROW = 3
NOT_FOUND_GRACE = 60.0  # seconds since the watch began: amux writes the row after it has answered the create call
FORBIDDEN_IN_A_ROW = 3
REJECTED_IN_A_ROW = 5

TERMINAL = {TaskStatus.COMPLETED: Outcome.COMPLETED, TaskStatus.FAILED: Outcome.FAILED}


@dataclass(frozen=True, slots=True)
class Ending:
    """How a watch ends: its outcome, the task as the event shows it, and the event's error."""

    outcome: Outcome
    task: TaskSnapshot
    error: Problem | None = None


def refusals_after(strikes: RefusalCounts, observation: Observation) -> RefusalCounts:
    """Count refusals in a row: a task record clears them, and trouble that says nothing of the task leaves them."""
    match observation:
        case TaskRecord():
            return NO_REFUSALS
        case TaskNotFound():
            return replace(strikes, not_found=strikes.not_found + 1)
        case TaskForbidden():
            return replace(strikes, forbidden=strikes.forbidden + 1)
        case PollRejected():
            return replace(strikes, rejected=strikes.rejected + 1)
        case _:
            return strikes


def snapshot_after(task: TaskSnapshot, observation: Observation) -> TaskSnapshot:
    """The task as last seen: what an answer leaves out stays as it was, and only a record changes anything."""
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


def _status_after(status: TaskStatus, seen: TaskRecord) -> TaskStatus:
    if seen.status is not TaskStatus.UNKNOWN:
        return seen.status
    # amux's own "unknown" before anything else is a task that waits; a word we don't know says nothing at all.
    waits = status is TaskStatus.UNKNOWN and (seen.word or "").lower() == "unknown"
    return TaskStatus.QUEUED if waits else status


def ending_after(
    task: TaskSnapshot, strikes: RefusalCounts, observation: Observation, watch_began: float, now: float
) -> Ending | None:
    """Decide whether an observation ends a watch that began at `watch_began`, and how.

    `task` and `strikes` already hold the observation. None: the watch stays active.
    """
    match observation:
        case TaskRecord() if task.status in TERMINAL:
            return Ending(TERMINAL[task.status], task, task.error)
        case TaskNotFound(message=message):
            patient = now < watch_began + NOT_FOUND_GRACE
            if strikes.not_found >= NOT_FOUND_IN_A_ROW and not patient:
                return _unavailable("task_not_found", message)
        case TaskForbidden(message=message) if strikes.forbidden >= FORBIDDEN_IN_A_ROW:
            return _unavailable("task_forbidden", message)
        case PollRejected(code=code, message=message) if strikes.rejected >= REJECTED_IN_A_ROW:
            return _unavailable("poll_rejected", f"amux refuses to tell: {message or code}")
        case _:
            pass
    return None


def _unavailable(code: str, message: str) -> Ending:
    return Ending(Outcome.UNAVAILABLE, TaskSnapshot(), Problem(code, message))


def timed_out(task: TaskSnapshot, last_error: Problem | None, timeout_seconds: float) -> Ending:
    """The ending of a watch whose deadline has passed, with what was last seen of its task, or the last error."""
    seen = f"the task was last seen {task.status}" if task.status is not TaskStatus.UNKNOWN else "the task was not seen"
    trouble = f"; the last poll failed: {last_error.message or last_error.code}" if last_error is not None else ""
    message = f"the watch ended after {timeout_seconds:g} s: {seen}{trouble}; it may still finish at amux"
    status = TaskStatus.UNKNOWN if task.status in TERMINAL else task.status
    shown = TaskSnapshot(status=status, progress=task.progress)
    return Ending(Outcome.TIMED_OUT, shown, Problem("watch_timed_out", message))


def problem_in(observation: Observation) -> Problem | None:
    """What an observation that is no task record says went wrong, as a watch shows it; None for a record."""
    if isinstance(observation, TaskRecord):
        return None
    if isinstance(observation, PollRejected | TransientError):
        return Problem(observation.code or "poll_rejected", observation.message)
    return Problem(_TROUBLE_CODES[type(observation)], observation.message)


_TROUBLE_CODES: Mapping[type[Observation], str] = {
    TaskNotFound: "task_not_found",
    TaskForbidden: "task_forbidden",
    Throttled: "slowed_down",
    KeyRefused: "key_refused",
}

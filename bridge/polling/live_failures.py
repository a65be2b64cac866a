"""Failures that only live answers reported: the doubt of each task, and one log line for each change."""

from bridge.core.model import Observation, TaskRecord, TaskStatus
from bridge.core.watch import confirm_failure
from bridge.polling.state import PolledTask
from bridge.telemetry import get_logger

_log = get_logger("polling")


def apply_doubt(
    task: PolledTask, observation: Observation, began: float, now: float, interval: float
) -> tuple[Observation, bool]:
    """Update the doubt of a task; return the observation to go on with, and whether the doubt began or was cleared."""
    before = task.doubt
    judged, task.doubt = confirm_failure(before, observation, began, now, interval)
    if before is None and task.doubt is not None:
        _log.event(
            "failure_unconfirmed",
            task_id=task.task_id,
            reason=task.doubt.problem.message,
            next_poll_seconds=interval,
            means="amux may report a failed request to the vendor as a failed task, so amux is asked again",
        )
        return judged, True
    if before is not None and task.doubt is None:
        confirmed = isinstance(judged, TaskRecord) and judged.status is TaskStatus.FAILED
        event = "failure_confirmed" if confirmed else "failure_cleared"
        _log.event(event, task_id=task.task_id, waited_seconds=round(now - before.since, 3))
        return judged, True
    return judged, False

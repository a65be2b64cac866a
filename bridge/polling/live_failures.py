"""Sets the unconfirmed failure of a task, which only live answers reported, and logs each change once."""

from bridge.core.model import Observation, TaskRecord, TaskStatus
from bridge.core.watch import confirm_failure
from bridge.polling.state import PolledTask
from bridge.telemetry import get_logger

_log = get_logger("polling")


def confirm_live_failure(
    task: PolledTask, observation: Observation, began: float, now: float, interval: float
) -> tuple[Observation, bool]:
    """Update the unconfirmed failure of a task.

    Returns the observation to use, and whether a failure was found, confirmed or cleared.
    """
    before = task.unconfirmed_failure
    effective, task.unconfirmed_failure = confirm_failure(before, observation, began, now, interval)
    if before is None and task.unconfirmed_failure is not None:
        _log.event(
            "failure_unconfirmed",
            task_id=task.task_id,
            reason=task.unconfirmed_failure.problem.message,
            next_poll_seconds=interval,
            means=(
                "amux may report a failed request to the vendor as a failed task, so amux is asked again before a watch"
                " ends"
            ),
        )
        return effective, True
    if before is not None and task.unconfirmed_failure is None:
        confirmed = isinstance(effective, TaskRecord) and effective.status is TaskStatus.FAILED
        event = "failure_confirmed" if confirmed else "failure_cleared"
        means = "the task has failed" if confirmed else "amux does not report this failure any more"
        _log.event(event, task_id=task.task_id, waited_seconds=round(now - before.since, 3), means=means)
        return effective, True
    return effective, False

"""Objects that many tasks share: their classes, and snapshots that hold no text. They save memory."""

from bridge.core.learned_schedule import LearnedSchedule
from bridge.core.model import TaskSnapshot, TaskStatus
from bridge.core.task_class import platform_by_record


class TaskClass:
    """A class of tasks. `schedule` is None as long as the fixed schedule applies to its tasks.

    `model` and `platform` are what amux's record says; `from_record`: the name of the class is from that record.
    """

    __slots__ = ("from_record", "model", "name", "platform", "schedule", "stored_name")

    schedule: LearnedSchedule | None

    def __init__(
        self, name: str, model: str | None = None, *, from_record: bool = False, stored_name: str | None = None
    ) -> None:
        self.name = name
        self.model = model
        self.platform = platform_by_record(name)
        self.from_record = from_record
        self.stored_name = stored_name  # None for the class of a credential, which the task's row has anyway
        self.schedule = None


NO_CLASS = TaskClass("")

_SHARED_SNAPSHOTS = {
    (status, progress): TaskSnapshot(status, progress)
    for status in (TaskStatus.UNKNOWN, TaskStatus.QUEUED, TaskStatus.IN_PROGRESS)
    for progress in (None, *range(101))
}
# The same by progress alone: the hash of a status takes longer than the rest of a read in a batch.
_QUEUED, _IN_PROGRESS = (
    {progress: _SHARED_SNAPSHOTS[status, progress] for progress in (None, *range(101))}
    for status in (TaskStatus.QUEUED, TaskStatus.IN_PROGRESS)
)


def shared_snapshot(snapshot: TaskSnapshot) -> TaskSnapshot:
    """Return the shared object for a snapshot that has only a status and a progress: 300 objects serve every task."""
    shared = _SHARED_SNAPSHOTS.get((snapshot.status, snapshot.progress))
    return shared if shared == snapshot else snapshot


def with_progress(snapshot: TaskSnapshot, progress: int) -> TaskSnapshot | None:
    """Return the shared snapshot with another progress; None if this one is no shared one of a running task."""
    for shared in (_IN_PROGRESS, _QUEUED):
        if shared.get(snapshot.progress) is snapshot:
            return shared.get(progress)
    return None

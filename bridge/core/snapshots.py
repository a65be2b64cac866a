"""Shared snapshots. Running tasks, perhaps a million, share about 300 objects: one for each status and progress."""

from bridge.core.model import UNSEEN, TaskSnapshot, TaskStatus

_PROGRESSES: tuple[int | None, ...] = (None, *range(101))
# By progress alone, because hashing a status takes longer than the rest of a read in a batch.
_QUEUED, _IN_PROGRESS = (
    {progress: TaskSnapshot(status, progress) for progress in _PROGRESSES}
    for status in (TaskStatus.QUEUED, TaskStatus.IN_PROGRESS)
)
_UNKNOWN = {progress: TaskSnapshot(TaskStatus.UNKNOWN, progress) for progress in _PROGRESSES} | {None: UNSEEN}
_SHARED: dict[tuple[str, int | None], TaskSnapshot] = {
    (snapshot.status, progress): snapshot
    for snapshots in (_UNKNOWN, _QUEUED, _IN_PROGRESS)
    for progress, snapshot in snapshots.items()
}


def plain_snapshot(status: str, progress: int | None) -> TaskSnapshot:
    """Return the snapshot that has only a status and a progress; the shared one if there is one."""
    shared = _SHARED.get((status, progress))  # a status equals its text
    return TaskSnapshot(TaskStatus(status), progress) if shared is None else shared


def shared_snapshot(snapshot: TaskSnapshot) -> TaskSnapshot:
    """Return the shared object if a snapshot has only a status and a progress, else the snapshot itself."""
    shared = _SHARED.get((snapshot.status, snapshot.progress))
    return shared if shared == snapshot else snapshot


def with_progress(snapshot: TaskSnapshot, progress: int) -> TaskSnapshot | None:
    """Return the shared snapshot with another progress; None if `snapshot` is not a shared one of a running task."""
    shared = _IN_PROGRESS if snapshot.status is TaskStatus.IN_PROGRESS else _QUEUED
    return shared.get(progress) if shared.get(snapshot.progress) is snapshot else None

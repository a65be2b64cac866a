"""The snapshots that many tasks share."""

from dataclasses import replace

import pytest

from bridge.core.model import UNSEEN, TaskSnapshot, TaskStatus
from bridge.core.snapshots import plain_snapshot, shared_snapshot, with_progress

RUNNING = [TaskStatus.QUEUED, TaskStatus.IN_PROGRESS]


@pytest.mark.parametrize("status", RUNNING)
@pytest.mark.parametrize("before", [None, 0, 30, 100])
@pytest.mark.parametrize("after", [0, 30, 100])
def test_a_running_task_with_another_progress_has_another_shared_snapshot(
    status: TaskStatus, before: int | None, after: int
) -> None:
    found = with_progress(shared_snapshot(TaskSnapshot(status, before)), after)
    assert found is shared_snapshot(TaskSnapshot(status, after))


@pytest.mark.parametrize(
    "snapshot",
    [
        TaskSnapshot(TaskStatus.IN_PROGRESS, 30, url="https://v.example/a.mp4"),
        replace(shared_snapshot(TaskSnapshot(TaskStatus.QUEUED, 30))),
        shared_snapshot(TaskSnapshot(TaskStatus.UNKNOWN, 30)),
        TaskSnapshot(TaskStatus.COMPLETED, 30),
    ],
)
def test_any_other_snapshot_has_none(snapshot: TaskSnapshot) -> None:
    assert with_progress(snapshot, 40) is None


def test_a_stored_status_and_progress_give_the_shared_snapshot() -> None:
    assert plain_snapshot("queued", 30) is shared_snapshot(TaskSnapshot(TaskStatus.QUEUED, 30))
    assert plain_snapshot("unknown", None) is UNSEEN
    assert plain_snapshot("completed", 100) == TaskSnapshot(TaskStatus.COMPLETED, 100)
    assert plain_snapshot("queued", 101) == TaskSnapshot(TaskStatus.QUEUED, 101)

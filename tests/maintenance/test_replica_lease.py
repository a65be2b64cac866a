"""The replica's lease: tasks and deliveries that arrive while the lease is lost are neither polled nor sent."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest

from bridge.maintenance.replica_lease import ReplicaLease
from bridge.store.lease import Lease
from bridge.store.records import TaskView
from bridge.store.replicas import LEASE_SECONDS
from bridge.store.store import Store
from tests.store.builders import execute, new_watch, register_watch


class Work:
    """Stands for the poller and for the deliverer. Keeps the tasks, and counts the releases of deliveries."""

    def __init__(self) -> None:
        self.tasks: list[str] = []
        self.released = 0

    @property
    def owned(self) -> int:
        return len(self.tasks)

    def add(self, task: TaskView, _key: str | None = None) -> None:
        self.tasks.append(task.row)

    def drop(self, task_row: str) -> None:
        self.tasks.remove(task_row)

    def noting_dropped(self) -> AbstractContextManager[set[str]]:
        return nullcontext(set())

    def forget_all(self) -> None:
        self.tasks.clear()

    def release_waiting(self) -> None:
        self.released += 1

    async def load(self) -> int:
        """Loads nothing."""
        return 0


def lease_of(store: Store, now: list[float]) -> tuple[ReplicaLease, Work]:
    work = Work()
    parts: Any = work
    now[0] += store.replica.joined_at
    return ReplicaLease(store, parts, parts, Lease(lambda: now[0])), work


async def test_a_replica_whose_start_took_longer_than_its_lease_drops_its_tasks(replicas: list[Store]) -> None:
    lease, work = lease_of(replicas[0], [LEASE_SECONDS])
    work.tasks.append("tsk_late")
    lease.check_expiry()
    assert work.tasks == []


async def test_a_task_that_comes_in_while_the_lease_is_lost_is_dropped(replicas: list[Store]) -> None:
    now = [0.0]
    lease, work = lease_of(replicas[0], now)
    now[0] += LEASE_SECONDS
    lease.check_expiry()
    work.tasks.append("tsk_late")  # as if the answer to its commit came late
    lease.check_expiry()
    assert work.tasks == []


async def test_rejoining_releases_what_came_in_while_the_lease_was_lost(replicas: list[Store]) -> None:
    now = [0.0]
    one, two = replicas
    lease, work = lease_of(one, now)
    execute(one, "UPDATE replicas SET expires_at = 0 WHERE id = :id", id=one.replica.id)
    await two.adopt(1)
    now[0] += LEASE_SECONDS
    lease.check_expiry()
    released, old = work.released, one.replica
    work.tasks.append("tsk_late")
    await lease.renew()
    assert one.replica.id != old.id
    assert work.released > released
    assert work.tasks == []
    assert lease._lease.is_valid()


async def test_a_task_that_another_replica_closed_is_dropped(replicas: list[Store]) -> None:
    one, two = replicas
    lease, work = lease_of(one, [0.0])
    registered = await register_watch(one)
    work.tasks.append(registered.view.task.row)
    await two.cancel(registered.watch.id, None)
    await lease.adopt()
    assert work.tasks == []


async def test_a_registration_that_is_answered_after_rejoining_is_not_polled(
    replicas: list[Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = replicas[0]
    real = one._writer.run_all

    async def answered_late(*arguments: Any, **options: Any) -> Any:
        results = await real(*arguments, **options)
        monkeypatch.setattr(one._writer, "run_all", real)  # because `rejoin` is a write too
        await one.rejoin()
        return results

    monkeypatch.setattr(one._writer, "run_all", answered_late)
    [result] = await one.register_all([new_watch(one)])
    assert (result.created, result.task) == (True, None)  # type: ignore[union-attr]

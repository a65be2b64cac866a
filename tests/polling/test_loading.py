"""What a task has after it was loaded. A task that closes while the store's answer is under way is not polled again."""

import asyncio
from typing import Any

import pytest

from bridge.core.model import TaskFacts
from bridge.core.schedule import PollEstimate
from bridge.maintenance.replica_lease import ReplicaLease
from bridge.store.lease import Lease
from bridge.store.records import Changed, Settlement, TaskView
from tests.polling.harness import DONE, RUNNING, Harness


async def test_a_task_that_closes_while_the_own_tasks_are_read_is_not_loaded(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    poller = harness.poller()
    watch = await harness.register(harness.sandbox.create_task(RUNNING), poller)
    read, answer, real = asyncio.Event(), asyncio.Event(), harness.store.own_tasks

    async def answered_late() -> Any:
        rows = await real()
        read.set()
        await answer.wait()
        return rows

    monkeypatch.setattr(harness.store, "own_tasks", answered_late)
    loading = asyncio.create_task(poller.load())
    await read.wait()
    harness.sandbox.change(watch.watch.task_id, DONE)
    await harness.until(lambda: poller.owned == 0)
    answer.set()
    await loading
    assert poller.owned == 0


async def test_a_task_that_is_settled_after_it_was_loaded_again_is_dropped(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lease ended during the settlement, so the poller forgot the task, and loaded it while it was still open."""
    poller = harness.poller()
    loaded, real = asyncio.Event(), harness.store.settle

    async def settle(settlement: Settlement) -> Changed:
        if not loaded.is_set():
            poller.forget_all()
            await poller.load()
            assert poller.owned == 1
            loaded.set()
        return await real(settlement)

    monkeypatch.setattr(harness.store, "settle", settle)
    await harness.register(harness.sandbox.create_task(DONE), poller)
    await loaded.wait()
    await harness.until(lambda: len(harness.deliveries) == 1)
    assert poller.owned == 0


async def test_a_task_that_closes_while_the_keys_of_adopted_tasks_are_read_is_not_added(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    poller = harness.poller()
    no_deliverer: Any = None
    lease = ReplicaLease(harness.store, poller, no_deliverer, Lease(lambda: 0.0))
    await harness.register(harness.sandbox.create_task(RUNNING), api_key="sk-other")
    [row] = await harness.store.own_tasks()
    real = harness.store.keys_of

    async def keys_of(credentials: Any) -> Any:
        poller.drop(row.row)
        return await real(credentials)

    async def adopt(_most: int) -> Any:
        return [row]

    monkeypatch.setattr(harness.store, "keys_of", keys_of)
    monkeypatch.setattr(harness.store, "adopt", adopt)
    await lease.adopt()
    assert poller.owned == 0


@pytest.mark.parametrize("ahead", [-3_600.0, 3_600.0])
async def test_a_loaded_task_has_the_times_of_its_row(harness: Harness, ahead: float) -> None:
    """The row may have been written before the wall clock was set."""
    poller, now = harness.poller(), harness.store.now()
    opened_at, polled_at = now + ahead, now + ahead + 60.0
    facts = TaskFacts(submitted_at=opened_at - 30.0, task_class="amux 41 kling", model="kling")
    row = TaskView("tsk_1", "task_1", "configured", polls=2, last_polled_at=polled_at, opened_at=opened_at, facts=facts)
    task = poller._loader.create(row, None)
    moment = poller._clocks.moment
    assert task.born == pytest.approx(moment(opened_at - 30.0), abs=0.1)
    assert task.started == pytest.approx(moment(polled_at), abs=0.1)
    assert task.facts == facts
    assert task.steps == PollEstimate(poller._policy).after(2, -60.0 - ahead)


async def test_a_task_without_polls_is_as_old_as_its_first_registration(harness: Harness) -> None:
    poller, opened_at = harness.poller(), harness.store.now() - 60.0
    task = poller._loader.create(TaskView("tsk_1", "task_1", "configured", opened_at=opened_at), None)
    assert task.born == pytest.approx(poller._clocks.moment(opened_at), abs=0.1)
    assert (task.started, task.steps) == (None, 0)

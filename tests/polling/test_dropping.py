"""Tasks that are dropped: what they leave behind, and answers and writes that come after the drop."""

from dataclasses import replace
from math import inf

import pytest

from bridge.core.model import TERMINAL_EVENTS, EventType
from bridge.polling.result_writer import PendingStatus
from bridge.polling.state import Phase
from bridge.store.records import CONFIGURED, TaskView
from tests.polling.harness import DONE, RUNNING, Harness, hold_status_writes


async def test_a_dropped_task_leaves_no_check_and_no_key_of_its_own_behind(harness: Harness) -> None:
    client = harness.gated_client(poll=1)
    poller = harness.poller(client=client)
    watch = await harness.register(harness.sandbox.create_task(RUNNING), poller, api_key="sk-own")
    await harness.until(lambda: client.polls == 1)
    poller.check_closed(watch.view.task.row)  # the task is being polled, so the check is noted for later
    task = poller._tasks[watch.view.task.row]
    assert poller._handler._to_check == {task}
    assert len(poller.credentials()) == 2
    poller.drop(watch.view.task.row)
    poller.refused(PendingStatus(task, changed=False))  # an answer of the store that comes too late
    assert poller._handler._to_check == set()
    assert [one.name for one in poller.credentials()] == [CONFIGURED]
    client.gate.set()
    await poller.drain(5)
    assert (poller.owned, task.phase) == (0, Phase.DROPPED)


async def test_the_statistics_count_the_tasks_of_each_key(harness: Harness) -> None:
    poller = harness.poller()
    watches = [
        await harness.register(harness.sandbox.create_task(RUNNING), poller, api_key=key)
        for key in (None, None, "sk-own", "sk-other-own")
    ]
    assert (await poller.stats(9)).keys == {CONFIGURED: 2, "own-6": 1, "own-12": 1}
    for watch in watches[1:3]:
        poller.drop(watch.view.task.row)
    stats = await poller.stats(9)
    assert (stats.tasks, stats.keys) == (2, {CONFIGURED: 1, "own-12": 1})
    poller.forget_all()
    assert (await poller.stats(9)).keys == {}
    await poller.drain(5)


async def test_a_status_that_is_written_after_its_task_was_dropped_schedules_no_poll_of_it(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    poller = harness.poller()
    held = hold_status_writes(harness.store, monkeypatch)
    watch = await harness.register(harness.sandbox.create_task(RUNNING), poller)
    await harness.until(held.written.is_set)
    task = poller._tasks[watch.view.task.row]
    poller.forget_all()  # as when the lease is lost
    held.gate.set()
    await harness.until(lambda: watch.watch.id in harness.announced)
    assert (poller.owned, task.phase, poller._schedule.is_due()) == (0, Phase.DROPPED, False)
    assert poller._schedule._heap.next_due() == inf


async def test_tasks_are_not_loaded_when_this_replica_gets_another_id_meanwhile(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    poller = harness.poller()
    await harness.register(harness.sandbox.create_task(RUNNING))
    own_tasks = harness.store.own_tasks

    async def rejoin_meanwhile() -> list[TaskView]:
        rows = await own_tasks()
        harness.store.replica = replace(harness.store.replica, epoch=harness.store.replica.epoch + 1)
        return rows

    monkeypatch.setattr(harness.store, "own_tasks", rejoin_meanwhile)
    await poller.load()
    assert poller.owned == 0, "another replica adopts them"


async def test_a_task_that_is_loaded_again_writes_the_status_that_a_new_watch_waits_for(harness: Harness) -> None:
    poller = harness.poller()
    task_id = harness.sandbox.create_task(RUNNING)
    first = await harness.register(task_id, poller)
    await harness.sandbox.polled(task_id, 2)
    second = await harness.register(task_id, events=TERMINAL_EVENTS | {EventType.IN_PROGRESS})
    assert second.view.task.row == first.view.task.row
    await poller.load()  # the answer to the second registration did not arrive here
    await harness.until(lambda: harness.event_types(second) == ["video.in_progress"])


async def test_a_poller_that_drains_checks_no_deadlines(harness: Harness, caplog: pytest.LogCaptureFixture) -> None:
    poller = harness.poller()
    await poller.drain(0)
    repair = harness.break_store()
    await poller.check_deadlines()
    repair()
    assert "store_unavailable" not in caplog.text


async def test_the_tick_says_that_results_wait_until_they_are_written(
    harness: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    poller = harness.poller()
    task_id = harness.sandbox.create_task(RUNNING)
    await harness.register(task_id, poller)
    await harness.sandbox.polled(task_id, 2)
    repair = harness.break_store()
    harness.sandbox.change(task_id, DONE)
    await harness.until(lambda: "store_unavailable" in caplog.text and poller._result_writer.is_waiting)
    assert poller.tick()
    repair()
    await harness.until(lambda: poller.owned == 0)
    assert not poller.tick()

"""Upkeep: old watches are deleted, those with pending deliveries are not, and wrong times are corrected once."""

import asyncio
import threading
from dataclasses import replace
from typing import Any

import pytest

from bridge.core.delivery import RetryAt
from bridge.core.errors import NotFound
from bridge.store import outbox
from bridge.store.store import Store
from tests.store.builders import (
    ALL_EVENTS,
    DEAD,
    DELIVERED,
    attempt_result,
    claimed_delivery,
    dead_delivery,
    due_delivery,
    execute,
    one_row,
    record_attempt,
    record_status,
    register_watch,
    retry_at,
    rows,
    settle,
)
from tests.store.feed import delete_ended
from tests.waiting import SAFETY_SECONDS

TABLES = ("watches", "tasks", "events", "deliveries", "outbox", "attempts")
HOUR = 3_600.0


def row_counts(store: Store) -> dict[str, int]:
    return {table: one_row(store, f"SELECT count(*) FROM {table}") for table in TABLES}  # noqa: S608  a constant


async def test_an_old_watch_is_deleted_with_everything_that_belongs_to_it(store: Store) -> None:
    one = await claimed_delivery(store, headers={"X-Token": "t"}, secret="whsec_own")
    await record_attempt(store, attempt_result(store, one))
    assert await delete_ended(store, store.now() + 1, 10) == 1
    assert row_counts(store) == dict.fromkeys(TABLES, 0)
    with pytest.raises(NotFound):
        await store.watch(one.watch_id, None)
    with pytest.raises(NotFound):
        await store.delivery(one.id, None)


async def test_a_watch_that_ended_later_is_not_deleted(store: Store) -> None:
    await dead_delivery(store)
    assert await delete_ended(store, store.now() - HOUR, 10) == 0


async def test_cancelled_watches_are_deleted_and_active_ones_are_not(store: Store) -> None:
    active, cancelled = await register_watch(store), await register_watch(store)
    await store.cancel(cancelled.watch.id, None)
    assert await delete_ended(store, store.now() + 1, 10) == 1
    assert [row.id for row in rows(store, "SELECT id FROM watches")] == [active.watch.id]
    assert [row.id for row in rows(store, "SELECT id FROM tasks")] == [active.view.task.row]


async def test_a_watch_with_a_pending_delivery_is_not_deleted(store: Store) -> None:
    pending = await claimed_delivery(store, secret="whsec_own")
    await record_attempt(store, attempt_result(store, pending, retry_at(store.now())))
    claimed = await claimed_delivery(store)
    done = await dead_delivery(store)
    assert await delete_ended(store, store.now() + 1, 10) == 1
    remaining = {row.id for row in rows(store, "SELECT id FROM watches")}
    assert remaining == {pending.watch_id, claimed.watch_id}
    assert done.watch_id not in remaining
    assert rows(store, "SELECT secret FROM watches WHERE secret IS NOT NULL")


async def test_a_task_is_not_deleted_before_its_last_watch(store: Store) -> None:
    first = await register_watch(store, task_id="shared")
    await register_watch(store, task_id="shared", app="other")
    await store.cancel(first.watch.id, None)
    assert await delete_ended(store, store.now() + 1, 10) == 1
    assert one_row(store, "SELECT id FROM tasks") == first.view.task.row


async def test_at_most_the_requested_number_is_deleted_the_oldest_first(store: Store) -> None:
    ids = []
    for age in (300, 100, 200):
        registered = await register_watch(store)
        await settle(store, registered, lambda _: None)
        await store.cancel(registered.watch.id, None)
        execute(store, "UPDATE watches SET ended_at = :at WHERE id = :id", at=store.now() - age, id=registered.watch.id)
        ids.append(registered.watch.id)
    assert await delete_ended(store, store.now(), 2) == 2
    assert [row.id for row in rows(store, "SELECT id FROM watches")] == [ids[1]]
    assert await delete_ended(store, store.now(), 2) == 1
    assert await delete_ended(store, store.now(), 2) == 0


async def test_status_events_are_deleted_as_well(store: Store) -> None:
    registered = await register_watch(store, events=ALL_EVENTS)
    await record_status(store, registered)
    await store.cancel(registered.watch.id, None)
    assert await delete_ended(store, store.now() + 1, 10) == 1
    assert row_counts(store) == dict.fromkeys(TABLES, 0)


# --- a clock that was set back ------------------------------------------------------------------------------------


async def test_a_delivery_keeps_its_delay_counted_from_now(store: Store) -> None:
    one = await claimed_delivery(store)
    replica, ahead = store.replica, store.now() + HOUR
    store.replica = replace(replica, now=lambda: ahead)
    await record_attempt(store, attempt_result(store, one, retry_at(ahead + 30), at=ahead))
    store.replica = replica
    assert await store.correct_future_times() == 1
    assert one_row(store, "SELECT due_at FROM outbox") == pytest.approx(store.now() + 30, abs=10)
    shown = (await store.delivery(one.id, None))[0].next_attempt_at
    assert shown == one_row(store, "SELECT due_at FROM outbox")
    assert await store.correct_future_times() == 0


async def test_a_deadline_keeps_its_time_counted_from_now(store: Store) -> None:
    registered = await register_watch(store, age=-HOUR, timeout=600)
    assert await store.correct_future_times() == 1
    deadline = (await store.watch(registered.watch.id, None)).watch.deadline_at
    assert deadline == pytest.approx(store.now() + 600, abs=10)


async def test_a_second_correction_does_not_move_a_deadline(store: Store) -> None:
    """The watch's creation is still in the future. If a correction used that time, each one would move the deadline."""
    registered = await register_watch(store, age=-HOUR, timeout=600)
    await store.correct_future_times()
    once = (await store.watch(registered.watch.id, None)).watch.deadline_at
    assert await store.correct_future_times() == 0
    assert (await store.watch(registered.watch.id, None)).watch.deadline_at == once


async def test_what_is_written_while_a_correction_waits_is_not_in_the_future(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A correction once used the time of its call, not of its transaction. The simulation found it at seed 202589."""
    clock = [store.now()]
    monkeypatch.setattr(store._database, "now", lambda: clock[0])
    store.replica = replace(store.replica, now=lambda: clock[0])
    delivery = await due_delivery(store)
    real, begun, released = outbox.claim, threading.Event(), threading.Event()

    def slow_claim(*arguments: Any) -> Any:
        begun.set()
        released.wait(SAFETY_SECONDS)
        return real(*arguments)

    monkeypatch.setattr(outbox, "claim", slow_claim)
    claiming = asyncio.create_task(store.claim({delivery.host: 1}, 60))
    await asyncio.to_thread(begun.wait)
    correcting = asyncio.create_task(store.correct_future_times())
    await asyncio.sleep(0)
    clock[0] += 10
    released.set()
    assert len(await claiming) == 1
    assert await correcting == 0


async def test_a_claim_during_which_a_retry_was_requested_is_corrected_and_keeps_the_request(store: Store) -> None:
    delivery = await due_delivery(store)
    [claimed] = await store.claim({delivery.host: 1}, 60)
    await store.retry(claimed.id, None)
    ahead = store.now()
    store.replica = replace(store.replica, now=lambda: ahead - HOUR)
    assert await store.correct_future_times() == 1
    [row] = rows(store, "SELECT due_at, lease FROM outbox")
    assert row == (pytest.approx(ahead - HOUR + 60, abs=5), claimed.lease)
    [verdict] = await store.record_attempts([attempt_result(store, claimed, DELIVERED)])
    assert isinstance(verdict, RetryAt)


async def test_the_retry_of_an_attempt_that_is_recorded_after_the_clock_was_set_back_keeps_its_delay(
    store: Store,
) -> None:
    claimed = await claimed_delivery(store)
    result = attempt_result(store, claimed, retry_at(store.now() + 30))
    later = store.now() - HOUR
    store.replica = replace(store.replica, now=lambda: later)
    [verdict] = await store.record_attempts([result])
    assert isinstance(verdict, RetryAt)
    assert verdict.at == pytest.approx(later + 30, abs=5)


async def test_correct_times_are_not_changed(store: Store) -> None:
    registered = await register_watch(store, timeout=600)
    waiting = await claimed_delivery(store)
    await record_attempt(store, attempt_result(store, waiting, retry_at(store.now() + HOUR)))
    gone = await due_delivery(store)
    [claimed] = await store.claim({gone.host: 1}, 60)
    await record_attempt(store, attempt_result(store, claimed, DEAD))
    before = rows(store, "SELECT id, due_at, set_at FROM outbox")
    assert await store.correct_future_times() == 0
    assert rows(store, "SELECT id, due_at, set_at FROM outbox") == before
    assert (await store.watch(registered.watch.id, None)).watch.deadline_at == registered.watch.deadline_at

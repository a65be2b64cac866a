"""Upkeep: what is old goes whole, what is owed stays, and a clock that was set back is mended once."""

import pytest

from bridge.core.errors import NotFound
from bridge.store.store import Store
from tests.store.builders import (
    ALL_EVENTS,
    DEAD,
    change,
    dead,
    due,
    one_row,
    owed,
    recorded,
    retry_at,
    rows,
    settled,
    sighted,
    tried,
    watched,
)

TABLES = ("watches", "tasks", "events", "deliveries", "outbox", "attempts")
HOUR = 3_600.0


def left(store: Store) -> dict[str, int]:
    return {table: one_row(store, f"SELECT count(*) FROM {table}") for table in TABLES}  # noqa: S608  a constant


async def test_what_ended_before_goes_with_all_that_belongs_to_it(store: Store) -> None:
    one = await owed(store, headers={"X-Token": "t"}, secret="whsec_own")
    await recorded(store, tried(store, one))
    assert await store.delete_ended_before(store.now() + 1, 10) == 1
    assert left(store) == dict.fromkeys(TABLES, 0)
    with pytest.raises(NotFound):
        await store.watch(one.watch_id, None)
    with pytest.raises(NotFound):
        await store.delivery(one.id, None)


async def test_what_ended_later_stays(store: Store) -> None:
    await dead(store)
    assert await store.delete_ended_before(store.now() - HOUR, 10) == 0


async def test_active_watches_stay_and_cancelled_ones_go(store: Store) -> None:
    active, cancelled = await watched(store), await watched(store)
    await store.cancel(cancelled.watch.id, None)
    assert await store.delete_ended_before(store.now() + 1, 10) == 1
    assert [row.id for row in rows(store, "SELECT id FROM watches")] == [active.watch.id]
    assert [row.id for row in rows(store, "SELECT id FROM tasks")] == [active.task_row]


async def test_nothing_goes_while_a_delivery_is_pending(store: Store) -> None:
    pending = await owed(store, secret="whsec_own")
    await recorded(store, tried(store, pending, retry_at(store.now())))
    claimed = await owed(store)
    done = await dead(store)
    assert await store.delete_ended_before(store.now() + 1, 10) == 1
    remaining = {row.id for row in rows(store, "SELECT id FROM watches")}
    assert remaining == {pending.watch_id, claimed.watch_id}
    assert done.watch_id not in remaining
    assert rows(store, "SELECT secret FROM watches WHERE secret IS NOT NULL")


async def test_a_task_stays_as_long_as_one_of_its_watches(store: Store) -> None:
    first = await watched(store, task_id="shared")
    await watched(store, task_id="shared", app="other")
    await store.cancel(first.watch.id, None)
    assert await store.delete_ended_before(store.now() + 1, 10) == 1
    assert one_row(store, "SELECT id FROM tasks") == first.task_row


async def test_no_more_go_at_a_time_than_asked_the_oldest_first(store: Store) -> None:
    ids = []
    for age in (300, 100, 200):
        registered = await watched(store)
        await settled(store, registered, lambda _: None)
        await store.cancel(registered.watch.id, None)
        change(store, "UPDATE watches SET ended_at = :at WHERE id = :id", at=store.now() - age, id=registered.watch.id)
        ids.append(registered.watch.id)
    assert await store.delete_ended_before(store.now(), 2) == 2
    assert [row.id for row in rows(store, "SELECT id FROM watches")] == [ids[1]]
    assert await store.delete_ended_before(store.now(), 2) == 1
    assert await store.delete_ended_before(store.now(), 2) == 0


async def test_status_events_go_as_well(store: Store) -> None:
    registered = await watched(store, events=ALL_EVENTS)
    await sighted(store, registered)
    await store.cancel(registered.watch.id, None)
    assert await store.delete_ended_before(store.now() + 1, 10) == 1
    assert left(store) == dict.fromkeys(TABLES, 0)


# --- a clock that was set back ------------------------------------------------------------------------------------


async def test_what_is_due_keeps_its_delay_counted_from_now(store: Store) -> None:
    one = await owed(store)
    await recorded(store, tried(store, one, retry_at(store.now() + HOUR + 30), at=store.now() + HOUR))
    assert await store.mend_clock() == 1
    assert one_row(store, "SELECT due_at FROM outbox") == pytest.approx(store.now() + 30, abs=10)
    shown = (await store.delivery(one.id, None))[0].next_attempt_at
    assert shown == one_row(store, "SELECT due_at FROM outbox")
    assert await store.mend_clock() == 0


async def test_a_deadline_keeps_its_time_counted_from_now(store: Store) -> None:
    registered = await watched(store, age=-HOUR, timeout=600)
    assert await store.mend_clock() == 1
    deadline = (await store.watch(registered.watch.id, None)).watch.deadline_at
    assert deadline == pytest.approx(store.now() + 600, abs=10)


async def test_mending_again_moves_no_deadline_further(store: Store) -> None:
    """The watch's creation still lies ahead; were that the sign, each mending would give it its whole time anew."""
    registered = await watched(store, age=-HOUR, timeout=600)
    await store.mend_clock()
    once = (await store.watch(registered.watch.id, None)).watch.deadline_at
    assert await store.mend_clock() == 0
    assert (await store.watch(registered.watch.id, None)).watch.deadline_at == once


async def test_what_is_as_it_should_be_is_left_alone(store: Store) -> None:
    registered = await watched(store, timeout=600)
    waiting = await owed(store)
    await recorded(store, tried(store, waiting, retry_at(store.now() + HOUR)))
    gone = await due(store)
    [claimed] = await store.claim({gone.host: 1}, 60)
    await recorded(store, tried(store, claimed, DEAD))
    before = rows(store, "SELECT id, due_at, set_at FROM outbox")
    assert await store.mend_clock() == 0
    assert rows(store, "SELECT id, due_at, set_at FROM outbox") == before
    assert (await store.watch(registered.watch.id, None)).watch.deadline_at == registered.watch.deadline_at

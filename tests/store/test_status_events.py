"""Status events: to those who asked, each type at most once, and never after the end."""

import asyncio

import pytest

from bridge.core.errors import LostClaim
from bridge.core.model import DeliveryState, EventType, TaskStatus, WatchState
from bridge.store.store import Store
from tests.store.builders import (
    ALL_EVENTS,
    DELIVERED,
    QUEUED,
    RUNNING,
    recorded,
    retry_at,
    rows,
    settled,
    sighted,
    tried,
    watched,
)


async def test_who_asked_is_told_and_nobody_else(store: Store) -> None:
    asking = await watched(store, task_id="shared", events=ALL_EVENTS)
    other = await watched(store, task_id="shared", app="other")
    changed = await sighted(store, asking)
    assert [(owed.watch_id, owed.type) for owed in changed.owed] == [(asking.watch.id, "video.in_progress")]
    assert set(changed.touched) == {asking.watch.id, other.watch.id}
    assert (changed.settled, changed.task_closed) == ((), False)


async def test_the_tasks_new_status_is_seen_by_all(store: Store) -> None:
    registered = await watched(store)
    await sighted(store, registered, polls=4)
    task = (await store.watch(registered.watch.id, None)).task
    assert task.snapshot == RUNNING
    assert task.note.polls == 4


async def test_only_the_type_that_was_asked_for_is_told(store: Store) -> None:
    registered = await watched(store, events=frozenset({EventType.QUEUED, EventType.COMPLETED}))
    assert (await sighted(store, registered, RUNNING)).owed == ()
    assert [owed.type for owed in (await sighted(store, registered, QUEUED)).owed] == ["video.queued"]


async def test_each_type_is_told_once_however_often_it_is_seen(store: Store) -> None:
    registered = await watched(store, events=ALL_EVENTS)
    assert len((await sighted(store, registered, QUEUED)).owed) == 1
    assert len((await sighted(store, registered, RUNNING)).owed) == 1
    assert (await sighted(store, registered, QUEUED)).owed == ()
    assert len(rows(store, "SELECT * FROM events")) == 2


async def test_the_same_sight_twice_in_one_commit_is_told_once(store: Store) -> None:
    registered = await watched(store, events=ALL_EVENTS)
    changes = await asyncio.gather(*(sighted(store, registered) for _ in range(3)))
    assert sum(len(changed.owed) for changed in changes) == 1


async def test_a_later_watch_has_its_own_first_sight(store: Store) -> None:
    first = await watched(store, task_id="shared", events=ALL_EVENTS)
    await sighted(store, first)
    second = await watched(store, task_id="shared", app="other", events=ALL_EVENTS)
    assert second.task is not None
    assert second.task.sight_owed
    assert [owed.watch_id for owed in (await sighted(store, first)).owed] == [second.watch.id]


async def test_a_sight_is_owed_again_after_a_restart(store: Store) -> None:
    """Telling twice is prevented by the events that are there; not telling would go unseen."""
    await watched(store, task_id="plain")
    await watched(store, task_id="asking", events=ALL_EVENTS)
    assert {row.task_id: row.sight_owed for row in await store.own_tasks()} == {"plain": False, "asking": True}


async def test_the_end_supersedes_what_is_still_pending(store: Store) -> None:
    registered = await watched(store, events=ALL_EVENTS)
    [waiting] = (await sighted(store, registered)).owed
    await recorded(store, tried(store, waiting, retry_at(store.now() + 60)))
    await settled(store, registered)
    status, terminal = (await store.watch(registered.watch.id, None)).deliveries
    assert (status.state, status.next_attempt_at) == (DeliveryState.DEAD, None)
    assert status.last_error is not None
    assert status.last_error.code == "superseded"
    assert terminal.state is DeliveryState.PENDING
    assert [row.id for row in rows(store, "SELECT id FROM outbox")] == [terminal.id]


async def test_what_was_under_way_at_the_end_may_finish_but_writes_nothing(store: Store) -> None:
    registered = await watched(store, events=ALL_EVENTS)
    [under_way] = (await sighted(store, registered)).owed
    await settled(store, registered)
    with pytest.raises(LostClaim):
        await recorded(store, tried(store, under_way))
    assert (await store.delivery(under_way.id, None))[0].state is DeliveryState.DEAD


async def test_what_was_delivered_before_the_end_stays_delivered(store: Store) -> None:
    registered = await watched(store, events=ALL_EVENTS)
    [sent] = (await sighted(store, registered)).owed
    await recorded(store, tried(store, sent, DELIVERED))
    await settled(store, registered)
    assert (await store.delivery(sent.id, None))[0].state is DeliveryState.DELIVERED


async def test_cancelling_supersedes_as_well(store: Store) -> None:
    registered = await watched(store, events=ALL_EVENTS)
    [waiting] = (await sighted(store, registered)).owed
    view = await store.cancel(registered.watch.id, None)
    assert [(one.id, one.state) for one in view.deliveries] == [(waiting.id, DeliveryState.DEAD)]
    assert rows(store, "SELECT id FROM outbox") == []


async def test_a_task_whose_watches_are_all_gone_closes(store: Store) -> None:
    registered = await watched(store)
    await store.cancel(registered.watch.id, None)
    with pytest.raises(LostClaim):
        await sighted(store, registered)


async def test_a_status_is_not_written_over_an_end(store: Store) -> None:
    registered = await watched(store, events=ALL_EVENTS)
    results = await asyncio.gather(settled(store, registered), sighted(store, registered), return_exceptions=True)
    assert not isinstance(results[0], BaseException)
    view = await store.watch(registered.watch.id, None)
    assert view.watch.state is WatchState.SETTLED
    assert view.task.snapshot.status is TaskStatus.COMPLETED
    assert sum(one.state is DeliveryState.PENDING for one in view.deliveries) == 1

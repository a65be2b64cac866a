"""Status events: for watches that asked for them, each type at most once, and never after the end."""

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
    attempt_result,
    record_attempt,
    record_status,
    register_watch,
    retry_at,
    rows,
    settle,
)


async def test_only_watches_that_asked_for_a_status_event_get_it(store: Store) -> None:
    asking = await register_watch(store, task_id="shared", events=ALL_EVENTS)
    other = await register_watch(store, task_id="shared", app="other")
    changed = await record_status(store, asking)
    assert [(one.watch_id, one.type) for one in changed.claimed] == [(asking.watch.id, "video.in_progress")]
    assert set(changed.updated) == {asking.watch.id, other.watch.id}
    assert (changed.settled, changed.task_closed) == ((), False)


async def test_a_tasks_new_status_is_stored(store: Store) -> None:
    registered = await register_watch(store)
    await record_status(store, registered, polls=4)
    task = (await store.watch(registered.watch.id, None)).task
    assert task.snapshot == RUNNING
    assert task.polls == 4


async def test_only_the_type_that_a_watch_asked_for_is_sent(store: Store) -> None:
    registered = await register_watch(store, events=frozenset({EventType.QUEUED, EventType.COMPLETED}))
    assert (await record_status(store, registered, RUNNING)).claimed == ()
    assert [one.type for one in (await record_status(store, registered, QUEUED)).claimed] == ["video.queued"]


async def test_each_type_is_sent_once_however_often_the_status_changes(store: Store) -> None:
    registered = await register_watch(store, events=ALL_EVENTS)
    assert len((await record_status(store, registered, QUEUED)).claimed) == 1
    assert len((await record_status(store, registered, RUNNING)).claimed) == 1
    assert (await record_status(store, registered, QUEUED)).claimed == ()
    assert len(rows(store, "SELECT * FROM events")) == 2


async def test_the_same_status_twice_in_one_commit_is_sent_once(store: Store) -> None:
    registered = await register_watch(store, events=ALL_EVENTS)
    changes = await asyncio.gather(*(record_status(store, registered) for _ in range(3)))
    assert sum(len(changed.claimed) for changed in changes) == 1


async def test_a_later_watch_gets_the_present_status(store: Store) -> None:
    first = await register_watch(store, task_id="shared", events=ALL_EVENTS)
    await record_status(store, first)
    second = await register_watch(store, task_id="shared", app="other", events=ALL_EVENTS)
    assert second.task is not None
    assert second.task.status_update_due
    assert [one.watch_id for one in (await record_status(store, first)).claimed] == [second.watch.id]


async def test_a_status_update_is_due_again_after_a_restart(store: Store) -> None:
    """The stored events prevent a second event of a type, but nothing would replace a missing event."""
    await register_watch(store, task_id="plain")
    await register_watch(store, task_id="asking", events=ALL_EVENTS)
    assert {row.task_id: row.status_update_due for row in await store.own_tasks()} == {"plain": False, "asking": True}


async def test_a_settlement_supersedes_pending_status_events(store: Store) -> None:
    registered = await register_watch(store, events=ALL_EVENTS)
    [waiting] = (await record_status(store, registered)).claimed
    await record_attempt(store, attempt_result(store, waiting, retry_at(store.now() + 60)))
    await settle(store, registered)
    status, terminal = (await store.watch(registered.watch.id, None)).deliveries
    assert (status.state, status.next_attempt_at) == (DeliveryState.DEAD, None)
    assert status.last_error is not None
    assert status.last_error.code == "superseded"
    assert terminal.state is DeliveryState.PENDING
    assert [row.id for row in rows(store, "SELECT id FROM outbox")] == [terminal.id]


async def test_an_attempt_that_was_running_at_the_settlement_writes_nothing(store: Store) -> None:
    registered = await register_watch(store, events=ALL_EVENTS)
    [under_way] = (await record_status(store, registered)).claimed
    await settle(store, registered)
    with pytest.raises(LostClaim):
        await record_attempt(store, attempt_result(store, under_way))
    assert (await store.delivery(under_way.id, None))[0].state is DeliveryState.DEAD


async def test_a_status_event_delivered_before_the_settlement_stays_delivered(store: Store) -> None:
    registered = await register_watch(store, events=ALL_EVENTS)
    [sent] = (await record_status(store, registered)).claimed
    await record_attempt(store, attempt_result(store, sent, DELIVERED))
    await settle(store, registered)
    assert (await store.delivery(sent.id, None))[0].state is DeliveryState.DELIVERED


async def test_cancelling_supersedes_pending_status_events(store: Store) -> None:
    registered = await register_watch(store, events=ALL_EVENTS)
    [waiting] = (await record_status(store, registered)).claimed
    view = await store.cancel(registered.watch.id, None)
    assert [(one.id, one.state) for one in view.deliveries] == [(waiting.id, DeliveryState.DEAD)]
    assert rows(store, "SELECT id FROM outbox") == []


async def test_a_task_without_active_watches_closes(store: Store) -> None:
    registered = await register_watch(store)
    await store.cancel(registered.watch.id, None)
    with pytest.raises(LostClaim):
        await record_status(store, registered)


async def test_a_status_does_not_overwrite_the_terminal_one(store: Store) -> None:
    registered = await register_watch(store, events=ALL_EVENTS)
    results = await asyncio.gather(settle(store, registered), record_status(store, registered), return_exceptions=True)
    assert not isinstance(results[0], BaseException)
    view = await store.watch(registered.watch.id, None)
    assert view.watch.state is WatchState.SETTLED
    assert view.task.snapshot.status is TaskStatus.COMPLETED
    assert sum(one.state is DeliveryState.PENDING for one in view.deliveries) == 1

"""Cancelling a watch: it is final, can be repeated, and is possible for an app's own watches only."""

import asyncio

import pytest

from bridge.core.errors import LostClaim, NotFound, WatchActive, WatchCancelled, WatchSettled
from bridge.core.model import WatchState
from bridge.store.records import DeadFilter
from bridge.store.store import Store
from tests.store.builders import (
    ALL_EVENTS,
    DEAD,
    attempt_result,
    new_watch,
    one_row,
    record_attempt,
    record_status,
    register,
    register_watch,
    repeat_of,
    rows,
    settle,
)


async def test_a_cancelled_watch_is_final_and_has_no_delivery(store: Store) -> None:
    registered = await register_watch(store)
    view = await store.cancel(registered.watch.id, "app")
    assert (view.watch.state, view.watch.outcome, view.watch.settled_at) == (WatchState.CANCELLED, None, None)
    assert (view.deliveries, view.task.closed, view.task.next_poll_at) == ((), True, None)
    assert await store.own_tasks() == []
    with pytest.raises(LostClaim):
        await settle(store, registered)
    with pytest.raises(WatchActive):
        await store.terminal_event(registered.watch.id, "app")


async def test_cancelling_twice_returns_the_same_watch(store: Store) -> None:
    registered = await register_watch(store)
    first = await store.cancel(registered.watch.id, "app")
    assert await store.cancel(registered.watch.id, "app") == first


async def test_a_settled_watch_is_not_cancelled(store: Store) -> None:
    registered = await register_watch(store)
    await settle(store, registered)
    with pytest.raises(WatchSettled):
        await store.cancel(registered.watch.id, "app")


async def test_only_its_app_or_an_operator_can_cancel_a_watch(store: Store) -> None:
    registered = await register_watch(store)
    for watch_id, app in ((registered.watch.id, "other"), ("wat_none", None)):
        with pytest.raises(NotFound):
            await store.cancel(watch_id, app)
    assert (await store.cancel(registered.watch.id, None)).watch.state is WatchState.CANCELLED


async def test_nothing_is_sent_again_for_a_cancelled_watch(store: Store) -> None:
    registered = await register_watch(store, events=ALL_EVENTS)
    [claimed] = (await record_status(store, registered)).claimed
    await record_attempt(store, attempt_result(store, claimed, DEAD))
    await store.cancel(registered.watch.id, "app")
    for app in ("app", None):
        with pytest.raises(WatchCancelled):
            await store.retry(claimed.id, app)
    with pytest.raises(NotFound):
        await store.retry(claimed.id, "other")
    everything = DeadFilter()
    assert (await store.count_dead(everything), await store.retry_dead(everything)) == (0, 0)
    assert await store.next_due_at() is None


async def test_retrying_and_cancelling_at_once_leave_nothing_to_send(replicas: list[Store]) -> None:
    first, second = replicas
    for _ in range(10):
        registered = await register_watch(first, events=ALL_EVENTS)
        [claimed] = (await record_status(first, registered)).claimed
        await record_attempt(first, attempt_result(first, claimed, DEAD))
        await asyncio.gather(
            first.cancel(registered.watch.id, None), second.retry(claimed.id, None), return_exceptions=True
        )
        assert await first.next_due_at() is None


async def test_the_task_stays_open_while_another_watch_is_on_it(store: Store) -> None:
    first = await register_watch(store, task_id="shared")
    second = await register_watch(store, task_id="shared", app="other")
    assert not (await store.cancel(first.watch.id, None)).task.closed
    changed = await settle(store, second)
    assert [watch.id for watch in changed.settled] == [second.watch.id]


async def test_an_equal_watch_can_be_registered_after_a_cancellation(store: Store) -> None:
    new = new_watch(store)
    await register(store, new)
    await store.cancel(new.watch.id, None)
    second = await register(store, repeat_of(new))
    assert second.created
    assert second.task is not None


async def test_many_cancellations_at_once_each_have_their_own_result(store: Store) -> None:
    active, ended = await register_watch(store), await register_watch(store)
    await settle(store, ended)
    results = await asyncio.gather(
        store.cancel(active.watch.id, "app"),
        store.cancel(active.watch.id, "other"),
        store.cancel(ended.watch.id, "app"),
        store.cancel(active.watch.id, None),
        return_exceptions=True,
    )
    assert [type(result).__name__ for result in results] == ["WatchView", "NotFound", "WatchSettled", "WatchView"]
    assert one_row(store, "SELECT count(*) FROM watches WHERE state = 'cancelled'") == 1


async def test_settling_and_cancelling_at_once_end_the_watch_once(store: Store) -> None:
    for _ in range(5):
        registered = await register_watch(store)
        await asyncio.gather(settle(store, registered), store.cancel(registered.watch.id, None), return_exceptions=True)
        view = await store.watch(registered.watch.id, None)
        ended = view.watch.state is WatchState.SETTLED
        assert view.watch.state is not WatchState.ACTIVE
        found = rows(store, "SELECT type FROM events WHERE watch_id = :id", id=registered.watch.id)
        assert len(found) == int(ended)

"""Registering: durable, once, and never in another's way."""

import asyncio
from dataclasses import replace

import pytest

from bridge.core.errors import NotFound, TooManyWatches, WatchConflict
from bridge.core.model import TaskStatus, WatchState
from bridge.store import registration
from bridge.store.open import open_store
from bridge.store.records import NewWatch, RegisteredWatch
from bridge.store.store import Store
from bridge.telemetry import Metrics
from tests.store.builders import ALL_EVENTS, again, change, completed, new_watch, one_row, rows, settled, watched


async def test_what_is_registered_is_there_after_a_restart(database_url: str, encryption_key: str) -> None:
    first = await open_store(database_url, [encryption_key], Metrics())
    new = new_watch(first, events=ALL_EVENTS, headers={"X-One": "1"})
    registered = await first.register(new)
    await first.close()
    second = await open_store(database_url, [encryption_key], Metrics())
    view = await second.watch(new.watch.id, "app")
    await second.close()
    assert registered.created
    assert view.watch == new.watch == registered.watch
    assert view.task.snapshot.status is TaskStatus.UNKNOWN
    assert view.deliveries == ()


async def test_a_new_watch_hands_its_task_to_this_replica(store: Store) -> None:
    new = new_watch(store, events=ALL_EVENTS)
    registered = await store.register(new)
    assert registered.task is not None
    assert (registered.task.task_id, registered.task.credential) == (new.watch.task_id, "configured")
    assert registered.task.sight_owed
    assert registered.task.id == registered.task_row
    [row] = await store.own_tasks()
    assert row == registered.task


async def test_two_watches_on_one_task_share_its_row(store: Store) -> None:
    first = await watched(store, task_id="shared")
    second = await watched(store, task_id="shared", app="other")
    assert second.created
    assert second.task_row == first.task_row
    assert len(await store.own_tasks()) == 1


async def test_another_key_is_another_task(store: Store) -> None:
    first = await watched(store, task_id="shared")
    second = await watched(store, task_id="shared", credential="own")
    assert second.task_row != first.task_row


async def test_the_same_registration_again_finds_the_first(store: Store) -> None:
    new = new_watch(store)
    first = await store.register(new)
    second = await store.register(again(new))
    assert (second.created, second.watch, second.task_row) == (False, first.watch, first.task_row)


async def test_other_options_are_a_conflict_that_names_the_first(store: Store) -> None:
    new = new_watch(store)
    await store.register(new)
    with pytest.raises(WatchConflict) as caught:
        await store.register(again(new, options=b"others"))
    assert caught.value.watch_id == new.watch.id


async def test_each_app_has_its_own(store: Store) -> None:
    new = new_watch(store)
    await store.register(new)
    other = again(new, options=b"others")
    assert (await store.register(replace(other, watch=replace(other.watch, app="other")))).created
    with pytest.raises(NotFound):
        await store.watch(new.watch.id, "other")


async def test_a_watch_that_ended_makes_room_for_the_same_again(store: Store) -> None:
    new = new_watch(store)
    first = await store.register(new)
    await settled(store, first)
    second = await store.register(again(new))
    assert second.created
    assert second.task_row != first.task_row
    assert [row.id for row in await store.own_tasks()] == [second.task_row]


async def test_a_batch_has_a_result_for_each_in_order(store: Store) -> None:
    one, other = new_watch(store), new_watch(store)
    results = await store.register_all([one, again(one), again(one, options=b"others"), other])
    assert [getattr(result, "created", type(result)) for result in results] == [True, False, WatchConflict, True]
    assert [result.watch.id for result in results if isinstance(result, RegisteredWatch)] == [
        one.watch.id,
        one.watch.id,
        other.watch.id,
    ]


async def test_many_callers_at_once_have_their_own_results(store: Store) -> None:
    news = [new_watch(store, task_id=f"task_{number % 7}") for number in range(40)]
    registered = await asyncio.gather(*map(store.register, news))
    assert [one.watch for one in registered] == [new.watch for new in news]
    assert all(one.created for one in registered)
    assert len(await store.own_tasks()) == 7


async def test_a_refused_watch_leaves_no_task_behind(store: Store) -> None:
    """The same endpoint under two keys, at once: the second is a conflict, and its task would have no watch."""
    one = new_watch(store)
    results = await store.register_all([one, again(one, credential="own", options=b"others")])
    assert isinstance(results[1], WatchConflict)
    assert one_row(store, "SELECT count(*) FROM tasks") == 1


async def test_no_more_than_the_limit_are_active(database_url: str, encryption_key: str) -> None:
    store = await open_store(database_url, [encryption_key], Metrics(), max_active_watches=3)
    news = [new_watch(store) for _ in range(4)]
    results = await store.register_all(news)
    assert [type(result) for result in results] == [RegisteredWatch] * 3 + [TooManyWatches]
    with pytest.raises(TooManyWatches, match="3 watches are active"):
        await watched(store)
    assert not (await store.register(again(news[0]))).created
    await store.cancel(news[0].watch.id, "app")
    assert (await watched(store)).created
    assert one_row(store, "SELECT count(*) FROM watches WHERE state = 'active'") == 3
    await store.close()


async def test_a_commit_of_unknown_end_done_again_answers_as_the_first(store: Store) -> None:
    """PostgreSQL's connection may break between a commit and its answer: the unit is then run once more."""
    new = new_watch(store, key=("key", b"body"))
    work = registration.Registration(store.replica, store._active_limit, [new])
    [first] = await store._writer.do(registration.register, work)
    [second] = await store._writer.do(registration.register, work)
    assert second == first
    assert isinstance(second, RegisteredWatch)
    assert second.task is not None


async def test_without_its_claim_a_replica_leaves_a_new_task_to_whoever_comes(store: Store) -> None:
    change(store, "UPDATE replicas SET epoch = epoch + 1")
    registered = await watched(store)
    assert registered.created
    assert registered.task is None
    assert one_row(store, "SELECT owner FROM tasks") is None
    await store.rejoin()
    assert [row.id for row in await store.adopt(10)] == [registered.task_row]


async def test_a_watch_on_a_known_task_is_handed_over_with_what_was_seen(store: Store) -> None:
    first = await watched(store, task_id="shared")
    change(store, "UPDATE tasks SET status = 'in_progress', progress = 40, polls = 3")
    second = await watched(store, task_id="shared", events=ALL_EVENTS)
    assert second.task is not None
    assert (second.task.snapshot.status, second.task.snapshot.progress, second.task.polls) == ("in_progress", 40, 3)
    assert second.task.sight_owed
    assert second.task.id == first.task_row


async def test_a_text_that_the_database_cannot_hold_fails_alone(store: Store) -> None:
    bad: NewWatch = new_watch(store, task_id="lone\ud800")
    good = new_watch(store)
    failed, fine = await asyncio.gather(store.register(bad), store.register(good), return_exceptions=True)
    assert isinstance(failed, Exception)
    assert isinstance(fine, RegisteredWatch)
    assert (await store.watch(good.watch.id, None)).watch.state is WatchState.ACTIVE
    assert len(rows(store, "SELECT id FROM watches")) == 1


async def test_settling_and_registering_at_once_leave_no_watch_on_a_closed_task(store: Store) -> None:
    first = await watched(store, task_id="shared")
    others = [new_watch(store, task_id="shared") for _ in range(5)]
    await asyncio.gather(settled(store, first, completed), *map(store.register, others))
    stranded = rows(
        store,
        "SELECT watches.id FROM watches JOIN tasks ON tasks.id = watches.task "
        "WHERE watches.state = 'active' AND tasks.closed_at IS NOT NULL",
    )
    assert stranded == []

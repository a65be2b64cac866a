"""Idempotency-Key: one key and one body are one watch, for a day."""

import asyncio

import pytest

from bridge.core.errors import IdempotencyConflict, TooManyWatches, WatchConflict
from bridge.core.model import WatchState
from bridge.store.open import open_store
from bridge.store.records import Idempotency, RegisteredWatch
from bridge.store.store import Store
from bridge.telemetry import Metrics
from tests.store.builders import again, change, new_watch, one_row, settled

DAY = 86_400.0


async def test_the_same_key_and_body_answer_as_the_first_time(store: Store) -> None:
    new = new_watch(store, key=("key", b"body"))
    first = await store.register(new)
    second = await store.register(again(new))
    assert first.created
    assert second.created
    assert second.watch == first.watch
    assert one_row(store, "SELECT count(*) FROM watches") == 1


async def test_the_watch_is_answered_as_it_is_now(store: Store) -> None:
    new = new_watch(store, key=("key", b"body"))
    await settled(store, await store.register(new))
    second = await store.register(again(new))
    assert second.created
    assert second.watch.id == new.watch.id
    assert second.watch.state is WatchState.SETTLED


async def test_another_body_is_a_conflict(store: Store) -> None:
    await store.register(new_watch(store, key=("key", b"body")))
    with pytest.raises(IdempotencyConflict):
        await store.register(new_watch(store, key=("key", b"other")))


async def test_a_key_is_its_apps_own(store: Store) -> None:
    await store.register(new_watch(store, key=("key", b"body")))
    assert (await store.register(new_watch(store, app="other", key=("key", b"other")))).created


async def test_an_answer_that_found_an_older_watch_stays_a_200(store: Store) -> None:
    new = new_watch(store)
    await store.register(new)
    keyed = again(new, idempotency=Idempotency("key", b"body"))
    assert not (await store.register(keyed)).created
    assert not (await store.register(again(keyed))).created


async def test_a_refused_registration_gives_its_key_back(store: Store) -> None:
    new = new_watch(store)
    await store.register(new)
    with pytest.raises(WatchConflict):
        await store.register(again(new, options=b"others", idempotency=Idempotency("key", b"body")))
    assert (await store.register(new_watch(store, key=("key", b"other")))).created


async def test_a_key_is_given_back_at_the_limit_too(database_url: str, encryption_key: str) -> None:
    store = await open_store(database_url, [encryption_key], Metrics(), max_active_watches=1)
    first = await store.register(new_watch(store))
    new = new_watch(store, key=("key", b"body"))
    with pytest.raises(TooManyWatches):
        await store.register(new)
    await settled(store, first)
    assert (await store.register(again(new))).created
    await store.close()


async def test_the_same_key_twice_in_one_batch_is_one_watch(store: Store) -> None:
    new = new_watch(store, key=("key", b"body"))
    first, second = await store.register_all([new, again(new)])
    assert isinstance(first, RegisteredWatch)
    assert isinstance(second, RegisteredWatch)
    assert (first.created, second.created) == (True, True)
    assert second.watch == first.watch


async def test_a_conflict_within_one_batch_leaves_the_first_alone(store: Store) -> None:
    first, second = await store.register_all(
        [new_watch(store, key=("key", b"body")), new_watch(store, key=("key", b"other"))]
    )
    assert isinstance(first, RegisteredWatch)
    assert isinstance(second, IdempotencyConflict)
    assert one_row(store, "SELECT status FROM idempotency") == 201


async def test_the_same_key_from_many_callers_at_once_is_one_watch(store: Store) -> None:
    new = new_watch(store, key=("key", b"body"))
    found = await asyncio.gather(*(store.register(again(new)) for _ in range(10)))
    assert len({one.watch.id for one in found}) == 1
    assert all(one.created for one in found)


async def test_a_key_is_forgotten_after_a_day(store: Store) -> None:
    await store.register(new_watch(store, key=("key", b"body"), age=DAY + 1))
    assert (await store.register(new_watch(store, key=("key", b"other")))).created


async def test_a_key_is_kept_for_a_day(store: Store) -> None:
    await store.register(new_watch(store, key=("key", b"body"), age=DAY - 60))
    with pytest.raises(IdempotencyConflict):
        await store.register(new_watch(store, key=("key", b"other")))


async def test_a_key_whose_watch_is_gone_is_taken_anew(store: Store) -> None:
    """Retention may be shorter than a day."""
    new = new_watch(store, key=("key", b"body"))
    await store.register(new)
    await store.cancel(new.watch.id, None)
    assert await store.delete_ended_before(store.now() + 1, 10) == 1
    second = await store.register(again(new))
    third = await store.register(again(new))
    assert second.created
    assert second.watch.id != new.watch.id
    assert third.created
    assert third.watch == second.watch


async def test_old_keys_are_deleted(store: Store) -> None:
    await store.register(new_watch(store, key=("old", b"body"), age=100))
    await store.register(new_watch(store, key=("young", b"body")))
    await store.forget_old_keys(store.now() - 50)
    assert one_row(store, "SELECT key FROM idempotency") == "young"


async def test_a_replay_does_not_make_the_watch_another_replicas_task(store: Store) -> None:
    new = new_watch(store, key=("key", b"body"))
    await store.register(new)
    change(store, "UPDATE tasks SET news = :no", no=False)
    again_found = await store.register(again(new))
    assert again_found.task is None
    assert one_row(store, "SELECT count(*) FROM tasks") == 1

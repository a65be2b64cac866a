"""Idempotency-Key: for a day, one key with one body means one watch."""

import asyncio

import pytest

from bridge.core.errors import IdempotencyConflict, TooManyWatches, WatchConflict
from bridge.core.model import WatchState
from bridge.store.open import open_store
from bridge.store.records import Idempotency, RegisteredWatch
from bridge.store.store import Store
from bridge.telemetry import Metrics
from tests.store.builders import execute, new_watch, one_row, register, repeat_of, settle

DAY = 86_400.0


async def test_the_same_key_and_body_return_the_first_result(store: Store) -> None:
    new = new_watch(store, key=("key", b"body"))
    first = await register(store, new)
    second = await register(store, repeat_of(new))
    assert first.created
    assert second.created
    assert second.watch == first.watch
    assert one_row(store, "SELECT count(*) FROM watches") == 1


async def test_the_watch_is_returned_as_it_is_now(store: Store) -> None:
    new = new_watch(store, key=("key", b"body"))
    await settle(store, await register(store, new))
    second = await register(store, repeat_of(new))
    assert second.created
    assert second.watch.id == new.watch.id
    assert second.watch.state is WatchState.SETTLED


async def test_another_body_is_a_conflict(store: Store) -> None:
    await register(store, new_watch(store, key=("key", b"body")))
    with pytest.raises(IdempotencyConflict):
        await register(store, new_watch(store, key=("key", b"other")))


async def test_another_app_can_use_the_same_key(store: Store) -> None:
    await register(store, new_watch(store, key=("key", b"body")))
    assert (await register(store, new_watch(store, app="other", key=("key", b"other")))).created


async def test_a_result_that_found_an_older_watch_stays_a_200(store: Store) -> None:
    new = new_watch(store)
    await register(store, new)
    keyed = repeat_of(new, idempotency=Idempotency("key", b"body"))
    assert not (await register(store, keyed)).created
    assert not (await register(store, repeat_of(keyed))).created


async def test_the_key_of_a_refused_registration_can_be_used_again(store: Store) -> None:
    new = new_watch(store)
    await register(store, new)
    with pytest.raises(WatchConflict):
        await register(store, repeat_of(new, options=b"others", idempotency=Idempotency("key", b"body")))
    assert (await register(store, new_watch(store, key=("key", b"other")))).created


async def test_the_key_of_a_registration_beyond_the_limit_can_be_used_again(
    database_url: str, encryption_key: str
) -> None:
    store = await open_store(database_url, [encryption_key], Metrics(), max_active_watches=1)
    first = await register(store, new_watch(store))
    new = new_watch(store, key=("key", b"body"))
    with pytest.raises(TooManyWatches):
        await register(store, new)
    await settle(store, first)
    assert (await register(store, repeat_of(new))).created
    await store.close()


async def test_the_same_key_twice_in_one_batch_is_one_watch(store: Store) -> None:
    new = new_watch(store, key=("key", b"body"))
    first, second = await store.register_all([new, repeat_of(new)])
    assert isinstance(first, RegisteredWatch)
    assert isinstance(second, RegisteredWatch)
    assert (first.created, second.created) == (True, True)
    assert second.watch == first.watch


async def test_a_conflict_within_one_batch_does_not_affect_the_first_watch(store: Store) -> None:
    first, second = await store.register_all(
        [new_watch(store, key=("key", b"body")), new_watch(store, key=("key", b"other"))]
    )
    assert isinstance(first, RegisteredWatch)
    assert isinstance(second, IdempotencyConflict)
    assert one_row(store, "SELECT status FROM idempotency") == 201


async def test_the_same_key_from_many_callers_at_once_is_one_watch(store: Store) -> None:
    new = new_watch(store, key=("key", b"body"))
    found = await asyncio.gather(*(register(store, repeat_of(new)) for _ in range(10)))
    assert len({one.watch.id for one in found}) == 1
    assert all(one.created for one in found)


async def test_a_key_can_be_used_again_after_a_day(store: Store) -> None:
    await register(store, new_watch(store, key=("key", b"body"), age=DAY + 1))
    assert (await register(store, new_watch(store, key=("key", b"other")))).created


async def test_a_key_is_kept_for_a_day(store: Store) -> None:
    await register(store, new_watch(store, key=("key", b"body"), age=DAY - 60))
    with pytest.raises(IdempotencyConflict):
        await register(store, new_watch(store, key=("key", b"other")))


async def test_a_key_whose_watch_was_deleted_can_be_used_again(store: Store) -> None:
    """Retention may be shorter than the day for which a key is kept."""
    new = new_watch(store, key=("key", b"body"))
    await register(store, new)
    await store.cancel(new.watch.id, None)
    assert await store.delete_ended_before(store.now() + 1, 10) == 1
    second = await register(store, repeat_of(new))
    third = await register(store, repeat_of(new))
    assert second.created
    assert second.watch.id != new.watch.id
    assert third.created
    assert third.watch == second.watch


async def test_old_keys_are_deleted(store: Store) -> None:
    await register(store, new_watch(store, key=("old", b"body"), age=100))
    await register(store, new_watch(store, key=("young", b"body")))
    await store.delete_idempotency_keys_before(store.now() - 50)
    assert one_row(store, "SELECT key FROM idempotency") == "young"


async def test_a_repeated_registration_opens_no_second_task(store: Store) -> None:
    new = new_watch(store, key=("key", b"body"))
    await register(store, new)
    execute(store, "UPDATE tasks SET news = :no", no=False)
    again_found = await register(store, repeat_of(new))
    assert again_found.task is None
    assert one_row(store, "SELECT count(*) FROM tasks") == 1

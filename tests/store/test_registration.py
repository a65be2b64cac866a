"""Registration: durable, once for equal watches, and independent of other callers."""

import asyncio
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import Engine, event

from bridge.core.errors import NotFound, StoreUnavailable, TooManyWatches, WatchConflict
from bridge.core.model import TaskStatus, WatchState
from bridge.store import registration
from bridge.store.open import open_store
from bridge.store.records import NewWatch, RegisteredWatch
from bridge.store.store import Store
from bridge.telemetry import Metrics
from tests.store.builders import (
    ALL_EVENTS,
    completed,
    execute,
    new_watch,
    one_row,
    register,
    register_watch,
    repeat_of,
    rows,
    settle,
)


async def test_a_registered_watch_is_there_after_a_restart(database_url: str, encryption_key: str) -> None:
    first = await open_store(database_url, [encryption_key], Metrics())
    new = new_watch(first, events=ALL_EVENTS, headers={"X-One": "1"})
    registered = await register(first, new)
    await first.close()
    second = await open_store(database_url, [encryption_key], Metrics())
    view = await second.watch(new.watch.id, "app")
    await second.close()
    assert registered.created
    assert view.watch == new.watch == registered.watch
    assert view.task.snapshot.status is TaskStatus.UNKNOWN
    assert view.deliveries == ()


async def test_this_replica_owns_the_task_of_a_new_watch(store: Store) -> None:
    new = new_watch(store, events=ALL_EVENTS)
    registered = await register(store, new)
    assert registered.task is not None
    assert (registered.task.task_id, registered.task.credential) == (new.watch.task_id, "configured")
    assert registered.task.status_update_due
    assert registered.task.row == registered.view.task.row
    [row] = await store.own_tasks()
    assert row == registered.task


async def test_two_watches_on_one_task_share_its_row(store: Store) -> None:
    first = await register_watch(store, task_id="shared")
    second = await register_watch(store, task_id="shared", app="other")
    assert second.created
    assert second.view.task.row == first.view.task.row
    assert len(await store.own_tasks()) == 1


async def test_another_credential_means_another_task(store: Store) -> None:
    first = await register_watch(store, task_id="shared")
    second = await register_watch(store, task_id="shared", credential="own")
    assert second.view.task.row != first.view.task.row


async def test_an_equal_registration_finds_the_first_watch(store: Store) -> None:
    new = new_watch(store)
    first = await register(store, new)
    second = await register(store, repeat_of(new))
    assert (second.created, second.watch, second.view.task.row) == (False, first.watch, first.view.task.row)


async def test_other_options_are_a_conflict_that_names_the_first_watch(store: Store) -> None:
    new = new_watch(store)
    await register(store, new)
    with pytest.raises(WatchConflict) as caught:
        await register(store, repeat_of(new, options=b"others"))
    assert caught.value.watch_id == new.watch.id


async def test_each_app_has_its_own_watches(store: Store) -> None:
    new = new_watch(store)
    await register(store, new)
    other = repeat_of(new, options=b"others")
    assert (await register(store, replace(other, watch=replace(other.watch, app="other")))).created
    with pytest.raises(NotFound):
        await store.watch(new.watch.id, "other")


async def test_an_equal_watch_can_be_registered_after_the_first_settled(store: Store) -> None:
    new = new_watch(store)
    first = await register(store, new)
    await settle(store, first)
    second = await register(store, repeat_of(new))
    assert second.created
    assert second.view.task.row != first.view.task.row
    assert [row.row for row in await store.own_tasks()] == [second.view.task.row]


async def test_a_batch_has_a_result_for_each_in_order(store: Store) -> None:
    one, other = new_watch(store), new_watch(store)
    results = await store.register_all([one, repeat_of(one), repeat_of(one, options=b"others"), other])
    assert [getattr(result, "created", type(result)) for result in results] == [True, False, WatchConflict, True]
    assert [result.watch.id for result in results if isinstance(result, RegisteredWatch)] == [
        one.watch.id,
        one.watch.id,
        other.watch.id,
    ]


async def test_many_callers_at_once_get_their_own_results(store: Store) -> None:
    new_watches = [new_watch(store, task_id=f"task_{number % 7}") for number in range(40)]
    registered = await asyncio.gather(*(register(store, new) for new in new_watches))
    assert [one.watch for one in registered] == [new.watch for new in new_watches]
    assert all(one.created for one in registered)
    assert len(await store.own_tasks()) == 7


async def test_a_refused_watch_leaves_no_task_behind(store: Store) -> None:
    """One endpoint comes with two amux keys at once. The second one is refused, and its task would have no watch."""
    one = new_watch(store)
    results = await store.register_all([one, repeat_of(one, credential="own", options=b"others")])
    assert isinstance(results[1], WatchConflict)
    assert one_row(store, "SELECT count(*) FROM tasks") == 1


async def test_no_more_watches_than_the_limit_are_active(database_url: str, encryption_key: str) -> None:
    store = await open_store(database_url, [encryption_key], Metrics(), max_active_watches=3)
    new_watches = [new_watch(store) for _ in range(4)]
    results = await store.register_all(new_watches)
    assert [type(result) for result in results] == [RegisteredWatch] * 3 + [TooManyWatches]
    with pytest.raises(TooManyWatches, match="3 watches are active"):
        await register_watch(store)
    assert not (await register(store, repeat_of(new_watches[0]))).created
    await store.cancel(new_watches[0].watch.id, "app")
    assert (await register_watch(store)).created
    assert one_row(store, "SELECT count(*) FROM watches WHERE state = 'active'") == 3
    await store.close()


async def test_near_the_limit_the_active_watches_are_counted_only_before_a_refusal(
    tmp_path: Path, encryption_key: str
) -> None:
    """Counting a million watches for each commit would make the last tenth of them slow to register."""
    counts: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        if "count(" in statement and "watches.state = 'active'" in statement:
            counts.append(statement)

    url = f"sqlite:///{tmp_path / 'limit.db'}"
    store = await open_store(url, [encryption_key], Metrics(), max_active_watches=10, max_active_watches_per_app=9)
    event.listen(Engine, "before_cursor_execute", note)
    try:
        for _ in range(9):
            await register_watch(store)
        assert len(counts) == 2  # one of all watches and one of the app's, at the first registration
        with pytest.raises(TooManyWatches, match="9 watches of this app"):
            await register_watch(store)
        assert len(counts) > 2
    finally:
        event.remove(Engine, "before_cursor_execute", note)
        await store.close()


async def test_no_more_watches_of_one_app_than_its_limit_are_active(database_url: str, encryption_key: str) -> None:
    store = await open_store(
        database_url, [encryption_key], Metrics(), max_active_watches=5, max_active_watches_per_app=2
    )
    of_one = [new_watch(store, app="one") for _ in range(4)]
    of_two = [new_watch(store, app="two") for _ in range(2)]
    results = await store.register_all([*of_one, *of_two])
    assert [type(result) for result in results] == [
        *[RegisteredWatch] * 2,
        *[TooManyWatches] * 2,
        *[RegisteredWatch] * 2,
    ]
    assert str(results[2]) == "2 watches of this app are active; the limit is BRIDGE_MAX_ACTIVE_WATCHES_PER_APP"
    with pytest.raises(TooManyWatches, match="of this app"):
        await store.check_room(1, "one")
    await store.check_room(1, "three")
    assert not (await register(store, repeat_of(of_one[0]))).created
    await store.cancel(of_one[0].watch.id, "one")
    await store.check_room(1, "one")
    assert (await register_watch(store, app="one")).created
    with pytest.raises(TooManyWatches, match="of this app"):
        await register_watch(store, app="two")
    assert one_row(store, "SELECT count(*) FROM watches WHERE state = 'active'") == 4
    await store.close()


async def test_a_registration_repeated_after_an_unconfirmed_commit_has_the_same_result(store: Store) -> None:
    """PostgreSQL's connection may break between a commit and its answer: the operation then runs once more."""
    new = new_watch(store, key=("key", b"body"))
    first, second = [
        (await store._writer.run_all(registration.register, [new], store.replica, store._active_limit))[0]
        for _ in range(2)
    ]
    assert second == first
    assert isinstance(second, RegisteredWatch)
    assert second.task is not None


async def test_a_replica_that_lost_its_claim_leaves_a_new_task_without_an_owner(store: Store) -> None:
    execute(store, "UPDATE replicas SET epoch = epoch + 1")
    registered = await register_watch(store)
    assert registered.created
    assert registered.task is None
    assert one_row(store, "SELECT owner FROM tasks") is None
    await store.rejoin()
    assert [row.row for row in await store.adopt(10)] == [registered.view.task.row]


async def test_a_watch_on_an_existing_task_returns_the_tasks_status(store: Store) -> None:
    first = await register_watch(store, task_id="shared")
    execute(store, "UPDATE tasks SET status = 'in_progress', progress = 40, polls = 3")
    second = await register_watch(store, task_id="shared", events=ALL_EVENTS)
    assert second.task is not None
    assert (second.task.snapshot.status, second.task.snapshot.progress, second.task.polls) == ("in_progress", 40, 3)
    assert second.task.status_update_due
    assert second.task.row == first.view.task.row


async def test_a_watch_that_the_database_cannot_store_fails_alone(store: Store) -> None:
    bad: NewWatch = new_watch(store, task_id="lone\ud800")
    good = new_watch(store)
    failed, fine = await asyncio.gather(register(store, bad), register(store, good), return_exceptions=True)
    assert isinstance(failed, Exception)
    assert isinstance(fine, RegisteredWatch)
    assert (await store.watch(good.watch.id, None)).watch.state is WatchState.ACTIVE
    assert len(rows(store, "SELECT id FROM watches")) == 1


async def test_settling_and_registering_at_once_leave_no_watch_on_a_closed_task(store: Store) -> None:
    first = await register_watch(store, task_id="shared")
    others = [new_watch(store, task_id="shared") for _ in range(5)]
    await asyncio.gather(settle(store, first, completed), *(register(store, new) for new in others))
    stranded = rows(
        store,
        "SELECT watches.id FROM watches JOIN tasks ON tasks.id = watches.task "
        "WHERE watches.state = 'active' AND tasks.closed_at IS NOT NULL",
    )
    assert stranded == []


@pytest.mark.parametrize("options", [b"options", b"others"])
async def test_one_of_two_registrations_with_different_keys_at_once_is_written(store: Store, options: bytes) -> None:
    """Their tasks differ, because each key has its own tasks. Their app, task id and URL are the same."""
    first = new_watch(store)
    second = repeat_of(first, credential="other", options=options)
    written, repeated = await store.register_all([first, second])
    assert isinstance(written, RegisteredWatch)
    assert written.created
    if options == first.options:
        assert isinstance(repeated, RegisteredWatch)
        assert (repeated.created, repeated.watch.id) == (False, first.watch.id)
    else:
        assert isinstance(repeated, WatchConflict)
        assert repeated.watch_id == first.watch.id
    of_task = {"task_id": first.watch.task_id}
    assert rows(store, "SELECT id FROM tasks WHERE task_id = :task_id", **of_task) == [(written.view.task.row,)]
    assert rows(store, "SELECT id FROM watches WHERE task_id = :task_id", **of_task) == [(first.watch.id,)]


async def test_a_registration_that_is_repeated_after_its_watch_has_ended_fails_and_delays_no_other(
    store: Store,
) -> None:
    """The connection was lost during the commit, and the watch ended before the registration was tried again."""
    new = new_watch(store)
    registered = await register(store, new)
    await settle(store, registered, completed)
    [result] = await store.register_all([new])
    assert isinstance(result, StoreUnavailable)
    assert "IntegrityError" in str(result)
    assert (await register_watch(store)).created


async def test_a_large_batch_needs_no_further_file(sqlite_store: Store) -> None:
    """By default SQLite makes a temporary file for a statement that changes many pages. Here no file can be opened."""
    for _ in range(8):
        await sqlite_store.register_all([new_watch(sqlite_store) for _ in range(512)])
    with no_more_files():
        results = await sqlite_store.register_all([new_watch(sqlite_store) for _ in range(64)])
    assert all(isinstance(result, RegisteredWatch) for result in results)


@contextmanager
def no_more_files() -> Iterator[None]:
    """This process can open no further file in the block."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))  # open files stay open
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)

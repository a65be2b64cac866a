"""Several replicas on one PostgreSQL database: each task has one owner, and others take over a dead replica's tasks."""

import asyncio

import pytest

from bridge.core.errors import LostClaim, StoreUnavailable, WatchConflict
from bridge.core.model import WatchState
from bridge.store import registration
from bridge.store.store import Store
from tests.databases import blocked_transactions
from tests.store.builders import (
    ALL_EVENTS,
    HOST,
    attempt_result,
    claimed_delivery,
    due_delivery,
    execute,
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

MINUTE = 60.0


def kill(store: Store) -> None:
    """End a replica's lease, as if it were dead."""
    execute(store, "UPDATE replicas SET expires_at = 0 WHERE id = :id", id=store.replica.id)


def owner_of(store: Store, task_row: str) -> str | None:
    owner: str | None = one_row(store, "SELECT owner FROM tasks WHERE id = :id", id=task_row)
    return owner


async def test_the_replica_that_registers_a_task_first_polls_it(replicas: list[Store]) -> None:
    one, two = replicas
    first = await register_watch(one, task_id="shared")
    second = await register_watch(two, task_id="shared", app="other")
    assert second.created
    assert second.task is None
    assert second.view.task.row == first.view.task.row
    assert owner_of(one, first.view.task.row) == one.replica.id
    assert len(await one.own_tasks()) == 1
    assert await two.own_tasks() == []


async def test_settling_ends_the_watches_of_every_replica(replicas: list[Store]) -> None:
    one, two = replicas
    first = await register_watch(one, task_id="shared")
    second = await register_watch(two, task_id="shared", app="other")
    changed = await settle(one, first)
    assert {watch.id for watch in changed.settled} == {first.watch.id, second.watch.id}
    assert (await two.watch(second.watch.id, None)).watch.state is WatchState.SETTLED


async def test_the_same_registration_at_two_replicas_is_one_watch(replicas: list[Store]) -> None:
    one, two = replicas
    new = new_watch(one)
    await register(one, new)
    assert not (await register(two, repeat_of(new))).created
    with pytest.raises(WatchConflict):
        await register(two, repeat_of(new, options=b"others"))


async def test_only_the_owner_settles_and_records(replicas: list[Store]) -> None:
    one, two = replicas
    registered = await register_watch(one)
    for write in (settle, record_status):
        with pytest.raises(LostClaim):
            await write(two, registered)


async def test_the_owner_learns_that_a_task_was_closed_by_a_cancellation_elsewhere(replicas: list[Store]) -> None:
    one, two = replicas
    first = await register_watch(one, task_id="shared")
    second = await register_watch(two, task_id="shared", app="other")
    await two.cancel(first.watch.id, None)
    assert await one.adopt(10) == []  # one watch still needs the task
    await two.cancel(second.watch.id, None)
    [closed] = await one.adopt(10)
    assert (closed.row, closed.closed) == (first.view.task.row, True)
    assert await one.adopt(10) == []
    own = await register_watch(one)
    await one.cancel(own.watch.id, None)
    assert [row.closed for row in await one.adopt(10)] == [True]  # the owner may not have got the answer


async def test_the_owner_loads_a_task_again_when_a_watch_elsewhere_asks_for_its_status(replicas: list[Store]) -> None:
    one, two = replicas
    first = await register_watch(one, task_id="shared")
    assert await one.adopt(10) == []
    await register_watch(two, task_id="shared", app="plain")
    assert await one.adopt(10) == []
    await register_watch(two, task_id="shared", app="asking", events=ALL_EVENTS)
    [changed] = await one.adopt(10)
    assert (changed.row, changed.status_update_due) == (first.view.task.row, True)
    assert await one.adopt(10) == []


async def test_a_dead_replicas_tasks_are_taken_over_once(replicas: list[Store]) -> None:
    one, two = replicas
    registered = [await register_watch(one) for _ in range(3)]
    assert await two.adopt(10) == []
    kill(one)
    adopted = await two.adopt(10)
    assert {row.row for row in adopted} == {found.view.task.row for found in registered}
    assert await two.adopt(10) == []
    assert (await settle(two, registered[0])).task_closed


async def test_tasks_are_taken_over_in_parts_of_the_requested_size(replicas: list[Store]) -> None:
    one, two = replicas
    for _ in range(5):
        await register_watch(one)
    kill(one)
    assert [len(await two.adopt(2)) for _ in range(4)] == [2, 2, 1, 0]
    assert [row.id for row in rows(two, "SELECT id FROM replicas")] == [two.replica.id]


async def test_a_replica_that_others_took_over_writes_nothing_more(replicas: list[Store]) -> None:
    one, two = replicas
    registered = await register_watch(one)
    later = await register_watch(one)
    claimed = await claimed_delivery(one)
    kill(one)
    await two.adopt(1)  # one of three tasks: `one` has also lost those that are not taken over yet
    for found in (registered, later):
        with pytest.raises(LostClaim):
            await settle(one, found)
    with pytest.raises(LostClaim):
        await one.renew(3)
    with pytest.raises(LostClaim):
        await one.adopt(10)
    with pytest.raises(LostClaim):
        await record_attempt(one, attempt_result(one, claimed))
    assert await one.claim({HOST: 5}, MINUTE) == []


async def test_a_replica_that_rejoins_has_a_new_id_and_owns_nothing(replicas: list[Store]) -> None:
    one, _ = replicas
    registered = await register_watch(one)
    old = one.replica.id
    await one.rejoin()
    assert one.replica.id != old
    assert await one.own_tasks() == []
    with pytest.raises(LostClaim):
        await settle(one, registered)
    await one.renew(0)
    await one.probe()


async def test_a_dead_replicas_deliveries_are_due_at_once(replicas: list[Store]) -> None:
    one, two = replicas
    claimed = await claimed_delivery(one)
    assert await two.claim({HOST: 5}, MINUTE) == []
    kill(one)
    await two.adopt(10)
    assert [found.id for found in await two.claim({HOST: 5}, MINUTE)] == [claimed.id]


async def test_a_replica_that_renews_is_not_taken_over(replicas: list[Store]) -> None:
    one, two = replicas
    await register_watch(one)
    kill(one)
    await one.renew(1)
    assert await two.adopt(10) == []
    await one.probe()


async def test_a_replica_that_leaves_hands_everything_over(replicas: list[Store]) -> None:
    one, two = replicas
    registered = await register_watch(one)
    claimed = await claimed_delivery(one)
    await one.leave()
    assert [row.row for row in await two.adopt(10)] == [registered.view.task.row]
    assert [found.id for found in await two.claim({HOST: 5}, MINUTE)] == [claimed.id]
    assert [row.id for row in rows(two, "SELECT id FROM replicas")] == [two.replica.id]
    with pytest.raises(StoreUnavailable):
        await one.probe()


async def test_a_stopping_replica_hands_its_tasks_over_and_gets_no_new_ones(replicas: list[Store]) -> None:
    one, two = replicas
    registered = await register_watch(two)
    await claimed_delivery(two)
    await one.renew(1_000)
    await two.hand_over()
    assert [row.row for row in await one.adopt(10)] == [registered.view.task.row]
    assert (await register_watch(one)).task is not None
    assert owner_of(one, (await register_watch(two)).view.task.row) == one.replica.id
    assert await one.claim({HOST: 5}, MINUTE) == []  # a delivery that is being sent stays claimed
    await two.renew(0)


async def test_one_delivery_is_claimed_by_one_replica(replicas: list[Store]) -> None:
    for _ in range(8):
        await due_delivery(replicas[0])
    found = await asyncio.gather(*(store.claim({HOST: 8}, MINUTE) for store in replicas))
    ids = [one.id for claimed in found for one in claimed]
    assert len(ids) == len(set(ids)) == 8


async def test_a_busy_replica_gives_new_tasks_to_an_idle_one(replicas: list[Store]) -> None:
    one, two = replicas
    await one.renew(1_000)
    await two.renew(10)
    registered = await register_watch(one)
    assert registered.created
    assert registered.task is None
    assert owner_of(one, registered.view.task.row) == two.replica.id
    assert [row.row for row in await two.adopt(10)] == [registered.view.task.row]
    assert (await settle(two, registered)).task_closed


async def test_a_replica_with_a_few_tasks_more_keeps_new_tasks(replicas: list[Store]) -> None:
    one, two = replicas
    await one.renew(25)
    await two.renew(10)
    assert (await register_watch(one)).task is not None


async def test_a_dead_replica_gets_no_new_task(replicas: list[Store]) -> None:
    one, two = replicas
    await one.renew(1_000)
    kill(two)
    assert (await register_watch(one)).task is not None


async def test_a_task_given_to_a_replica_that_is_leaving_is_not_lost(replicas: list[Store]) -> None:
    """The chosen owner leaves between the choice and the commit. Either it releases the task, or the choice fails."""
    one, two = replicas
    await one.renew(1_000)
    new = new_watch(one)
    with one._database._writing.connect() as connection, connection.begin() as transaction:
        registration.register(connection, [new], one.replica, one._active_limit)
        leaving = asyncio.create_task(two.leave())
        # Commit as soon as `leaving` waits for this transaction or is done.
        while not leaving.done() and not blocked_transactions(connection.connection.driver_connection):
            await asyncio.sleep(0)
        transaction.commit()
    await leaving
    assert owner_of(one, new.task) is None
    assert [row.row for row in await one.adopt(10)] == [new.task]


async def test_a_task_given_to_a_replica_that_is_being_taken_over_is_not_lost(replicas: list[Store]) -> None:
    one, two = replicas
    await one.renew(1_000)
    new = new_watch(one)
    with one._database._writing.connect() as connection, connection.begin() as transaction:
        registration.register(connection, [new], one.replica, one._active_limit)
        kill(two)
        await two.rejoin()
        await two.adopt(10)  # the tasks of its former id; the open transaction gives this id another one
        transaction.commit()
    assert [row.row for row in await two.adopt(10)] == [new.task]


async def test_all_replicas_use_the_databases_clock(replicas: list[Store]) -> None:
    one, two = replicas
    for store in replicas:
        await store.synchronize()
    server_time = float(one_row(one, "SELECT extract(epoch FROM clock_timestamp())"))
    assert one.now() == pytest.approx(server_time, abs=1)
    assert two.now() == pytest.approx(one.now(), abs=0.5)

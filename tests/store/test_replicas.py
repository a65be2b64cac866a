"""Several replicas on one PostgreSQL: each task has one owner, and a dead one's are taken over by the living."""

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
    again,
    change,
    due,
    new_watch,
    one_row,
    owed,
    recorded,
    rows,
    settled,
    sighted,
    tried,
    watched,
)

MINUTE = 60.0


def kill(store: Store) -> None:
    """Let a replica's lease run out, as if it were gone."""
    change(store, "UPDATE replicas SET expires_at = 0 WHERE id = :id", id=store.replica.id)


def owner_of(store: Store, task_row: str) -> str | None:
    owner: str | None = one_row(store, "SELECT owner FROM tasks WHERE id = :id", id=task_row)
    return owner


async def test_a_task_is_polled_by_who_registered_it_first(replicas: list[Store]) -> None:
    one, two = replicas
    first = await watched(one, task_id="shared")
    second = await watched(two, task_id="shared", app="other")
    assert second.created
    assert second.task is None
    assert second.task_row == first.task_row
    assert owner_of(one, first.task_row) == one.replica.id
    assert len(await one.own_tasks()) == 1
    assert await two.own_tasks() == []


async def test_settling_serves_the_watches_of_every_replica(replicas: list[Store]) -> None:
    one, two = replicas
    first = await watched(one, task_id="shared")
    second = await watched(two, task_id="shared", app="other")
    changed = await settled(one, first)
    assert {watch.id for watch in changed.settled} == {first.watch.id, second.watch.id}
    assert (await two.watch(second.watch.id, None)).watch.state is WatchState.SETTLED


async def test_the_same_registration_at_two_replicas_is_one_watch(replicas: list[Store]) -> None:
    one, two = replicas
    new = new_watch(one)
    await one.register(new)
    assert not (await two.register(again(new))).created
    with pytest.raises(WatchConflict):
        await two.register(again(new, options=b"others"))


async def test_only_the_owner_settles_and_records(replicas: list[Store]) -> None:
    one, two = replicas
    registered = await watched(one)
    for act in (settled, sighted):
        with pytest.raises(LostClaim):
            await act(two, registered)


async def test_a_status_wanted_elsewhere_is_news_to_the_owner(replicas: list[Store]) -> None:
    one, two = replicas
    first = await watched(one, task_id="shared")
    assert await one.adopt(10) == []
    await watched(two, task_id="shared", app="plain")
    assert await one.adopt(10) == []
    await watched(two, task_id="shared", app="asking", events=ALL_EVENTS)
    [news] = await one.adopt(10)
    assert (news.id, news.sight_owed) == (first.task_row, True)
    assert await one.adopt(10) == []


async def test_a_dead_replicas_tasks_are_taken_over_once(replicas: list[Store]) -> None:
    one, two = replicas
    registered = [await watched(one) for _ in range(3)]
    assert await two.adopt(10) == []
    kill(one)
    adopted = await two.adopt(10)
    assert {row.id for row in adopted} == {found.task_row for found in registered}
    assert await two.adopt(10) == []
    assert (await settled(two, registered[0])).task_closed


async def test_tasks_are_taken_over_in_parts_of_the_size_asked_for(replicas: list[Store]) -> None:
    one, two = replicas
    for _ in range(5):
        await watched(one)
    kill(one)
    assert [len(await two.adopt(2)) for _ in range(4)] == [2, 2, 1, 0]
    assert [row.id for row in rows(two, "SELECT id FROM replicas")] == [two.replica.id]


async def test_a_replica_that_was_thought_dead_writes_nothing_more(replicas: list[Store]) -> None:
    one, two = replicas
    registered = await watched(one)
    later = await watched(one)
    claimed = await owed(one)
    kill(one)
    await two.adopt(1)  # of three tasks: even those that are not taken yet are lost to it
    for found in (registered, later):
        with pytest.raises(LostClaim):
            await settled(one, found)
    with pytest.raises(LostClaim):
        await one.renew(3)
    with pytest.raises(LostClaim):
        await one.adopt(10)
    with pytest.raises(LostClaim):
        await recorded(one, tried(one, claimed))
    assert await one.claim({HOST: 5}, MINUTE) == []


async def test_who_rejoins_has_a_new_name_and_owns_nothing(replicas: list[Store]) -> None:
    one, _ = replicas
    registered = await watched(one)
    old = one.replica.id
    await one.rejoin()
    assert one.replica.id != old
    assert await one.own_tasks() == []
    with pytest.raises(LostClaim):
        await settled(one, registered)
    await one.renew(0)
    await one.probe()


async def test_a_dead_replicas_deliveries_are_due_at_once(replicas: list[Store]) -> None:
    one, two = replicas
    claimed = await owed(one)
    assert await two.claim({HOST: 5}, MINUTE) == []
    kill(one)
    await two.adopt(10)
    assert [found.id for found in await two.claim({HOST: 5}, MINUTE)] == [claimed.id]


async def test_who_renews_is_not_taken_over(replicas: list[Store]) -> None:
    one, two = replicas
    await watched(one)
    kill(one)
    await one.renew(1)
    assert await two.adopt(10) == []
    await one.probe()


async def test_who_leaves_hands_everything_over(replicas: list[Store]) -> None:
    one, two = replicas
    registered = await watched(one)
    claimed = await owed(one)
    await one.leave()
    assert [row.id for row in await two.adopt(10)] == [registered.task_row]
    assert [found.id for found in await two.claim({HOST: 5}, MINUTE)] == [claimed.id]
    assert [row.id for row in rows(two, "SELECT id FROM replicas")] == [two.replica.id]
    with pytest.raises(StoreUnavailable):
        await one.probe()


async def test_who_is_about_to_leave_hands_its_tasks_over_and_is_given_no_more(replicas: list[Store]) -> None:
    one, two = replicas
    registered = await watched(two)
    await owed(two)
    await one.renew(1_000)
    await two.hand_over()
    assert [row.id for row in await one.adopt(10)] == [registered.task_row]
    assert (await watched(one)).task is not None
    assert owner_of(one, (await watched(two)).task_row) == one.replica.id
    assert await one.claim({HOST: 5}, MINUTE) == []  # what is being sent stays claimed
    await two.renew(0)


async def test_one_delivery_is_claimed_by_one_replica(replicas: list[Store]) -> None:
    for _ in range(8):
        await due(replicas[0])
    found = await asyncio.gather(*(store.claim({HOST: 8}, MINUTE) for store in replicas))
    ids = [one.id for claimed in found for one in claimed]
    assert len(ids) == len(set(ids)) == 8


async def test_the_busy_give_new_tasks_to_the_idle(replicas: list[Store]) -> None:
    one, two = replicas
    await one.renew(1_000)
    await two.renew(10)
    registered = await watched(one)
    assert registered.created
    assert registered.task is None
    assert owner_of(one, registered.task_row) == two.replica.id
    assert [row.id for row in await two.adopt(10)] == [registered.task_row]
    assert (await settled(two, registered)).task_closed


async def test_a_small_difference_is_not_worth_a_look_up(replicas: list[Store]) -> None:
    one, two = replicas
    await one.renew(25)
    await two.renew(10)
    assert (await watched(one)).task is not None


async def test_the_dead_are_given_nothing(replicas: list[Store]) -> None:
    one, two = replicas
    await one.renew(1_000)
    kill(two)
    assert (await watched(one)).task is not None


async def test_a_task_given_to_one_that_leaves_at_that_moment_is_not_lost(replicas: list[Store]) -> None:
    """Between choosing an owner and the commit the chosen one goes: it must take the task along or be refused it."""
    one, two = replicas
    await one.renew(1_000)
    new = new_watch(one)
    work = registration.Registration(one.replica, one._active_limit, [new])
    with one._database._writing.connect() as connection, connection.begin() as transaction:
        registration.register(connection, [work])
        leaving = asyncio.create_task(two.leave())
        # Whether it waits for us or is done: then we commit.
        while not leaving.done() and not blocked_transactions(connection.connection.driver_connection):
            await asyncio.sleep(0)
        transaction.commit()
    await leaving
    assert owner_of(one, new.task) is None
    assert [row.id for row in await one.adopt(10)] == [new.task]


async def test_a_task_given_to_one_that_is_taken_for_dead_at_that_moment_is_not_lost(replicas: list[Store]) -> None:
    one, two = replicas
    await one.renew(1_000)
    new = new_watch(one)
    work = registration.Registration(one.replica, one._active_limit, [new])
    with one._database._writing.connect() as connection, connection.begin() as transaction:
        registration.register(connection, [work])
        kill(two)
        await two.rejoin()
        await two.adopt(10)  # of its own former self, which new tasks are just being given to
        transaction.commit()
    assert [row.id for row in await two.adopt(10)] == [new.task]


async def test_clocks_are_the_databases(replicas: list[Store]) -> None:
    one, two = replicas
    for store in replicas:
        await store.synchronize()
    served = float(one_row(one, "SELECT extract(epoch FROM clock_timestamp())"))
    assert one.now() == pytest.approx(served, abs=1)
    assert two.now() == pytest.approx(one.now(), abs=0.5)

"""Races between replicas on PostgreSQL: whatever the order, one wins and nothing is left in between.

The first half holds a transaction open and lets another run into it; the second half lets four replicas go at once.
"""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from sqlalchemy import Connection, event

from bridge.core.errors import BridgeError, IdempotencyConflict
from bridge.core.model import DeliveryState, WatchState
from bridge.store import cancelling, outbox, registration, retention
from bridge.store import settlement as settlement_statements
from bridge.store.records import DeadFilter, RegisteredWatch
from bridge.store.store import Store
from tests.databases import blocked_transactions
from tests.store.builders import (
    ALL_EVENTS,
    DELIVERED,
    HOST,
    again,
    change,
    dead,
    due,
    new_watch,
    one_row,
    recorded,
    rows,
    settled,
    settlement,
    sighted,
    timed_out,
    tried,
    watched,
)

MINUTE = 60.0
ROUNDS = 6

STRANDED = """
    SELECT watches.id FROM watches LEFT JOIN tasks ON tasks.id = watches.task AND tasks.closed_at IS NULL
    WHERE watches.state = 'active' AND tasks.id IS NULL
"""
IDLE = """
    SELECT tasks.id FROM tasks WHERE closed_at IS NULL
    AND NOT EXISTS (SELECT 1 FROM watches WHERE watches.task = tasks.id AND state = 'active')
"""
OWED_BUT_NOT_PENDING = """
    SELECT coalesce(outbox.id, deliveries.id) FROM outbox
    FULL JOIN (SELECT id FROM deliveries WHERE state = 'pending') deliveries ON deliveries.id = outbox.id
    WHERE outbox.id IS NULL OR deliveries.id IS NULL
"""


def nothing_in_between(store: Store) -> None:
    """What must hold after every race."""
    for question in (STRANDED, IDLE, OWED_BUT_NOT_PENDING):
        assert rows(store, question) == []


@contextmanager
def held(store: Store) -> Iterator[Connection]:
    """A replica's transaction that is slow to commit: it does so at the end of the block."""
    with store._database._writing.connect() as connection, connection.begin():
        yield connection


async def until_blocked(connection: Connection, waiting: "asyncio.Future[Any]") -> None:
    """Wait until somebody waits for this transaction, or has gone on without."""
    async with asyncio.timeout(8):
        while not waiting.done() and not blocked_transactions(connection.connection.driver_connection):
            await asyncio.sleep(0)


# --- one transaction runs into another ----------------------------------------------------------------------------


async def test_a_watch_that_registers_while_its_task_settles_opens_a_task_anew(replicas: list[Store]) -> None:
    one, two = replicas
    first = await watched(one, task_id="shared")
    with held(one) as connection:
        settlement_statements.settle(
            connection, [settlement_statements.Owned(one.replica, one.cipher, settlement(one, first.task_row), MINUTE)]
        )
        second = asyncio.create_task(watched(two, task_id="shared", app="other"))
        await until_blocked(connection, second)
    registered = await second
    assert registered.created
    assert registered.task_row != first.task_row
    assert registered.task is not None
    nothing_in_between(one)


async def test_a_task_that_settles_while_a_watch_registers_settles_that_as_well(replicas: list[Store]) -> None:
    one, two = replicas
    first = await watched(one, task_id="shared")
    new = new_watch(two, task_id="shared", app="other")
    with held(two) as connection:
        registration.register(connection, [registration.Registration(two.replica, two._active_limit, [new])])
        ending = asyncio.create_task(settled(one, first))
        await until_blocked(connection, ending)
    assert {watch.id for watch in (await ending).settled} == {first.watch.id, new.watch.id}
    nothing_in_between(one)


async def test_a_watch_that_registers_while_the_last_one_is_cancelled_opens_a_task_anew(replicas: list[Store]) -> None:
    one, two = replicas
    first = await watched(one, task_id="shared")
    with held(one) as connection:
        cancelling.cancel(connection, [cancelling.Cancelling(one.replica, first.watch.id, None, one.now())])
        second = asyncio.create_task(watched(two, task_id="shared", app="other"))
        await until_blocked(connection, second)
    assert (await second).task_row != first.task_row
    nothing_in_between(one)


async def test_what_is_delivered_while_its_watch_ends_is_not_called_superseded(replicas: list[Store]) -> None:
    """The record holds the outbox' row; the end must wait for it, then find nothing owed."""
    one, two = replicas
    registered = await watched(one, events=ALL_EVENTS)
    await two.release((await sighted(one, registered)).owed)  # due by the clock of who claims it
    [claimed] = await two.claim({HOST: 1}, MINUTE)
    with held(two) as connection:
        assert outbox.record_attempts(connection, [tried(two, claimed)]) == [DELIVERED]
        ending = asyncio.create_task(settled(one, registered))
        await until_blocked(connection, ending)
    await ending
    assert (await one.delivery(claimed.id, None))[0].state is DeliveryState.DELIVERED
    nothing_in_between(one)


async def test_a_second_caller_with_the_same_key_waits_for_the_first(replicas: list[Store]) -> None:
    one, two = replicas
    new = new_watch(one, key=("key", b"body"))
    with held(one) as connection:
        registration.register(connection, [registration.Registration(one.replica, one._active_limit, [new])])
        second = asyncio.create_task(two.register(again(new)))
        other = asyncio.create_task(two.register(new_watch(two, key=("key", b"other"))))
        await until_blocked(connection, second)
    assert (await second).created
    assert (await second).watch == new.watch
    with pytest.raises(IdempotencyConflict):
        await other
    assert one_row(one, "SELECT count(*) FROM watches") == 1


async def test_a_delivery_sent_again_while_retention_comes_by_stays(replicas: list[Store]) -> None:
    one, two = replicas
    given_up = await dead(one)
    with held(two) as connection:
        assert outbox.retry(connection, [outbox.Retrying(given_up.id, None, two.now())]) == [None]
        sweeping = asyncio.create_task(one.delete_ended_before(one.now() + MINUTE, 10))
        await until_blocked(connection, sweeping)
    assert await sweeping == 0
    assert [found.id for found in await one.claim({HOST: 1}, MINUTE)] == [given_up.id]
    nothing_in_between(one)


async def test_many_sent_again_while_retention_comes_by_stay(replicas: list[Store]) -> None:
    one, two = replicas
    for _ in range(3):
        await dead(one)
    with held(two) as connection:
        [sent_again] = outbox.retry_dead(connection, [outbox.RetryingMany(DeadFilter(), "", two.now())])
        assert isinstance(sent_again, list)
        assert len(sent_again) == 3
        sweeping = asyncio.create_task(one.delete_ended_before(one.now() + MINUTE, 10))
        await until_blocked(connection, sweeping)
    assert await sweeping == 0
    nothing_in_between(one)


async def test_a_delivery_that_retention_is_taking_is_not_found_by_who_would_send_it_again(
    replicas: list[Store],
) -> None:
    one, two = replicas
    given_up = await dead(one)
    with held(one) as connection:
        assert retention.delete_ended(connection, [retention.Deleting(one.now() + MINUTE, 10)]) == [1]
        again_sent = asyncio.create_task(two.retry(given_up.id, None))
        many = asyncio.create_task(two.retry_dead(DeadFilter()))
        await until_blocked(connection, again_sent)
    with pytest.raises(BridgeError, match="no such delivery"):
        await again_sent
    assert await many == 0
    nothing_in_between(one)


# --- everybody at once --------------------------------------------------------------------------------------------


async def test_the_same_watch_at_four_replicas_is_created_once(crowd: list[Store]) -> None:
    for number in range(ROUNDS):
        new = new_watch(crowd[0], task_id=f"race_{number}")
        found = await asyncio.gather(*(store.register(again(new)) for store in crowd * 3))
        assert [one.created for one in found].count(True) == 1
        assert len({one.watch.id for one in found}) == 1
        assert sum(one.task is not None for one in found) == 1
    nothing_in_between(crowd[0])


async def test_the_same_key_at_four_replicas_is_one_watch_that_all_created(crowd: list[Store]) -> None:
    for number in range(ROUNDS):
        new = new_watch(crowd[0], key=(f"key_{number}", b"body"))
        found = await asyncio.gather(*(store.register(again(new)) for store in crowd * 3))
        assert all(one.created for one in found)
        assert len({one.watch.id for one in found}) == 1
    assert one_row(crowd[0], "SELECT count(*) FROM watches") == ROUNDS


async def test_many_watches_in_many_orders_are_each_created_once(crowd: list[Store]) -> None:
    news = [new_watch(crowd[0], task_id=f"task_{number}") for number in range(12)]
    orders = (news, news[::-1], news[6:] + news[:6], news[::2] + news[1::2])
    results = await asyncio.gather(
        *(
            store.register_all([again(new) for new in order])
            for store, order in zip(crowd, orders, strict=True)
            for _ in range(3)
        )
    )
    created = [
        one.watch.task_id for group in results for one in group if isinstance(one, RegisteredWatch) and one.created
    ]
    assert sorted(created) == sorted(new.watch.task_id for new in news)
    nothing_in_between(crowd[0])


async def test_registering_while_settling_leaves_no_active_watch_on_a_closed_task(crowd: list[Store]) -> None:
    owner, *others = crowd
    for number in range(ROUNDS):
        first = await watched(owner, task_id=f"race_{number}")
        registering_there = [
            watched(store, task_id=f"race_{number}", app=f"app_{place}") for place, store in enumerate(others * 3)
        ]
        found: list[Any] = await asyncio.gather(*registering_there, settled(owner, first))
        assert all(isinstance(one, RegisteredWatch) and one.created for one in found[:-1])
        nothing_in_between(owner)


async def test_of_settling_cancelling_and_the_deadline_one_wins(crowd: list[Store]) -> None:
    owner, *others = crowd
    for _ in range(ROUNDS):
        registered = await watched(owner, events=ALL_EVENTS)
        watch_id = registered.watch.id
        await asyncio.gather(
            settled(owner, registered),
            *(store.cancel(watch_id, None) for store in others),
            settled(owner, registered, timed_out),
            sighted(owner, registered),
            return_exceptions=True,
        )
        view = await owner.watch(watch_id, None)
        terminal = rows(owner, "SELECT type FROM events WHERE watch_id = :id AND terminal", id=watch_id)
        assert view.watch.state is not WatchState.ACTIVE
        assert len(terminal) == int(view.watch.state is WatchState.SETTLED)
        assert sum(one.state is DeliveryState.PENDING for one in view.deliveries) == len(terminal)
        nothing_in_between(owner)


async def test_claims_and_records_at_four_replicas_send_each_delivery_once(crowd: list[Store]) -> None:
    ids = {(await due(crowd[0])).id for _ in range(12)}

    async def work(store: Store) -> list[str]:
        done = []
        while claimed := await store.claim({HOST: 2}, MINUTE):
            await asyncio.gather(*(recorded(store, tried(store, one)) for one in claimed))
            done += [one.id for one in claimed]
        return done

    done = [one for group in await asyncio.gather(*map(work, crowd)) for one in group]
    assert len(done) == 12
    assert set(done) == ids
    assert rows(crowd[0], "SELECT id FROM outbox") == []


async def test_four_replicas_take_over_a_dead_ones_tasks_without_taking_one_twice(crowd: list[Store]) -> None:
    gone, *others = crowd
    tasks = {(await watched(gone)).task_row for _ in range(9)}
    change(gone, "UPDATE replicas SET expires_at = 0 WHERE id = :id", id=gone.replica.id)
    taken: list[str] = []
    async with asyncio.timeout(8):
        while len(taken) < len(tasks):
            adopted = await asyncio.gather(*(store.adopt(2) for store in others))
            taken += [row.id for group in adopted for row in group]
    assert sorted(taken) == sorted(tasks)


async def test_cancelling_at_four_replicas_at_once_is_one_end(crowd: list[Store]) -> None:
    registered = [await watched(crowd[0], task_id=f"task_{number % 3}", app=f"app_{number}") for number in range(9)]
    views = await asyncio.gather(*(store.cancel(one.watch.id, None) for store in crowd for one in registered))
    assert {view.watch.state for view in views} == {WatchState.CANCELLED}
    nothing_in_between(crowd[0])


async def test_hosts_that_fail_here_and_heal_there_do_not_deadlock(replicas: list[Store]) -> None:
    """Noticing a deadlock takes PostgreSQL a second; nothing may be sent meanwhile."""
    one, two = replicas
    lost = replace(await due(one), lease="lost")

    def attempts(store: Store, failing: str, well: str) -> list[Any]:
        told = ((failing, 1), (well, 0))
        return [tried(store, replace(lost, host=host), host_failures=failures) for host, failures in told]

    async def record(store: Store, failing: str, well: str) -> None:
        works = attempts(store, failing, well)
        unit = partial(outbox.record_attempts, works=works)
        await asyncio.to_thread(store._database.transaction, unit)

    await record(one, "a:80", "none:80")
    await record(one, "b:80", "none:80")
    both_have_one = threading.Barrier(2)

    def meet(_connection: object, _cursor: object, statement: str, *_rest: object) -> None:
        if statement.startswith("INSERT INTO hosts"):
            with suppress(threading.BrokenBarrierError):  # the other waits for us: then they cannot deadlock
                both_have_one.wait(0.3)

    engines = [store._database._writing for store in replicas]
    for engine in engines:
        event.listen(engine, "after_cursor_execute", meet)
    await asyncio.gather(record(one, "a:80", "b:80"), record(two, "b:80", "a:80"))
    for engine in engines:
        event.remove(engine, "after_cursor_execute", meet)
    rows(one, "SELECT pg_stat_force_next_flush()")
    rows(two, "SELECT pg_stat_force_next_flush()")
    assert one_row(one, "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()") == 0
    assert len(await one.hosts()) == 1

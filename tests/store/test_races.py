"""Races between replicas on PostgreSQL: in any order one replica wins, and the rows are consistent afterwards.

In the first half a transaction waits for another that is held open; in the second half four replicas run at once.
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
from bridge.store import outbox, registration, retention
from bridge.store import settlement as settlement_operations
from bridge.store.records import DeadFilter, RegisteredWatch
from bridge.store.store import Store
from tests.databases import blocked_transactions
from tests.store.builders import (
    ALL_EVENTS,
    DELIVERED,
    HOST,
    attempt_result,
    dead_delivery,
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
    settlement,
    timed_out,
)
from tests.store.feed import number_all
from tests.waiting import SAFETY_SECONDS

MINUTE = 60.0
ROUNDS = 6

ACTIVE_WITHOUT_TASK = """
    SELECT watches.id FROM watches LEFT JOIN tasks ON tasks.id = watches.task AND tasks.closed_at IS NULL
    WHERE watches.state = 'active' AND tasks.id IS NULL
"""
TASK_WITHOUT_WATCH = """
    SELECT tasks.id FROM tasks WHERE closed_at IS NULL
    AND NOT EXISTS (SELECT 1 FROM watches WHERE watches.task = tasks.id AND state = 'active')
"""
OUTBOX_DIFFERS = """
    SELECT coalesce(outbox.id, deliveries.id) FROM outbox
    FULL JOIN (SELECT id FROM deliveries WHERE state = 'pending') deliveries ON deliveries.id = outbox.id
    WHERE outbox.id IS NULL OR deliveries.id IS NULL
"""


def assert_consistent(store: Store) -> None:
    """Check what must be true after every race."""
    for query in (ACTIVE_WITHOUT_TASK, TASK_WITHOUT_WATCH, OUTBOX_DIFFERS):
        assert rows(store, query) == []


@contextmanager
def open_transaction(store: Store) -> Iterator[Connection]:
    """Opens a transaction of a replica. It commits at the end of the block."""
    with store._database._writing.connect() as connection, connection.begin():
        yield connection


async def until_blocked(connection: Connection, waiting: "asyncio.Future[Any]") -> None:
    """Wait until another transaction waits for this one, or `waiting` is done."""
    async with asyncio.timeout(SAFETY_SECONDS):
        while not waiting.done() and not blocked_transactions(connection.connection.driver_connection):
            await asyncio.sleep(0)


# --- one transaction waits for another ----------------------------------------------------------------------------


async def test_a_watch_registered_while_its_task_settles_opens_another_task(replicas: list[Store]) -> None:
    one, two = replicas
    first = await register_watch(one, task_id="shared")
    with open_transaction(one) as connection:
        settlement_operations.settle(
            connection, [settlement(one, first.view.task.row)], one.replica, one.cipher, MINUTE
        )
        second = asyncio.create_task(register_watch(two, task_id="shared", app="other"))
        await until_blocked(connection, second)
    registered = await second
    assert registered.created
    assert registered.view.task.row != first.view.task.row
    assert registered.task is not None
    assert_consistent(one)


async def test_a_task_that_settles_while_a_watch_registers_settles_that_watch_as_well(replicas: list[Store]) -> None:
    one, two = replicas
    first = await register_watch(one, task_id="shared")
    new = new_watch(two, task_id="shared", app="other")
    with open_transaction(two) as connection:
        registration.register(connection, [new], two.replica, two._active_limit)
        ending = asyncio.create_task(settle(one, first))
        await until_blocked(connection, ending)
    assert {watch.id for watch in (await ending).settled} == {first.watch.id, new.watch.id}
    assert_consistent(one)


async def test_a_watch_registered_while_the_last_one_is_cancelled_opens_another_task(replicas: list[Store]) -> None:
    one, two = replicas
    first = await register_watch(one, task_id="shared")
    with open_transaction(one) as connection:
        settlement_operations.cancel(connection, [(first.watch.id, None, None)], one.replica)
        second = asyncio.create_task(register_watch(two, task_id="shared", app="other"))
        await until_blocked(connection, second)
    assert (await second).view.task.row != first.view.task.row
    assert_consistent(one)


async def test_a_delivery_recorded_while_its_watch_ends_is_not_superseded(replicas: list[Store]) -> None:
    """Recording the attempt locks the outbox row. The settlement waits for this lock and then finds nothing pending."""
    one, two = replicas
    registered = await register_watch(one, events=ALL_EVENTS)
    await two.release((await record_status(one, registered)).claimed)  # due by the clock of the replica that claims it
    [claimed] = await two.claim({HOST: 1}, MINUTE)
    with open_transaction(two) as connection:
        assert outbox.record_attempts(connection, [attempt_result(two, claimed)], two.replica) == [DELIVERED]
        ending = asyncio.create_task(settle(one, registered))
        await until_blocked(connection, ending)
    await ending
    assert (await one.delivery(claimed.id, None))[0].state is DeliveryState.DELIVERED
    assert_consistent(one)


async def test_a_second_caller_with_the_same_key_waits_for_the_first(replicas: list[Store]) -> None:
    one, two = replicas
    new = new_watch(one, key=("key", b"body"))
    with open_transaction(one) as connection:
        registration.register(connection, [new], one.replica, one._active_limit)
        second = asyncio.create_task(register(two, repeat_of(new)))
        other = asyncio.create_task(register(two, new_watch(two, key=("key", b"other"))))
        await until_blocked(connection, second)
    assert (await second).created
    assert (await second).watch == new.watch
    with pytest.raises(IdempotencyConflict):
        await other
    assert one_row(one, "SELECT count(*) FROM watches") == 1


async def test_a_delivery_retried_during_retention_is_not_deleted(replicas: list[Store]) -> None:
    one, two = replicas
    given_up = await dead_delivery(one)
    await number_all(one)
    with open_transaction(two) as connection:
        assert outbox.retry(connection, [(given_up.id, None, None)], two.replica) == [None]
        sweeping = asyncio.create_task(one.delete_ended_before(one.now() + MINUTE, 10))
        await until_blocked(connection, sweeping)
    assert await sweeping == 0
    assert [found.id for found in await two.claim({HOST: 1}, MINUTE)] == [given_up.id]  # due by the clock of `two`
    assert_consistent(one)


async def test_many_deliveries_retried_during_retention_are_not_deleted(replicas: list[Store]) -> None:
    one, two = replicas
    for _ in range(3):
        await dead_delivery(one)
    await number_all(one)
    with open_transaction(two) as connection:
        assert len(outbox.retry_dead(connection, DeadFilter(), "", two.now())) == 3
        sweeping = asyncio.create_task(one.delete_ended_before(one.now() + MINUTE, 10))
        await until_blocked(connection, sweeping)
    assert await sweeping == 0
    assert_consistent(one)


async def test_a_delivery_that_retention_deletes_is_not_found_by_a_retry(
    replicas: list[Store],
) -> None:
    one, two = replicas
    given_up = await dead_delivery(one)
    await number_all(one)
    with open_transaction(one) as connection:
        assert retention.delete_ended(connection, one.now() + MINUTE, 10, one.replica) == 1
        again_sent = asyncio.create_task(two.retry(given_up.id, None))
        many = asyncio.create_task(two.retry_dead(DeadFilter()))
        await until_blocked(connection, again_sent)
    with pytest.raises(BridgeError, match="no such delivery"):
        await again_sent
    assert await many == 0
    assert_consistent(one)


# --- all replicas at once -----------------------------------------------------------------------------------------


async def test_the_same_watch_at_four_replicas_is_created_once(four_replicas: list[Store]) -> None:
    for number in range(ROUNDS):
        new = new_watch(four_replicas[0], task_id=f"race_{number}")
        found = await asyncio.gather(*(register(store, repeat_of(new)) for store in four_replicas * 3))
        assert [one.created for one in found].count(True) == 1
        assert len({one.watch.id for one in found}) == 1
        assert sum(one.task is not None for one in found) == 1
    assert_consistent(four_replicas[0])


async def test_the_same_key_at_four_replicas_is_one_watch_and_each_result_says_created(
    four_replicas: list[Store],
) -> None:
    for number in range(ROUNDS):
        new = new_watch(four_replicas[0], key=(f"key_{number}", b"body"))
        found = await asyncio.gather(*(register(store, repeat_of(new)) for store in four_replicas * 3))
        assert all(one.created for one in found)
        assert len({one.watch.id for one in found}) == 1
    assert one_row(four_replicas[0], "SELECT count(*) FROM watches") == ROUNDS


async def test_many_watches_in_many_orders_are_each_created_once(four_replicas: list[Store]) -> None:
    new_watches = [new_watch(four_replicas[0], task_id=f"task_{number}") for number in range(12)]
    orders = (
        new_watches,
        new_watches[::-1],
        new_watches[6:] + new_watches[:6],
        new_watches[::2] + new_watches[1::2],
    )
    results = await asyncio.gather(
        *(
            store.register_all([repeat_of(new) for new in order])
            for store, order in zip(four_replicas, orders, strict=True)
            for _ in range(3)
        )
    )
    created = [
        one.watch.task_id for group in results for one in group if isinstance(one, RegisteredWatch) and one.created
    ]
    assert sorted(created) == sorted(new.watch.task_id for new in new_watches)
    assert_consistent(four_replicas[0])


async def test_registering_while_settling_leaves_no_active_watch_on_a_closed_task(four_replicas: list[Store]) -> None:
    owner, *others = four_replicas
    for number in range(ROUNDS):
        first = await register_watch(owner, task_id=f"race_{number}")
        registering_there = [
            register_watch(store, task_id=f"race_{number}", app=f"app_{place}")
            for place, store in enumerate(others * 3)
        ]
        found: list[Any] = await asyncio.gather(*registering_there, settle(owner, first))
        assert all(isinstance(one, RegisteredWatch) and one.created for one in found[:-1])
        assert_consistent(owner)


async def test_one_of_settling_cancelling_and_the_deadline_wins(four_replicas: list[Store]) -> None:
    owner, *others = four_replicas
    for _ in range(ROUNDS):
        registered = await register_watch(owner, events=ALL_EVENTS)
        watch_id = registered.watch.id
        await asyncio.gather(
            settle(owner, registered),
            *(store.cancel(watch_id, None) for store in others),
            settle(owner, registered, timed_out),
            record_status(owner, registered),
            return_exceptions=True,
        )
        view = await owner.watch(watch_id, None)
        terminal = rows(owner, "SELECT type FROM events WHERE watch_id = :id AND terminal", id=watch_id)
        assert view.watch.state is not WatchState.ACTIVE
        assert len(terminal) == int(view.watch.state is WatchState.SETTLED)
        assert sum(one.state is DeliveryState.PENDING for one in view.deliveries) == len(terminal)
        assert_consistent(owner)


async def test_claims_and_records_at_four_replicas_send_each_delivery_once(four_replicas: list[Store]) -> None:
    ids = {(await due_delivery(four_replicas[0])).id for _ in range(12)}

    async def send_all(store: Store) -> list[str]:
        done = []
        while claimed := await store.claim({HOST: 2}, MINUTE):
            await asyncio.gather(*(record_attempt(store, attempt_result(store, one)) for one in claimed))
            done += [one.id for one in claimed]
        return done

    done = [one for group in await asyncio.gather(*map(send_all, four_replicas)) for one in group]
    assert len(done) == 12
    assert set(done) == ids
    assert rows(four_replicas[0], "SELECT id FROM outbox") == []


async def test_replicas_take_over_each_task_of_a_dead_replica_once(four_replicas: list[Store]) -> None:
    gone, *others = four_replicas
    tasks = {(await register_watch(gone)).view.task.row for _ in range(9)}
    execute(gone, "UPDATE replicas SET expires_at = 0 WHERE id = :id", id=gone.replica.id)
    adopted_ids: list[str] = []
    async with asyncio.timeout(SAFETY_SECONDS):
        while len(adopted_ids) < len(tasks):
            adopted = await asyncio.gather(*(store.adopt(2) for store in others))
            adopted_ids += [row.row for group in adopted for row in group]
    assert sorted(adopted_ids) == sorted(tasks)


async def test_cancelling_at_four_replicas_at_once_ends_each_watch_once(four_replicas: list[Store]) -> None:
    registered = [
        await register_watch(four_replicas[0], task_id=f"task_{number % 3}", app=f"app_{number}") for number in range(9)
    ]
    views = await asyncio.gather(*(store.cancel(one.watch.id, None) for store in four_replicas for one in registered))
    assert {view.watch.state for view in views} == {WatchState.CANCELLED}
    assert_consistent(four_replicas[0])


async def test_hosts_that_fail_at_one_replica_and_answer_at_another_do_not_deadlock(replicas: list[Store]) -> None:
    """PostgreSQL needs a second to detect a deadlock, and nothing would be sent in this second."""
    one, two = replicas
    lost = replace(await due_delivery(one), lease="lost")

    def attempts(store: Store, failing: str, answering: str) -> list[Any]:
        hosts = ((failing, 1), (answering, 0))
        return [attempt_result(store, replace(lost, host=host), host_failures=failures) for host, failures in hosts]

    async def record(store: Store, failing: str, answering: str) -> None:
        items = attempts(store, failing, answering)
        operation = partial(outbox.record_attempts, items=items, replica=store.replica)
        await asyncio.to_thread(store._database.transaction, operation)

    await record(one, "a:80", "none:80")
    await record(one, "b:80", "none:80")
    both_have_one = threading.Barrier(2)

    def meet(_connection: object, _cursor: object, statement: str, *_rest: object) -> None:
        if statement.startswith("INSERT INTO hosts"):
            with suppress(threading.BrokenBarrierError):  # one transaction waits for the other, so there is no deadlock
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
    assert len(await one.host_failures()) == 1

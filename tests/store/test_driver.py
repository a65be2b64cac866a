"""Statements that the driver executes itself: their errors, and statements for any number of keys."""

from contextlib import closing, suppress
from functools import partial

import pytest
from sqlalchemy import Connection, QueuePool, bindparam, select, text
from sqlalchemy.exc import DBAPIError, IntegrityError

from bridge.store import driver
from bridge.store.bulk_statements import BulkQuery, Query
from bridge.store.database import PostgresDatabase
from bridge.store.open import open_database
from bridge.store.schema import replicas, watches
from bridge.store.store import Store
from tests.databases import PostgresServer
from tests.store.builders import new_watch, register_watch

_OF_TASKS = BulkQuery(
    ("task",), lambda binds: select(watches.c.id, watches.c.task).where(watches.c.task.in_([b["task"] for b in binds]))
)
_EPOCHS = Query(select(replicas.c.id, replicas.c.epoch).where(replicas.c.epoch >= 1))


async def test_a_query_finds_the_rows_of_any_number_of_keys_each_once(store: Store) -> None:
    new = [new_watch(store) for _ in range(9)]
    await store.register_all(new)
    for count in range(10):
        keys = [(one.task,) for one in new[:count]]
        rows = store._database.read(partial(_OF_TASKS.fetch, keys=keys))
        assert sorted((row.id, row.task) for row in rows) == sorted((one.watch.id, one.task) for one in new[:count])


async def test_any_number_of_rows_is_written_each_once_in_few_statements(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    statements: list[str] = []
    execute = driver.execute

    def note(connection: Connection, statement: str, *parameters: driver.Parameters) -> int:
        statements.append(statement)
        return execute(connection, statement, *parameters)

    monkeypatch.setattr(driver, "execute", note)
    for count, most in ((1, 1), (3, 2), (15, 4), (63, 6), (70, 4)):
        del statements[:]
        new = [new_watch(store) for _ in range(count)]
        await store.register_all(new)
        assert len([one for one in statements if one.startswith("INSERT INTO watches")]) == most
        rows = store._database.read(partial(_OF_TASKS.fetch, keys=[(one.task,) for one in new]))
        assert sorted(row.id for row in rows) == sorted(one.watch.id for one in new)


async def test_a_value_in_a_query_is_passed_on(store: Store) -> None:
    rows = store._database.read(_EPOCHS.all)
    assert [(row.id, row.epoch) for row in rows if row.id == store.replica.id] == [store.replica.identity]


async def test_rows_in_parts_are_all_rows_in_order(store: Store) -> None:
    await store.register_all([new_watch(store) for _ in range(7)])
    query = Query(select(watches.c.id).where(watches.c.created_at > bindparam("after")).order_by(watches.c.id), "after")

    def read(connection: Connection) -> list[list[tuple[str]]]:
        return list(query.parts(connection, 3, 0.0))

    parts = store._database.read(read)
    assert [len(part) for part in parts] == [3, 3, 1]
    rows = [row for part in parts for row in part]
    assert rows == sorted(rows)
    assert len(set(rows)) == 7


async def test_a_caller_can_stop_in_the_middle_of_the_parts(store: Store) -> None:
    await store.register_all([new_watch(store) for _ in range(7)])
    query = Query(select(watches.c.id))

    def read(connection: Connection) -> int:
        with suppress(ZeroDivisionError), closing(query.parts(connection, 3)) as parts:
            assert len(next(parts)) == 3
            raise ZeroDivisionError
        with closing(query.parts(connection, 100)) as parts:
            return len(next(parts))

    assert store._database.read(read) == 7


def test_postgres_keeps_the_rest_of_the_rows_until_the_iterator_is_closed(
    postgres_server: PostgresServer, encryption_key: str
) -> None:
    database, _ = open_database(postgres_server.migrated(), [encryption_key])
    cursors = partial(driver.fetch, statement="SELECT name FROM pg_cursors", parameters=())

    def read(connection: Connection) -> None:
        with closing(driver.fetch_parts(connection, "SELECT * FROM generate_series(1, 9)", (), 2)) as parts:
            assert next(parts) == [(1,), (2,)]
            assert cursors(connection) == [("parts",)]
        assert cursors(connection) == []

    database.read(read)
    database.close()


async def test_the_error_of_a_query_in_parts_is_that_of_sqlalchemy(store: Store) -> None:
    def read(connection: Connection) -> None:
        list(driver.fetch_parts(connection, "SELECT nothing FROM nowhere", (), 3))

    with pytest.raises(DBAPIError):
        store._database.read(read)
    assert await register_watch(store)


async def test_errors_are_those_of_sqlalchemy(store: Store) -> None:
    """The class of an error shows a caller whether an item or the database caused the error."""
    registered = await register_watch(store)

    def repeat(connection: Connection) -> None:
        driver.execute(connection, f"INSERT INTO watches SELECT * FROM watches WHERE id = '{registered.watch.id}'")  # noqa: S608

    with pytest.raises(IntegrityError) as raised:
        store._database.transaction(repeat)
    assert raised.value.orig is not None
    assert not raised.value.connection_invalidated
    with pytest.raises(DBAPIError):
        store._database.read(lambda connection: driver.fetch(connection, "SELECT nothing FROM nowhere", ()))
    assert await register_watch(store)


def test_a_lost_connection_is_replaced(postgres_server: PostgresServer, encryption_key: str) -> None:
    database, _ = open_database(postgres_server.migrated(), [encryption_key])
    assert isinstance(database, PostgresDatabase)
    end = "SELECT pg_terminate_backend(pg_backend_pid())"
    with pytest.raises(DBAPIError) as raised, database._writing.connect() as connection:
        driver.fetch(connection, end, ())
    assert raised.value.connection_invalidated
    assert database.read(lambda connection: connection.execute(text("SELECT 1")).scalar_one()) == 1
    database.close()


def test_after_a_loss_a_connection_in_use_stays_in_the_pool_and_is_replaced_later(
    postgres_server: PostgresServer, encryption_key: str
) -> None:
    """A new pool would leave the connection open until the garbage collector frees it."""
    database, _ = open_database(postgres_server.migrated(), [encryption_key])
    pid = partial(driver.fetch, statement="SELECT pg_backend_pid()", parameters=())
    with database._writing.connect() as used:
        [(before,)] = pid(used)
        with pytest.raises(DBAPIError), database._writing.connect() as lost:
            driver.fetch(lost, "SELECT pg_terminate_backend(pg_backend_pid())", ())
        assert isinstance(pool := database._writing.pool, QueuePool)
        assert pool.checkedout() == 1
        assert pid(used) == [(before,)]
    with database._writing.connect() as later:
        assert pid(later) != [(before,)]
    database.close()

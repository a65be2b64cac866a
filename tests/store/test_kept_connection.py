"""The connection that SQLite's writer keeps."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError

from bridge.store.database import SqliteDatabase
from tests.databases import empty_file
from tests.waiting import SAFETY_SECONDS


@pytest.fixture
def database(tmp_path: Path) -> Iterator[SqliteDatabase]:
    """A file with one table."""
    opened = SqliteDatabase(empty_file(tmp_path / "bridge.db"))
    opened.transaction(lambda connection: connection.execute(text("CREATE TABLE found (n INTEGER PRIMARY KEY)")))
    yield opened
    opened.close()


def add(connection: Connection, number: int = 1) -> Any:
    connection.execute(text("INSERT INTO found VALUES (:number)"), {"number": number})
    return connection.connection.dbapi_connection


def stored(database: SqliteDatabase) -> list[int]:
    return list(database.read(lambda connection: connection.execute(text("SELECT n FROM found ORDER BY n")).scalars()))


def test_all_transactions_use_one_connection(database: SqliteDatabase) -> None:
    assert database.transaction(add) is database.transaction(lambda connection: add(connection, 2))
    assert stored(database) == [1, 2]


def test_what_a_failed_transaction_wrote_is_gone_and_the_next_one_succeeds(database: SqliteDatabase) -> None:
    def fail(connection: Connection) -> None:
        add(connection)
        raise KeyError

    for _ in range(2):
        with pytest.raises(KeyError):
            database.transaction(fail)
    with pytest.raises(IntegrityError):
        database.transaction(lambda connection: [add(connection) for _ in range(2)])
    assert stored(database) == []
    database.transaction(add)
    assert stored(database) == [1]


def test_what_sqlite_has_rolled_back_by_itself_is_no_other_error(database: SqliteDatabase) -> None:
    def roll_back(connection: Connection) -> None:
        add(connection)
        connection.execute(text("ROLLBACK"))

    with pytest.raises(OperationalError, match="no transaction is active"):
        database.transaction(roll_back)
    database.transaction(add)
    assert stored(database) == [1]


def test_a_connection_that_is_lost_is_replaced(database: SqliteDatabase) -> None:
    used: list[Any] = []

    def lose(connection: Connection) -> None:
        used.append(add(connection))
        used[-1].close()

    for _ in range(2):
        with pytest.raises(DBAPIError, match="closed database"):
            database.transaction(lose)
        assert stored(database) == []
    last = database.transaction(add)
    assert last not in used
    last.close()
    with pytest.raises(DBAPIError, match="closed database"):
        database.transaction(add)
    database.transaction(lambda connection: add(connection, 2))
    assert stored(database) == [1, 2]


def test_a_connection_in_use_is_closed_after_its_transaction(database: SqliteDatabase) -> None:
    def close(connection: Connection) -> Any:
        database.close()
        return add(connection)

    used = database.transaction(close)
    assert stored(database) == [1]
    with pytest.raises(Exception, match="closed"):
        used.execute("SELECT 1")
    assert database.transaction(lambda connection: add(connection, 2)) is not used


def test_another_thread_waits_for_the_transaction_as_another_process_does(database: SqliteDatabase) -> None:
    began, go = threading.Event(), threading.Event()

    def wait(connection: Connection) -> None:
        add(connection)
        began.set()
        assert go.wait(SAFETY_SECONDS)

    thread = threading.Thread(target=database.transaction, args=(wait,))
    thread.start()
    assert began.wait(SAFETY_SECONDS)
    database._writer._busy_seconds = 0.01
    with pytest.raises(OperationalError, match="in use"):
        database.transaction(add)
    database._writer._busy_seconds = SAFETY_SECONDS
    threading.Timer(0.05, go.set).start()
    database.transaction(lambda connection: add(connection, 2))
    thread.join()
    assert stored(database) == [1, 2]


def test_the_log_is_copied_into_the_file_when_it_has_16_mib_and_then_used_again(database: SqliteDatabase) -> None:
    def add_4_mib(connection: Connection) -> None:
        connection.execute(text("INSERT INTO filled VALUES (zeroblob(4194304))"))

    database.transaction(lambda connection: connection.execute(text("CREATE TABLE filled (bytes BLOB)")))
    log = database.path.with_name(database.path.name + "-wal")
    sizes = []
    for _ in range(12):
        database.transaction(add_4_mib)
        sizes.append(log.stat().st_size >> 20)
    assert sizes[2] >= 12, "it is not copied at each commit"
    assert max(sizes) <= 21
    assert database.path.stat().st_size >> 20 >= 40

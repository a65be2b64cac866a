"""A database that does not answer: callers get an error in time, and nothing is half written."""

import asyncio
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import Connection, text

from bridge.core.errors import StoreUnavailable
from bridge.core.model import WatchState
from bridge.store import database, driver, group_commit
from bridge.store.open import open_store
from bridge.store.reader import READERS
from bridge.store.store import Store
from bridge.telemetry import Metrics
from tests.databases import PostgresServer
from tests.store.builders import new_watch, one_row, register, register_watch, settle
from tests.waiting import SAFETY_SECONDS
from tests.working_time import working_seconds

PROMISED_SECONDS = 5.0  # until a caller gets its 503


async def opened(url: str, key: str) -> Store:
    return await open_store(url, [key], Metrics())


def file_of(url: str) -> Path:
    return Path(url.removeprefix("sqlite:///"))


@contextmanager
def locked(url: str) -> Iterator[None]:
    """Holds the locks that every write needs, as another process would."""
    if url.startswith("sqlite"):
        holder = sqlite3.connect(file_of(url), isolation_level=None)
        holder.execute("BEGIN IMMEDIATE")
        yield
        holder.execute("ROLLBACK")
        holder.close()
    else:
        with psycopg.connect(url) as connection:
            connection.execute("LOCK TABLE replicas, watches, tasks IN ACCESS EXCLUSIVE MODE")
            yield
            connection.rollback()


# --- a database that does not answer ------------------------------------------------------------------------------


def test_the_time_limits_keep_the_promise_of_five_seconds(real_store_limits: None) -> None:
    """A batch may begin 3 s after a call and give up on a lock 2.5 s later; the caller gives up after 4 s."""
    assert database.BUSY_SECONDS < group_commit.CALL_TIMEOUT_SECONDS < PROMISED_SECONDS
    assert group_commit.BEGIN_WITHIN_SECONDS < group_commit.CALL_TIMEOUT_SECONDS


async def test_a_locked_database_is_reported_in_time_and_used_again_afterwards(
    database_url: str, encryption_key: str, short_limits: None
) -> None:
    store = await opened(database_url, encryption_key)
    new = new_watch(store)
    with locked(database_url):
        results = await asyncio.gather(*(store.probe() for _ in range(3)), register(store, new), return_exceptions=True)
        assert [type(result) for result in results] == [StoreUnavailable] * 4
    assert (await register(store, new)).created
    await store.close()


@pytest.mark.long
async def test_a_locked_database_is_reported_within_five_seconds(
    database_url: str, encryption_key: str, real_store_limits: None
) -> None:
    store = await opened(database_url, encryption_key)
    with locked(database_url):
        for _ in range(2):  # the second call comes while the first may still block the writer
            began = working_seconds()
            with pytest.raises(StoreUnavailable):
                await store.probe()
            assert working_seconds() - began < PROMISED_SECONDS
    await store.probe()
    await store.close()


async def test_an_sqlite_file_can_be_read_while_another_writes_to_it(sqlite_url: str, encryption_key: str) -> None:
    store = await opened(sqlite_url, encryption_key)
    registered = await register_watch(store)
    with locked(sqlite_url):
        assert (await store.watch(registered.watch.id, None)).watch.state is WatchState.ACTIVE
    await store.close()


async def test_a_read_behind_blocked_readers_fails_in_time(short_limit_store: Store) -> None:
    store = short_limit_store
    gate = threading.Event()
    busy = [store._reader._runner.submit(partial(gate.wait, SAFETY_SECONDS)) for _ in range(READERS)]
    with pytest.raises(StoreUnavailable, match="does not answer"):
        await store.counts()
    gate.set()
    await asyncio.gather(*busy)
    await store.counts()


async def test_a_missing_file_is_reported_and_used_again_when_it_is_back(sqlite_url: str, encryption_key: str) -> None:
    """SQLite itself would continue to write to the deleted file, and these writes would be lost."""
    store = await opened(sqlite_url, encryption_key)
    registered = await register_watch(store)
    path = file_of(sqlite_url)
    away = path.rename(path.with_name("away.db"))
    with pytest.raises(StoreUnavailable, match="the database file is gone"):
        await register_watch(store)
    with pytest.raises(StoreUnavailable, match="the database file is gone"):
        await store.watch(registered.watch.id, None)
    away.rename(path)
    assert (await settle(store, registered)).task_closed
    await store.close()


def set_writer(store: Store, pragma: str) -> None:
    """Set a pragma of the one connection that writes."""
    assert isinstance(store._database, database.SqliteDatabase)
    driver.execute(store._database._writer.open(), f"PRAGMA {pragma}")


async def test_a_file_that_was_replaced_is_not_written_to(sqlite_url: str, encryption_key: str) -> None:
    store = await opened(sqlite_url, encryption_key)
    path = file_of(sqlite_url)
    path.rename(path.with_name("away.db"))
    path.write_bytes(b"")
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match="was replaced; restart the bridge"):
            await store.probe()
        with pytest.raises(StoreUnavailable, match="was replaced; restart the bridge"):
            await store.counts()
    assert path.read_bytes() == b""
    await store.close()


async def test_a_destroyed_file_is_reported_to_all_waiting_callers(sqlite_url: str, encryption_key: str) -> None:
    """The error concerns the database, not one item, so the calls are not tried again one by one."""
    store = await opened(sqlite_url, encryption_key)
    await register_watch(store)
    store._database.close()
    path = file_of(sqlite_url)
    for beside in ("-wal", "-shm"):
        path.with_name(path.name + beside).unlink(missing_ok=True)
    with path.open("r+b") as file:
        file.write(b"noise" * 1000)
    results = await asyncio.gather(*(store.probe() for _ in range(3)), return_exceptions=True)
    assert {str(result) for result in results} == {"the database reports an error: file is not a database"}
    await store.close()


async def test_a_read_only_sqlite_file_is_reported_and_still_read(sqlite_url: str, encryption_key: str) -> None:
    store = await opened(sqlite_url, encryption_key)
    registered = await register_watch(store)
    set_writer(store, "query_only = ON")
    with pytest.raises(StoreUnavailable, match="attempt to write a readonly database"):
        await store.probe()
    assert (await store.watch(registered.watch.id, None)).watch.state is WatchState.ACTIVE
    set_writer(store, "query_only = OFF")
    await store.probe()
    await store.close()


async def test_a_full_disk_is_reported_loses_nothing_and_writes_succeed_afterwards(
    sqlite_url: str, encryption_key: str
) -> None:
    store = await opened(sqlite_url, encryption_key)
    pages = one_row(store, "PRAGMA page_count")
    set_writer(store, f"max_page_count = {pages + 10}")
    stored: list[str] = []
    full: StoreUnavailable | None = None
    while full is None:
        try:
            stored += [one.watch.id for one in await asyncio.gather(*(register_watch(store) for _ in range(20)))]
        except StoreUnavailable as error:
            full = error
    assert "full" in str(full)
    assert one_row(store, "SELECT count(*) FROM watches") == len(stored)
    set_writer(store, "max_page_count = 1000000")
    assert (await register_watch(store)).created
    await store.close()


async def test_a_restarted_server_causes_no_error(postgres_server: PostgresServer, encryption_key: str) -> None:
    url = postgres_server.migrated()
    name = url.rpartition("/")[2]
    end = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"  # noqa: S608
    store = await opened(url, encryption_key)
    registered = await register_watch(store)
    await store.counts()
    postgres_server.execute(end)
    assert (await register_watch(store)).created
    postgres_server.execute(end)
    assert (await store.watch(registered.watch.id, None)).watch.state is WatchState.ACTIVE
    await store.close()


async def test_a_read_only_server_is_reported_and_writes_succeed_afterwards(
    postgres_server: PostgresServer, encryption_key: str
) -> None:
    url = postgres_server.migrated()
    name = url.rpartition("/")[2]
    store = await opened(url, encryption_key)
    for read_only in ("on", "off"):
        postgres_server.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = {read_only}")
        postgres_server.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")  # noqa: S608
        if read_only == "on":
            with pytest.raises(StoreUnavailable, match="read-only transaction"):
                await store.probe()
        else:
            await store.probe()
        await store.counts()
    await store.close()


async def test_a_statement_that_takes_too_long_is_reported(
    postgres_server: PostgresServer, encryption_key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "STATEMENT_SECONDS", 0.2)
    store = await opened(postgres_server.migrated(), encryption_key)

    def slow(connection: Connection) -> None:
        connection.execute(text("SELECT pg_sleep(20)"))

    with pytest.raises(StoreUnavailable, match="statement timeout"):
        await store._reader.run(slow)
    await store.close()


# --- closing ------------------------------------------------------------------------------------------------------


async def test_closing_finishes_waiting_calls_and_refuses_new_ones(database_url: str, encryption_key: str) -> None:
    store = await opened(database_url, encryption_key)
    new_watches = [new_watch(store) for _ in range(5)]
    waiting = [asyncio.create_task(register(store, new)) for new in new_watches]
    await asyncio.sleep(0)
    await store.close()
    assert all(one.created for one in await asyncio.gather(*waiting))
    with pytest.raises(StoreUnavailable, match="stopping"):
        await store.probe()
    with pytest.raises(StoreUnavailable, match="stopping"):
        await store.counts()
    again = await opened(database_url, encryption_key)
    assert one_row(again, "SELECT count(*) FROM watches") == 5
    await again.close()

"""Group commit, and what happens when the database does not: an answer in time, nothing half done, and healing."""

import asyncio
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import Connection, event, text

from bridge.core.errors import BridgeError, NotFound, StoreUnavailable
from bridge.core.model import WatchState
from bridge.store import database, group_commit, store
from bridge.store.open import open_store
from bridge.store.store import Store
from bridge.telemetry import Metrics
from tests.databases import PostgresServer
from tests.store.builders import new_watch, one_row, settled, watched

PROMISED_SECONDS = 5.0  # until a caller has its 503
SAFETY_SECONDS = 8.0


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same, in a tenth of the time; that the whole times add up is a test of its own."""
    monkeypatch.setattr(database, "BUSY_SECONDS", database.BUSY_SECONDS / 10)
    for module in (group_commit, store):
        monkeypatch.setattr(module, "CALL_TIMEOUT_SECONDS", group_commit.CALL_TIMEOUT_SECONDS / 10)
    monkeypatch.setattr(group_commit, "BEGIN_WITHIN_SECONDS", group_commit.BEGIN_WITHIN_SECONDS / 10)


async def opened(url: str, key: str) -> Store:
    return await open_store(url, [key], Metrics())


def file_of(url: str) -> Path:
    return Path(url.removeprefix("sqlite:///"))


@contextmanager
def locked(url: str) -> Iterator[None]:
    """Another process holds what every write needs."""
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


class Gate:
    """A unit that keeps the writer's thread busy until it is let go."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.go = threading.Event()

    def __call__(self, connection: Connection, works: Sequence[object]) -> Sequence[BridgeError | None]:
        self.entered.set()
        assert self.go.wait(SAFETY_SECONDS)
        return [None] * len(works)

    __name__ = "gate"

    async def shut(self, store: Store) -> "asyncio.Task[None]":
        """Keep the writer busy from now on."""
        held = asyncio.create_task(store._writer.do(self, None))
        assert await asyncio.to_thread(self.entered.wait, SAFETY_SECONDS)
        return held


# --- one commit for many ------------------------------------------------------------------------------------------


async def test_what_waits_shares_one_transaction(store: Store) -> None:
    gate = Gate()
    commits: list[Connection] = []
    held = await gate.shut(store)
    waiting = [asyncio.create_task(watched(store)) for _ in range(20)]
    await asyncio.sleep(0)

    def note(connection: Connection) -> None:
        commits.append(connection)

    event.listen(store._database._writing, "commit", note)
    gate.go.set()
    await held
    assert all(one.created for one in await asyncio.gather(*waiting))
    event.remove(store._database._writing, "commit", note)
    assert len(commits) == 2  # the gate's own, and theirs


async def test_a_bridge_error_is_its_callers_alone(store: Store) -> None:
    registered = await watched(store)
    results = await asyncio.gather(
        store.cancel("wat_none", None), store.cancel(registered.watch.id, None), return_exceptions=True
    )
    assert isinstance(results[0], NotFound)
    assert not isinstance(results[1], BaseException)


async def test_a_unit_that_fails_is_tried_alone_and_its_neighbours_are_done(store: Store) -> None:
    def break_some(connection: Connection, works: Sequence[str]) -> Sequence[str | BridgeError]:
        connection.execute(text("UPDATE replicas SET probed = 7"))
        if "bad" in works:
            raise ZeroDivisionError
        return works

    gate = Gate()
    held = await gate.shut(store)
    waiting = [asyncio.create_task(store._writer.do(break_some, given)) for given in ("one", "bad", "two")]
    await asyncio.sleep(0)
    gate.go.set()
    await held
    one, bad, two = await asyncio.gather(*waiting, return_exceptions=True)
    assert (one, two) == ("one", "two")
    assert isinstance(bad, StoreUnavailable)
    assert "ZeroDivisionError" in str(bad)


async def test_a_unit_that_fails_alone_leaves_nothing_behind(store: Store) -> None:
    def write_and_break(connection: Connection, works: Sequence[None]) -> Sequence[BridgeError | None]:
        connection.execute(text("UPDATE replicas SET probed = 7"))
        raise ZeroDivisionError

    with pytest.raises(StoreUnavailable):
        await store._writer.do(write_and_break, None)
    assert one_row(store, "SELECT probed FROM replicas") == 0


async def test_work_whose_caller_left_before_its_turn_is_not_done(store: Store) -> None:
    gate = Gate()
    held = await gate.shut(store)
    new = new_watch(store)
    leaving = asyncio.create_task(store.register(new))
    await asyncio.sleep(0)
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    gate.go.set()
    await held
    await store.probe()
    with pytest.raises(NotFound):
        await store.watch(new.watch.id, None)


async def test_a_question_whose_caller_left_before_its_turn_is_not_asked(store: Store) -> None:
    gate = threading.Event()
    busy = [store._readers.submit(gate.wait, SAFETY_SECONDS) for _ in range(store._readers._max_workers)]
    asked = threading.Event()

    def question(_connection: Connection) -> None:
        asked.set()

    leaving = asyncio.create_task(store._read(question))
    await asyncio.sleep(0)
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    gate.set()
    await asyncio.gather(*map(asyncio.wrap_future, busy))
    await store.counts()
    assert not asked.is_set()


async def test_work_that_ends_after_its_caller_was_told_no_hands_its_task_over(
    store: Store, impatient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stored but unheard of, its watch would wait for the next start to be polled."""
    late: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    monkeypatch.setattr(store, "on_late_task", late.set_result)
    began, go = threading.Event(), threading.Event()

    @event.listens_for(store._database._writing, "commit", once=True)
    def slow(_connection: object) -> None:
        began.set()
        assert go.wait(SAFETY_SECONDS)

    new = new_watch(store)
    with pytest.raises(StoreUnavailable, match="does not answer"):
        await store.register(new)
    assert began.is_set()
    go.set()
    async with asyncio.timeout(SAFETY_SECONDS):
        assert (await late).id == new.task
    assert one_row(store, "SELECT id FROM watches") == new.watch.id


# --- a database that does not ------------------------------------------------------------------------------------


def test_the_times_add_up_to_what_is_promised() -> None:
    """A batch may begin as late as 3 s after a caller came and give up on a lock 2.5 s later; the caller does at 4."""
    assert database.BUSY_SECONDS < group_commit.CALL_TIMEOUT_SECONDS < PROMISED_SECONDS
    assert group_commit.BEGIN_WITHIN_SECONDS < group_commit.CALL_TIMEOUT_SECONDS


async def test_a_lock_that_another_holds_is_told_in_time_and_heals(
    database_url: str, encryption_key: str, impatient: None
) -> None:
    store = await opened(database_url, encryption_key)
    new = new_watch(store)
    with locked(database_url):
        results = await asyncio.gather(*(store.probe() for _ in range(3)), store.register(new), return_exceptions=True)
        assert [type(result) for result in results] == [StoreUnavailable] * 4
    assert (await store.register(new)).created
    await store.close()


@pytest.mark.long
async def test_a_locked_database_is_told_within_five_seconds(database_url: str, encryption_key: str) -> None:
    store = await opened(database_url, encryption_key)
    with locked(database_url):
        for _ in range(2):  # the second call comes while the first may still hold the writer
            began = time.monotonic()
            with pytest.raises(StoreUnavailable):
                await store.probe()
            assert time.monotonic() - began < PROMISED_SECONDS
    await store.probe()
    await store.close()


async def test_an_sqlite_file_can_be_read_while_another_writes_to_it(sqlite_url: str, encryption_key: str) -> None:
    store = await opened(sqlite_url, encryption_key)
    registered = await watched(store)
    with locked(sqlite_url):
        assert (await store.watch(registered.watch.id, None)).watch.state is WatchState.ACTIVE
    await store.close()


async def test_readers_that_are_all_stuck_are_told_in_time(store: Store, impatient: None) -> None:
    gate = threading.Event()
    busy = [store._readers.submit(gate.wait, SAFETY_SECONDS) for _ in range(store._readers._max_workers)]
    with pytest.raises(StoreUnavailable, match="does not answer"):
        await store.counts()
    gate.set()
    await asyncio.gather(*map(asyncio.wrap_future, busy))
    await store.counts()


async def test_a_file_that_is_gone_is_missed_and_welcome_back(sqlite_url: str, encryption_key: str) -> None:
    """SQLite itself would go on writing to a file without a name, and lose it all at the end."""
    store = await opened(sqlite_url, encryption_key)
    registered = await watched(store)
    path = file_of(sqlite_url)
    away = path.rename(path.with_name("away.db"))
    with pytest.raises(StoreUnavailable, match="the database file is gone"):
        await watched(store)
    with pytest.raises(StoreUnavailable, match="the database file is gone"):
        await store.watch(registered.watch.id, None)
    away.rename(path)
    assert (await settled(store, registered)).task_closed
    await store.close()


async def test_a_file_that_was_replaced_is_not_written_to(sqlite_url: str, encryption_key: str) -> None:
    store = await opened(sqlite_url, encryption_key)
    path = file_of(sqlite_url)
    path.rename(path.with_name("away.db"))
    path.write_bytes(b"")
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match="was replaced; start the bridge anew"):
            await store.probe()
        with pytest.raises(StoreUnavailable, match="was replaced; start the bridge anew"):
            await store.counts()
    assert path.read_bytes() == b""
    await store.close()


async def test_a_file_that_turns_to_noise_is_told_to_all_who_wait(sqlite_url: str, encryption_key: str) -> None:
    """The database's trouble, not one row's: it is not tried again for each of them."""
    store = await opened(sqlite_url, encryption_key)
    await watched(store)
    for engine in (store._database._writing, store._database._reading):
        engine.dispose()
    path = file_of(sqlite_url)
    for beside in ("-wal", "-shm"):
        path.with_name(path.name + beside).unlink(missing_ok=True)
    with path.open("r+b") as file:
        file.write(b"noise" * 1000)
    results = await asyncio.gather(*(store.probe() for _ in range(3)), return_exceptions=True)
    assert {str(result) for result in results} == {"the database refuses: file is not a database"}
    await store.close()


async def test_a_read_only_sqlite_file_is_told_and_still_read(sqlite_url: str, encryption_key: str) -> None:
    store = await opened(sqlite_url, encryption_key)
    registered = await watched(store)
    writing = store._database._writing.raw_connection()
    writing.execute("PRAGMA query_only = ON")  # the pool's one connection, which the writer uses
    writing.close()
    with pytest.raises(StoreUnavailable, match="attempt to write a readonly database"):
        await store.probe()
    assert (await store.watch(registered.watch.id, None)).watch.state is WatchState.ACTIVE
    writing = store._database._writing.raw_connection()
    writing.execute("PRAGMA query_only = OFF")
    writing.close()
    await store.probe()
    await store.close()


async def test_a_full_disk_is_told_loses_nothing_and_heals(sqlite_url: str, encryption_key: str) -> None:
    store = await opened(sqlite_url, encryption_key)
    with store._database._writing.connect() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages + 10}")
    stored: list[str] = []
    full: StoreUnavailable | None = None
    while full is None:
        try:
            stored += [one.watch.id for one in await asyncio.gather(*(watched(store) for _ in range(20)))]
        except StoreUnavailable as error:
            full = error
    assert "full" in str(full)
    assert one_row(store, "SELECT count(*) FROM watches") == len(stored)
    with store._database._writing.connect() as connection:
        connection.exec_driver_sql("PRAGMA max_page_count = 1000000")
    assert (await watched(store)).created
    await store.close()


async def test_a_server_that_was_restarted_is_not_noticed(postgres_server: PostgresServer, encryption_key: str) -> None:
    url = postgres_server.migrated()
    name = url.rpartition("/")[2]
    end = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"  # noqa: S608
    store = await opened(url, encryption_key)
    registered = await watched(store)
    await store.counts()
    postgres_server.execute(end)
    assert (await watched(store)).created
    postgres_server.execute(end)
    assert (await store.watch(registered.watch.id, None)).watch.state is WatchState.ACTIVE
    await store.close()


async def test_a_server_that_turns_read_only_is_told_and_heals(
    postgres_server: PostgresServer, encryption_key: str
) -> None:
    url = postgres_server.migrated()
    name = url.rpartition("/")[2]
    store = await opened(url, encryption_key)
    for answer in ("on", "off"):
        postgres_server.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = {answer}")
        postgres_server.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")  # noqa: S608
        if answer == "on":
            with pytest.raises(StoreUnavailable, match="read-only transaction"):
                await store.probe()
        else:
            await store.probe()
        await store.counts()
    await store.close()


async def test_a_statement_that_takes_too_long_is_told(
    postgres_server: PostgresServer, encryption_key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "STATEMENT_SECONDS", 0.2)
    store = await opened(postgres_server.migrated(), encryption_key)

    def slow(connection: Connection) -> None:
        connection.execute(text("SELECT pg_sleep(20)"))

    with pytest.raises(StoreUnavailable, match="statement timeout"):
        await store._read(slow)
    await store.close()


# --- closing ------------------------------------------------------------------------------------------------------


async def test_closing_finishes_what_waits_and_takes_nothing_new(database_url: str, encryption_key: str) -> None:
    store = await opened(database_url, encryption_key)
    news = [new_watch(store) for _ in range(5)]
    waiting = [asyncio.create_task(store.register(new)) for new in news]
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

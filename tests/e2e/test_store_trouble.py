"""Tests that nothing is lost while the database is locked, read-only, deleted or full, or refuses one row.

The bridge then answers registrations with 503 within 5 s and never with a 2xx, and `/readyz` says why. When the
database works again, every watch ends and every attempt is recorded. No callback is sent twice in the meantime.
"""

import resource
import signal
import sqlite3
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import psycopg
import pytest

from bridge.store.schema import metadata
from tests.e2e.bridges import Bridge, Process, change, check_all_delivered, serving
from tests.e2e.harness import Environment, environment
from tests.e2e.receiver import accept, answer, hold

LIMIT_SECONDS = 5.0
REAL_LIMITS = {"store_limits": 1}  # the store's time limits are those of a real service


@pytest.fixture
async def env(sqlite_url: str) -> AsyncIterator[Environment]:
    """amux, a receiver and a SQLite file, because most ways to break a database need a file."""
    async with environment(sqlite_url) as env:
        yield env


@pytest.fixture
async def either_env(either_url: str) -> AsyncIterator[Environment]:
    async with environment(either_url) as env:
        yield env


def path_of(database_url: str) -> Path:
    return Path(database_url.removeprefix("sqlite:///"))


# --- ways to break a database -------------------------------------------------------------------------------------


def lock_all_tables(connection: "psycopg.Connection[Any]") -> None:
    """Locks all tables. Repeats this after a deadlock: it and a transaction of the bridge may wait for each other."""
    locked = False
    while not locked:
        try:
            connection.execute(f"LOCK TABLE {', '.join(metadata.tables)}".encode())
            locked = True
        except psycopg.errors.DeadlockDetected:
            connection.rollback()


@contextmanager
def locked(database_url: str, _process: Process) -> Iterator[None]:
    """Holds a write lock of the database outside the bridge, as a failed backup or an open shell may do."""
    if not database_url.startswith("sqlite"):
        with psycopg.connect(database_url) as connection:
            lock_all_tables(connection)
            yield
        return
    with closing(sqlite3.connect(path_of(database_url), timeout=20, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        yield
        other.execute("ROLLBACK")


@contextmanager
def read_only(database_url: str, _process: Process) -> Iterator[None]:
    flag = path_of(database_url).with_name("read-only")
    flag.touch()
    yield
    flag.unlink()


@contextmanager
def gone(database_url: str, _process: Process) -> Iterator[None]:
    database = path_of(database_url)
    moved = database.with_name("away.db")
    database.rename(moved)
    yield
    moved.rename(database)


@contextmanager
def refusing_rows(database_url: str, table: str, column: str, value: str) -> Iterator[None]:
    """Makes the database refuse each new row with this value, as a constraint does."""
    name, when = f"refuse_{table}", f"WHEN (new.{column} = '{value}')"
    if database_url.startswith("sqlite"):
        change(
            database_url,
            f"CREATE TRIGGER {name} BEFORE INSERT ON {table} {when} BEGIN SELECT RAISE(ABORT, 'no'); END",
        )
        yield
        change(database_url, f"DROP TRIGGER {name}")
        return
    change(
        database_url,
        f"CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE check_violation; END'",
    )
    change(
        database_url, f"CREATE TRIGGER {name} BEFORE INSERT ON {table} FOR EACH ROW {when} EXECUTE FUNCTION {name}()"
    )
    try:
        yield
    finally:  # other tests use this database afterwards
        change(database_url, f"DROP FUNCTION {name} CASCADE")


@contextmanager
def no_room(_database_url: str, process: Process) -> Iterator[None]:
    """Limits the size of the process's files to 1 byte, so its writes fail as on a full disk."""
    before = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (1, before[1]))
    yield
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, before)


@contextmanager
def full_disk(database_url: str, _process: Process) -> Iterator[None]:
    filler = path_of(database_url).with_name("filler")
    with filler.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
        while True:
            file.write(b"\0" * 4096)
    yield
    filler.unlink()


BreakDatabase: TypeAlias = Callable[[str, Process], AbstractContextManager[None]]


@dataclass
class BusyBridge:
    """A bridge with unfinished watches."""

    process: Process
    bridge: Bridge
    watches: list[str]


@asynccontextmanager
async def busy_bridge(env: Environment) -> AsyncIterator[BusyBridge]:
    """Runs a bridge that polls a running task and has a delivery that waits for its retry."""
    on_file = env.database_url.startswith("sqlite")
    flag = {"read_only": str(path_of(env.database_url).with_name("read-only"))} if on_file else {}
    hooks = {**REAL_LIMITS, **flag}
    env.receiver.responder = answer(500)
    async with serving(env.database_url, env.amux_url, hooks) as (process, bridge):
        running = env.running_task()
        watches = [
            await bridge.register(env.finished_task(), env.receiver.url + "/retried"),
            await bridge.register(running, env.receiver.url + "/running"),
        ]
        await env.receiver.until(lambda: bool(env.receiver.calls))
        await env.wait_for_polls(running)
        yield BusyBridge(process, bridge, watches)
        process.signal(signal.SIGTERM)
        assert await process.wait_for_exit() == 0
        process.check_no_exceptions()


async def check_refused(bridge: Bridge, env: Environment) -> None:
    """Checks that a registration gets a 503 within 5 s, with the headers and the code of the API's contract.

    The refused registration may still be committed, if the lock that it waits for is released at that moment. Its task
    never ends, so it adds no callback to those that a test counts.
    """
    body = {"task_id": env.endless_task(), "callback_url": env.receiver.url}
    answer = await bridge.ask("POST", "/watch", json=body)
    assert (answer.status, answer.json["code"]) == (503, "store_unavailable"), answer
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert int(answer.headers["Retry-After"]) > 0
    assert answer.seconds < LIMIT_SECONDS


async def break_and_repair(env: Environment, break_database: BreakDatabase, why: str) -> None:
    async with busy_bridge(env) as running:
        with break_database(env.database_url, running.process):
            await check_refused(running.bridge, env)
            unready = await running.bridge.unready(why)
            assert unready.json["checks"]["store"] == "failing"
            env.clock.now += 11  # the task completes, and the bridge cannot write that
            env.receiver.responder = accept
            await check_refused(running.bridge, env)
        await env.receiver.wait_for_events(running.watches)
        new = await running.bridge.register(env.finished_task(), env.receiver.url)
        await env.receiver.wait_for_events([new])
        await running.bridge.until("GET", "/readyz", lambda answer: answer.status == 200)
    check_all_delivered(env.database_url, [*running.watches, new])
    env.receiver.check_copies()
    if env.database_url.startswith("sqlite"):
        with closing(sqlite3.connect(path_of(env.database_url))) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


BROKEN_DATABASES = [
    (locked, "not writable"),
    pytest.param(read_only, "readonly database", marks=pytest.mark.long),
    (gone, "the database file is gone"),
    pytest.param(no_room, "the database reports an error", marks=pytest.mark.long),
]


@pytest.mark.parametrize(("break_database", "why"), BROKEN_DATABASES)
async def test_a_broken_database_accepts_nothing_and_loses_nothing(
    env: Environment, break_database: BreakDatabase, why: str
) -> None:
    await break_and_repair(env, break_database, why)


@pytest.mark.long
async def test_a_locked_postgresql_accepts_nothing_and_loses_nothing(postgres_url: str) -> None:
    async with environment(postgres_url) as env:
        await break_and_repair(env, locked, "not writable")


@pytest.mark.long
async def test_a_full_disk_accepts_nothing_and_loses_nothing(sqlite_url: str, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["/bin/mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(disk)], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("mounting a small disk needs a privilege that this process has not")
    try:
        source = path_of(sqlite_url)
        (disk / source.name).write_bytes(source.read_bytes())
        async with environment(f"sqlite:///{disk / source.name}") as env:
            await break_and_repair(env, full_disk, "full")
    finally:
        subprocess.run(["/bin/umount", str(disk)], check=True)


async def test_a_deleted_database_file_is_not_written_any_more(env: Environment) -> None:
    async with serving(env.database_url, env.amux_url, REAL_LIMITS) as (process, bridge):
        await bridge.register(env.endless_task(), env.receiver.url)
        path_of(env.database_url).unlink()
        await check_refused(bridge, env)
        await bridge.unready("gone")
        assert (await bridge.ask("GET", "/healthz")).status == 200
        process.signal(signal.SIGTERM)
        assert await process.wait_for_exit() == 0


# --- results that cannot be written -------------------------------------------------------------------------------


async def test_a_delivery_whose_result_cannot_be_written_is_not_sent_again(either_env: Environment) -> None:
    env = either_env
    env.receiver.responder = hold
    async with serving(env.database_url, env.amux_url, REAL_LIMITS) as (process, bridge):
        watch = await bridge.register(env.finished_task(), env.receiver.url)
        await env.receiver.until(lambda: bool(env.receiver.arrived))
        with locked(env.database_url, process):
            env.receiver.released.set()
            await process.wait_for_log("attempts_unwritten")
            await check_refused(bridge, env)
        await process.wait_for_log("delivered")
        assert len(env.receiver.arrived) == 1
        process.signal(signal.SIGTERM)
        assert await process.wait_for_exit() == 0
    check_all_delivered(env.database_url, [watch])
    assert len(env.receiver.arrived) == 1


@pytest.mark.long
async def test_it_is_not_sent_again_even_if_its_claim_expires_meanwhile(env: Environment) -> None:
    env.receiver.responder = hold
    claim_expires_after = 5 + 15 + 2  # the attempt's timeout, the claim's margin, and a reserve
    async with serving(env.database_url, env.amux_url, REAL_LIMITS, delivery_timeout_seconds="5") as (process, bridge):
        watch = await bridge.register(env.finished_task(), env.receiver.url)
        await env.receiver.until(lambda: bool(env.receiver.arrived))
        with locked(env.database_url, process):
            env.receiver.released.set()
            until = time.monotonic() + claim_expires_after
            while time.monotonic() < until:
                await check_refused(bridge, env)
        await process.wait_for_log("delivered")
        process.signal(signal.SIGTERM)
        assert await process.wait_for_exit() == 0
    check_all_delivered(env.database_url, [watch])
    assert len(env.receiver.arrived) == 1


async def test_a_row_that_the_database_refuses_does_not_delay_others(either_env: Environment) -> None:
    """A trigger refuses one row. The other rows of the same commit must still be written."""
    env = either_env
    env.receiver.responder = hold
    async with serving(env.database_url, env.amux_url, REAL_LIMITS) as (process, bridge):
        bad_end, bad_attempt = env.running_task(), env.finished_task()
        unsettled = await bridge.register(bad_end, env.receiver.url)
        unrecorded = await bridge.register(bad_attempt, env.receiver.url)
        await env.receiver.until(lambda: len(env.receiver.arrived) == 1)
        with (
            refusing_rows(env.database_url, "events", "watch_id", unsettled),
            refusing_rows(env.database_url, "attempts", "delivery_id", env.receiver.arrived[0].id),
        ):
            env.receiver.responder = accept
            env.receiver.released.set()
            env.clock.now += 11
            others = await bridge.register_many([env.finished_task() for _ in range(5)], env.receiver.url)
            await env.receiver.wait_for_events(others)
            await process.wait_for_log("delivered", times=5)
            await process.wait_for_log("write_failed", operation="settle")
            await process.wait_for_log("write_failed", operation="record_attempts")
            assert len(env.receiver.arrived) == 6
        await env.receiver.wait_for_events([unsettled])
        await process.wait_for_log("delivered", times=7)
        process.signal(signal.SIGTERM)
        assert await process.wait_for_exit() == 0
    check_all_delivered(env.database_url, [unsettled, unrecorded, *others])
    assert len(env.receiver.arrived) == 7

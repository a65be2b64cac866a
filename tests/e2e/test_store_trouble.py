"""Attacks "nothing is lost" while the database is in trouble: locked, read-only, gone, full, or against one row.

A registration is then answered 503 within 5 s and never with a 2xx, `/readyz` says why, and once it heals every watch
ends and every record is written, without a callback having been sent again and again meanwhile.
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
from typing import TypeAlias

import psycopg
import pytest

from bridge.store.schema import metadata
from tests.e2e.bridges import Bridge, Process, change, check_all_delivered, serving
from tests.e2e.harness import Environment, environment
from tests.e2e.receiver import accept, answer, hold

LIMIT_SECONDS = 5.0


@pytest.fixture
async def env(sqlite_url: str) -> AsyncIterator[Environment]:
    """Most ways to break a database need a file."""
    async with environment(sqlite_url) as env:
        yield env


@pytest.fixture
async def either_env(either_url: str) -> AsyncIterator[Environment]:
    async with environment(either_url) as env:
        yield env


def file_of(database_url: str) -> Path:
    return Path(database_url.removeprefix("sqlite:///"))


# --- ways to break it ---------------------------------------------------------------------------------------------


@contextmanager
def locked(database_url: str, _process: Process) -> Iterator[None]:
    """Another process writes and does not end: a backup gone wrong, somebody's open shell."""
    if not database_url.startswith("sqlite"):
        with psycopg.connect(database_url) as connection:
            connection.execute(f"LOCK TABLE {', '.join(metadata.tables)}".encode())
            yield
        return
    with closing(sqlite3.connect(file_of(database_url), timeout=20, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        yield
        other.execute("ROLLBACK")


@contextmanager
def read_only(database_url: str, _process: Process) -> Iterator[None]:
    flag = file_of(database_url).with_name("read-only")
    flag.touch()
    yield
    flag.unlink()


@contextmanager
def gone(database_url: str, _process: Process) -> Iterator[None]:
    database = file_of(database_url)
    away = database.with_name("away.db")
    database.rename(away)
    yield
    away.rename(database)


@contextmanager
def refusing(database_url: str, table: str, column: str, value: str) -> Iterator[None]:
    """Each row with this value is refused, as a constraint would."""
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
    finally:  # others use this database after us
        change(database_url, f"DROP FUNCTION {name} CASCADE")


@contextmanager
def no_room(_database_url: str, process: Process) -> Iterator[None]:
    """No file may grow: what a full disk does to a process, without a disk of our own."""
    before = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (1, before[1]))
    yield
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, before)


@contextmanager
def full_disk(database_url: str, _process: Process) -> Iterator[None]:
    filler = file_of(database_url).with_name("filler")
    with filler.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
        while True:
            file.write(b"\0" * 4096)
    yield
    filler.unlink()


Breaking: TypeAlias = Callable[[str, Process], AbstractContextManager[None]]


@dataclass
class Broken:
    """A bridge in trouble, with what it had to do before."""

    process: Process
    bridge: Bridge
    watches: list[str]


@asynccontextmanager
async def busy(env: Environment) -> AsyncIterator[Broken]:
    """A bridge with a running task and a delivery that waits for its retry."""
    on_file = env.database_url.startswith("sqlite")
    flag = {"read_only": str(file_of(env.database_url).with_name("read-only"))} if on_file else {}
    env.receiver.responder = answer(500)
    async with serving(env.database_url, env.amux_url, flag) as (process, bridge):
        running = env.running_task()
        watches = [
            await bridge.register(env.finished_task(), env.receiver.url + "/retried"),
            await bridge.register(running, env.receiver.url + "/running"),
        ]
        await env.receiver.until(lambda: bool(env.receiver.calls))
        await env.wait_for_polls(running)
        yield Broken(process, bridge, watches)
        process.signal(signal.SIGTERM)
        assert await process.wait_for_exit() == 0
        process.check_no_exceptions()


async def refused(bridge: Bridge, env: Environment) -> None:
    """A registration is refused as the contract says."""
    body = {"task_id": env.finished_task(), "callback_url": env.receiver.url}
    told = await bridge.ask("POST", "/watch", json=body)
    assert (told.status, told.json["code"]) == (503, "store_unavailable"), told
    assert told.headers["Content-Type"] == "application/problem+json"
    assert int(told.headers["Retry-After"]) > 0
    assert told.seconds < LIMIT_SECONDS


async def break_and_heal(env: Environment, breaking: Breaking, why: str) -> None:
    async with busy(env) as broken:
        with breaking(env.database_url, broken.process):
            await refused(broken.bridge, env)
            unready = await broken.bridge.until("GET", "/readyz", lambda told: told.status == 503)
            assert why in " ".join(unready.json["reasons"]), unready.json
            assert unready.json["checks"]["store"] == "failing"
            env.clock.now += 11  # the video is ready, and that cannot be written
            env.receiver.responder = accept
            await refused(broken.bridge, env)
        await env.receiver.wait_for_events(broken.watches)
        new = await broken.bridge.register(env.finished_task(), env.receiver.url)
        await env.receiver.wait_for_events([new])
        await broken.bridge.until("GET", "/readyz", lambda told: told.status == 200)
    check_all_delivered(env.database_url, [*broken.watches, new])
    env.receiver.check_copies()
    if env.database_url.startswith("sqlite"):
        with closing(sqlite3.connect(file_of(env.database_url))) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


TROUBLES = [
    (locked, "not writable"),
    pytest.param(read_only, "readonly database", marks=pytest.mark.long),
    (gone, "the database file is gone"),
    pytest.param(no_room, "the database refuses", marks=pytest.mark.long),
]


@pytest.mark.parametrize(("breaking", "why"), TROUBLES)
async def test_a_database_in_trouble_takes_nothing_and_loses_nothing(
    env: Environment, breaking: Breaking, why: str
) -> None:
    await break_and_heal(env, breaking, why)


@pytest.mark.long
async def test_postgresql_locked_by_another_takes_nothing_and_loses_nothing(postgres_url: str) -> None:
    async with environment(postgres_url) as env:
        await break_and_heal(env, locked, "not writable")


@pytest.mark.long
async def test_a_full_disk_takes_nothing_and_loses_nothing(sqlite_url: str, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["/bin/mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(disk)], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("a disk of its own needs the right to mount one")
    try:
        source = file_of(sqlite_url)
        (disk / source.name).write_bytes(source.read_bytes())
        async with environment(f"sqlite:///{disk / source.name}") as env:
            await break_and_heal(env, full_disk, "full")
    finally:
        subprocess.run(["/bin/umount", str(disk)], check=True)


async def test_a_database_that_was_deleted_is_not_written_to_any_more(env: Environment) -> None:
    async with serving(env.database_url, env.amux_url) as (process, bridge):
        await bridge.register(env.endless_task(), env.receiver.url)
        file_of(env.database_url).unlink()
        await refused(bridge, env)
        unready = await bridge.until("GET", "/readyz", lambda told: told.status == 503)
        assert "gone" in " ".join(unready.json["reasons"])
        assert (await bridge.ask("GET", "/healthz")).status == 200
        process.signal(signal.SIGTERM)
        assert await process.wait_for_exit() == 0


# --- records that cannot be written -------------------------------------------------------------------------------


async def test_a_result_that_cannot_be_written_is_kept_and_not_sent_again(either_env: Environment) -> None:
    env = either_env
    env.receiver.responder = hold
    async with serving(env.database_url, env.amux_url) as (process, bridge):
        watch = await bridge.register(env.finished_task(), env.receiver.url)
        await env.receiver.until(lambda: bool(env.receiver.arrived))
        with locked(env.database_url, process):
            env.receiver.released.set()
            await process.wait_for_log("attempts_unwritten")
            await refused(bridge, env)
        await process.wait_for_log("delivered")
        assert len(env.receiver.arrived) == 1
        process.signal(signal.SIGTERM)
        assert await process.wait_for_exit() == 0
    check_all_delivered(env.database_url, [watch])
    assert len(env.receiver.arrived) == 1


@pytest.mark.long
async def test_nor_is_it_sent_again_when_its_claim_ends_meanwhile(env: Environment) -> None:
    env.receiver.responder = hold
    claim_ends_after = 5 + 15 + 2  # the attempt, the claim's margin, and some
    async with serving(env.database_url, env.amux_url) as (process, bridge):
        watch = await bridge.register(env.finished_task(), env.receiver.url)
        await env.receiver.until(lambda: bool(env.receiver.arrived))
        with locked(env.database_url, process):
            env.receiver.released.set()
            until = time.monotonic() + claim_ends_after
            while time.monotonic() < until:
                await refused(bridge, env)
        await process.wait_for_log("delivered")
        process.signal(signal.SIGTERM)
        assert await process.wait_for_exit() == 0
    check_all_delivered(env.database_url, [watch])
    assert len(env.receiver.arrived) == 1


async def test_one_row_that_the_database_refuses_holds_up_no_other(either_env: Environment) -> None:
    """A trigger stands for whatever makes one row unwritable: the others of its commit must not fail with it."""
    env = either_env
    env.receiver.responder = hold
    async with serving(env.database_url, env.amux_url) as (process, bridge):
        bad_end, bad_attempt = env.running_task(), env.finished_task()
        unsettled = await bridge.register(bad_end, env.receiver.url)
        unrecorded = await bridge.register(bad_attempt, env.receiver.url)
        await env.receiver.until(lambda: len(env.receiver.arrived) == 1)
        with (
            refusing(env.database_url, "events", "watch_id", unsettled),
            refusing(env.database_url, "attempts", "delivery_id", env.receiver.arrived[0].id),
        ):
            env.receiver.responder = accept
            env.receiver.released.set()
            env.clock.now += 11
            others = await bridge.register_many([env.finished_task() for _ in range(5)], env.receiver.url)
            await env.receiver.wait_for_events(others)
            await process.wait_for_log("delivered", times=5)
            await process.wait_for_log("write_failed", unit="settle")
            await process.wait_for_log("write_failed", unit="record_attempts")
            assert len(env.receiver.arrived) == 6
        await env.receiver.wait_for_events([unsettled])
        await process.wait_for_log("delivered", times=7)
        process.signal(signal.SIGTERM)
        assert await process.wait_for_exit() == 0
    check_all_delivered(env.database_url, [unsettled, unrecorded, *others])
    assert len(env.receiver.arrived) == 7

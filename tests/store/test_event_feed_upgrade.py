"""The event feed over upgrades and restores: older events get their order, and a cursor stays valid."""

import shutil
import subprocess
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import orjson
import pytest
from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy import Connection, text

from bridge.store.database import closing, connect
from bridge.store.migrate import head, migrate
from bridge.store.open import open_store
from bridge.store.store import Store
from bridge.telemetry import Metrics
from tests.databases import PostgresServer, empty_file
from tests.programs import program
from tests.store.builders import register_watch, settle
from tests.store.feed import number_all, page, read_all

VERSIONS = "bridge.store.migrations.versions"
WATCH = """
    INSERT INTO watches (id, app, task, task_id, callback_url, host, endpoint, events, context, options, state,
        created_at, deadline_at, timeout_seconds, header_names)
    VALUES (:id, :app, 't', 't', 'https://a.example/', 'a.example:443', :id, 'video.completed', :json, :json, 'settled',
        1, 2, 1, '')
"""
EVENT = """
    INSERT INTO events (watch_id, type, terminal, created_at, payload) VALUES (:id, :type, :terminal, :at, :payload)
"""
# Sorted by time, then by id. An id ends in a letter for its type (c, f, q, ...), which sorts like the type's name.
EXPECTED = [
    ("shop", "wat_2", "video.queued", 5.0),
    ("lab", "wat_3", "video.completed", 7.0),
    ("shop", "wat_1", "video.completed", 8.0),
    ("shop", "wat_1", "video.in_progress", 8.0),
    ("shop", "wat_1", "video.queued", 8.0),
    ("shop", "wat_2", "video.failed", 8.0),
]


@pytest.fixture(params=["sqlite", "postgres"])
def url_without_schema(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{empty_file(tmp_path / 'bridge.db')}"
    server: PostgresServer = request.getfixturevalue("postgres_server")
    return server.empty()


def write_0_2_0(connection: Connection) -> None:
    """Make the schema of 0.2.0, and write some events, the newest first."""
    with Operations.context(MigrationContext.configure(connection)):
        for name in ("0001_first", "0002_status_times", "0003_unsettled"):
            import_module(f"{VERSIONS}.{name}").upgrade()
    connection.execute(text("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)"))
    connection.execute(text("INSERT INTO alembic_version VALUES ('0003')"))
    apps = {watch_id: app for app, watch_id, _, _ in EXPECTED}
    for watch_id, app in apps.items():
        connection.execute(text(WATCH), {"id": watch_id, "app": app, "json": b"null"})
    for _, watch_id, event_type, at in reversed(EXPECTED):
        terminal = event_type in {"video.completed", "video.failed"}
        payload = orjson.dumps({"id": f"{watch_id} {event_type}"})
        row = {"id": watch_id, "type": event_type, "terminal": terminal, "at": at, "payload": payload}
        connection.execute(text(EVENT), row)


async def test_the_events_of_0_2_0_are_in_the_feed_by_time_and_id(url_without_schema: str, encryption_key: str) -> None:
    with closing(connect(url_without_schema)) as database:
        database.transaction(write_0_2_0)
        migrate(database)
        assert head() >= "0007"
    store = await open_store(url_without_schema, [encryption_key], Metrics())
    try:
        for app in ("shop", "lab", None):
            expected = [{"id": f"{watch_id} {kind}"} for of, watch_id, kind, _ in EXPECTED if app in {None, of}]
            assert await read_all(store, app) == expected
        end = (await page(store, app="shop")).end
        await settle(store, await register_watch(store, app="shop"))
        await number_all(store)
        assert len((await page(store, app="shop", after=end)).payloads) == 1
    finally:
        await store.close()


# --- backup and restore -------------------------------------------------------------------------------------------


def copied_file(url: str, folder: Path) -> Callable[[], None]:
    """Copy an SQLite file while nothing writes. Returns a function that puts the copy back."""
    path, copy = Path(url.removeprefix("sqlite:///")), folder / "copy"
    for name in ("bridge.db", "bridge.db-wal"):
        if (path.parent / name).exists():
            copy.mkdir(exist_ok=True)
            shutil.copyfile(path.parent / name, copy / name)

    def restore() -> None:
        for file in path.parent.glob("bridge.db*"):
            file.unlink()
        for file in copy.iterdir():
            shutil.copyfile(file, path.parent / file.name)
            (path.parent / file.name).chmod(0o600)

    return restore


def dumped(url: str, folder: Path) -> Callable[[], None]:
    """Dump a PostgreSQL database. Returns a function that restores the dump into the same database."""
    dump = folder / "dump"
    subprocess.run([_postgres_program("pg_dump"), "-Fc", "-f", dump, url], check=True)
    command = [_postgres_program("pg_restore"), "--clean", "--if-exists", "--no-owner", "-d", url, str(dump)]

    def restore() -> None:
        subprocess.run(command, check=True)

    return restore


def _postgres_program(name: str) -> str:
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return str(found[-1]) if found else program(name, "postgresql-client")


async def settle_one(store: Store) -> str:
    watch = await register_watch(store)
    await settle(store, watch)
    await number_all(store)
    return watch.watch.id


@pytest.fixture
def fresh_url(database_url: str, request: pytest.FixtureRequest) -> str:
    """A database with today's schema that only this test uses, because the test restores a backup into it."""
    if database_url.startswith("sqlite:"):
        return database_url
    server: PostgresServer = request.getfixturevalue("postgres_server")
    return server.migrated()


async def test_a_cursor_stays_good_over_a_restart_and_over_a_restored_backup(
    fresh_url: str, encryption_key: str, tmp_path: Path
) -> None:
    store = await open_store(fresh_url, [encryption_key], Metrics())
    first = await settle_one(store)
    start = (await page(store, limit=1)).end
    second = await settle_one(store)
    await store.close()
    backup = (copied_file if fresh_url.startswith("sqlite:") else dumped)(fresh_url, tmp_path)

    store = await open_store(fresh_url, [encryption_key], Metrics())
    for _ in range(3):
        await settle_one(store)  # after the backup: these are lost
    ahead = (await page(store)).end
    await store.close()
    backup()

    store = await open_store(fresh_url, [encryption_key], Metrics())
    assert [one["data"]["watch_id"] for one in await read_all(store, "app")] == [first, second]
    assert len((await page(store, after=start)).payloads) == 1
    assert (await page(store, after=ahead)).payloads == ()
    new = await settle_one(store)
    [payload] = (await page(store, after=ahead)).payloads
    assert orjson.loads(payload)["data"]["watch_id"] == new
    await store.close()

"""Databases for tests: SQLite files, and a PostgreSQL server that is started once and stopped at the end."""

import asyncio
import os
import pwd
import shutil
import sqlite3
import subprocess
import tempfile
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

import psycopg
from sqlalchemy import Connection, TextClause, text

from bridge.store.database import Database, PostgresDatabase, SqliteDatabase
from bridge.store.migrate import migrate
from bridge.store.schema import metadata
from bridge.store.store import Store
from tests.ports import free_port

Result = TypeVar("Result")

TEMPLATE = "migrated"
START_SECONDS = 30
# No data has to survive the tests, so there is no fsync. There is no autovacuum, which would make a test's time vary.
SETTINGS = ("fsync=off", "synchronous_commit=off", "full_page_writes=off", "autovacuum=off", "max_connections=200")

_END_OTHERS = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
    "WHERE datname = current_database() AND pid <> pg_backend_pid()"
)

_BLOCKED = "SELECT count(*) FROM pg_stat_activity WHERE pg_backend_pid() = ANY (pg_blocking_pids(pid))"


class NoServer(Exception):
    """PostgreSQL cannot be started here. The text says why."""


@dataclass
class PostgresServer:
    """A server that listens on loopback and accepts every user there without a password."""

    port: int
    log: Path
    restart: Callable[[], None] = lambda: None  # ends every connection
    numbers: Iterator[int] = field(default_factory=count)
    _shared: str | None = None
    _cleaner: psycopg.Connection[Any] | None = None

    def url(self, name: str) -> str:
        """The URL of a database."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/{name}"

    def execute(self, statement: str, *, database: str = "postgres") -> list[Any]:
        """Execute one statement outside any transaction, and return its rows."""
        with psycopg.connect(self.url(database), autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def empty(self) -> str:
        """Make a database without a schema, and return its URL."""
        return self._create("template0")

    def migrated(self) -> str:
        """Make a database with today's schema, and return its URL."""
        return self._create(TEMPLATE)

    def cleaned(self) -> str:
        """Delete all rows of the database that most tests use in turn, and return its URL.

        To copy the template would take 100-400 ms. To delete the rows takes 5 ms.
        """
        if self._shared is None or self._cleaner is None:
            self._shared = self.migrated()
            self._cleaner = psycopg.connect(self._shared, autocommit=True)
            return self._shared
        self._cleaner.execute(_END_OTHERS)
        self._cleaner.execute("; ".join(map(_deletion, metadata.tables)).encode())
        return self._shared

    def close(self) -> None:
        """Close the connection to the shared database."""
        if self._cleaner is not None:
            self._cleaner.close()

    def make_template(self) -> None:
        """Make and migrate the database that the others are copied from."""
        self.execute(f"CREATE DATABASE {TEMPLATE} TEMPLATE template0")
        migrated = PostgresDatabase(self.url(TEMPLATE))
        try:
            migrate(migrated)
        finally:
            migrated.close()

    def _create(self, template: str) -> str:
        name = f"test_{next(self.numbers)}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")
        return self.url(name)


@contextmanager
def running_server(settings: Sequence[str] = SETTINGS) -> Iterator[PostgresServer]:
    """Start a server in a temporary folder, and stop it at the end. Raises NoServer if PostgreSQL cannot be started."""
    initdb, pg_ctl = _binary("initdb"), _binary("pg_ctl")
    user = _unprivileged_user()
    home = Path(tempfile.mkdtemp(prefix="bridge-postgres-"))
    try:
        if user is not None:
            os.chown(home, user.pw_uid, user.pw_gid)
        data, log, port = home / "data", home / "log", free_port()
        _run([initdb, "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"], user, home)
        options = " ".join(f"-c {setting}" for setting in settings)
        listening = f"-c listen_addresses=127.0.0.1 -p {port} -k {home} {options}"
        wait = ["-w", "-t", str(START_SECONDS)]
        _run([pg_ctl, "start", "-D", data, "-l", log, "-o", listening, *wait], user, home)
        try:
            restart: list[str | Path] = [pg_ctl, "restart", "-D", data, "-l", log, "-o", listening, "-m", "fast", *wait]
            server = PostgresServer(port, log, partial(_run, restart, user, home))
            server.make_template()
            yield server
            server.close()
        finally:
            _run([pg_ctl, "stop", "-D", data, "-m", "immediate", *wait], user, home)
    finally:
        shutil.rmtree(home, ignore_errors=True)


def migrated_file(folder: Path) -> Path:
    """Make an SQLite file with today's schema, to be copied."""
    path = folder / "migrated.db"
    database: Database = SqliteDatabase(empty_file(path))
    try:
        migrate(database)
    finally:
        database.close()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    return path


def blocked_transactions(connection: psycopg.Connection[Any] | None) -> int:
    """Return how many transactions wait for a lock of this connection."""
    assert connection is not None
    [count] = connection.execute(_BLOCKED).fetchall()
    return int(count[0])


def run(coroutine: Coroutine[Any, Any, Result]) -> Result:
    """Run a coroutine in the event loop of a new thread, and return its result. The caller may have a running loop."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, coroutine).result()


def delete_rows(store: Store) -> None:
    """Delete all rows except the database's own secrets."""
    for table in metadata.tables:
        if table != "secrets":
            store._database.transaction(partial(_execute, text(_deletion(table))))


def _execute(statement: TextClause, connection: Connection) -> None:
    connection.execute(statement)


def _deletion(table: str) -> str:
    return f"DELETE FROM {table}"  # noqa: S608  the names of our own tables


def empty_file(path: Path) -> Path:
    """Make an empty file with the mode that `open_store` gives it."""
    path.touch(0o600)
    return path


def _binary(name: str) -> str:
    """Return the path of a PostgreSQL program: the one in PATH, otherwise the newest one that Debian installed."""
    found = [shutil.which(name), *sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=_version, reverse=True)]
    for path in found:
        if path is not None:
            return str(path)
    raise NoServer(f"{name} is neither in PATH nor in /usr/lib/postgresql/*/bin: install Debian's `postgresql`")


def _version(path: Path) -> float:
    return float(path.parts[4]) if path.parts[4].replace(".", "").isdigit() else 0.0


def _unprivileged_user() -> pwd.struct_passwd | None:
    """Return the user that runs the server if root runs the tests, because PostgreSQL refuses root. Otherwise None."""
    if os.geteuid() != 0:
        return None
    users = {user.pw_name: user for user in pwd.getpwall()}
    for name in ("postgres", "nobody"):
        if name in users:
            return users[name]
    raise NoServer("PostgreSQL refuses root, and there is no user named postgres or nobody")


def _run(command: Sequence[str | Path], user: pwd.struct_passwd | None, folder: Path) -> None:
    as_user: dict[str, Any] = {} if user is None else {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    # The output goes to a file. The server would keep a pipe open, and this function would wait for its end.
    with (folder / "output").open("w+") as output:
        done = subprocess.run(
            [str(word) for word in command], cwd=folder, stdout=output, stderr=output, check=False, **as_user
        )
        if done.returncode:
            output.seek(0)
            raise RuntimeError(f"{Path(command[0]).name} failed: {output.read()[-2000:]}")

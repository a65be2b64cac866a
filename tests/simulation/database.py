"""The database of a simulation: a real SQLite file, which can fail, hang and lose answers, and which replicas share."""

import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from random import Random
from typing import Any, TypeVar, TypeVarTuple

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.exc import OperationalError

from bridge.aio.system import System
from bridge.store.database import SqliteDatabase
from bridge.store.kept_connection import KeptConnection
from bridge.store.migrate import migrate
from tests.simulation.hosts import Host

Arguments = TypeVarTuple("Arguments")
Result = TypeVar("Result")


@lru_cache(maxsize=8)
def _engines(path: Path, slot: str) -> tuple[Engine, Engine]:
    """Return the engines of a replica. They are kept for the next seeds: compiling their statements takes 0.1 s."""
    return _engine(path), _engine(path)


def _engine(path: Path) -> Engine:
    engine = create_engine(
        URL.create("sqlite", database=str(path)),
        connect_args={"isolation_level": None, "check_same_thread": False},
        query_cache_size=1_000,
    )
    event.listen(engine, "connect", _set_up)
    return engine


def _set_up(connection: Any, _record: object) -> None:
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = OFF")  # only processes crash here, no computer
    # Stand-ins for PostgreSQL's advisory lock. Here one transaction runs at a time, so the lock is always free.
    connection.create_function("pg_advisory_xact_lock", 1, lambda _: 0)
    connection.create_function("pg_try_advisory_xact_lock", 1, lambda _: 1)


class _KeptConnection:
    """One connection of an engine for all reads: opening a connection costs as much as a statement."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._connection: Connection | None = None

    @contextmanager
    def connect(self) -> Iterator[Connection]:
        """Give the connection, in a transaction that has just begun."""
        if self._connection is None:
            self._connection = self._engine.connect()
        driver: Any = self._connection.connection.driver_connection
        driver.execute("BEGIN")
        yield self._connection

    def dispose(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        self._engine.dispose()


def new_file(path: Path) -> None:
    """Make an empty database file with the present schema."""
    template = path.with_name("template.db")
    if not template.exists():
        template.touch()
        database = SqliteDatabase(template)
        migrate(database)
        database.close()
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    shutil.copyfile(template, path)


@dataclass
class Weather:
    """How the database behaves at present. Shares are probabilities for each transaction."""

    random: Random
    refusing: bool = False  # every transaction and read fails
    unknown_share: float = 0.0  # of transactions that are committed, but answered with an error
    failing_share: float = 0.0  # of transactions that are rolled back, and answered with an error
    seconds: float = 0.001  # the usual latency
    slow_share: float = 0.0
    slow_seconds: float = 0.0

    def clear(self) -> None:
        """Let the database behave well again."""
        self.refusing = False
        self.unknown_share = self.failing_share = self.slow_share = 0.0

    def latency(self, *, routine: bool) -> tuple[float, float]:
        """Return how long a transaction waits before it runs, and how long its answer takes.

        Few of the `routine` transactions are slow, so that the other transactions are slow often enough.
        """
        before, after = self.seconds * self.random.random(), self.seconds * self.random.random()
        if self.slow_share and self.random.random() < self.slow_share * (0.2 if routine else 1.0):
            if self.random.random() < 0.5:
                before += self.slow_seconds * self.random.random()
            else:
                after += self.slow_seconds * self.random.random()
        return before, after


@dataclass
class Server:
    """What the replicas of one file have in common."""

    path: Path
    weather: dict[str, Weather]  # by the host's name: the connection to the server may be bad for one replica alone
    shared: bool
    error: float  # seconds by which a replica may misjudge the server's clock
    upgrade_ends: list[int] = field(default_factory=list)  # a process is killed before these statements of the upgrade
    kill: Callable[[Host], None] = lambda _: None
    opened: list["SimulatedDatabase"] = field(default_factory=list)
    on_commit: Callable[[Host | None], None] = lambda _: None


class SimulatedDatabase(SqliteDatabase):
    """The file as one replica sees it. With `server.shared`, times are those of the server, as with PostgreSQL."""

    def __init__(self, server: Server, host: Host, system: System) -> None:
        self.path = server.path
        self._server = server
        self.host = host
        self._weather = server.weather[host.name]
        self.system = system
        writing, reading = _engines(server.path, host.name)
        self._writing, self._reading = writing, _KeptConnection(reading)  # type: ignore[assignment]
        self._writer = KeptConnection(writing, 0.0, before_commit=self.check)
        self.shared = server.shared
        self._epoch_offset = self._server_offset()
        server.opened.append(self)

    def now(self) -> float:
        return self.system.running() + self._epoch_offset if self.shared else super().now()

    def check(self) -> None:
        """Do nothing: no process moves the file here."""

    def synchronize(self) -> None:
        self._refuse()
        self._epoch_offset = self._server_offset()

    def transaction(self, function: Callable[[Connection], Result]) -> Result:
        self._refuse()
        if self._server.upgrade_ends and function.__name__ == "_bring_up_to_date":
            return self._cut_short(function, self._server.upgrade_ends.pop(0))
        weather = self._weather
        chance = weather.random.random()
        if chance < weather.failing_share:
            raise self._rolled_back(function)
        result = super().transaction(function)
        self._server.on_commit(self.host)
        if chance < weather.failing_share + weather.unknown_share:
            raise failure("the connection was lost during the commit")
        return result

    def large_transaction(self, function: Callable[[Connection], Result]) -> Result:
        return self.transaction(function)

    def _rolled_back(self, function: Callable[[Connection], object]) -> Any:
        lost = failure("the connection was lost before the commit")

        def lose(connection: Connection) -> None:
            function(connection)
            raise lost

        with suppress(type(lost)):
            super().transaction(lose)
        return lost

    def _cut_short(self, function: Callable[[Connection], Result], statement: int) -> Result:
        """Run a transaction whose process is killed before its n-th statement, or right after the commit."""

        def count(*_: object) -> None:
            nonlocal statement
            statement -= 1
            if statement <= 0:
                raise failure("the process was killed")

        def counted(connection: Connection) -> Result:
            event.listen(connection, "before_cursor_execute", count)
            try:
                return function(connection)
            finally:
                event.remove(connection, "before_cursor_execute", count)

        try:
            return super().transaction(counted)
        finally:
            self._server.on_commit(self.host)
            self._server.kill(self.host)

    def read(self, query: Callable[[Connection, *Arguments], Result], *arguments: *Arguments) -> Result:
        self._refuse()
        return super().read(query, *arguments)

    def _server_offset(self) -> float:
        error = self._server.error * (2 * self._weather.random.random() - 1)
        return self.host.true_time() + error - self.system.running()

    def _refuse(self) -> None:
        if self._weather.refusing:
            raise failure("disk I/O error")


def failure(text: str) -> Any:
    """Return the error that SQLAlchemy raises for a failing database."""
    return OperationalError("", None, sqlite3.OperationalError(text))

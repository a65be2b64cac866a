"""One database: its engines, transactions and clock. This module hides how SQLite and PostgreSQL differ.

`postgres.py` makes the connections to PostgreSQL.
"""

import os
import socket
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar, TypeVarTuple

from sqlalchemy import URL, Connection, Engine, create_engine, event, func, select
from sqlalchemy.exc import DBAPIError, OperationalError

from bridge.aio.system import SYSTEM, System
from bridge.core.health import HealthCode
from bridge.store import driver, postgres
from bridge.store.kept_connection import KeptConnection

Arguments = TypeVarTuple("Arguments")
Result = TypeVar("Result")

BUSY_SECONDS = 2.5  # the longest wait for a lock: with the wait for the writer before it, a caller waits at most 4 s
STATEMENT_SECONDS = 3.5  # on PostgreSQL; the longest of our statements takes about 50 ms
HUNG_AFTER_SECONDS = 10.0  # as long as three statements that the server ends at their limit
_STEPS_BETWEEN_CHECKS = 20_000  # of SQLite's virtual machine, about 1 ms
# 16 MiB. With SQLite's default of 1,000, the copying of changed pages took a tenth of a registration's CPU; with 4,000
# a page that many commits change is copied a quarter as often. The log's index has a table for each 4,062 pages, so
# with 4,000 a reader searches one table.
CHECKPOINT_PAGES = 4_000
TRIES = 5  # of a transaction that PostgreSQL ended because of a deadlock or a serialization failure


class ReadInterrupted(Exception):
    """A read was interrupted at its limit."""


class ReadLimit:
    """The time limit of a long read: `seconds` from now by `clock`, or earlier if a thread calls `stop`."""

    def __init__(self, seconds: float, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._end = clock() + seconds
        self._stopped = False

    def stop(self) -> None:
        """End the read now, because its caller has given up."""
        self._stopped = True

    def is_over(self) -> bool:
        """Whether the limit is reached."""
        return self._stopped or self.remaining_seconds() <= 0

    def remaining_seconds(self) -> float:
        """Returns the seconds until the limit."""
        return self._end - self._clock()


class Database:
    """What both kinds of database have in common. `shared` is whether replicas may share the database.

    If it is not shared, only the writer's thread may call `transaction`.
    """

    shared = False

    def __init__(self, writing: Engine, reading: Engine, system: System) -> None:
        self._writing = writing
        self._reading = reading
        self.system = system

    def now(self) -> float:
        """Returns the time in Unix seconds."""
        return self.system.wall()

    def new_token(self) -> str:
        """Returns a random text of 16 characters, for the name of a replica or of a lease."""
        return self.system.token_hex(8)

    def transaction(self, function: Callable[[Connection], Result]) -> Result:
        """Call `function` in one transaction and commit."""
        self.check()  # first, because a new connection would write to a file that has taken the database's place
        with self._writing.connect() as connection, connection.begin():
            result = function(connection)
            self.check()
        return result

    def large_transaction(self, function: Callable[[Connection], Result]) -> Result:
        """Does the same as `transaction`, for a function that may change all rows."""
        return self.transaction(function)

    def read(self, query: Callable[[Connection, *Arguments], Result], *arguments: *Arguments) -> Result:
        """Call `query` in a transaction that writes nothing."""
        self.check()
        return self._read(lambda connection: query(connection, *arguments))

    def _read(self, query: Callable[[Connection], Result]) -> Result:
        with self._reading.connect() as connection, connection.begin():
            return query(connection)

    def read_within(
        self, limit: ReadLimit, query: Callable[[Connection, *Arguments], Result], *arguments: *Arguments
    ) -> Result:
        """Does the same as `read`, but the database interrupts the query at the limit. Raises ReadInterrupted then."""

        def limited(connection: Connection) -> Result:
            with self._interrupting(connection, limit):
                return query(connection, *arguments)

        if limit.is_over():
            raise ReadInterrupted
        try:
            return self.read(limited)
        except DBAPIError as error:
            if limit.is_over() and self._was_interrupted(error):
                raise ReadInterrupted from None
            raise

    def _interrupting(self, connection: Connection, limit: ReadLimit) -> AbstractContextManager[None]:
        """Interrupt the statements of the block at the limit."""
        raise NotImplementedError

    def _was_interrupted(self, error: DBAPIError) -> bool:
        """Whether a statement failed because it was interrupted."""
        raise NotImplementedError

    def check(self) -> None:
        """Raises OperationalError if the file of SQLite was deleted or replaced. Does nothing for PostgreSQL."""

    def synchronize(self) -> None:
        """Set the clock of `now` by the server's clock; does nothing for SQLite."""

    def drop_hung_connections(self, seconds: float = HUNG_AFTER_SECONDS) -> None:
        """Shuts down the connections that have been in use for `seconds`. Does nothing for SQLite."""

    def close(self) -> None:
        """Close every connection."""
        self._writing.dispose()
        self._reading.dispose()


class SqliteDatabase(Database):
    """A file in WAL mode, so that readers and the writer do not wait for each other. A commit is on the disk."""

    def __init__(self, path: Path, system: System = SYSTEM) -> None:
        self.path = path
        super().__init__(_sqlite_engine(path, undo_in_memory=True), _sqlite_engine(path), system)
        event.listen(self._reading, "begin", _begin)
        self._writer = KeptConnection(self._writing, BUSY_SECONDS, before_commit=self.check)
        self._identity = self._identify()

    def transaction(self, function: Callable[[Connection], Result]) -> Result:
        """Call `function` in one transaction and commit."""
        self.check()
        return self._writer.transaction(function)

    def large_transaction(self, function: Callable[[Connection], Result]) -> Result:
        """Does the same as `transaction`, but the pages that the function changes need not fit in memory."""
        self.check()
        engine = _sqlite_engine(self.path)
        connection = KeptConnection(engine, BUSY_SECONDS, before_commit=self.check)
        try:
            return connection.transaction(function)
        finally:
            connection.close()
            engine.dispose()

    def check(self) -> None:
        """Raise OperationalError if the file was deleted or replaced. SQLite itself would go on with the old file."""
        found = self._identify()
        if found == self._identity:
            return
        if found is None:
            raise _unusable("the database file is gone")
        self.close()
        raise _unusable("the database file was replaced; restart the bridge")

    def close(self) -> None:
        """Close every connection. A connection in use is closed at the end of its transaction."""
        self._writer.close()
        super().close()

    @contextmanager
    def _interrupting(self, connection: Connection, limit: ReadLimit) -> Iterator[None]:
        file: Any = connection.connection.driver_connection
        file.set_progress_handler(limit.is_over, _STEPS_BETWEEN_CHECKS)
        try:
            yield
        finally:
            file.set_progress_handler(None, 0)

    def _was_interrupted(self, error: DBAPIError) -> bool:
        return getattr(error.orig, "sqlite_errorcode", None) == sqlite3.SQLITE_INTERRUPT

    def _identify(self) -> tuple[int, int] | None:
        try:
            found = os.stat(self.path)  # noqa: PTH116  called at each commit: half the cost of Path.stat
        except OSError:
            return None
        return found.st_dev, found.st_ino


class PostgresDatabase(Database):
    """A server that replicas share. All replicas use its clock, because their own may differ by a minute."""

    shared = True

    def __init__(self, url: str, system: System = SYSTEM) -> None:
        engine = _postgres_engine(url)
        super().__init__(engine, engine, system)
        self._running_seconds = system.running
        self._epoch_offset = system.wall() - system.running()
        self._in_use: dict[int, tuple[float, Any]] = {}  # by the connection's id: since when, and the connection

        # `insert`: before SQLAlchemy's own handler, which asks the server for its version and may hang.
        @event.listens_for(engine, "connect", insert=True)
        @event.listens_for(engine, "checkout")
        def add(connection: Any, _record: object, _proxy: object = None) -> None:
            self._in_use[id(connection)] = (system.running(), connection)

        @event.listens_for(engine, "checkin")
        def remove(connection: Any, _record: object) -> None:
            self._in_use.pop(id(connection), None)

    def now(self) -> float:
        """Returns Unix seconds by the server's clock, which was last read by `synchronize`."""
        return self._running_seconds() + self._epoch_offset

    def synchronize(self) -> None:
        """Set the clock by the server's time. The way to the server and the way back are assumed equally long."""
        with self._reading.connect() as connection, connection.begin():
            before = self._running_seconds()
            server_time = connection.execute(_SERVER_TIME).scalar_one()
            self._epoch_offset = float(server_time) - (before + self._running_seconds()) / 2

    def drop_hung_connections(self, seconds: float = HUNG_AFTER_SECONDS) -> None:
        """Shut down the connections that have been in use for `seconds`: the query was sent and no answer comes."""
        for key, (since, connection) in list(self._in_use.items()):
            if self._running_seconds() - since < seconds:
                continue
            self._in_use.pop(key, None)
            if not connection.closed:
                with suppress(OSError), socket.socket(fileno=os.dup(connection.fileno())) as duplicate:
                    duplicate.shutdown(socket.SHUT_RDWR)  # the thread that waits for the answer then reads an end

    @contextmanager
    def _interrupting(self, connection: Connection, limit: ReadLimit) -> Iterator[None]:
        milliseconds = max(1, int(limit.remaining_seconds() * 1000))
        connection.exec_driver_sql(f"SET LOCAL statement_timeout = {milliseconds}")
        yield

    def _was_interrupted(self, error: DBAPIError) -> bool:
        return postgres.sqlstate(error) == "57014"  # query_canceled

    def transaction(self, function: Callable[[Connection], Result]) -> Result:
        """Calls `function` in one transaction and commits. Repeats it after a deadlock, with five tries in all.

        A serialization failure counts as a deadlock. The first try is also repeated if its connection was dropped.
        """
        for turn in range(1, TRIES):
            try:
                return super().transaction(function)
            except DBAPIError as error:
                if not (_may_succeed_again(error) or (error.connection_invalidated and turn == 1)):
                    raise
        return super().transaction(function)

    def _read(self, query: Callable[[Connection], Result]) -> Result:
        """Call `query`. Repeats it once when the connection was dropped: the pool then makes a new one."""
        try:
            return super()._read(query)
        except DBAPIError as error:
            if not error.connection_invalidated:
                raise
        return super()._read(query)


_SERVER_TIME = select(func.extract("epoch", func.clock_timestamp()))


def _may_succeed_again(error: DBAPIError) -> bool:
    return postgres.sqlstate(error) in postgres.RETRIABLE


def reason_of(error: DBAPIError) -> str:
    """Returns the database's message, as the end of a sentence. The statement is left out: its values may be secret."""
    return " ".join(str(error.orig).split())[:200]


def cause_of(error: DBAPIError) -> HealthCode:
    """Returns the kind of a failure, by the driver's codes (SQLite's result code, PostgreSQL's SQLSTATE)."""
    original = error.orig
    if isinstance(original, _DatabaseFileMissing):
        return HealthCode.DATABASE_FILE_MISSING
    # The low byte of an extended result code is the primary one.
    sqlite_full = (getattr(original, "sqlite_errorcode", None) or 0) & 0xFF == sqlite3.SQLITE_FULL
    if sqlite_full or postgres.sqlstate(error) == "53100":  # disk_full
        return HealthCode.DISK_FULL
    return HealthCode.STORE_UNWRITABLE


class _DatabaseFileMissing(OSError):
    """The database file is gone, or another file has its name."""


def _unusable(reason: str) -> OperationalError:
    return OperationalError("", None, _DatabaseFileMissing(reason))


def _sqlite_engine(path: Path, *, undo_in_memory: bool = False) -> Engine:
    # isolation_level=None: the driver begins nothing by itself, and BEGIN IMMEDIATE takes the lock before it reads.
    engine = create_engine(
        URL.create("sqlite", database=str(path)),  # not as a text: in a URL `?` and `%` have a meaning
        connect_args={
            "isolation_level": None,
            "timeout": BUSY_SECONDS,
            "check_same_thread": False,
            "cached_statements": 256,  # all statements of a watch's life, each in up to six sizes
        },
        pool_size=4,
        query_cache_size=200,
    )

    @event.listens_for(engine, "connect")
    def set_up(connection: Any, _record: object) -> None:
        _use_wal(connection)
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
        if undo_in_memory:
            # An INSERT of many rows may change more than 16 pages. By default SQLite then makes a file for the undo of
            # the statement, writes the old pages to it and deletes it: a sixth of the time of a registration.
            connection.execute("PRAGMA temp_store = MEMORY")

    return engine


def _begin(connection: Connection) -> None:
    driver.execute(connection, "BEGIN")


def _use_wal(connection: sqlite3.Connection) -> None:
    """Switch the file to a write-ahead log; the file keeps this mode. Repeats it while another process does the same.

    SQLite does not wait for the lock here, but raises SQLITE_BUSY at once.
    """
    end = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > end:
                raise
            time.sleep(0.01)
        else:
            return


def _postgres_engine(url: str) -> Engine:
    limits = {
        "statement_timeout": STATEMENT_SECONDS,
        "lock_timeout": BUSY_SECONDS,
        "idle_in_transaction_session_timeout": 10.0,
    }
    return postgres.make_engine(url, limits=limits, pool_seconds=BUSY_SECONDS)


@contextmanager
def closing(database: Database) -> Iterator[Database]:
    """Close a database at the end of the block."""
    try:
        yield database
    finally:
        database.close()


def connect(database_url: str, system: System = SYSTEM) -> Database:
    """Returns the database of a URL. No connection is opened yet."""
    if database_url.startswith("sqlite:"):
        return SqliteDatabase(sqlite_path(database_url), system)
    return PostgresDatabase(database_url, system)


def sqlite_path(database_url: str) -> Path:
    """Returns the file of a `sqlite:///` URL."""
    return Path(database_url.removeprefix("sqlite:///").partition("?")[0])

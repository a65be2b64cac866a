"""One connection that is kept for all transactions of SQLite's writer.

With SQLAlchemy's pool, each transaction takes a connection, begins, and returns the connection. This costs 20 µs in a
loop. After a commit it costs as much as the statements of a registration, because the processor's caches hold other
data. So one connection is kept, and the driver begins and commits.
"""

import threading
from collections.abc import Callable
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import OperationalError

from bridge.store import driver

Result = TypeVar("Result")


class KeptConnection:
    """A connection of `engine`, opened at its first use. One transaction runs at a time, in any thread.

    Another thread waits up to `busy_seconds` for it. `before_commit` may raise an error to prevent a commit.
    """

    def __init__(self, engine: Engine, busy_seconds: float, *, before_commit: Callable[[], None]) -> None:
        self._engine = engine
        self._busy_seconds = busy_seconds
        self._before_commit = before_commit
        self._lock = threading.Lock()
        self._connection: Connection | None = None
        self._driver: Any = None  # the driver's connection under it
        self._unwanted = False  # it is closed at the end of its transaction

    def transaction(self, function: Callable[[Connection], Result]) -> Result:
        """Calls `function` in one transaction and commits. Raises what the database raises.

        Raises OperationalError if another thread uses the connection for longer than `busy_seconds`.
        """
        if not self._lock.acquire(timeout=self._busy_seconds):
            raise OperationalError("", None, RuntimeError("the writer's connection is in use"))
        try:
            connection = self.open()
            try:
                driver.execute(connection, "BEGIN IMMEDIATE")
                result = function(connection)
                self._before_commit()
                driver.execute(connection, "COMMIT")
            except BaseException:
                self._roll_back()
                raise
            return result
        finally:
            self._lock.release()
            if self._unwanted:
                self.close()

    def close(self) -> None:
        """Close the connection now, or at the end of its transaction. The next transaction opens another one."""
        self._unwanted = True  # first: if another thread holds the lock, it sees this after it releases the lock
        if self._lock.acquire(blocking=False):
            try:
                if self._connection is not None:
                    self._driver.close()  # SQLAlchemy would roll back before, which may fail
            finally:
                self._connection, self._driver, self._unwanted = None, None, False
                self._lock.release()

    def open(self) -> Connection:
        """Returns the connection, and opens it first if it is not open."""
        if self._connection is None:
            self._connection = self._engine.connect()
            self._connection.detach()  # the pool gives it to no other caller
            self._driver = self._connection.connection.dbapi_connection
        return self._connection

    def _roll_back(self) -> None:
        try:
            self._driver.rollback()  # does nothing if SQLite has rolled back by itself, as on a full disk
        except Exception:  # noqa: BLE001  the caller gets the first error, and the next transaction a new connection
            self._unwanted = True

"""One connection that is kept for all transactions of SQLite's writer.

To take a connection from SQLAlchemy's pool, to begin, and to give it back costs 20 µs in a loop, and as much as the
statements of a registration after a commit, when the processor's caches hold other things. Therefore the connection
stays, and the driver begins and commits.
"""

import threading
from collections.abc import Callable
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import OperationalError

from bridge.store import driver

Result = TypeVar("Result")


class KeptConnection:
    """A connection of `engine`, opened when it is needed first. One transaction runs at a time, in any thread.

    Another thread waits `busy_seconds` for it, as another process does. `before_commit` may raise to prevent a commit.
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
        """Call `function` in one transaction and commit. Raises what the database raises."""
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
        """Close the connection, one in use at the end of its transaction. The next transaction opens another one."""
        self._unwanted = True  # first: where the lock is taken, its holder sees this after the release
        if self._lock.acquire(blocking=False):
            try:
                if self._connection is not None:
                    self._driver.close()  # SQLAlchemy would roll back before, which may fail
            finally:
                self._connection, self._driver, self._unwanted = None, None, False
                self._lock.release()

    def open(self) -> Connection:
        """The connection, which is opened if it is not open."""
        if self._connection is None:
            self._connection = self._engine.connect()
            self._connection.detach()  # the pool gives it to no other caller
            self._driver = self._connection.connection.dbapi_connection
        return self._connection

    def _roll_back(self) -> None:
        try:
            self._driver.rollback()  # does nothing where SQLite has rolled back by itself, as on a full disk
        except Exception:  # noqa: BLE001  the caller gets the first error, and the next transaction a new connection
            self._unwanted = True

"""Waits, for a limited time, for a database that is not up yet. Ends attempts to open it that get no answer."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from sqlalchemy.exc import DBAPIError

from bridge.core.errors import StoreUnavailable
from bridge.store.database import HUNG_AFTER_SECONDS, Database, PostgresDatabase, reason_of
from bridge.store.postgres import may_open_later
from bridge.telemetry import get_logger

Result = TypeVar("Result")

RETRY_SECONDS = 0.5
SLOW_SECONDS = 3.0  # an opening that takes longer is logged
WATCH_SECONDS = 0.5
MIGRATION_SECONDS = 900.0  # an index on a large table takes minutes, and its connection is silent meanwhile

_log = get_logger("store")


class OpeningWait:
    """The wait of one opening, for at most `seconds`. Its reason is logged once."""

    def __init__(self, seconds: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._stopped = threading.Event()
        self._logged = False

    def until_open(self, open_once: Callable[[], Result]) -> Result:
        """Call `open_once` until it succeeds. Raises StoreUnavailable at the end of the time, or for a final error."""
        began_at = self._clock()
        while True:
            try:
                opened = open_once()
            except DBAPIError as error:
                # Without the URL and without parameters: they may hold a password.
                reason = reason_of(error)
                waited = self._clock() - began_at
                if self._seconds <= 0 or not may_open_later(error):
                    raise StoreUnavailable(f"the database does not open: {reason}") from None
                if waited >= self._seconds or self._stopped.is_set():
                    raise StoreUnavailable(f"the database did not open within {waited:.0f} s: {reason}") from None
            else:
                if self._logged:
                    _log.event("database_opened", seconds=round(self._clock() - began_at, 1))
                return opened
            self.log_once(reason)
            self._stopped.wait(RETRY_SECONDS)

    def log_once(self, reason: str) -> None:
        """Log that the opening waits, unless that was logged before."""
        if not self._logged:
            self._logged = True
            means = "the bridge starts when the database answers; after seconds_at_most it gives up"
            _log.event(
                "waiting_for_database",
                level=logging.WARNING,
                reason=reason,
                seconds_at_most=self._seconds,
                means=means,
            )

    def stop(self) -> None:
        """End the wait."""
        self._stopped.set()


@contextmanager
def dropping_hung_connections(database: Database, seconds: float | None = None) -> Iterator[None]:
    """During the block, shut down connections without an answer for `seconds` (default 10). Callers get errors."""
    if not isinstance(database, PostgresDatabase):
        yield
        return
    ended, limit = threading.Event(), HUNG_AFTER_SECONDS if seconds is None else seconds

    def watch() -> None:
        while not ended.wait(WATCH_SECONDS):
            database.drop_hung_connections(limit)

    thread = threading.Thread(target=watch, name="bridge-opening-watch", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()

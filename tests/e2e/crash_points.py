"""Where a bridge can be killed from within, and how its database can be made to refuse: for `launch.py`'s children.

A crash point is a boundary between two things that must not be lost between: the process kills itself there, the n-th
time it comes by, with SIGKILL, as a power cut or the kernel would.
"""

import inspect
import os
import signal
from collections.abc import Callable
from functools import partial, wraps
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, event

from bridge.callback.sender import Sender
from bridge.store import migrate, outbox, registration, settlement
from bridge.store import open as store_open
from bridge.store.store import Store

Reached = Callable[[], None]


def arm(point: str, at: int) -> None:
    """Kill this process when it comes to a point for the `at`-th time. Raises KeyError for an unknown point."""
    left = at

    def reached() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    POINTS[point](reached)


def _before(owner: Any, name: str, reached: Reached) -> None:
    _wrap(owner, name, before=reached, after=lambda: None)


def _after(owner: Any, name: str, reached: Reached) -> None:
    _wrap(owner, name, before=lambda: None, after=reached)


def _wrap(owner: Any, name: str, *, before: Reached, after: Reached) -> None:
    original = getattr(owner, name)
    if inspect.iscoroutinefunction(original):

        @wraps(original)
        async def wrapped(*args: Any, **kwargs: Any) -> Any:
            before()
            result = await original(*args, **kwargs)
            after()
            return result
    else:

        @wraps(original)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            before()
            result = original(*args, **kwargs)
            after()
            return result

    setattr(owner, name, wrapped)


def _at_statement(beginning: str, reached: Reached) -> None:
    """When a statement with this beginning has been executed, and nothing is committed yet."""

    @event.listens_for(Engine, "after_cursor_execute")
    def look(*given: Any) -> None:
        if str(given[2]).lstrip().startswith(beginning):
            reached()


POINTS: dict[str, Callable[[Reached], None]] = {
    # Functions of the store's rooms run inside a transaction; methods of Store return when it is committed.
    "the key file is empty": partial(_before, os, "fdopen"),
    "the schema is half made": partial(_at_statement, "CREATE TABLE deliveries"),
    "the schema is made, not committed": partial(_after, migrate, "_bring_up_to_date"),
    "the schema is committed": partial(_after, store_open, "migrate"),
    "the database is open": partial(_after, store_open, "open_database"),
    "a registration is written, not committed": partial(_after, registration, "register"),
    "a registration is committed, not answered": partial(_after, Store, "register_each"),
    "a status is observed": partial(_before, Store, "record_status"),
    "a status is written, not committed": partial(_after, settlement, "record_statuses"),
    "a status is committed": partial(_after, Store, "record_status"),
    "an end is observed": partial(_before, Store, "settle"),
    "an end is written, not committed": partial(_after, settlement, "settle"),
    "an end is committed": partial(_after, Store, "settle"),
    "a delivery is claimed, not committed": partial(_after, outbox, "claim"),
    "a delivery is claimed": partial(_after, Store, "claim"),
    "a POST is about to leave": partial(_before, Sender, "send"),
    "an answer came back": partial(_after, Sender, "send"),
    "an attempt is about to be recorded": partial(_before, Store, "record_attempts"),
    "an attempt is written, not committed": partial(_after, outbox, "record_attempts"),
    "an attempt is recorded": partial(_after, Store, "record_attempts"),
    "a cancellation is written, not committed": partial(_after, settlement, "cancel"),
    "a cancellation is committed, not answered": partial(_after, Store, "cancel"),
    "a stopping bridge has left": partial(_after, Store, "leave"),
}


def read_only_while(flag: str) -> None:
    """Have SQLite refuse to write ("attempt to write a readonly database") while a file is there."""
    path = Path(flag)

    @event.listens_for(Engine, "begin")
    def choose(connection: Connection) -> None:
        driver: Any = connection.connection.driver_connection
        driver.execute(f"PRAGMA query_only = {int(path.exists())}")

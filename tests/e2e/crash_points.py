"""Points at which a bridge kills itself, and a way to make its database read-only, for the processes of `launch.py`.

A crash point is a boundary between two steps. Nothing may be lost if the process dies there. The process sends itself
SIGKILL when it reaches the point for the n-th time. The kernel's OOM killer has the same effect.
"""

import inspect
import os
import signal
from collections.abc import Callable, Sequence
from functools import partial, wraps
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, event

from bridge.callback.sender import Sender
from bridge.store import driver, migrate, outbox, registration, settlement
from bridge.store import open as store_open
from bridge.store.kept_connection import KeptConnection
from bridge.store.store import Store

Reached = Callable[[], None]


def arm(point: str, at: int) -> None:
    """Makes this process kill itself when it reaches a point for the `at`-th time. An unknown point raises KeyError."""
    remaining = at

    def reached() -> None:
        nonlocal remaining
        remaining -= 1
        if remaining == 0:
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


def _around_each(owner: Any, name: str, reached: Reached, *, is_before: bool) -> None:
    """Calls `reached` once for each item, because the number of items in one call depends on the machine."""
    original = getattr(owner, name)

    @wraps(original)
    async def wrapped(self: Any, items: Sequence[Any], **options: Any) -> Any:
        result = None if is_before else await original(self, items, **options)
        for _ in items:
            reached()
        return await original(self, items, **options) if is_before else result

    setattr(owner, name, wrapped)


def _at_statement(beginning: str, reached: Reached) -> None:
    """Calls `reached` after a statement that begins with this text was executed, and before its commit."""

    @event.listens_for(Engine, "after_cursor_execute")
    def check(*arguments: Any) -> None:
        if str(arguments[2]).lstrip().startswith(beginning):
            reached()


POINTS: dict[str, Callable[[Reached], None]] = {
    # Functions of the store's modules run inside a transaction; methods of Store return after its commit.
    "the key file is empty": partial(_before, os, "fdopen"),
    "the schema is half made": partial(_at_statement, "CREATE TABLE deliveries"),
    "the schema is made, not committed": partial(_after, migrate, "_bring_up_to_date"),
    "the schema is committed": partial(_after, store_open, "migrate"),
    "the database is open": partial(_after, store_open, "_opened_database"),
    "a registration is written, not committed": partial(_after, registration, "register"),
    "a registration is committed, not answered": partial(_after, Store, "register_all"),
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
    "an attempt is about to be recorded": partial(_around_each, Store, "record_attempts", is_before=True),
    "an attempt is written, not committed": partial(_after, outbox, "record_attempts"),
    "an attempt is recorded": partial(_around_each, Store, "record_attempts", is_before=False),
    "a cancellation is written, not committed": partial(_after, settlement, "cancel"),
    "a cancellation is committed, not answered": partial(_after, Store, "cancel"),
    "a stopping bridge has left": partial(_after, Store, "leave"),
}


def read_only_while(flag: str) -> None:
    """Makes SQLite refuse writes ("attempt to write a readonly database") while the file `flag` exists."""
    path = Path(flag)

    transaction = KeptConnection.transaction

    def read_only(self: KeptConnection, function: Callable[[Connection], Any]) -> Any:
        driver.execute(self.open(), f"PRAGMA query_only = {int(path.exists())}")
        return transaction(self, function)

    KeptConnection.transaction = read_only  # type: ignore[method-assign]

"""SQLite databases with rows: active and settled watches, dead and pending deliveries.

Rows are inserted directly and in bulk, and most indexes are made afterwards, because a million settled watches would
take an hour through the bridge. Indexes of random keys grow with the rows, as in the bridge. If they were made
afterwards, their pages would be full, and every registration would split some. All ids sort before the ids that the
bridge adds later.
"""

import shutil
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from itertools import chain, islice, repeat
from pathlib import Path
from random import Random
from typing import Any

from bridge.core.event import terminal_event
from bridge.core.ids import WATCH_ID_PREFIX, event_id
from bridge.core.model import TERMINAL_EVENTS, EventType, Outcome, TaskSnapshot, TaskStatus, Watch
from bridge.core.task_class import class_by_record
from bridge.core.watch import Ending
from bridge.store.open import open_database
from bridge.store.row_mapping import digest, events_text
from tests.bench.bridge_process import KEY
from tests.bench.processes import LOADING, run_once

CALLBACK = "http://127.0.0.1:9/hooks/video"
OLD_SECONDS = 10 * 86_400.0  # the age of settled watches: retention keeps them unless its setting is shorter
_AT_ONCE = 5_000
_RANDOM_KEYS = frozenset({"ux_tasks_task_id"})
_EVENTS = events_text(TERMINAL_EVENTS)
_PAYLOAD_AT = 1_764_000_000.0
_FIRST_EVENTS = {"e": 1, "p": 100_000_001}  # the first event number of watches with ended and with pending deliveries

_PLATFORM, _MODEL = "kling", "kling-v1-6"
# 300 tasks were submitted in each second, and their rows are one after the other.
_DESCRIBE = """
    UPDATE tasks
    SET progress = rowid % 100, polls = 2 + rowid % 8, last_polled_at = opened_at + rowid % 60,
        submitted_at = CAST(opened_at AS INTEGER) - rowid / 300, task_model = :model, task_class = :class
    WHERE closed_at IS NULL
"""

Row = dict[str, Any]


class Seeds:
    """Makes database files in a folder. Each is a copy of one that was migrated once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._template = folder / "template.db"
        self._made = 0
        database, _ = open_database(f"sqlite:///{self._template}", [KEY])
        database.close()
        with closing(sqlite3.connect(self._template)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def file(
        self, *, active: Sequence[str] = (), settled: int = 0, dead: Sequence[str] = (), pending: Sequence[str] = ()
    ) -> Path:
        """Makes a database: a watch for each task id, settled watches, and a dead or pending delivery for each URL."""
        self._made += 1
        path = self._folder / f"seeded-{self._made}.db"
        shutil.copyfile(self._template, path)
        # The bridges are forked from this process, and all memory that it has ever used counts as theirs. So a child
        # fills the file.
        run_once(LOADING, _fill_file, path, active, settled, dead, pending, seconds=1_800)
        return path

    @staticmethod
    def described(path: Path) -> Path:
        """Makes a copy of a database whose rows have all that amux's records say of a running task."""
        copy = path.with_suffix(".described")
        shutil.copyfile(path, copy)
        run_once(LOADING, _describe, copy, seconds=600)
        return copy


async def _describe(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(_DESCRIBE, {"model": _MODEL, "class": class_by_record(_PLATFORM, _MODEL)})


async def _fill_file(
    path: Path, active: Sequence[str], settled: int, dead: Sequence[str], pending: Sequence[str]
) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("PRAGMA cache_size = -500000")
        indexes = _drop_indexes(connection)
        connection.execute("BEGIN")
        _fill(connection, active_rows(active))
        _fill(connection, _ended(settled, dead))
        _fill(connection, _pending(pending))
        for statement in indexes:
            connection.execute(statement)
        connection.execute("COMMIT")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _drop_indexes(connection: sqlite3.Connection) -> list[str]:
    """Drops the indexes whose keys are not random, and returns the statements that make them again."""
    query = "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL"
    found = dict(connection.execute(query).fetchall())
    missing = _RANDOM_KEYS - found.keys()
    assert not missing, f"no index is called {missing}"
    dropped = found.keys() - _RANDOM_KEYS
    for name in dropped:
        connection.execute(f'DROP INDEX "{name}"')
    return [found[name] for name in dropped]


def _fill(connection: sqlite3.Connection, rows: Iterator[tuple[str, Row]]) -> None:
    while part := list(islice(rows, _AT_ONCE)):
        tables: dict[str, list[Row]] = {}
        for table, row in part:
            tables.setdefault(table, []).append(row)
        for table, table_rows in tables.items():
            names = list(table_rows[0])
            statement = f"INSERT INTO {table} ({', '.join(names)}) VALUES ({', '.join(':' + name for name in names)})"  # noqa: S608
            connection.executemany(statement, table_rows)


def random_task_ids(count: int) -> Iterator[str]:
    """Yields random ids of tasks, as amux's are. Each call yields the same ids."""
    ids = Random(count)
    return (f"task_{ids.getrandbits(128):032x}" for _ in range(count))


def _row_id(number: int, kind: str) -> str:
    """Returns the id of a task's row. It has 26 characters, and sorts before the ids that the bridge adds."""
    return f"00{kind}{number:023d}"


def _watch_id(number: int, kind: str) -> str:
    return WATCH_ID_PREFIX + _row_id(number, kind)


def _task(row_id: str, task_id: str, now: float, **more: Any) -> tuple[str, Row]:
    row = {
        "id": row_id,
        "key": digest("configured", task_id),
        "task_id": task_id,
        "credential": "configured",
        "status": "unknown",
        "polls": 0,
        "owner": "local",
        "news": 0,
        "wants_status": 0,
        "opened_at": now,
        "closed_at": None,
    }
    return "tasks", row | more


def _watch(watch_id: str, row_id: str, task_id: str, now: float, url: str = CALLBACK, **more: Any) -> tuple[str, Row]:
    row = {
        "id": watch_id,
        "app": "bench",
        "task": row_id,
        "task_id": task_id,
        "callback_url": url,
        "host": url.split("/")[2],
        "endpoint": digest("bench", task_id, url),
        "events": _EVENTS,
        "context": b'{"order":"4711"}',
        "options": b"o" * 16,
        "state": "active",
        "outcome": None,
        "created_at": now,
        "deadline_at": now + 86_400.0,
        "timeout_seconds": 86_400.0,
        "ended_at": None,
        "header_names": "",
    }
    return "watches", row | more


def active_rows(tasks: Sequence[str], owner: str | None = "local") -> Iterator[tuple[str, Row]]:
    """Yields the rows of a running task and of its watch for each entry: "task_id", or "task_id URL" for a callback."""
    now = time.time()
    for number, entry in enumerate(tasks):
        task_id, _, url = entry.partition(" ")
        row_id = _row_id(number, "a")
        yield _task(row_id, task_id, now, owner=owner, status="in_progress", polls=1)
        yield _watch(_watch_id(number, "a"), row_id, task_id, now, url or CALLBACK)


def _ended(settled: int, dead: Sequence[str]) -> Iterator[tuple[str, Row]]:
    """Yields settled watches whose events were delivered, then one with a dead delivery for each URL."""
    ended_at = time.time() - OLD_SECONDS
    for number, url in enumerate(chain(repeat(CALLBACK, settled), dead)):
        state, when = ("delivered", "delivered_at") if number < settled else ("dead", "dead_at")
        watch_id = _watch_id(number, "e")
        yield from _settled(number, "e", ended_at, url)
        times = {"delivered_at": None, "dead_at": None} | {when: ended_at}
        yield _delivery(watch_id, ended_at, state=state, **times)
        attempt = {"started_at": ended_at, "duration_seconds": 0.02, "status_code": 200, "body": "ok"}
        yield "attempts", {"delivery_id": event_id(watch_id, EventType.COMPLETED), **attempt}


def _pending(urls: Iterable[str]) -> Iterator[tuple[str, Row]]:
    """Yields settled watches whose delivery is due now, one for each URL."""
    now = time.time()
    for number, url in enumerate(urls):
        watch_id = _watch_id(number, "p")
        yield from _settled(number, "p", now, url)
        yield _delivery(watch_id, now, state="pending", next_attempt_at=now, attempts=0, round_attempts=0)
        due = {"host": url.split("/")[2], "due_at": now, "set_at": now}
        yield "outbox", {"id": event_id(watch_id, EventType.COMPLETED), **due}


def _settled(number: int, kind: str, ended_at: float, url: str) -> Iterator[tuple[str, Row]]:
    row_id, task_id, watch_id = _row_id(number, kind), f"task_{kind}{number}", _watch_id(number, kind)
    yield _task(row_id, task_id, ended_at, status="completed", closed_at=ended_at, polls=5)
    yield _watch(watch_id, row_id, task_id, ended_at, url, state="settled", outcome="completed", ended_at=ended_at)
    event = {"type": "video.completed", "terminal": 1, "created_at": ended_at, "payload": payload(), "app": "bench"}
    # Each event has a number in the feed, because retention keeps events without one.
    yield "events", {"watch_id": watch_id, **event, "number": _FIRST_EVENTS[kind] + number}


def _delivery(watch_id: str, at: float, **more: Any) -> tuple[str, Row]:
    row = {
        "id": event_id(watch_id, EventType.COMPLETED),
        "watch_id": watch_id,
        "type": "video.completed",
        "attempts": 1,
        "round_attempts": 1,
        "created_at": at,
    }
    return "deliveries", row | more


_payloads: list[bytes] = []


def payload() -> bytes:
    """Returns the bytes of a completed event, as the bridge makes them."""
    if not _payloads:
        events = frozenset({EventType.COMPLETED})
        watch = Watch("wat_" + "0" * 26, "bench", "task_1", CALLBACK, events, b'{"order":"4711"}', 0.0, 0.0, 0.0)
        snapshot = TaskSnapshot(TaskStatus.COMPLETED, 100, "https://cdn.example.com/v/4711.mp4")
        link = "https://api.amux.ai/v1/videos/task_1/content"
        _payloads.append(terminal_event(watch, Ending(Outcome.COMPLETED, snapshot), _PAYLOAD_AT, link).payload)
    return _payloads[0]

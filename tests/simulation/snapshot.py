"""The state of the database at one moment, read over a connection that the bridge does not use."""

import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_TIMES_OF_WATCHES = "created_at, deadline_at, ended_at"
_TABLES = {
    "watches": (
        "id",
        f"SELECT id, app, task, task_id, callback_url, state, outcome, events, {_TIMES_OF_WATCHES} FROM watches",  # noqa: S608  own names
    ),
    "events": (None, "SELECT watch_id, type, terminal, payload, number FROM events"),
    "deliveries": (
        "id",
        "SELECT id, watch_id, type, state, attempts, round_attempts, next_attempt_at, error FROM deliveries",
    ),
    "outbox": ("id", "SELECT id, host, due_at, lease, holder FROM outbox"),
    "tasks": ("id", "SELECT id, key, task_id, status, polls, owner, opened_at, closed_at FROM tasks"),
    "replicas": ("id", "SELECT id, epoch, expires_at FROM replicas"),
}
_EVENTS_WITHOUT_NUMBERS = "SELECT watch_id, type, terminal, payload, NULL AS number FROM events"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The rows of each table by their key. An event's key is its watch and its type."""

    watches: dict[str, Any]
    events: dict[tuple[str, str], Any]
    deliveries: dict[str, Any]
    outbox: dict[str, Any]
    tasks: dict[str, Any]
    replicas: dict[str, Any]


EMPTY = Snapshot({}, {}, {}, {}, {}, {})

_ORPHANS = {
    "attempts": "SELECT delivery_id FROM attempts WHERE delivery_id NOT IN (SELECT id FROM deliveries)",
    "audit": "SELECT watch_id FROM audit WHERE watch_id IS NOT NULL AND watch_id NOT IN (SELECT id FROM watches)",
    "deliveries": "SELECT id FROM deliveries WHERE watch_id NOT IN (SELECT id FROM watches)",
    "events": "SELECT watch_id FROM events WHERE watch_id NOT IN (SELECT id FROM watches)",
}


class Reader:
    """Reads snapshots, and sees whether something was committed since the last look."""

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(path)
        self._connection.row_factory = sqlite3.Row
        self._version: int | None = None
        self._queries = {**_TABLES, "events": (None, _EVENTS_WITHOUT_NUMBERS)}

    def changed(self) -> bool:
        """Return whether there was a commit since the last call."""
        version = self._connection.execute("PRAGMA data_version").fetchone()[0]
        changed, self._version = version != self._version, version
        return bool(changed)

    def snapshot(self) -> Snapshot:
        """Read all tables. The events of version 0.2.0 have no numbers."""
        if self._queries is not _TABLES and self._has_numbers():
            self._queries = _TABLES
        tables: dict[str, Any] = {}
        for name, (key, query) in self._queries.items():
            rows = self._connection.execute(query)
            tables[name] = {(row["watch_id"], row["type"]) if key is None else row[key]: row for row in rows}
        return Snapshot(**tables)

    def orphans(self) -> dict[str, list[str]]:
        """Return, by table, the ids of rows whose watch or delivery does not exist."""
        found = {name: [row[0] for row in self._connection.execute(query)] for name, query in _ORPHANS.items()}
        return {name: ids for name, ids in found.items() if ids}

    def _has_numbers(self) -> bool:
        return any(row["name"] == "number" for row in self._connection.execute("PRAGMA table_info(events)"))

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

"""The whole state of the database at one moment, read beside the bridge."""

import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_TABLES = {
    "watches": (
        "id",
        "SELECT id, task, task_id, state, outcome, events, created_at, deadline_at, ended_at FROM watches",
    ),
    "events": (None, "SELECT watch_id, type, terminal, payload FROM events"),
    "deliveries": (
        "id",
        "SELECT id, watch_id, type, state, attempts, round_attempts, next_attempt_at, error FROM deliveries",
    ),
    "outbox": ("id", "SELECT id, host, due_at, lease, holder FROM outbox"),
    "tasks": ("id", "SELECT id, key, task_id, status, polls, owner, opened_at, closed_at FROM tasks"),
    "replicas": ("id", "SELECT id, epoch, expires_at FROM replicas"),
}


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The rows of each table by their key; an event's key is its watch and its type."""

    watches: dict[str, Any]
    events: dict[tuple[str, str], Any]
    deliveries: dict[str, Any]
    outbox: dict[str, Any]
    tasks: dict[str, Any]
    replicas: dict[str, Any]


EMPTY = Snapshot({}, {}, {}, {}, {}, {})


class Reader:
    """Reads snapshots, and only when something was committed since the last one."""

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(path)
        self._connection.row_factory = sqlite3.Row
        self._version: int | None = None

    def changed(self) -> bool:
        """Whether there was a commit since the last call."""
        version = self._connection.execute("PRAGMA data_version").fetchone()[0]
        changed, self._version = version != self._version, version
        return bool(changed)

    def snapshot(self) -> Snapshot:
        """Everything."""
        tables: dict[str, Any] = {}
        for name, (key, query) in _TABLES.items():
            rows = self._connection.execute(query)
            tables[name] = {(row["watch_id"], row["type"]) if key is None else row[key]: row for row in rows}
        return Snapshot(**tables)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

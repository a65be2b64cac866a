"""A database of version 0.2.0, with watches in it, which the bridge of a seed upgrades at its start.

The schema is the recorded one of `tests/store/schema`. The rows are as 0.2.0 wrote them: watches that are active,
settled or cancelled, and deliveries that are pending, claimed, delivered or dead.
"""

import shutil
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import orjson

from bridge.core.event import envelope
from bridge.core.ids import event_id, watch_id_text
from bridge.core.model import EventType
from bridge.store.migrate import head
from bridge.store.row_mapping import digest
from tests.simulation.hosts import EPOCH
from tests.simulation.loop import START
from tests.simulation.violation import require

if TYPE_CHECKING:
    from tests.simulation.world import World

SCHEMA = Path(__file__).parents[1] / "store" / "schema" / "0.2.0-sqlite.sql"
REVISION = "0003"
OLD_REPLICA = "rep_of_0_2_0"
CLAIM_SECONDS = 18.0  # a claim of 0.2.0 lasts so long after the start


class Left(StrEnum):
    """The state in which 0.2.0 has left a watch and its delivery."""

    ACTIVE = "active"
    CANCELLED = "cancelled"
    PENDING = "pending"  # the watch has settled, and its event was not sent yet
    FAILED_ONCE = "failed once"  # the first attempt has failed
    CLAIMED = "claimed"  # the process ended during the first attempt
    DELIVERED = "delivered"
    DEAD = "dead"


@dataclass(frozen=True, slots=True)
class Inherited:
    """A watch of 0.2.0. It was registered `age` seconds ago. Its deadline is `seconds` from now."""

    task_id: str
    url: str
    events: tuple[str, ...]
    left: Left
    age: float
    seconds: float
    app: str = "shop"

    @property
    def id(self) -> str:
        """Return the id of the watch. It begins with the time of registration; the rest is a digest of task and URL."""
        bits = int.from_bytes(digest(self.task_id, self.url).encode()[:10], "big")
        return f"wat_{watch_id_text(int((EPOCH + START - self.age) * 1000) << 80 | bits)}"


def write_file(path: Path, inherited: tuple[Inherited, ...], *, shared: bool) -> None:
    """Make a database file of 0.2.0 with these watches. With `shared`, their tasks belong to a replica that is gone."""
    template = path.with_name("template-0.2.0.db")
    if not template.exists():
        connection = sqlite3.connect(template)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.executescript(SCHEMA.read_text())
        connection.execute("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)")
        connection.execute("INSERT INTO alembic_version VALUES (?)", (REVISION,))
        connection.commit()
        connection.close()
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    shutil.copyfile(template, path)
    connection = sqlite3.connect(path)
    with connection:
        _Writer(connection, OLD_REPLICA if shared else "local").write(inherited)
    connection.close()


@dataclass(frozen=True, slots=True)
class _Writer:
    connection: sqlite3.Connection
    owner: str

    def write(self, inherited: tuple[Inherited, ...]) -> None:
        now = EPOCH + START
        row = {"id": self.owner, "epoch": 3, "started_at": now - 900, "expires_at": now + 2, "owned_tasks": 1}
        self._insert("replicas", row | {"probed": 0})
        open_tasks: dict[str, str] = {}
        for number, one in enumerate(inherited):
            task = open_tasks.get(one.task_id) if one.left is Left.ACTIVE else None
            if task is None:
                task = f"tsk_{number:08}"
                self._task(task, one)
            if one.left is Left.ACTIVE:
                open_tasks[one.task_id] = task
            self._watch(task, one)
            if one.left not in {Left.ACTIVE, Left.CANCELLED}:
                self._event(one)

    def _insert(self, table: str, row: Mapping[str, Any]) -> None:
        columns, places = ", ".join(row), ", ".join(f":{name}" for name in row)
        self.connection.execute(f"INSERT INTO {table} ({columns}) VALUES ({places})", row)  # noqa: S608  own names

    def _task(self, task: str, one: Inherited) -> None:
        opened_at, ended = EPOCH + START - one.age, one.left not in {Left.ACTIVE, Left.CANCELLED}
        row = {"id": task, "task_id": one.task_id, "credential": "configured", "owner": self.owner, "news": False}
        row |= {"status": "completed" if ended else "unknown", "polls": int(ended), "opened_at": opened_at}
        row |= {"wants_status": "video.queued" in one.events or "video.in_progress" in one.events}
        row |= {"closed_at": None if one.left is Left.ACTIVE else opened_at + 1.0}
        self._insert("tasks", row | {"key": digest("configured", one.task_id)})

    def _watch(self, task: str, one: Inherited) -> None:
        created_at, active = EPOCH + START - one.age, one.left is Left.ACTIVE
        state = {Left.ACTIVE: "active", Left.CANCELLED: "cancelled"}.get(one.left, "settled")
        row: dict[str, Any] = {
            "id": one.id,
            "app": one.app,
            "task": task,
            "task_id": one.task_id,
            "callback_url": one.url,
        }
        row |= {"host": _host(one), "endpoint": digest(one.app, one.task_id, one.url), "header_names": ""}
        row |= {"events": ",".join(sorted(one.events)), "context": b"null", "options": b"of 0.2.0", "state": state}
        row |= {"outcome": "completed" if state == "settled" else None, "created_at": created_at}
        row |= {"timeout_seconds": one.age + one.seconds, "deadline_at": created_at + one.age + one.seconds}
        self._insert("watches", row | {"ended_at": None if active else created_at + 1.0})

    def _event(self, one: Inherited) -> None:
        at, now, kind = EPOCH + START - one.age + 1.0, EPOCH + START, EventType.COMPLETED
        key = event_id(one.id, kind)
        data = {"id": one.task_id, "task_id": one.task_id, "watch_id": one.id, "status": "completed", "context": None}
        payload = orjson.dumps(envelope(key, kind, at, data))
        self._insert(
            "events", {"watch_id": one.id, "type": kind, "terminal": True, "created_at": at, "payload": payload}
        )
        attempts = 0 if one.left in {Left.PENDING, Left.CLAIMED} else 1
        state = one.left.value if one.left in {Left.DELIVERED, Left.DEAD} else "pending"
        # A claim and an attempt each set a new due time.
        last_at = now - 1.0 if one.left in {Left.FAILED_ONCE, Left.CLAIMED} else at
        due_at = now + 2.0 if one.left is Left.FAILED_ONCE else at
        row = {"id": key, "watch_id": one.id, "type": kind, "state": state, "attempts": attempts}
        row |= {"round_attempts": attempts, "created_at": at, "delivered_at": at if state == "delivered" else None}
        row |= {"dead_at": at if state == "dead" else None, "next_attempt_at": due_at if state == "pending" else None}
        self._insert("deliveries", row)
        if attempts:
            self._insert(
                "attempts", {"delivery_id": key, "started_at": last_at, "duration_seconds": 0.1, "status_code": 500}
            )
        if state == "pending":
            claimed = one.left is Left.CLAIMED
            outbox = {"id": key, "host": _host(one), "set_at": last_at}
            outbox |= {"due_at": now + CLAIM_SECONDS if claimed else due_at}
            self._insert(
                "outbox", outbox | {"lease": "old" if claimed else None, "holder": self.owner if claimed else None}
            )


def _host(one: Inherited) -> str:
    return f"{urlsplit(one.url).hostname}:443"


class Upgrade:
    """Checks that the upgrade is one commit, and that it changes no row of 0.2.0."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self._connection = sqlite3.connect(world.server.path)
        self._columns = {name: self._columns_of(name) for name in self._tables()}
        self._before = self._rows()
        self.done = False

    def after_commit(self) -> None:
        """Check a commit. Once the schema is the present one, do nothing."""
        if self.done:
            return
        [version] = self._connection.execute("SELECT version_num FROM alembic_version").fetchall()
        require(version[0] in {REVISION, head()}, f"the schema has the revision {version[0]}")
        changed = {name for name, rows in self._rows().items() if rows != self._before[name]}
        if version[0] == head():
            self._world.note("the schema is upgraded")
            require(not changed - {"alembic_version"}, f"the upgrade changes rows of {sorted(changed)}")
            self.close()
        else:
            require(not changed, f"rows of {sorted(changed)} changed before the upgrade")

    def close(self) -> None:
        """End the checks, and close the connection."""
        self.done = True
        self._connection.close()

    def _tables(self) -> list[str]:
        found = self._connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        return [name for (name,) in found if not name.startswith("sqlite_")]

    def _columns_of(self, table: str) -> str:
        return ", ".join(f'"{row[1]}"' for row in self._connection.execute(f"PRAGMA table_info({table})"))

    def _rows(self) -> dict[str, list[str]]:
        return {
            table: sorted(map(repr, self._connection.execute(f"SELECT {columns} FROM {table}")))  # noqa: S608  own names
            for table, columns in self._columns.items()
        }

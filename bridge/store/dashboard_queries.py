"""Queries of the dashboard: failing receivers, a watch's history, the store itself.

Each reads one page, or counts up to a limit. Pending and dead deliveries make them slower; delivered ones do not.
"""

import shutil
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from sqlalchemy import Connection, Row, Select, bindparam, case, func, or_, select, text

from bridge.core.errors import NotFound
from bridge.core.model import (
    TERMINAL_EVENTS,
    Attempt,
    EventType,
    Problem,
    TaskStatus,
)
from bridge.store import queries
from bridge.store.ending import GIVEN_UP
from bridge.store.records import WatchView
from bridge.store.replicas import LEAVING
from bridge.store.row_mapping import problem_of
from bridge.store.schema import (
    IS_DEAD,
    attempts,
    deliveries,
    events,
    hosts,
    outbox,
    replicas,
    tasks,
    unindexed,
    watches,
)

MOST_HOSTS = 20
MOST_ATTEMPTS = 200  # the newest of one watch: a schedule makes ten attempts, so this is 20 schedules


# --- receivers ----------------------------------------------------------------------------------------------------


_COUNT_FAILING = (
    select(func.count(outbox.c.host.distinct()))
    .join(deliveries, deliveries.c.id == unindexed(outbox.c.id))
    .where(deliveries.c.error.is_not(None))
)


def failing_receivers(connection: Connection) -> int:
    """Returns how many callback hosts have a pending delivery that has failed already."""
    count: int = connection.execute(_COUNT_FAILING).scalar_one()
    return count


@dataclass(frozen=True, slots=True)
class Receiver:
    """A callback host (with its port) that fails or has dead deliveries. Times are Unix seconds.

    `failures` counts the attempts in a row that got no answer, or 429, 502, 503 or 504. `waiting` counts the pending
    deliveries; the next is due at `next_at`. `dead` counts the dead deliveries; the last became dead at `dead_at`.
    """

    host: str
    waiting: int = 0
    failures: int = 0
    next_at: float | None = None
    waiting_error: Problem | None = None
    dead: int = 0
    dead_at: float | None = None
    dead_error: Problem | None = None


def _waiting_by_host() -> Select[Any]:
    """Hosts with pending deliveries that fail: one of the deliveries has failed, or the host's last attempts have.

    Each host has the error of the failed delivery with the most attempts.
    """
    failed = case((deliveries.c.error.is_not(None), 1), else_=0)
    rows = (
        select(
            *(outbox.c.host, deliveries.c.error, func.coalesce(hosts.c.failures, 0).label("failures")),
            func.count().over(partition_by=outbox.c.host).label("waiting"),
            func.min(outbox.c.due_at).over(partition_by=outbox.c.host).label("next_at"),
            func.sum(failed).over(partition_by=outbox.c.host).label("failed"),
            func.row_number()
            .over(partition_by=outbox.c.host, order_by=(failed.desc(), deliveries.c.attempts.desc()))
            .label("place"),
        )
        .join(deliveries, deliveries.c.id == outbox.c.id)
        .outerjoin(hosts, hosts.c.host == outbox.c.host)
        .subquery()
    )
    return (
        select(rows)
        .where(rows.c.place == 1, or_(rows.c.failed > 0, rows.c.failures > 0))
        .order_by(rows.c.waiting.desc(), rows.c.host)
        .limit(MOST_HOSTS)
    )


def _dead_by_host() -> Select[Any]:
    rows = (
        select(
            *(watches.c.host, deliveries.c.error, deliveries.c.dead_at),
            func.count().over(partition_by=watches.c.host).label("dead"),
            func.row_number().over(partition_by=watches.c.host, order_by=deliveries.c.dead_at.desc()).label("place"),
        )
        .join(watches, watches.c.id == deliveries.c.watch_id)
        .where(IS_DEAD, GIVEN_UP)
        .subquery()
    )
    return select(rows).where(rows.c.place == 1).order_by(rows.c.dead.desc(), rows.c.host).limit(MOST_HOSTS)


_WAITING_BY_HOST = _waiting_by_host()
_DEAD_BY_HOST = _dead_by_host()


def receivers(connection: Connection) -> list[Receiver]:
    """Returns up to 20 hosts that fail and 20 with dead deliveries, those with the most such deliveries first."""
    found: dict[str, dict[str, Any]] = defaultdict(dict)
    for row in connection.execute(_WAITING_BY_HOST):
        values = {"waiting": row.waiting, "failures": row.failures, "next_at": row.next_at}
        found[row.host] |= values | {"waiting_error": problem_of(row.error)}
    for row in connection.execute(_DEAD_BY_HOST):
        found[row.host] |= {"dead": row.dead, "dead_at": row.dead_at, "dead_error": problem_of(row.error)}
    result = [Receiver(host, **values) for host, values in found.items()]
    return sorted(result, key=lambda receiver: (-receiver.dead - receiver.waiting, receiver.host))


# --- one watch ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class WatchHistory:
    """A watch, the time of its end (also by cancellation), its events, and the newest attempts by delivery id.

    Times are Unix seconds. `seen` has the time at which each status of its task was first seen. `end_error` is the
    error in its terminal event. `host` is the host of its callback, with the port.
    """

    view: WatchView
    ended_at: float | None
    events: Sequence[tuple[EventType, float]]
    attempts: Mapping[str, Sequence[Attempt]]
    end_error: Problem | None = None
    seen: Sequence[tuple[TaskStatus, float]] = ()
    host: str = ""


_ENDED = select(watches.c.ended_at, watches.c.host).where(watches.c.id == bindparam("an_id"))
_EVENTS = (
    select(events.c.type, events.c.created_at, events.c.payload)
    .where(events.c.watch_id == bindparam("an_id"))
    .order_by(events.c.created_at)
)
_SEEN = select(tasks.c.queued_at, tasks.c.in_progress_at).where(tasks.c.id == bindparam("row"))
_ATTEMPTS = (
    select(attempts)
    .join(deliveries, deliveries.c.id == attempts.c.delivery_id)
    .where(deliveries.c.watch_id == bindparam("an_id"))
    .order_by(attempts.c.seq.desc())
    .limit(MOST_ATTEMPTS)
)


def history(connection: Connection, watch_id: str) -> WatchHistory:
    """Returns everything that is stored about a watch. Raises NotFound."""
    view = queries.one_watch(connection, watch_id, None)
    ended_at, host = connection.execute(_ENDED, {"an_id": watch_id}).one_or_none() or (None, "")
    rows = connection.execute(_EVENTS, {"an_id": watch_id}).all()
    built = [(EventType(row.type), row.created_at) for row in rows]
    end_error = next((_error_in(row.payload) for row in rows if row.type in TERMINAL_EVENTS), None)
    by_delivery: dict[str, list[Attempt]] = defaultdict(list)
    for row in reversed(connection.execute(_ATTEMPTS, {"an_id": watch_id}).all()):
        attempt = Attempt(row.started_at, row.duration_seconds, row.status_code, problem_of(row.error), row.body)
        by_delivery[row.delivery_id].append(attempt)
    return WatchHistory(view, ended_at, built, by_delivery, end_error, _seen(connection, view.task.row), host)


def _seen(connection: Connection, task_row: str) -> list[tuple[TaskStatus, float]]:
    times = connection.execute(_SEEN, {"row": task_row}).one()
    times_seen = zip((TaskStatus.QUEUED, TaskStatus.IN_PROGRESS), times, strict=True)
    return [(status, at) for status, at in times_seen if at is not None]


def _error_in(payload: bytes) -> Problem | None:
    error = orjson.loads(payload)["data"]["error"]
    return None if error is None else Problem(error["code"], error["message"])


# --- the store itself ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ReplicaView:
    """A replica, as its row describes it. Its lease ends at `expires_at` (Unix seconds) unless it renews the lease.

    `leaving`: it stops. It has released its tasks and takes no more.
    """

    id: str
    started_at: float
    expires_at: float
    owned_tasks: int
    leaving: bool = False


@dataclass(frozen=True, slots=True)
class StoreFacts:
    """The store's size in bytes. `place` (the file), `disk_bytes` and `free_bytes` are known for SQLite only."""

    kind: str
    size_bytes: int
    replicas: Sequence[ReplicaView]
    place: str | None = None
    disk_bytes: int | None = None
    free_bytes: int | None = None


_REPLICAS = select(replicas).order_by(replicas.c.started_at)
_POSTGRES_SIZE = text("SELECT pg_database_size(current_database())")
_SQLITE_FILE = text("PRAGMA database_list")


def facts(connection: Connection) -> StoreFacts:
    """Returns the store's size, its disk's space and its replicas. Raises NotFound if its folder cannot be read."""
    views = [_replica_view(row) for row in connection.execute(_REPLICAS)]
    if connection.dialect.name != "sqlite":
        return StoreFacts("PostgreSQL", connection.execute(_POSTGRES_SIZE).scalar_one(), views)
    [path] = [Path(row.file) for row in connection.execute(_SQLITE_FILE) if row.name == "main"]
    try:
        sizes = [file.stat().st_size for file in (path, path.with_name(path.name + "-wal")) if file.exists()]
        disk = shutil.disk_usage(path.parent)
    except OSError as error:
        raise NotFound(f"the database's folder cannot be read: {error.strerror}") from None
    return StoreFacts("SQLite", sum(sizes), views, str(path), disk.total, disk.free)


def _replica_view(row: Row[Any]) -> ReplicaView:
    leaving = row.owned_tasks == LEAVING
    return ReplicaView(row.id, row.started_at, row.expires_at, 0 if leaving else row.owned_tasks, leaving)

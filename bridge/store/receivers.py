"""Receivers: their figures, pausing them, and spreading their pending deliveries when they are resumed.

The functions are operations and queries. `group_commit.py` explains what an operation is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from sqlalchemy import Connection, Row, Select, bindparam, delete, func, select, update
from sqlalchemy.dialects.postgresql import insert

from bridge.core.audit import Action, Actor, AuditEntry
from bridge.core.operations import Notice, NoticeType
from bridge.core.receivers import (
    FIGURES_SECONDS,
    SLOT_SECONDS,
    Figures,
    LastAnswer,
    Pause,
    Receiver,
    due_times,
    spread_seconds,
)
from bridge.store import audit, dashboard_queries, notices
from bridge.store.bulk_statements import inserting, updating
from bridge.store.ending import GIVEN_UP
from bridge.store.group_commit import GroupWriter
from bridge.store.notice_writing import NoticeSettings, write
from bridge.store.notices import NoticeCalls
from bridge.store.reader import Reader
from bridge.store.row_mapping import problem_of, problem_text
from bridge.store.schema import IS_DEAD, deliveries, hosts, outbox, pauses, receiver_figures, watches

SPREAD_AT_ONCE = 1_000  # deliveries in a transaction: 20 ms, so that other writes do not wait long


# --- what operators see -------------------------------------------------------------------------------------------

_FIGURES = select(receiver_figures).where(receiver_figures.c.hour >= bindparam("first_hour"))
_FAILURES = select(hosts.c.host, hosts.c.failures, hosts.c.at)
_PENDING = select(outbox.c.host, func.count().label("total")).group_by(outbox.c.host)
_DEAD = (
    select(watches.c.host, func.count().label("total"))
    .select_from(deliveries)
    .join(watches, watches.c.id == deliveries.c.watch_id)
    .where(IS_DEAD, GIVEN_UP)
    .group_by(watches.c.host)
)
_PAUSED = select(pauses.c.host, pauses.c.paused_at, pauses.c.paused_by).where(pauses.c.resumed_at.is_(None))


def receivers(connection: Connection, now: float, host: str | None = None) -> list[Receiver]:
    """Returns each receiver with an attempt in the last 24 h or a pending delivery, and each paused one, by name.

    With `host` it returns only that receiver. The cost grows with dead and pending deliveries, and with the hours of
    figures (24 for each receiver), but not with delivered ones.
    """
    figures: dict[str, Figures] = {}
    since = now - FIGURES_SECONDS
    for row in _rows(connection, _FIGURES, receiver_figures.c.host, host, first_hour=int(since // SLOT_SECONDS)):
        figures.setdefault(row.host, Figures()).merge(_figures_of(row))
    failures = {row.host: row for row in _rows(connection, _FAILURES, hosts.c.host, host)}
    pending = {row.host: row.total for row in _rows(connection, _PENDING, outbox.c.host, host)}
    dead = {row.host: row.total for row in _rows(connection, _DEAD, watches.c.host, host)}
    paused = {row.host: Pause(row.paused_at, row.paused_by) for row in _rows(connection, _PAUSED, pauses.c.host, host)}
    failed_lately = {name for name, row in failures.items() if row.at >= since}
    names = figures.keys() | pending.keys() | paused.keys() | failed_lately if host is None else {host}
    return [
        Receiver(
            name,
            failures[name].failures if name in failures else 0,
            figures.get(name) or Figures(),
            pending.get(name, 0),
            dead.get(name, 0),
            paused.get(name),
        )
        for name in sorted(names)
    ]


def _rows(connection: Connection, query: Select[Any], column: Any, host: str | None, **values: Any) -> list[Row[Any]]:
    return list(connection.execute(query if host is None else query.where(column == host), values))


def _figures_of(row: Row[Any]) -> Figures:
    durations = {int(number): count for number, count in orjson.loads(row.durations).items()}
    last = LastAnswer(row.last_at, row.last_status, problem_of(row.last_error))
    return Figures(row.attempts, row.delivered, durations, last)


_WRITE_FIGURES = inserting(
    receiver_figures,
    ("host", "hour", "process", "attempts", "delivered", "durations", "last_at", "last_status", "last_error"),
    lambda statement: statement.on_conflict_do_update(
        index_elements=["host", "hour", "process"],
        set_={
            name: statement.excluded[name]
            for name in ("attempts", "delivered", "durations", "last_at", "last_status", "last_error")
        },
    ),
)
_DELETE_FIGURES = delete(receiver_figures).where(receiver_figures.c.hour < bindparam("first_hour"))


def write_figures(connection: Connection, process: str, totals: Mapping[tuple[str, int], Figures]) -> None:
    """Write the totals of a process, by receiver and hour. They replace the totals that the process wrote before."""
    _WRITE_FIGURES.execute(
        connection, [_figures_row(process, host, hour, figures) for (host, hour), figures in sorted(totals.items())]
    )


def _figures_row(process: str, host: str, hour: int, one: Figures) -> tuple[Any, ...]:
    durations = orjson.dumps(one.durations, option=orjson.OPT_NON_STR_KEYS).decode()
    last = (None, None, None) if one.last is None else (one.last.at, one.last.status_code, problem_text(one.last.error))
    return (host, hour, process, one.attempts, one.delivered, durations, *last)


def delete_old_figures(connection: Connection, now: float) -> None:
    """Delete the figures of hours that ended more than 24 h ago."""
    connection.execute(_DELETE_FIGURES, {"first_hour": int((now - FIGURES_SECONDS) // SLOT_SECONDS)})


# --- pausing and resuming -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PauseState:
    """The receivers to which nothing is sent: paused ones, and resumed ones whose deliveries are being spread."""

    paused: frozenset[str]
    resuming: frozenset[str]

    @property
    def held(self) -> frozenset[str]:
        """The receivers to which nothing is sent."""
        return self.paused | self.resuming


_ALL_PAUSES = select(pauses.c.host, pauses.c.resumed_at)
_LOCK_PAUSE = select(pauses).where(pauses.c.host == bindparam("a_host")).with_for_update()
_upsert = insert(pauses)
_PAUSE = _upsert.on_conflict_do_update(
    index_elements=["host"],
    set_={name: _upsert.excluded[name] for name in ("paused_at", "paused_by", "resumed_at", "waiting", "spread")},
    where=pauses.c.resumed_at.is_not(None),
).returning(pauses.c.host)
_RESUME = (
    update(pauses)
    .where(pauses.c.host == bindparam("a_host"), pauses.c.resumed_at.is_(None))
    .values(resumed_at=bindparam("at"), waiting=bindparam("count"))
)
_END_PAUSE = delete(pauses).where(pauses.c.host == bindparam("a_host"))
_COUNT_WAITING = select(func.count()).select_from(outbox).where(outbox.c.host == bindparam("a_host"))


def pause_state(connection: Connection) -> PauseState:
    """Returns which receivers are paused or being resumed."""
    rows = connection.execute(_ALL_PAUSES).all()
    return PauseState(
        frozenset(row.host for row in rows if row.resumed_at is None),
        frozenset(row.host for row in rows if row.resumed_at is not None),
    )


def pause(connection: Connection, host: str, by: Actor, now: float, settings: NoticeSettings) -> list[Notice] | None:
    """Pause a receiver; returns the notices about it, None if it was paused already."""
    row = {"host": host, "paused_at": now, "paused_by": by.name, "resumed_at": None, "waiting": 0, "spread": 0}
    if connection.execute(_PAUSE, row).first() is None:
        return None
    audit.write(connection, [AuditEntry(now, Action.PAUSED, by, receiver=host)])
    return _notices(connection, Notice(NoticeType.RECEIVER_PAUSED, now, host, since=now, by=by.name), settings)


def resume(connection: Connection, host: str, by: Actor, now: float, settings: NoticeSettings) -> list[Notice] | None:
    """Resume a receiver; returns the notices about it, None if it was not paused.

    This also spreads its first deliveries: see `spread`.
    """
    row = connection.execute(_LOCK_PAUSE, {"a_host": host}).one_or_none()
    if row is None or row.resumed_at is not None:
        return None
    waiting = connection.execute(_COUNT_WAITING, {"a_host": host}).scalar_one()
    connection.execute(_RESUME, {"a_host": host, "at": now, "count": waiting})
    audit.write(connection, [AuditEntry(now, Action.RESUMED, by, receiver=host)])
    notice = Notice(NoticeType.RECEIVER_RESUMED, now, host, since=row.paused_at, by=by.name)
    written = _notices(connection, notice, settings)
    spread(connection, host)
    return written


def _notices(connection: Connection, notice: Notice, settings: NoticeSettings) -> list[Notice]:
    if not settings.enabled:
        return []
    complete = [notices.of_receiver(connection, notice)]
    write(connection, settings, complete)
    return complete


_is_free = outbox.c.host == bindparam("a_host"), outbox.c.lease.is_(None)
# Overdue deliveries, the oldest first. They get times after `resumed_at`, so the next transaction does not find them.
_OVERDUE = (
    select(outbox.c.id)
    .where(*_is_free, outbox.c.due_at <= bindparam("resumed_at"))
    .order_by(outbox.c.due_at)
    .limit(bindparam("most"))
    .with_for_update(skip_locked=True)
)
# Deliveries whose schedule would make them wait longer than all the others.
_FAR_OFF = (
    select(outbox.c.id)
    .where(*_is_free, outbox.c.due_at > bindparam("last"))
    .order_by(outbox.c.due_at)
    .limit(bindparam("most"))
    .with_for_update(skip_locked=True)
)
_SET_DUE = updating(outbox, ("id", "due_at", "set_at"))
_SET_NEXT = updating(deliveries, ("id", "next_attempt_at"))
_COUNT_SPREAD = update(pauses).where(pauses.c.host == bindparam("a_host")).values(spread=bindparam("done"))


def spread(connection: Connection, host: str) -> bool:
    """Set new due times, one after the other, for up to 1,000 deliveries of a resumed receiver.

    Returns whether there may be more deliveries without a new time. Nothing is sent to the receiver before all its
    deliveries have one.
    """
    row = connection.execute(_LOCK_PAUSE, {"a_host": host}).one_or_none()
    if row is None or row.resumed_at is None:
        return False  # another replica has spread all deliveries, or the receiver is paused again
    parameters = {"a_host": host, "resumed_at": row.resumed_at, "most": SPREAD_AT_ONCE}
    parameters["last"] = row.resumed_at + spread_seconds(row.waiting)
    found = list(connection.execute(_OVERDUE, parameters).scalars())
    found += connection.execute(_FAR_OFF, parameters | {"most": SPREAD_AT_ONCE - len(found)}).scalars()
    if len(found) < SPREAD_AT_ONCE:
        connection.execute(_END_PAUSE, {"a_host": host})
    else:
        connection.execute(_COUNT_SPREAD, {"a_host": host, "done": row.spread + len(found)})
    times = due_times(row.resumed_at, row.waiting, row.spread, len(found))
    _SET_DUE.execute(
        connection, [(delivery_id, at, row.resumed_at) for delivery_id, at in zip(found, times, strict=True)]
    )
    _SET_NEXT.execute(connection, list(zip(found, times, strict=True)))
    return len(found) == SPREAD_AT_ONCE


# --- the store's calls --------------------------------------------------------------------------------------------


class ReceiverCalls:
    """The store's calls about receivers. Each is one unit of work, off the event loop. Raises StoreUnavailable."""

    def __init__(self, reader: Reader, writer: GroupWriter, notice_calls: NoticeCalls) -> None:
        self._database = reader.database
        self._notices = notice_calls
        self._process = reader.database.system.token_hex(8)
        self._reader = reader
        self._writer = writer

    async def all(self) -> Sequence[Receiver]:
        """Returns the receivers that have an attempt in the last 24 h, a pending delivery or a pause, by name."""
        return await self._reader.run(receivers, self._database.now())

    async def one(self, name: str) -> Receiver:
        """Returns one receiver. It may be unknown: then its figures are empty."""
        [found] = await self._reader.run(receivers, self._database.now(), name)
        return found

    async def in_trouble(self) -> Sequence[dashboard_queries.Receiver]:
        """Returns up to 20 receivers that fail and 20 with dead deliveries."""
        return await self._reader.run(dashboard_queries.receivers)

    async def failing_count(self) -> int:
        """Returns how many receivers have a pending delivery with a failed attempt."""
        return await self._reader.run(dashboard_queries.failing_receivers)

    async def pause_state(self) -> PauseState:
        """Returns which receivers are paused or being resumed."""
        return await self._reader.run(pause_state)

    async def pause(self, name: str, by: Actor) -> Sequence[Notice] | None:
        """Pause a receiver; returns the notices about it, None if it was paused already."""
        return await self._writer.run(pause, name, by, self._database.now(), self._notices.settings)

    async def resume(self, name: str, by: Actor) -> Sequence[Notice] | None:
        """Resume a receiver; returns the notices about it, None if it was not paused.

        Afterwards call `spread` until it returns False.
        """
        return await self._writer.run(resume, name, by, self._database.now(), self._notices.settings)

    async def spread(self, name: str) -> bool:
        """Set new due times for more deliveries of a resumed receiver; returns whether there may be more."""
        return await self._writer.run(spread, name)

    async def write_figures(self, totals: Mapping[tuple[str, int], Figures]) -> None:
        """Write this process's totals, by receiver and hour. Repeating the call changes nothing."""
        await self._writer.run(write_figures, self._process, totals)

    async def delete_old_figures(self) -> None:
        """Delete figures that are older than 24 h."""
        await self._writer.run(delete_old_figures, self._database.now())

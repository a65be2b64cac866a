"""What a poll changes: statuses and endings. Watch, event and owed delivery are one transaction.

Rows are locked in one order everywhere: the task first, so that no watch is left active on a finished task, then its
watches, then the outbox, then deliveries.
"""

import secrets as randomness
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

from sqlalchemy import Connection, Row, bindparam, select

from bridge.core.errors import BadSetting, BridgeError, LostClaim
from bridge.core.model import Event, PendingDelivery, Problem, TaskStatus, Watch, WatchState
from bridge.store import replicas
from bridge.store.bulk_statements import inserting, updating
from bridge.store.encryption import Cipher
from bridge.store.ending import WatchEnd, end_watches
from bridge.store.records import Changed, Settlement, StatusChange
from bridge.store.replicas import Replica
from bridge.store.row_mapping import NOTE, SNAPSHOT, note_values, owed, snapshot_values, wants_status, watch_of
from bridge.store.schema import IS_ACTIVE, deliveries, events, outbox, tasks, watches
from bridge.telemetry import get_logger

Given = TypeVar("Given", Settlement, StatusChange)

_log = get_logger("store")


@dataclass(frozen=True, slots=True)
class Owned(Generic[Given]):
    """A change to a task, under a replica's claim; what it makes owed is claimed for `lease_seconds`."""

    replica: Replica
    cipher: Cipher
    change: Given
    lease_seconds: float


LOCK_WATCHES = (
    select(watches)
    .where(IS_ACTIVE, watches.c.task.in_(bindparam("those", expanding=True)))
    .order_by(watches.c.id)
    .with_for_update()
)


def settle(connection: Connection, works: Sequence[Owned[Settlement]]) -> Sequence[Changed | BridgeError]:
    """End what may end on each task; a task without an active watch closes."""
    held = _held(connection, works)
    active = _active_watches(connection, works, held)
    writes = _Writes()
    results = [_settled(work, active, writes) if own else _lost() for work, own in zip(works, held, strict=True)]
    writes.write(connection)
    return results


def record_statuses(connection: Connection, works: Sequence[Owned[StatusChange]]) -> Sequence[Changed | BridgeError]:
    """Write what a task's status is now, and the status events that watches asked for and have not had."""
    held = _held(connection, works)
    active = _active_watches(connection, works, held)
    told = _told_before(connection, works, active)
    writes = _Writes()
    results = [_recorded(work, active, told, writes) if own else _lost() for work, own in zip(works, held, strict=True)]
    writes.write(connection)
    return results


def _lost() -> LostClaim:
    return LostClaim("the task is another replica's now, or has ended")


def _held(connection: Connection, works: Sequence[Owned[Given]]) -> list[bool]:
    """Which tasks are still open and still their replica's; they are locked until the end."""
    return replicas.lock_own(connection, [(work.replica, work.change.task) for work in works])


def _active_watches(
    connection: Connection, works: Sequence[Owned[Given]], held: Sequence[bool]
) -> dict[str, list[Row[Any]]]:
    found: dict[str, list[Row[Any]]] = defaultdict(list)
    if those := sorted({work.change.task for work, own in zip(works, held, strict=True) if own}):
        for row in connection.execute(LOCK_WATCHES, {"those": those}):
            found[row.task].append(row)
    return found


# --- deciding -----------------------------------------------------------------------------------------------------


def _settled(work: Owned[Settlement], active: dict[str, list[Row[Any]]], writes: "_Writes") -> Changed:
    change = work.change
    left: list[Row[Any]] = []
    ended: list[Watch] = []
    claimed: list[PendingDelivery] = []
    errors: dict[str, Problem] = {}
    for row in active[change.task]:
        watch = watch_of(row)
        ending = change.ending(watch)
        if ending is None:
            left.append(row)
            continue
        watch = replace(watch, state=WatchState.SETTLED, outcome=ending.outcome, settled_at=change.at)
        event = change.event(watch, ending)
        writes.ends.append(
            WatchEnd(watch.id, WatchState.SETTLED, ending.outcome, change.at, owed_status=wants_status(watch.events))
        )
        writes.events.append(event)
        if event.type in watch.events:
            claimed += writes.owe(work, row, event)
        ended.append(watch)
        if ending.error is not None:
            errors[watch.id] = ending.error
    active[change.task] = left  # for another change of the same task in this transaction
    writes.see(change, closed=not left)
    return Changed(tuple(ended), tuple(watch.id for watch in ended), tuple(claimed), not left, errors)


def _recorded(
    work: Owned[StatusChange],
    active: Mapping[str, Sequence[Row[Any]]],
    told: set[tuple[str, str]],
    writes: "_Writes",
) -> Changed:
    change, rows = work.change, active.get(work.change.task, ())
    claimed: list[PendingDelivery] = []
    for row in _asking(change, rows):
        if change.event is None or (row.id, change.event_type) in told:
            continue
        event = change.event(watch_of(row))
        told.add((row.id, event.type))
        writes.events.append(event)
        claimed += writes.owe(work, row, event)
    closed = not rows  # every watch was cancelled meanwhile
    writes.see(change, closed=closed)
    return Changed((), tuple(row.id for row in rows), tuple(claimed), closed)


def _asking(change: StatusChange, rows: Sequence[Row[Any]]) -> list[Row[Any]]:
    return [row for row in rows if change.event_type in row.events.split(",")]


_HAD = select(events.c.watch_id, events.c.type).where(events.c.watch_id.in_(bindparam("those", expanding=True)))


def _told_before(
    connection: Connection, works: Sequence[Owned[StatusChange]], active: Mapping[str, Sequence[Row[Any]]]
) -> set[tuple[str, str]]:
    """Which of the watches that could be told now have been told what."""
    those = sorted({row.id for work in works for row in _asking(work.change, active.get(work.change.task, ()))})
    return {(row.watch_id, row.type) for row in connection.execute(_HAD, {"those": those})} if those else set()


# --- writing ------------------------------------------------------------------------------------------------------

_SEE_TASKS = updating(
    tasks,
    ("id", "closed_at", *SNAPSHOT, *NOTE, "queued_at", "in_progress_at"),
    once=("queued_at", "in_progress_at"),
)
_WRITE_EVENTS = inserting(events, ("watch_id", "type", "terminal", "created_at", "payload"))
_WRITE_OUTBOX = inserting(outbox, ("id", "host", "due_at", "set_at", "lease", "holder"))
_WRITE_DELIVERIES = inserting(
    deliveries,
    ("id", "watch_id", "type", "state", "attempts", "round_attempts", "created_at", "next_attempt_at"),
)


@dataclass(slots=True)
class _Writes:
    """What a transaction is to write, gathered for one statement to each table."""

    ends: list[WatchEnd] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    sent: list[Event] = field(default_factory=list)
    outbox: list[tuple[Any, ...]] = field(default_factory=list)
    sights: dict[str, tuple[Any, ...]] = field(default_factory=dict)  # by task: of several the last one counts
    lease: str = field(default_factory=lambda: randomness.token_hex(8))

    def see(self, change: Settlement | StatusChange, *, closed: bool) -> None:
        """Note a task as it was seen, and its end."""
        status, earlier = change.snapshot.status, self.sights.get(change.task, (None, None))
        queued = earlier[-2] or (change.at if status is TaskStatus.QUEUED else None)
        in_progress = earlier[-1] or (change.at if status is TaskStatus.IN_PROGRESS else None)
        seen = *snapshot_values(change.snapshot), *note_values(change.note, last=closed)
        self.sights[change.task] = (change.task, change.at if closed else None, *seen, queued, in_progress)

    def owe(self, work: Owned[Given], row: Row[Any], event: Event) -> list[PendingDelivery]:
        """Note a delivery of an event, claimed; none when its watch's secrets don't open: it is left to be claimed."""
        now, claimed = work.replica.now(), []
        try:
            claimed.append(owed(row, event, self.lease, (0, 0), work.cipher))
            self.outbox.append((event.id, row.host, now + work.lease_seconds, now, self.lease, work.replica.id))
        except BadSetting:  # told when it is claimed
            self.outbox.append((event.id, row.host, now, now, None, None))
        self.sent.append(event)
        return claimed

    def write(self, connection: Connection) -> None:
        """Write it all, each table's rows in the order that everybody keeps."""
        end_watches(connection, self.ends)
        _WRITE_EVENTS.execute(connection, [_event_row(event) for event in self.events])
        _WRITE_OUTBOX.execute(connection, self.outbox)
        _WRITE_DELIVERIES.execute(connection, [_delivery_row(event) for event in self.sent])
        _SEE_TASKS.execute(connection, list(self.sights.values()))


def _event_row(event: Event) -> tuple[Any, ...]:
    return event.watch_id, event.type.value, event.terminal, event.created_at, event.payload


def _delivery_row(event: Event) -> tuple[Any, ...]:
    return event.id, event.watch_id, event.type.value, "pending", 0, 0, event.created_at, event.created_at

"""Operations that end watches or change a task's status: settlements, status changes and cancellations.

A watch's end, its event and its delivery are one transaction. All operations lock rows in the same order: tasks,
watches, outbox, deliveries. The task is locked first so that no watch stays active on a finished task.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sqlalchemy import Boolean, Connection, Row, and_, bindparam, exists, select, update

from bridge.core.audit import Action, Actor, AuditEntry
from bridge.core.errors import BadSetting, BridgeError, LostClaim, NotFound, WatchSettled
from bridge.core.model import (
    Event,
    Outcome,
    PendingDelivery,
    Problem,
    TaskSnapshot,
    TaskStatus,
    Watch,
    WatchState,
)
from bridge.store import audit, event_feed, replicas
from bridge.store.bulk_statements import BulkQuery, inserting, updating
from bridge.store.encryption import Cipher
from bridge.store.ending import WatchEnd, end_watches
from bridge.store.records import CancelledWatch, Changed, Settlement, StatusChange
from bridge.store.replicas import Replica
from bridge.store.row_mapping import (
    FACTS,
    POLLS,
    SNAPSHOT,
    events_of,
    facts_values,
    pending_delivery,
    poll_values,
    snapshot_values,
    trace_of,
    wants_status,
    watch_of,
)
from bridge.store.schema import IS_ACTIVE, deliveries, events, outbox, tasks, watches

_LOCK_WATCHES = BulkQuery(
    ("task",),
    lambda binds: (
        select(watches)
        .where(IS_ACTIVE, watches.c.task.in_([bind["task"] for bind in binds]))
        .order_by(watches.c.id)
        .with_for_update()
    ),
)


def settle(
    connection: Connection, items: Sequence[Settlement], replica: Replica, cipher: Cipher, lease_seconds: float
) -> Sequence[Changed | BridgeError]:
    """Settle the watches that each item ends. A task without an active watch closes.

    The new deliveries are claimed for this replica, for `lease_seconds`. The result is LostClaim for a task that this
    replica does not own, or that is closed.
    """
    owned = replicas.lock_own(connection, replica, [item.task.row for item in items])
    active = _active_watches(connection, owned)
    writes = _Writes(replica, cipher, lease_seconds)
    results = [_settle_task(item, active, writes) if item.task.row in owned else _lost() for item in items]
    writes.execute(connection)
    return results


def record_statuses(
    connection: Connection, items: Sequence[StatusChange], replica: Replica, cipher: Cipher, lease_seconds: float
) -> Sequence[Changed | BridgeError]:
    """Write each task's status, and the status events that its watches asked for and do not have yet.

    Claims and LostClaim are as for `settle`.
    """
    owned = replicas.lock_own(connection, replica, [item.task.row for item in items])
    active = _active_watches(connection, owned)
    existing = _existing_events(connection, items, active)
    writes = _Writes(replica, cipher, lease_seconds)
    results = [_record_status(item, active, existing, writes) if item.task.row in owned else _lost() for item in items]
    writes.execute(connection)
    return results


def _lost() -> LostClaim:
    return LostClaim("another replica owns the task now, or the task has ended")


def _active_watches(connection: Connection, owned: set[str]) -> dict[str, list[Row[Any]]]:
    """Returns the rows of the tasks' active watches, by task. They are locked."""
    found: dict[str, list[Row[Any]]] = defaultdict(list)
    for row in _LOCK_WATCHES.fetch(connection, [(task,) for task in sorted(owned)]):
        found[row.task].append(row)
    return found


# --- decisions ----------------------------------------------------------------------------------------------------


def _settle_task(item: Settlement, active: dict[str, list[Row[Any]]], writes: "_Writes") -> Changed:
    remaining: list[Row[Any]] = []
    settled: list[Watch] = []
    claimed: list[PendingDelivery] = []
    errors: dict[str, Problem] = {}
    failed: TaskSnapshot | None = None
    for row in active[item.task.row]:
        watch = watch_of(row)
        ending = item.ending(watch)
        if ending is None:
            remaining.append(row)
            continue
        watch = replace(watch, state=WatchState.SETTLED, outcome=ending.outcome, settled_at=item.at)
        event = item.event(watch, ending)
        writes.ends.append(
            WatchEnd(watch.id, WatchState.SETTLED, ending.outcome, item.at, wants_status=wants_status(watch.events))
        )
        writes.add_event(row, event)
        if event.type in watch.events:
            claimed += writes.add_delivery(row, event)
        settled.append(watch)
        failed = ending.task if ending.outcome is Outcome.FAILED else failed
        if ending.error is not None:
            errors[watch.id] = ending.error
    active[item.task.row] = remaining  # for another settlement of the same task in this transaction
    # An unconfirmed failure is not in the task's snapshot. If the task closes, this failure is its final status.
    if failed is not None and not remaining:
        item = replace(item, task=item.task._replace(snapshot=failed))
    writes.set_task(item, closed=not remaining)
    apps = frozenset(watch.app for watch in settled)
    return Changed(tuple(settled), (), tuple(claimed), not remaining, errors, apps)


def _record_status(
    item: StatusChange, active: Mapping[str, Sequence[Row[Any]]], existing: set[tuple[str, str]], writes: "_Writes"
) -> Changed:
    rows = active.get(item.task.row, ())
    claimed: list[PendingDelivery] = []
    apps: set[str] = set()
    for row in _asked_for(item, rows):
        if item.event is None or (row.id, item.event_type) in existing:
            continue
        event = item.event(watch_of(row))
        existing.add((row.id, event.type))
        writes.add_event(row, event)
        claimed += writes.add_delivery(row, event)
        apps.add(row.app)
    closed = not rows  # every watch was cancelled meanwhile
    writes.set_task(item, closed=closed)
    updated = tuple(row.id for row in rows)
    traces = {row.id: trace for row in rows if (trace := trace_of(row)) is not None}
    return Changed((), updated, tuple(claimed), closed, event_apps=frozenset(apps), traces=traces)


def _asked_for(item: StatusChange, rows: Sequence[Row[Any]]) -> list[Row[Any]]:
    return [row for row in rows if item.event_type in row.events.split(",")]


_EXISTING_EVENTS = select(events.c.watch_id, events.c.type).where(
    events.c.watch_id.in_(bindparam("ids", expanding=True))
)


def _existing_events(
    connection: Connection, items: Sequence[StatusChange], active: Mapping[str, Sequence[Row[Any]]]
) -> set[tuple[str, str]]:
    """Returns the existing events, as (watch id, type), of the watches that asked for the event of an item."""
    ids = sorted({row.id for item in items for row in _asked_for(item, active.get(item.task.row, ()))})
    if not ids:
        return set()
    return {(row.watch_id, row.type) for row in connection.execute(_EXISTING_EVENTS, {"ids": ids})}


# --- writing ------------------------------------------------------------------------------------------------------

_TASK = "id", *SNAPSHOT, *POLLS, *FACTS, "queued_at", "in_progress_at"
# Only the end of a task sets `closed_at`: SQLite writes each index whose condition has a column that the update sets.
_UPDATE_TASKS = updating(tasks, _TASK, once=("queued_at", "in_progress_at"))
_CLOSE_TASKS = updating(tasks, (*_TASK, "closed_at"), once=("queued_at", "in_progress_at"))
_INSERT_EVENTS = inserting(events, ("watch_id", "type", "terminal", "created_at", "payload", "body", "app", "number"))
_INSERT_OUTBOX = inserting(outbox, ("id", "host", "due_at", "set_at", "lease", "holder"))
_INSERT_DELIVERIES = inserting(
    deliveries,
    ("id", "watch_id", "type", "state", "attempts", "round_attempts", "created_at", "next_attempt_at"),
)


@dataclass(slots=True)
class _Writes:
    """What a transaction writes, collected so that each table takes one statement."""

    replica: Replica
    cipher: Cipher
    lease_seconds: float
    lease: str = field(init=False)
    ends: list[WatchEnd] = field(default_factory=list)
    events: list[tuple[str, Event]] = field(default_factory=list)  # with their apps
    sent_events: list[Event] = field(default_factory=list)
    outbox: list[tuple[Any, ...]] = field(default_factory=list)
    tasks: dict[str, tuple[Any, ...]] = field(default_factory=dict)  # by row id; the last values of a task are written
    closed: dict[str, float] = field(default_factory=dict)  # by row id: the tasks that close, and when (Unix seconds)

    def __post_init__(self) -> None:
        self.lease = self.replica.new_lease()

    def set_task(self, item: Settlement | StatusChange, *, closed: bool) -> None:
        """Add a task's new values."""
        task = item.task
        status, earlier = task.snapshot.status, self.tasks.get(task.row, (None, None))
        queued = earlier[-2] or (item.at if status is TaskStatus.QUEUED else None)
        in_progress = earlier[-1] or (item.at if status is TaskStatus.IN_PROGRESS else None)
        values = *snapshot_values(task.snapshot), *poll_values(task, last=closed), *facts_values(task.facts)
        self.tasks[task.row] = (task.row, *values, queued, in_progress)
        if closed:
            self.closed[task.row] = item.at

    def add_event(self, row: Row[Any], event: Event) -> None:
        """Add an event of a watch."""
        self.events.append((row.app, event))

    def add_delivery(self, row: Row[Any], event: Event) -> list[PendingDelivery]:
        """Add a claimed delivery of an event, and return it. If its secrets do not decrypt, it is added unclaimed."""
        now, claimed = self.replica.now(), []
        try:
            claimed.append(pending_delivery(row, event, self.lease, (0, 0), self.cipher, self.replica.identity))
            self.outbox.append((event.id, row.host, now + self.lease_seconds, now, self.lease, self.replica.id))
        except BadSetting:  # the next claim of the delivery logs it
            self.outbox.append((event.id, row.host, now, now, None, None))
        self.sent_events.append(event)
        return claimed

    def execute(self, connection: Connection) -> None:
        """Write everything. The order of the tables is the same in all transactions."""
        end_watches(connection, self.ends)
        self._insert_events(connection)
        _INSERT_OUTBOX.execute(connection, self.outbox)
        _INSERT_DELIVERIES.execute(connection, [_delivery_row(event) for event in self.sent_events])
        _UPDATE_TASKS.execute(connection, [values for row, values in self.tasks.items() if row not in self.closed])
        _CLOSE_TASKS.execute(connection, [(*self.tasks[row], at) for row, at in self.closed.items()])

    def _insert_events(self, connection: Connection) -> None:
        if not self.events:
            return
        numbers = event_feed.next_numbers(connection, self.replica, len(self.events))
        rows = [_event_row(app, event, number) for (app, event), number in zip(self.events, numbers, strict=True)]
        _INSERT_EVENTS.execute(connection, rows)


def _event_row(app: str, event: Event, number: int | None) -> tuple[Any, ...]:
    head = event.watch_id, event.type.value, event.terminal, event.created_at
    return *head, event.payload, event.body, app, number


def _delivery_row(event: Event) -> tuple[Any, ...]:
    return event.id, event.watch_id, event.type.value, "pending", 0, 0, event.created_at, event.created_at


# --- cancelling ---------------------------------------------------------------------------------------------------

_FIND_WATCHES = (
    select(
        *(watches.c[name] for name in ("id", "app", "state", "task", "task_id", "events", "traceparent", "tracestate"))
    )
    .where(watches.c.id.in_(bindparam("ids", expanding=True)))
    .order_by(watches.c.id)
)
_LOCK_TASKS = (
    select(tasks.c.id)
    .where(tasks.c.closed_at.is_(None), tasks.c.id.in_(bindparam("ids", expanding=True)))
    .order_by(tasks.c.id)
    .with_for_update()
)
_CLOSE_UNWATCHED = (
    update(tasks)
    .where(
        tasks.c.id.in_(bindparam("ids", expanding=True)),
        tasks.c.closed_at.is_(None),
        ~exists().where(watches.c.task == tasks.c.id, IS_ACTIVE),
    )
    .values(
        closed_at=bindparam("at"),
        next_poll_at=None,
        changed_elsewhere=and_(tasks.c.owner.is_not(None), bindparam("shared", type_=Boolean)),
    )
)


def cancel(
    connection: Connection, items: Sequence[tuple[str, str | None, Actor | None]], replica: Replica
) -> Sequence[CancelledWatch | BridgeError]:
    """Cancel active watches. An item is a watch's id, the app that may cancel it (None: any), and the actor.

    A watch that is cancelled already stays as it is. A task without an active watch closes. On PostgreSQL the replica
    that polls the task learns this by `adopt`. This holds for this replica too, because it may not get the answer of
    this transaction.

    The result is NotFound for an unknown watch or one of another app, and WatchSettled for a settled watch.
    """
    parameters = {"ids": sorted({watch_id for watch_id, *_ in items})}
    task_rows = sorted({row.task for row in connection.execute(_FIND_WATCHES, parameters)})
    if task_rows:  # the tasks first, as in `settle`; the rows that are read after this do not change any more
        connection.execute(_LOCK_TASKS, {"ids": task_rows}).all()
        _LOCK_WATCHES.fetch(connection, [(row,) for row in task_rows])
    rows = {row.id: row for row in connection.execute(_FIND_WATCHES, parameters)}
    now = replica.now()
    results: list[CancelledWatch | BridgeError] = []
    ends: dict[str, WatchEnd] = {}
    entries: list[AuditEntry] = []
    for watch_id, app, actor in items:
        row = rows.get(watch_id)
        if row is None or app not in {None, row.app}:
            results.append(NotFound("there is no such watch"))
        elif row.state == WatchState.SETTLED:
            results.append(WatchSettled("the watch is settled; only an active one can be cancelled"))
        else:
            results.append(CancelledWatch(row.id, row.app, row.task_id, row.task, trace_of(row)))
            if row.state == WatchState.ACTIVE and row.id not in ends:
                entries += [AuditEntry(now, Action.CANCELLED, actor, row.id)] if actor is not None else []
                asked = wants_status(events_of(row.events))
                ends[row.id] = WatchEnd(row.id, WatchState.CANCELLED, None, now, wants_status=asked)
    end_watches(connection, [ends[watch_id] for watch_id in sorted(ends)])
    if ends:
        connection.execute(_CLOSE_UNWATCHED, {"ids": task_rows, "at": now, "shared": replica.shared})
    audit.write(connection, entries)
    return results

"""What a poll changes: statuses and endings. Watch, event and owed delivery are one transaction.

The task's row is locked first, as in registering and cancelling: no watch is left active on a finished task.
"""

import secrets as randomness
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from sqlalchemy import Connection, Row, bindparam, delete, insert, literal_column, select, update

from bridge.core.errors import BridgeError, LostClaim
from bridge.core.model import STATUS_EVENTS, Event, Watch, WatchState
from bridge.store import replicas
from bridge.store.records import Changed, Settlement, StatusChange
from bridge.store.replicas import Replica
from bridge.store.rows import SUPERSEDED, note_values, owed, problem_text, snapshot_values, watch_of
from bridge.store.schema import IS_ACTIVE, deliveries, events, outbox, tasks, watches
from bridge.store.sealing import Sealer

Given = TypeVar("Given", Settlement, StatusChange)


@dataclass(frozen=True, slots=True)
class Owned(Generic[Given]):
    """A change to a task, under a replica's claim; what it makes owed is claimed for `lease_seconds`."""

    replica: Replica
    sealer: Sealer
    change: Given
    lease_seconds: float


@dataclass(frozen=True, slots=True)
class Ended:
    """A watch at its end, and the event that says so."""

    row: Row[Any]
    watch: Watch
    event: Event


LOST = LostClaim("the task is another replica's now, or has ended")

LOCK_TASKS = (
    select(tasks.c.id, tasks.c.owner)
    .where(tasks.c.closed_at.is_(None), tasks.c.id.in_(bindparam("those", expanding=True)))
    .order_by(tasks.c.id)
    .with_for_update()
)
LOCK_WATCHES = (
    select(watches)
    .where(IS_ACTIVE, watches.c.task.in_(bindparam("those", expanding=True)))
    .order_by(watches.c.id)
    .with_for_update()
)
_HAD = select(events.c.watch_id, events.c.type).where(events.c.watch_id.in_(bindparam("those", expanding=True)))

_END_WATCH = (
    update(watches)
    .where(watches.c.id == bindparam("an_id"), watches.c.state == literal_column("'active'"))
    .values(state=bindparam("now_state"), outcome=bindparam("now_outcome"), ended_at=bindparam("at"))
)
_SEE_TASK = (
    update(tasks)
    .where(tasks.c.id == bindparam("row"))
    .values(
        {
            tasks.c[name]: bindparam(f"new_{name}")
            for name in (
                *("status", "progress", "url", "format", "metadata", "error"),
                *("polls", "last_polled_at", "next_poll_at", "poll_error", "closed_at"),
            )
        }
    )
)
_WRITE_EVENT = insert(events)
_WRITE_DELIVERY = insert(deliveries)
_WRITE_OUTBOX = insert(outbox)
_PENDING = select(deliveries.c.id).where(
    deliveries.c.watch_id.in_(bindparam("those", expanding=True)), deliveries.c.state == literal_column("'pending'")
)
_SUPERSEDE = (
    update(deliveries)
    .where(deliveries.c.id.in_(bindparam("those", expanding=True)))
    .values(state="dead", next_attempt_at=None, dead_at=bindparam("at"), error=problem_text(SUPERSEDED))
)
_NO_LONGER_OWED = delete(outbox).where(outbox.c.id.in_(bindparam("those", expanding=True)))


def settle(connection: Connection, works: Sequence[Owned[Settlement]]) -> Sequence[Changed | BridgeError]:
    """End what may end on each task; a task without an active watch closes."""
    mine = _claimed(connection, works)
    active = _active_watches(connection, mine)
    results: list[Changed | BridgeError] = []
    ended: list[Ended] = []
    seen: list[dict[str, Any]] = []
    outbox_rows: list[dict[str, Any]] = []
    for work in works:
        change = work.change
        if change.task not in mine:
            results.append(LOST)
            continue
        ending = [found for row in active[change.task] if (found := _ended(row, change)) is not None]
        gone = {one.watch.id for one in ending}
        active[change.task] = [row for row in active[change.task] if row.id not in gone]
        closed = not active[change.task]
        seen.append(_sight(change, change.at if closed else None))
        claimed = [_owed(work, one.row, one.event) for one in ending if one.event.type in one.watch.events]
        outbox_rows += [_outbox_row(work, one) for one in claimed]
        ended += ending
        settled = tuple(replace(one.watch, **_final(one)) for one in ending)
        results.append(Changed(settled, tuple(w.id for w in settled), tuple(claimed), closed))
    _write_endings(connection, ended)
    _write_owed(connection, [(one.event, one.event.type in one.watch.events) for one in ended], outbox_rows)
    if seen:
        connection.execute(_SEE_TASK, sorted(seen, key=lambda values: str(values["row"])))
    return results


def record_statuses(connection: Connection, works: Sequence[Owned[StatusChange]]) -> Sequence[Changed | BridgeError]:
    """Write what a task's status is now, and the status events that watches asked for and have not had."""
    mine = _claimed(connection, works)
    active = _active_watches(connection, mine)
    had = _had(connection, works, active)
    results: list[Changed | BridgeError] = []
    new_events: list[tuple[Event, bool]] = []
    seen: list[dict[str, Any]] = []
    outbox_rows: list[dict[str, Any]] = []
    for work in works:
        change = work.change
        if change.task not in mine:
            results.append(LOST)
            continue
        rows = active[change.task]
        closed = not rows  # every watch was cancelled meanwhile
        found = (
            [] if change.event is None else [(row, change.event(watch_of(row))) for row in _asking(rows, change, had)]
        )
        claimed = [_owed(work, row, event) for row, event in found]
        outbox_rows += [_outbox_row(work, one) for one in claimed]
        new_events += [(event, True) for _, event in found]
        had |= {(event.watch_id, event.type) for _, event in found}
        seen.append(_sight(change, change.at if closed else None))
        results.append(Changed((), tuple(row.id for row in rows), tuple(claimed), closed))
    _write_owed(connection, new_events, outbox_rows)
    if seen:
        connection.execute(_SEE_TASK, sorted(seen, key=lambda values: str(values["row"])))
    return results


def end_watches(connection: Connection, endings: Iterable[tuple[str, Mapping[str, Any]]], at: float) -> None:
    """Write the end of watches that are locked and active; status events still pending are superseded."""
    rows = [{"an_id": watch_id, **values} for watch_id, values in endings]
    if not rows:
        return
    connection.execute(_END_WATCH, sorted(rows, key=lambda values: str(values["an_id"])))
    pending = sorted(connection.execute(_PENDING, {"those": [row["an_id"] for row in rows]}).scalars())
    if pending:
        connection.execute(_SUPERSEDE, {"those": pending, "at": at})
        connection.execute(_NO_LONGER_OWED, {"those": pending})


# --- their parts --------------------------------------------------------------------------------------------------


def _claimed(connection: Connection, works: Sequence[Owned[Given]]) -> set[str]:
    """The tasks that are still open and still their replica's; locked until the end."""
    holders = {work.replica for work in works}
    holding = {replica.id for replica in holders if replicas.holds(connection, replica)}
    those = sorted({work.change.task for work in works})
    return {row.id for row in connection.execute(LOCK_TASKS, {"those": those}) if row.owner in holding}


def _active_watches(connection: Connection, task_rows: set[str]) -> dict[str, list[Row[Any]]]:
    found: dict[str, list[Row[Any]]] = defaultdict(list)
    if task_rows:
        for row in connection.execute(LOCK_WATCHES, {"those": sorted(task_rows)}):
            found[row.task].append(row)
    return found


def _ended(row: Row[Any], change: Settlement) -> Ended | None:
    watch = watch_of(row)
    ending = change.ending(watch)
    if ending is None:
        return None
    settled = replace(watch, state=WatchState.SETTLED, outcome=ending.outcome, settled_at=change.at)
    return Ended(row, settled, change.event(settled, ending))


def _final(one: Ended) -> dict[str, Any]:
    return {"state": WatchState.SETTLED, "outcome": one.watch.outcome, "settled_at": one.watch.settled_at}


def _had(
    connection: Connection, works: Sequence[Owned[StatusChange]], active: Mapping[str, Sequence[Row[Any]]]
) -> set[tuple[str, str]]:
    """Which of the watches that could be told have been told what."""
    telling = {work.change.task for work in works if work.change.event is not None}
    those = [
        row.id
        for task, rows in active.items()
        if task in telling
        for row in rows
        if "video.q" in row.events or "video.i" in row.events
    ]
    if not those:
        return set()
    return {(row.watch_id, row.type) for row in connection.execute(_HAD, {"those": those})}


def _asking(rows: Sequence[Row[Any]], change: StatusChange, had: set[tuple[str, str]]) -> list[Row[Any]]:
    wanted = change.event_type
    return [row for row in rows if wanted in row.events.split(",") and (row.id, wanted) not in had]


def _sight(change: Settlement | StatusChange, closed_at: float | None) -> dict[str, Any]:
    values = snapshot_values(change.snapshot) | note_values(change.note) | {"closed_at": closed_at}
    return {"row": change.task, **{f"new_{name}": value for name, value in values.items()}}


def _owed(work: Owned[Given], row: Row[Any], event: Event) -> Any:
    return owed(row, event, randomness.token_hex(8), 0, work.sealer)


def _outbox_row(work: Owned[Given], claimed: Any) -> dict[str, Any]:
    now = work.replica.now()
    return {
        "id": claimed.id,
        "host": claimed.host,
        "due_at": now + work.lease_seconds,
        "set_at": now,
        "lease": claimed.lease,
        "holder": work.replica.id,
    }


def _write_endings(connection: Connection, ended: Sequence[Ended]) -> None:
    endings = [
        (one.watch.id, {"now_state": one.watch.state, "now_outcome": one.watch.outcome, "at": one.event.created_at})
        for one in ended
    ]
    end_watches(connection, endings, max((one.event.created_at for one in ended), default=0.0))


def _write_owed(
    connection: Connection, found: Sequence[tuple[Event, bool]], outbox_rows: Sequence[Mapping[str, Any]]
) -> None:
    """Write events, and a delivery for each that is to be sent."""
    if not found:
        return
    connection.execute(
        _WRITE_EVENT,
        [
            {
                "watch_id": event.watch_id,
                "type": event.type,
                "terminal": event.terminal,
                "created_at": event.created_at,
                "payload": event.payload,
            }
            for event, _ in found
        ],
    )
    sent = [event for event, to_send in found if to_send]
    if sent:
        connection.execute(_WRITE_DELIVERY, [_delivery_row(event) for event in sent])
        connection.execute(_WRITE_OUTBOX, list(outbox_rows))


def _delivery_row(event: Event) -> dict[str, Any]:
    return {
        "id": event.id,
        "watch_id": event.watch_id,
        "type": event.type,
        "state": "pending",
        "attempts": 0,
        "round_attempts": 0,
        "created_at": event.created_at,
        "next_attempt_at": event.created_at,
    }


STATUS_TYPES = frozenset(STATUS_EVENTS.values())

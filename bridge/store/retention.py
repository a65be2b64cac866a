"""Upkeep: deleting what is old, in small batches, and mending what a clock that was set back has done."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from sqlalchemy import BindParameter, Connection, bindparam, delete, literal_column, select, update

from bridge.core.errors import BridgeError
from bridge.store.schema import IS_ACTIVE, attempts, deliveries, events, idempotency, outbox, tasks, watches

Nothing: TypeAlias = None


@dataclass(frozen=True, slots=True)
class Deleting:
    """How much to delete at a time, of what ended before a moment."""

    before: float
    limit: int


_OLD = (
    select(watches.c.id, watches.c.task)
    .where(watches.c.ended_at.is_not(None), watches.c.ended_at < bindparam("before"))
    .where(
        ~select(deliveries.c.id)
        .where(deliveries.c.watch_id == watches.c.id, deliveries.c.state == literal_column("'pending'"))
        .exists()
    )
    .order_by(watches.c.ended_at)
    .limit(bindparam("most"))
    .with_for_update(skip_locked=True)
)
_THOSE: BindParameter[str] = bindparam("those", expanding=True)
# Once more when they are locked: a retry may have come between looking and locking.
_OWING = select(deliveries.c.watch_id).where(
    deliveries.c.watch_id.in_(_THOSE), deliveries.c.state == literal_column("'pending'")
)
_DELIVERY_IDS = select(deliveries.c.id).where(deliveries.c.watch_id.in_(_THOSE))
_DELETE_ATTEMPTS = delete(attempts).where(attempts.c.delivery_id.in_(_THOSE))
_DELETE_DELIVERIES = delete(deliveries).where(deliveries.c.watch_id.in_(_THOSE))
_DELETE_EVENTS = delete(events).where(events.c.watch_id.in_(_THOSE))
_DELETE_WATCHES = delete(watches).where(watches.c.id.in_(_THOSE))
_DELETE_TASKS = delete(tasks).where(
    tasks.c.id.in_(_THOSE),
    tasks.c.closed_at.is_not(None),
    ~select(watches.c.id).where(watches.c.task == tasks.c.id).exists(),
)


def delete_ended(connection: Connection, works: Sequence[Deleting]) -> Sequence[int | BridgeError]:
    """Delete final watches with all that belongs to them, their secrets too; one that owes a delivery stays."""
    return [_deleted(connection, work) for work in works]


def _deleted(connection: Connection, work: Deleting) -> int:
    old = connection.execute(_OLD, {"before": work.before, "most": work.limit}).all()
    owing = set(connection.execute(_OWING, {"those": [row.id for row in old]}).scalars()) if old else set()
    found = [row for row in old if row.id not in owing]
    if not found:
        return 0
    those = {"those": sorted(row.id for row in found)}
    sent = sorted(connection.execute(_DELIVERY_IDS, those).scalars())
    if sent:
        connection.execute(_DELETE_ATTEMPTS, {"those": sent})
    connection.execute(_DELETE_DELIVERIES, those)
    connection.execute(_DELETE_EVENTS, those)
    connection.execute(_DELETE_WATCHES, those)
    connection.execute(_DELETE_TASKS, {"those": sorted({row.task for row in found})})
    return len(found)


_DELETE_KEYS = delete(idempotency).where(idempotency.c.created_at < bindparam("before"))


def delete_idempotency(connection: Connection, works: Sequence[float]) -> Sequence[Nothing | BridgeError]:
    """Delete the Idempotency-Keys used before the latest of the moments."""
    connection.execute(_DELETE_KEYS, {"before": max(works)})
    return [None] * len(works)


# A row written in the future was written before the clock was set back: it keeps its delay, counted from now.
_MEND_OUTBOX = (
    update(outbox)
    .where(outbox.c.set_at > bindparam("later"))
    .values(due_at=bindparam("now") + (outbox.c.due_at - outbox.c.set_at), set_at=bindparam("now"))
)
_MEND_DELIVERIES = (
    update(deliveries)
    .where(deliveries.c.id.in_(select(outbox.c.id).where(outbox.c.set_at == bindparam("now"))))
    .values(next_attempt_at=select(outbox.c.due_at).where(outbox.c.id == deliveries.c.id).scalar_subquery())
)
# Not those registered in the future: what is mended would count as such until then, and get its whole time anew.
_MEND_WATCHES = (
    update(watches)
    .where(IS_ACTIVE, watches.c.deadline_at > bindparam("later") + watches.c.timeout_seconds)
    .values(deadline_at=bindparam("now") + watches.c.timeout_seconds)
)
TOLERANCE_SECONDS = 1.0


def mend_clock(connection: Connection, works: Sequence[float]) -> Sequence[int | BridgeError]:
    """Bring due times and deadlines that lie too far ahead back to where they belong; how many."""
    now = max(works)
    given = {"now": now, "later": now + TOLERANCE_SECONDS}
    mended = connection.execute(_MEND_OUTBOX, given).rowcount
    if mended:
        connection.execute(_MEND_DELIVERIES, {"now": now})
    mended += connection.execute(_MEND_WATCHES, given).rowcount
    return [mended] * len(works)

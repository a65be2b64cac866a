"""Operations of maintenance: delete old rows in small batches, and correct times after the clock was set back."""

from sqlalchemy import BindParameter, Connection, bindparam, case, delete, func, literal_column, select, update

from bridge.store import audit, event_feed
from bridge.store.outbox import CLOCK_TOLERANCE_SECONDS
from bridge.store.replicas import Replica
from bridge.store.schema import IS_ACTIVE, attempts, deliveries, events, idempotency, notices, outbox, tasks, watches

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
_IDS: BindParameter[str] = bindparam("ids", expanding=True)
# Read again after the lock, because a retry may have been requested between the query and the lock.
_WITH_PENDING = select(deliveries.c.watch_id).where(
    deliveries.c.watch_id.in_(_IDS), deliveries.c.state == literal_column("'pending'")
)
_DELIVERY_IDS = select(deliveries.c.id).where(deliveries.c.watch_id.in_(_IDS))
_DELETE_ATTEMPTS = delete(attempts).where(attempts.c.delivery_id.in_(_IDS))
_DELETE_DELIVERIES = delete(deliveries).where(deliveries.c.watch_id.in_(_IDS))
_DELETE_EVENTS = delete(events).where(events.c.watch_id.in_(_IDS))
_DELETE_WATCHES = delete(watches).where(watches.c.id.in_(_IDS))
_DELETE_TASKS = delete(tasks).where(
    tasks.c.id.in_(_IDS),
    tasks.c.closed_at.is_not(None),
    ~select(watches.c.id).where(watches.c.task == tasks.c.id).exists(),
)


def delete_ended(connection: Connection, before: float, limit: int, replica: Replica) -> int:
    """Delete up to `limit` watches that ended before `before`, and what belongs to them; returns how many.

    `before` is Unix seconds. A watch stays while it has a pending delivery, or an event that is not in the feed yet. No
    watch is deleted while another replica deletes watches. Also deletes notices and the audit entries of receivers from
    before `before`.
    """
    audit.delete_of_receivers(connection, before)
    _delete_notices(connection, before, limit)
    if not event_feed.may_remove(connection, replica):
        return 0
    old = connection.execute(_OLD, {"before": before, "most": limit}).all()
    kept = _kept(connection, [row.id for row in old]) if old else set()
    found = [row for row in old if row.id not in kept]
    if not found:
        return 0
    watch_ids = sorted(row.id for row in found)
    parameters = {"ids": watch_ids}
    delivery_ids = sorted(connection.execute(_DELIVERY_IDS, parameters).scalars())
    if delivery_ids:
        connection.execute(_DELETE_ATTEMPTS, {"ids": delivery_ids})
    connection.execute(_DELETE_DELIVERIES, parameters)
    event_feed.note_removal(connection, watch_ids, replica)
    connection.execute(_DELETE_EVENTS, parameters)
    audit.delete_of_watches(connection, watch_ids)
    connection.execute(_DELETE_WATCHES, parameters)
    connection.execute(_DELETE_TASKS, {"ids": sorted({row.task for row in found})})
    return len(found)


def _kept(connection: Connection, watch_ids: list[str]) -> set[str]:
    pending = set(connection.execute(_WITH_PENDING, {"ids": watch_ids}).scalars())
    return pending | event_feed.watches_without_numbers(connection, watch_ids)


_OLD_NOTICES = (
    select(notices.c.id)
    .join(deliveries, deliveries.c.id == notices.c.id)
    .where(notices.c.created_at < bindparam("before"), deliveries.c.state != literal_column("'pending'"))
    .order_by(notices.c.created_at)
    .limit(bindparam("most"))
)
_DELETE_NOTICES = delete(notices).where(notices.c.id.in_(_IDS))
_DELETE_THEIR_DELIVERIES = delete(deliveries).where(deliveries.c.id.in_(_IDS))


def _delete_notices(connection: Connection, before: float, limit: int) -> None:
    """Delete old notices that are delivered or dead. No retry can make them pending again."""
    found = sorted(connection.execute(_OLD_NOTICES, {"before": before, "most": limit}).scalars())
    if found:
        for statement in (_DELETE_ATTEMPTS, _DELETE_THEIR_DELIVERIES, _DELETE_NOTICES):
            connection.execute(statement, {"ids": found})


_DELETE_KEYS = delete(idempotency).where(idempotency.c.created_at < bindparam("before"))


def delete_idempotency(connection: Connection, before: float) -> None:
    """Delete the Idempotency-Keys that were first used before `before` (Unix seconds)."""
    connection.execute(_DELETE_KEYS, {"before": before})


# A row whose `set_at` is in the future was written before the clock was set back. It keeps its delay, counted from now.
_CORRECT_OUTBOX = (
    update(outbox)
    .where(func.abs(outbox.c.set_at) > bindparam("later"))
    .values(
        due_at=bindparam("now") + (outbox.c.due_at - func.abs(outbox.c.set_at)),
        set_at=case((outbox.c.set_at < 0, -bindparam("now")), else_=bindparam("now")),
    )
)
_CORRECT_DELIVERIES = (
    update(deliveries)
    .where(deliveries.c.id.in_(select(outbox.c.id).where(outbox.c.set_at == bindparam("now"))))
    .values(next_attempt_at=select(outbox.c.due_at).where(outbox.c.id == deliveries.c.id).scalar_subquery())
)
# The condition is on the deadline and not on `created_at`. A watch with a corrected deadline would still have a
# `created_at` in the future, so each correction would move its deadline again.
_CORRECT_WATCHES = (
    update(watches)
    .where(IS_ACTIVE, watches.c.deadline_at > bindparam("later") + watches.c.timeout_seconds)
    .values(deadline_at=bindparam("now") + watches.c.timeout_seconds)
)


def correct_future_times(connection: Connection, replica: Replica) -> int:
    """Correct due times and deadlines that are in the future because the clock was set back; returns the row count."""
    now = replica.now()  # not the time of the call, because other writes may come first
    parameters = {"now": now, "later": now + CLOCK_TOLERANCE_SECONDS}
    corrected = connection.execute(_CORRECT_OUTBOX, parameters).rowcount
    if corrected:
        connection.execute(_CORRECT_DELIVERIES, {"now": now})
    corrected += connection.execute(_CORRECT_WATCHES, parameters).rowcount
    return corrected

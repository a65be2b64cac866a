"""The outbox: claiming deliveries, recording attempts, retrying on request.

The functions are operations and queries. `group_commit.py` explains what an operation is.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, Row, Select, bindparam, case, delete, func, literal_column, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.sql import ColumnElement

from bridge.core.audit import Action, Actor, AuditEntry
from bridge.core.delivery import Dead, Delivered, RetryAt, Verdict, after_retry_request
from bridge.core.errors import BadSetting, BridgeError, LostClaim, NotFound, WatchCancelled
from bridge.core.model import Event, EventType, PendingDelivery, WatchState
from bridge.store import audit, host_failures, notice_writing, replicas
from bridge.store.bulk_statements import Binds, BulkQuery, inserting, updating
from bridge.store.encryption import Cipher
from bridge.store.ending import GIVEN_UP
from bridge.store.records import AttemptResult, DeadFilter
from bridge.store.replicas import Replica
from bridge.store.row_mapping import pending_delivery, problem_text
from bridge.store.schema import IS_DEAD, attempts, deliveries, events, outbox, pauses, unindexed, watches
from bridge.telemetry import get_logger

RETRIED_AT_ONCE = 2_000  # dead deliveries in a transaction: 20 ms, so that other writes do not wait long

CLOCK_TOLERANCE_SECONDS = 1.0  # a time further in the future was written before the clock was set back

_log = get_logger("store")


# --- claiming -----------------------------------------------------------------------------------------------------


_DUE = (
    select(outbox.c.id)
    .where(
        outbox.c.host == bindparam("a_host"),
        outbox.c.due_at <= bindparam("now"),
        ~select(pauses.c.host).where(pauses.c.host == bindparam("a_host")).exists(),
    )
    .order_by(outbox.c.due_at)
    .limit(bindparam("most"))
    .with_for_update(skip_locked=True, of=outbox)
)
_CLAIM = (
    update(outbox)
    .where(outbox.c.id.in_(bindparam("ids", expanding=True)))
    .values(lease=bindparam("a_lease"), holder=bindparam("replica"), due_at=bindparam("until"), set_at=bindparam("now"))
)
_LOAD: Select[Any] = (
    select(
        *(deliveries.c.id, deliveries.c.watch_id, deliveries.c.type),
        *(deliveries.c.round_attempts, deliveries.c.attempts, deliveries.c.next_attempt_at),
        *(watches.c.app, watches.c.callback_url, watches.c.host, watches.c.headers, watches.c.secret),
        *(watches.c.traceparent, watches.c.tracestate),
        *(func.coalesce(events.c.body, events.c.payload).label("sent"), events.c.created_at),
    )
    .select_from(deliveries)
    .join(watches, watches.c.id == deliveries.c.watch_id)
    .join(events, (events.c.watch_id == deliveries.c.watch_id) & (events.c.type == deliveries.c.type))
    .where(deliveries.c.id.in_(bindparam("ids", expanding=True)))
    .order_by(deliveries.c.created_at)
)


def claim(
    connection: Connection, replica: Replica, cipher: Cipher, lease_seconds: float, room: Mapping[str, int]
) -> list[PendingDelivery]:
    """Claim due deliveries, the oldest of each host first, at most `room[host]` for each host.

    Returns an empty list if this replica has lost its lease.
    """
    if not replicas.holds_claim(connection, replica):
        return []
    now = replica.now()
    found: list[str] = []
    for host, most in room.items():
        found += connection.execute(_DUE, {"a_host": host, "now": now, "most": most}).scalars()
    if not found:
        return []
    lease = replica.new_lease()
    parameters = {"ids": sorted(found), "a_lease": lease, "replica": replica.id, "now": now}
    connection.execute(_CLAIM, parameters | {"until": now + lease_seconds})
    rows = connection.execute(_LOAD, {"ids": found}).all()
    decrypted = [_decrypted(row, lease, cipher, replica) for row in rows]
    of_watches = [delivery for delivery in decrypted if delivery is not None]
    if len(rows) == len(found):
        return of_watches
    return [
        *of_watches,
        *notice_writing.claimed(connection, sorted(set(found) - {row.id for row in rows}), lease, replica),
    ]


def _decrypted(row: Row[Any], lease: str, cipher: Cipher, replica: Replica) -> PendingDelivery | None:
    """Returns the delivery with its watch's secrets; None if these cannot be decrypted."""
    event = Event(row.id, row.watch_id, EventType(row.type), row.created_at, row.sent)
    try:
        attempts_before = row.round_attempts, row.attempts
        claimed = pending_delivery(row, event, lease, attempts_before, cipher, replica.identity)
        return replace(claimed, due_from=row.next_attempt_at)
    except BadSetting as error:
        means = "the secrets of the watch cannot be decrypted: nothing is sent; the next try is when the claim ends"
        ids = {"delivery_id": row.id, "watch_id": row.watch_id, "app": row.app}
        _log.event("delivery_unreadable", level=logging.ERROR, **ids, reason=str(error), means=means)
        return None


_HELD_CLAIMS = select(outbox.c.id, outbox.c.lease).where(outbox.c.id.in_(bindparam("ids", expanding=True)))


def held_claims(connection: Connection, claims: Sequence[tuple[str, str]]) -> set[tuple[str, str]]:
    """Returns the claims (delivery id and lease) that are still held."""
    found = connection.execute(_HELD_CLAIMS, {"ids": sorted({delivery_id for delivery_id, _ in claims})})
    return {(row.id, row.lease) for row in found}.intersection(claims)


_RELEASE = (
    update(outbox)
    .where(outbox.c.id == bindparam("an_id"), outbox.c.lease == bindparam("a_lease"))
    .values(lease=None, holder=None, due_at=bindparam("now"), set_at=bindparam("now"))
)


def release(connection: Connection, items: Sequence[PendingDelivery], replica: Replica) -> Sequence[None]:
    """Release claims; their deliveries are due now. Lost claims are skipped."""
    now = replica.now()
    rows = [{"an_id": item.id, "a_lease": item.lease, "now": now} for item in items]
    connection.execute(_RELEASE, sorted(rows, key=lambda row: str(row["an_id"])))
    return [None] * len(items)


# --- attempts -----------------------------------------------------------------------------------------------------

# Id and lease as one text: PostgreSQL plans a list of 512 pairs as 512 alternatives, which takes 21 ms instead of 11.
_CLAIM_KEY = outbox.c.id + outbox.c.lease
_MARK = _CLAIM_KEY.label("claim"), outbox.c.set_at


def _held(binds: Binds, *columns: Any) -> Select[Any]:
    ids, claims = [bind["id"] for bind in binds], [bind["claim"] for bind in binds]
    found = select(*columns).where(outbox.c.id.in_(ids), _CLAIM_KEY.in_(claims))
    return found.order_by(outbox.c.id).with_for_update()  # the order that all transactions keep


_HELD_WITH_MARKS = BulkQuery(("id", "claim"), lambda binds: _held(binds, *_MARK))
_REMOVE = BulkQuery(
    ("id", "claim"),
    lambda binds: delete(outbox).where(outbox.c.id.in_(_held(binds, outbox.c.id))).returning(*_MARK),
)
_INSERT_AGAIN = inserting(outbox, ("id", "host", "due_at", "set_at", "lease", "holder"))
_NEW_ROUND = update(deliveries).where(deliveries.c.id.in_(bindparam("ids", expanding=True))).values(round_attempts=0)
_INSERT_ATTEMPTS = inserting(
    attempts, ("delivery_id", "started_at", "duration_seconds", "status_code", "error", "body")
)
_UPDATE_DELIVERIES = updating(
    deliveries,
    ("id", "state", "next_attempt_at", "delivered_at", "dead_at", "error"),
    also={name: deliveries.c[name] + literal_column("1") for name in ("attempts", "round_attempts")},
)
_POSTPONE = updating(outbox, ("id", "due_at", "set_at", "lease", "holder"))


def record_attempts(
    connection: Connection,
    items: Sequence[AttemptResult],
    replica: Replica,
    report_dead: bool = False,  # noqa: FBT001, FBT002
) -> Sequence[Verdict | BridgeError]:
    """Write each attempt and its delivery's next step; returns the verdicts that were written.

    With `report_dead`, dead deliveries are written for the next notice to operators. If the clock was set back after an
    attempt, its delivery keeps its delay, counted from now.

    The result is LostClaim when the delivery has another claim, or is no longer pending.
    """
    firsts: dict[str, AttemptResult] = {}  # by claim; a claim allows one attempt
    now = replica.now()
    items = [_not_ahead(item, now) for item in items]
    for item in items:
        firsts.setdefault(item.delivery_id + item.lease, item)
    item_ids = {claim: id(item) for claim, item in firsts.items()}
    held, requested = _end_claims(connection, firsts)
    valid = [item for claim, item in firsts.items() if claim in held]
    if valid:
        _INSERT_ATTEMPTS.execute(connection, [_attempt_row(item) for item in valid])
        _UPDATE_DELIVERIES.execute(connection, [_delivery_row(item) for item in valid])
    if report_dead and (dead := [item for item in valid if isinstance(item.verdict, Dead)]):
        notice_writing.report_dead(connection, [(item.delivery_id, item.host, item.at) for item in dead])
    if requested:
        connection.execute(_NEW_ROUND, {"ids": sorted(firsts[claim].delivery_id for claim in requested)})
    host_failures.write(connection, items)
    written = {item_ids[claim]: item.verdict for claim, item in firsts.items() if claim in held}
    return [written.get(id(item)) or _lost() for item in items]


def _not_ahead(item: AttemptResult, now: float) -> AttemptResult:
    """Return the result with the time `now` if its own time is in the future. Its next attempt keeps its delay."""
    if item.at <= now + CLOCK_TOLERANCE_SECONDS:
        return item
    verdict = item.verdict
    if isinstance(verdict, RetryAt):
        verdict = replace(verdict, at=now + verdict.at - item.at)
    return replace(item, verdict=verdict, at=now)


def _lost() -> LostClaim:
    return LostClaim("the delivery has another claim, or is no longer pending")


def _end_claims(connection: Connection, items: dict[str, AttemptResult]) -> tuple[set[str], set[str]]:
    """Remove final deliveries from the outbox and postpone the others.

    `items` are by claim. Returns the claims that were still held, and the subset during which a retry was requested. An
    item with a requested retry gets another verdict here, and its delivery is due now.
    """
    if any(isinstance(item.verdict, RetryAt) for item in items.values()):
        marks = {row.claim: row.set_at for row in _HELD_WITH_MARKS.fetch(connection, _claims(items))}
        requested = _with_new_verdicts(items, marks)
        again = {claim: item.verdict.at for claim, item in items.items() if isinstance(item.verdict, RetryAt)}
        postponed = [
            (items[claim].delivery_id, at, items[claim].at, None, None) for claim, at in again.items() if claim in marks
        ]
        _POSTPONE.execute(connection, postponed)
        if final := {claim: items[claim] for claim in marks.keys() - again.keys()}:
            _REMOVE.fetch(connection, _claims(final))
        return set(marks), requested
    marks = {row.claim: row.set_at for row in _REMOVE.fetch(connection, _claims(items))}
    requested = _with_new_verdicts(items, marks)
    again_now = [items[claim] for claim in sorted(requested)]
    _INSERT_AGAIN.execute(
        connection, [(item.delivery_id, item.host, item.at, item.at, None, None) for item in again_now]
    )
    return set(marks), requested


def _with_new_verdicts(items: dict[str, AttemptResult], marks: Mapping[str, float]) -> set[str]:
    """Find the items whose retry was requested during the attempt, and set their new verdicts; returns their claims."""
    requested = {claim for claim, set_at in marks.items() if retry_requested(set_at)}
    for claim in requested:
        items[claim] = replace(items[claim], verdict=after_retry_request(items[claim].verdict, items[claim].at))
    return requested


def _claims(items: Mapping[str, AttemptResult]) -> list[tuple[str, str]]:
    return sorted((item.delivery_id, claim) for claim, item in items.items())


def _attempt_row(item: AttemptResult) -> tuple[Any, ...]:
    attempt, error = item.attempt, problem_text(item.attempt.error)
    return (
        *(item.delivery_id, attempt.started_at, attempt.duration_seconds),
        *(attempt.status_code, error, attempt.body),
    )


def _delivery_row(item: AttemptResult) -> tuple[Any, ...]:
    match item.verdict:
        case Delivered():
            return item.delivery_id, "delivered", None, item.at, None, None
        case RetryAt(at=at, error=error):
            return item.delivery_id, "pending", at, None, None, problem_text(error)
        case Dead(error=error):
            return item.delivery_id, "dead", None, None, item.at, problem_text(error)


# --- retries on request -------------------------------------------------------------------------------------------


def retry_requested(set_at: float) -> bool:
    """Whether a retry was requested during a claim: `set_at` is negative from then until `due_at` is set again."""
    return set_at < 0


# The lock on the watch keeps retention from deleting the watch before its delivery is pending again.
_FIND = (
    select(
        *(deliveries.c.id, deliveries.c.watch_id, deliveries.c.next_attempt_at),
        *(watches.c.app, watches.c.host, watches.c.state, outbox.c.lease, outbox.c.set_at),
    )
    .join(watches, watches.c.id == deliveries.c.watch_id)
    .outerjoin(outbox, outbox.c.id == deliveries.c.id)
    .where(deliveries.c.id == bindparam("an_id"))
    .with_for_update(read=True, of=watches)  # and keeps the watch from being cancelled during this transaction
)
_PENDING_AGAIN = (
    update(deliveries)
    .where(deliveries.c.id.in_(bindparam("ids", expanding=True)))
    .values(state="pending", round_attempts=0, next_attempt_at=bindparam("now"), delivered_at=None, dead_at=None)
)
_insert_due = insert(outbox)
_is_claimed = outbox.c.lease.is_not(None)
_DUE_AGAIN = _insert_due.on_conflict_do_update(
    index_elements=["id"],
    set_={
        "due_at": case((_is_claimed, outbox.c.due_at), else_=_insert_due.excluded.due_at),
        "set_at": case((_is_claimed, -func.abs(outbox.c.set_at)), else_=_insert_due.excluded.set_at),
    },
)


def retry(
    connection: Connection, items: Sequence[tuple[str, str | None, Actor | None]], replica: Replica
) -> Sequence[BridgeError | None]:
    """Make deliveries due now. An item is a delivery's id, the app that may retry it (None: any), and the actor.

    The result is NotFound for an unknown delivery or one of another app, and WatchCancelled for a cancelled watch.
    """
    results: list[BridgeError | None] = []
    found: dict[str, str] = {}
    entries: list[AuditEntry] = []
    now = replica.now()
    for delivery_id, app, actor in items:
        row = connection.execute(_FIND, {"an_id": delivery_id}).one_or_none()
        if row is None or app not in {None, row.app}:
            results.append(NotFound("there is no such delivery"))
            continue
        if row.state == WatchState.CANCELLED:
            results.append(WatchCancelled("the watch is cancelled, so nothing more is sent for it"))
            continue
        found[row.id] = row.host
        if _changes_something(row, now):
            entries += _resent(actor, now, row)
        results.append(None)
    _make_due(connection, found, now)
    audit.write(connection, entries)
    return results


def _changes_something(row: Any, now: float) -> bool:
    """Whether a retry changes something: False if the delivery is due, or if its attempt has a requested retry."""
    if row.lease is not None and row.next_attempt_at is not None and row.next_attempt_at <= now:
        return not retry_requested(row.set_at)
    return row.next_attempt_at is None or bool(row.next_attempt_at > now)


def _resent(actor: Actor | None, now: float, row: Any) -> list[AuditEntry]:
    return [] if actor is None else [AuditEntry(now, Action.RESENT, actor, row.watch_id, row.id)]


def _make_due(connection: Connection, found: dict[str, str], now: float) -> None:
    if not found:
        return
    ids = sorted(found)
    # The outbox first, as when attempts are recorded: replicas that lock the rows in the same order cannot deadlock.
    connection.execute(_DUE_AGAIN, [{"id": one, "host": found[one], "due_at": now, "set_at": now} for one in ids])
    connection.execute(_PENDING_AGAIN, {"ids": ids, "now": now})


# Dead deliveries are few, and an index finds them. The query must not use the primary key or the index of apps.
_ID = unindexed(deliveries.c.id)


def count_dead(connection: Connection, dead: DeadFilter) -> int:
    """Returns how many dead deliveries the filter finds."""
    count: int = connection.execute(_dead(dead, func.count())).scalar_one()
    return count


def retry_dead(
    connection: Connection, dead: DeadFilter, after: str, now: float, actor: Actor | None = None
) -> list[str]:
    """Make dead deliveries due now: the first 2,000 that the filter finds with an id above `after`.

    Returns their ids, in order.
    """
    columns = deliveries.c.id, deliveries.c.watch_id, watches.c.host
    first = _dead(dead, *columns).where(after < _ID).order_by(_ID).limit(RETRIED_AT_ONCE)
    locked = first.with_for_update(read=True, of=watches)  # as in _FIND
    rows = connection.execute(locked).all()
    found = {row.id: row.host for row in rows}
    _make_due(connection, found, now)
    audit.write(connection, [entry for row in rows for entry in _resent(actor, now, row)])
    return list(found)


def _dead(dead: DeadFilter, *columns: ColumnElement[Any]) -> Select[Any]:
    query = select(*columns).select_from(deliveries).join(watches, watches.c.id == deliveries.c.watch_id)
    query = query.where(IS_DEAD, GIVEN_UP, unindexed(watches.c.state) != WatchState.CANCELLED)
    if dead.app is not None:
        query = query.where(unindexed(watches.c.app) == dead.app)
    if dead.since is not None:
        query = query.where(deliveries.c.dead_at >= dead.since)
    if dead.until is not None:
        query = query.where(deliveries.c.dead_at <= dead.until)
    if dead.host is not None:
        query = query.where(watches.c.host.startswith(f"{dead.host.lower()}:", autoescape=True))
    return query

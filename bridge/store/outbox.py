"""The outbox: what is due, claiming it, recording attempts, sending again."""

import logging
import secrets as randomness
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from sqlalchemy import Connection, Row, Select, bindparam, delete, func, literal_column, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.sql import ColumnElement

from bridge.core.delivery import Dead, Delivered, RetryAt, Verdict, after_retry_request
from bridge.core.errors import BadSetting, BridgeError, LostClaim, NotFound
from bridge.core.model import Event, EventType, PendingDelivery
from bridge.store import replicas
from bridge.store.bulk_statements import inserting, updating
from bridge.store.encryption import Cipher
from bridge.store.ending import GIVEN_UP
from bridge.store.records import AttemptResult, DeadFilter
from bridge.store.replicas import Replica
from bridge.store.row_mapping import owed, problem_text
from bridge.store.schema import IS_DEAD, attempts, deliveries, events, hosts, outbox, unindexed, watches
from bridge.telemetry import get_logger

Nothing: TypeAlias = None

COUNTED_PER_HOST = 1_000
RETRIED_AT_ONCE = 2_000  # dead deliveries to a transaction: 20 ms, so that nobody waits long behind them

_log = get_logger("store")


# --- what is due --------------------------------------------------------------------------------------------------

# A loose index scan: from one host's name to the next, so that a host with a million deliveries costs as little as
# one with a single one, and nobody's backlog stands before another's callback.
_host_names = select(func.min(outbox.c.host).label("host")).cte("host_names", recursive=True)
_host_names = _host_names.union_all(
    select(
        select(func.min(outbox.c.host))
        .where(outbox.c.host > _host_names.c.host)
        .correlate(_host_names)
        .scalar_subquery()
    ).where(_host_names.c.host.is_not(None))
)
_due_here: Select[Any] = (
    select(literal_column("1").label("one"))
    .where(outbox.c.host == _host_names.c.host, outbox.c.due_at <= bindparam("now"))
    .limit(COUNTED_PER_HOST)
    .correlate(_host_names)
)
_DUE_HOSTS = select(
    _host_names.c.host,
    select(func.count()).select_from(_due_here.subquery()).correlate(_host_names).scalar_subquery().label("due"),
).where(_host_names.c.host.is_not(None))
_NEXT_DUE = select(func.min(outbox.c.due_at))
_FAILING = select(hosts.c.host, hosts.c.failures)


def due_hosts(connection: Connection, now: float) -> dict[str, int]:
    """Hosts with something due, and how much, counted up to 1,000."""
    return {row.host: row.due for row in connection.execute(_DUE_HOSTS, {"now": now}) if row.due}


def next_due_at(connection: Connection) -> float | None:
    """The earliest due time of all that is pending."""
    earliest: float | None = connection.execute(_NEXT_DUE).scalar_one()
    return earliest


def failing_hosts(connection: Connection) -> dict[str, int]:
    """Hosts' failures in a row."""
    return {row.host: row.failures for row in connection.execute(_FAILING)}


# --- claiming -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Claiming:
    """How much of each host's to claim, for how long."""

    replica: Replica
    cipher: Cipher
    now: float
    lease_seconds: float
    room: dict[str, int]


_DUE = (
    select(outbox.c.id)
    .where(outbox.c.host == bindparam("a_host"), outbox.c.due_at <= bindparam("now"))
    .order_by(outbox.c.due_at)
    .limit(bindparam("most"))
    .with_for_update(skip_locked=True)
)
_CLAIM = (
    update(outbox)
    .where(outbox.c.id.in_(bindparam("those", expanding=True)))
    .values(lease=bindparam("a_lease"), holder=bindparam("replica"), due_at=bindparam("until"), set_at=bindparam("now"))
)
_LOAD: Select[Any] = (
    select(
        *(deliveries.c.id, deliveries.c.watch_id, deliveries.c.type),
        *(deliveries.c.round_attempts, deliveries.c.attempts),
        *(watches.c.app, watches.c.callback_url, watches.c.host, watches.c.headers, watches.c.secret),
        *(events.c.payload, events.c.created_at),
    )
    .select_from(deliveries)
    .join(watches, watches.c.id == deliveries.c.watch_id)
    .join(events, (events.c.watch_id == deliveries.c.watch_id) & (events.c.type == deliveries.c.type))
    .where(deliveries.c.id.in_(bindparam("those", expanding=True)))
    .order_by(deliveries.c.created_at)
)


def claim(connection: Connection, works: Sequence[Claiming]) -> Sequence[list[PendingDelivery] | BridgeError]:
    """Claim what is due, the oldest of each host first."""
    return [_claimed(connection, work) for work in works]


def _claimed(connection: Connection, work: Claiming) -> list[PendingDelivery]:
    if not replicas.holds(connection, work.replica):
        return []
    found: list[str] = []
    for host, most in work.room.items():
        found += connection.execute(_DUE, {"a_host": host, "now": work.now, "most": most}).scalars()
    if not found:
        return []
    lease = randomness.token_hex(8)
    claimed = {"those": sorted(found), "a_lease": lease, "replica": work.replica.id, "now": work.now}
    connection.execute(_CLAIM, claimed | {"until": work.now + work.lease_seconds})
    return [one for row in connection.execute(_LOAD, {"those": found}) for one in _opened(row, lease, work.cipher)]


def _opened(row: Row[Any], lease: str, cipher: Cipher) -> list[PendingDelivery]:
    """The delivery with its watch's secrets; none when they don't open: nobody else's waits for that."""
    event = Event(row.id, row.watch_id, EventType(row.type), row.created_at, row.payload)
    try:
        return [owed(row, event, lease, (row.round_attempts, row.attempts), cipher)]
    except BadSetting as error:
        means = "it is not sent; tried again when its claim ends"
        told = {"delivery_id": row.id, "watch_id": row.watch_id, "app": row.app}
        _log.event("delivery_unreadable", level=logging.ERROR, **told, reason=str(error), means=means)
        return []


@dataclass(frozen=True, slots=True)
class Releasing:
    """Claims to be given back."""

    owed: Sequence[PendingDelivery]
    now: float


_GIVE_BACK = (
    update(outbox)
    .where(outbox.c.id == bindparam("an_id"), outbox.c.lease == bindparam("a_lease"))
    .values(lease=None, holder=None, due_at=bindparam("now"), set_at=bindparam("now"))
)


def release(connection: Connection, works: Sequence[Releasing]) -> Sequence[Nothing | BridgeError]:
    """Make them due again, those whose claim still stands."""
    rows = [{"an_id": one.id, "a_lease": one.lease, "now": work.now} for work in works for one in work.owed]
    if rows:
        connection.execute(_GIVE_BACK, sorted(rows, key=lambda row: str(row["an_id"])))
    return [None] * len(works)


# --- attempts -----------------------------------------------------------------------------------------------------

# A claim by one name: PostgreSQL plans 512 pairs as so many alternatives, and takes 21 ms for them instead of 11.
_CLAIM_NAME = outbox.c.id + outbox.c.lease
_STANDING = (
    select(outbox.c.id)
    .where(outbox.c.id.in_(bindparam("those", expanding=True)), _CLAIM_NAME.in_(bindparam("claims", expanding=True)))
    .order_by(outbox.c.id)  # the order that everybody keeps
    .with_for_update()
)
# Both rows locked: else the second could be one that a retry, which this waited for, has changed.
_ROUNDS = (
    _STANDING.with_only_columns(_CLAIM_NAME.label("claim"), deliveries.c.round_attempts)
    .join_from(outbox, deliveries, deliveries.c.id == outbox.c.id)
    .with_for_update(of=[outbox, deliveries])
)
_DONE = delete(outbox).where(outbox.c.id.in_(_STANDING)).returning(_CLAIM_NAME)
_WRITE_ATTEMPTS = inserting(attempts, ("delivery_id", "started_at", "duration_seconds", "status_code", "error", "body"))
_STEP = updating(
    deliveries,
    ("id", "state", "next_attempt_at", "delivered_at", "dead_at", "error"),
    also={name: deliveries.c[name] + literal_column("1") for name in ("attempts", "round_attempts")},
)
_LATER = updating(outbox, ("id", "due_at", "set_at", "lease", "holder"))
_host = insert(hosts)
_HOST_FAILED = _host.on_conflict_do_update(
    index_elements=["host"], set_={"failures": _host.excluded.failures, "at": _host.excluded.at}
)
# All of them at first, in one order: one that fails here may be well at another replica, and the other way round.
_LOCK_HOSTS = (
    select(hosts.c.host)
    .where(hosts.c.host.in_(bindparam("those", expanding=True)))
    .order_by(hosts.c.host)
    .with_for_update()
)
_HOST_WELL = delete(hosts).where(hosts.c.host.in_(bindparam("those", expanding=True)))


def record_attempts(connection: Connection, works: Sequence[AttemptResult]) -> Sequence[Verdict | BridgeError]:
    """Write each attempt and its delivery's next step, where the claim still stands; the verdict that was written."""
    firsts: dict[str, AttemptResult] = {}  # a claim is good for one attempt
    for work in works:
        firsts.setdefault(work.delivery_id + work.lease, work)
    given = {claim: id(work) for claim, work in firsts.items()}
    held = _end_claims(connection, firsts)
    standing = [work for claim, work in firsts.items() if claim in held]
    if standing:
        _WRITE_ATTEMPTS.execute(connection, [_attempt_row(work) for work in standing])
        _STEP.execute(connection, [_step(work) for work in standing])
    _write_hosts(connection, works)
    written = {given[claim]: work.verdict for claim, work in firsts.items() if claim in held}
    return [written.get(id(work)) or _lost() for work in works]


def _lost() -> LostClaim:
    return LostClaim("the delivery is claimed anew, or no longer owed")


def _end_claims(connection: Connection, works: dict[str, AttemptResult]) -> set[str]:
    """Take what is done out of the outbox, put off what is to be sent again; the claims that stood.

    What failed while a retry was asked for gets the verdict that this means.
    """
    if all(isinstance(work.verdict, Delivered) or _gives_up_at_once(work) for work in works.values()):
        return set(connection.execute(_DONE, _claims(works)).scalars())
    held: set[str] = set()
    for claim, attempts_now in connection.execute(_ROUNDS, _claims(works)):
        held.add(claim)
        if attempts_now < works[claim].round_attempts:
            work = works[claim]
            works[claim] = replace(work, verdict=after_retry_request(work.verdict, work.at))
    again = {claim: work.verdict.at for claim, work in works.items() if isinstance(work.verdict, RetryAt)}
    later = [
        (works[claim].delivery_id, at, works[claim].at, None, None) for claim, at in again.items() if claim in held
    ]
    _LATER.execute(connection, later)
    if done := {claim: works[claim] for claim in held - again.keys()}:
        connection.execute(_DONE, _claims(done))
    return held


def _gives_up_at_once(work: AttemptResult) -> bool:
    return isinstance(work.verdict, Dead) and not work.round_attempts


def _claims(works: Mapping[str, AttemptResult]) -> dict[str, list[str]]:
    return {"those": sorted({work.delivery_id for work in works.values()}), "claims": sorted(works)}


def _attempt_row(work: AttemptResult) -> tuple[Any, ...]:
    attempt, error = work.attempt, problem_text(work.attempt.error)
    return (
        *(work.delivery_id, attempt.started_at, attempt.duration_seconds),
        *(attempt.status_code, error, attempt.body),
    )


def _step(work: AttemptResult) -> tuple[Any, ...]:
    match work.verdict:
        case Delivered():
            return work.delivery_id, "delivered", None, work.at, None, None
        case RetryAt(at=at, error=error):
            return work.delivery_id, "pending", at, None, None, problem_text(error)
        case Dead(error=error):
            return work.delivery_id, "dead", None, None, work.at, problem_text(error)


def _write_hosts(connection: Connection, works: Sequence[AttemptResult]) -> None:
    failures = {work.host: (work.host_failures, work.at) for work in works if work.host_failures is not None}
    failing = [{"host": host, "failures": count, "at": at} for host, (count, at) in sorted(failures.items()) if count]
    well = sorted(host for host, (count, _) in failures.items() if not count)
    if len(failures) > 1:
        connection.execute(_LOCK_HOSTS, {"those": sorted(failures)}).all()
    if failing:
        connection.execute(_HOST_FAILED, failing)
    if well:
        connection.execute(_HOST_WELL, {"those": well})


# --- sending again ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Retrying:
    """Whose delivery to send again; an app of None may any."""

    delivery_id: str
    app: str | None
    now: float


@dataclass(frozen=True, slots=True)
class RetryingMany:
    """Which dead deliveries to send again: those after an id, in the order of their ids."""

    wanted: DeadFilter
    after: str
    now: float


# Their watches are locked against retention, which would else delete one that is about to owe something.
_FIND = (
    select(deliveries.c.id, watches.c.app, watches.c.host)
    .join(watches, watches.c.id == deliveries.c.watch_id)
    .where(deliveries.c.id == bindparam("an_id"))
    .with_for_update(read=True, key_share=True, of=watches)
)
_PENDING_AGAIN = (
    update(deliveries)
    .where(deliveries.c.id.in_(bindparam("those", expanding=True)))
    .values(state="pending", round_attempts=0, next_attempt_at=bindparam("now"), delivered_at=None, dead_at=None)
)
_due_again = insert(outbox)
_DUE_AGAIN = _due_again.on_conflict_do_update(
    index_elements=["id"],
    set_={"due_at": _due_again.excluded.due_at, "set_at": _due_again.excluded.set_at},
    where=outbox.c.lease.is_(None),  # one that is under way is the retry, unless it fails: see after_retry_request
)


def retry(connection: Connection, works: Sequence[Retrying]) -> Sequence[Nothing | BridgeError]:
    """Make each delivery due now."""
    results: list[Nothing | BridgeError] = []
    found: dict[str, str] = {}
    for work in works:
        row = connection.execute(_FIND, {"an_id": work.delivery_id}).one_or_none()
        if row is None or work.app not in {None, row.app}:
            results.append(NotFound("there is no such delivery"))
            continue
        found[row.id] = row.host
        results.append(None)
    _make_due(connection, found, works[0].now)
    return results


def _make_due(connection: Connection, found: dict[str, str], now: float) -> None:
    if not found:
        return
    those = sorted(found)
    # The outbox first, as in recording attempts: two replicas that take both rows in one order cannot deadlock.
    connection.execute(_DUE_AGAIN, [{"id": one, "host": found[one], "due_at": now, "set_at": now} for one in those])
    connection.execute(_PENDING_AGAIN, {"those": those, "now": now})


# The dead are few: neither the key of every delivery nor an app's watches may serve.
_ID = unindexed(deliveries.c.id)


def count_dead(connection: Connection, wanted: DeadFilter) -> int:
    """How many a filter finds."""
    count: int = connection.execute(_dead(wanted, func.count())).scalar_one()
    return count


def retry_dead(connection: Connection, works: Sequence[RetryingMany]) -> Sequence[list[str] | BridgeError]:
    """Make up to 2,000 of what each filter finds due now; their ids, in order."""
    return [_retried(connection, work) for work in works]


def _retried(connection: Connection, work: RetryingMany) -> list[str]:
    wanted = _dead(work.wanted, deliveries.c.id, watches.c.host).where(work.after < _ID)
    first = wanted.order_by(_ID).limit(RETRIED_AT_ONCE)
    locked = first.with_for_update(read=True, key_share=True, of=watches)
    found = {row.id: row.host for row in connection.execute(locked)}
    _make_due(connection, found, work.now)
    return list(found)


def _dead(wanted: DeadFilter, *columns: ColumnElement[Any]) -> Select[Any]:
    question = select(*columns).select_from(deliveries).join(watches, watches.c.id == deliveries.c.watch_id)
    question = question.where(IS_DEAD, GIVEN_UP)
    if wanted.app is not None:
        question = question.where(unindexed(watches.c.app) == wanted.app)
    if wanted.since is not None:
        question = question.where(deliveries.c.dead_at >= wanted.since)
    if wanted.until is not None:
        question = question.where(deliveries.c.dead_at <= wanted.until)
    if wanted.host is not None:
        question = question.where(watches.c.host.startswith(f"{wanted.host.lower()}:", autoescape=True))
    return question

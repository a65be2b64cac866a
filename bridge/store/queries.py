"""Queries of watches, tasks, events and deliveries. Nothing here writes."""

import logging
from collections import defaultdict
from collections.abc import Collection, Sequence
from contextlib import closing
from dataclasses import replace
from functools import lru_cache
from math import inf
from typing import Any

from sqlalchemy import Connection, Row, bindparam, func, or_, select, text

from bridge.core.errors import BadSetting, NotFound, WatchActive
from bridge.core.event import event_id_in
from bridge.core.model import Attempt
from bridge.store import audit
from bridge.store.bulk_statements import Query
from bridge.store.due_deliveries import next_due_at
from bridge.store.encryption import Cipher
from bridge.store.ending import GIVEN_UP
from bridge.store.records import (
    Counts,
    DeliveryCounts,
    DeliveryView,
    Overdue,
    StoredEvent,
    TaskView,
    WatchQuery,
    WatchView,
)
from bridge.store.replicas import Replica
from bridge.store.row_mapping import (
    FACTS,
    SNAPSHOT,
    delivery_view,
    facts_from,
    problem_of,
    snapshot_from,
    task_view,
    trace_of,
    watch_of,
)
from bridge.store.schema import (
    IS_ACTIVE,
    IS_DEAD,
    attempts,
    deliveries,
    events,
    outbox,
    tasks,
    watches,
)
from bridge.store.watch_filters import conditions
from bridge.telemetry import get_logger

_log = get_logger("store")

_TASK_COLUMNS = [column for column in tasks.c if column.name not in {"id", "key", "task_id"}]
WITH_TASK = select(watches, *_TASK_COLUMNS).join(tasks, tasks.c.id == watches.c.task)
_ONE = WITH_TASK.where(watches.c.id == bindparam("an_id"))
_EXISTING = select(watches.c.id).where(watches.c.id.in_(bindparam("ids", expanding=True)))
_IDS_IN_A_QUERY = 500  # databases limit the parameters of a statement
_DELIVERIES = (
    select(deliveries)
    .where(deliveries.c.watch_id.in_(bindparam("ids", expanding=True)))
    .order_by(deliveries.c.created_at, deliveries.c.id)
)
_FIRST_ATTEMPTS = (
    select(attempts.c.delivery_id, func.min(attempts.c.started_at).label("began"))
    .where(attempts.c.delivery_id.in_(bindparam("ids", expanding=True)))
    .group_by(attempts.c.delivery_id)
)


def one_watch(connection: Connection, watch_id: str, app: str | None) -> WatchView:
    """Returns a watch of an app (None: of any). Raises NotFound."""
    row = connection.execute(_ONE, {"an_id": watch_id}).one_or_none()
    if row is None or app not in {None, row.app}:
        raise NotFound("there is no such watch")
    return views(connection, [row])[0]


def existing(connection: Connection, watch_ids: Collection[str]) -> set[str]:
    """Returns the ids of the watches that exist."""
    asked, found = sorted(watch_ids), set[str]()
    for start in range(0, len(asked), _IDS_IN_A_QUERY):
        some = {"ids": asked[start : start + _IDS_IN_A_QUERY]}
        found.update(connection.execute(_EXISTING, some).scalars())
    return found


_SEVERAL = WITH_TASK.where(watches.c.id.in_(bindparam("ids", expanding=True)))


def several_watches(connection: Connection, watch_ids: Sequence[str]) -> dict[str, WatchView]:
    """Returns the watches of these ids that exist, by id."""
    found = connection.execute(_SEVERAL, {"ids": sorted(set(watch_ids))}).all()
    return {view.watch.id: view for view in views(connection, found)}


def page_of_watches(connection: Connection, query: WatchQuery) -> list[WatchView]:
    """Returns a page of watches, in the query's order."""
    order = watches.c.id.asc() if query.oldest_first else watches.c.id.desc()
    page = WITH_TASK.where(*conditions(query, connection.dialect.name)).order_by(order).limit(query.limit)
    return views(connection, connection.execute(page).all())


def views(connection: Connection, rows: Sequence[Row[Any]]) -> list[WatchView]:
    """Returns the watches of these rows of `WITH_TASK`, each with its task, its deliveries and its audit entries."""
    apps = {row.id: row.app for row in rows}
    by_watch: dict[str, list[DeliveryView]] = defaultdict(list)
    if apps:
        for row in connection.execute(_DELIVERIES, {"ids": list(apps)}):
            by_watch[row.watch_id].append(delivery_view(row, apps[row.watch_id]))
    entries = audit.of_watches(connection, [_span(row, by_watch[row.id]) for row in rows]) if rows else {}
    found = [
        WatchView(watch_of(row), task_view(row, row.task), tuple(by_watch[row.id]), audit=entries.get(row.id, ()))
        for row in rows
    ]
    attempted = [
        delivery.id for view in found if (delivery := view.terminal_delivery) is not None and delivery.attempts
    ]
    if not attempted:
        return found
    rows_found = connection.execute(_FIRST_ATTEMPTS, {"ids": attempted})
    began = {row.delivery_id: row.began for row in rows_found}
    return [
        replace(view, first_attempt_at=began.get(delivery.id))
        if (delivery := view.terminal_delivery) is not None
        else view
        for view in found
    ]


def _span(row: Row[Any], deliveries_of: Sequence[DeliveryView]) -> audit.WatchSpan:
    """Returns the time of a watch: from its registration until it and all its deliveries have ended."""
    ends = [row.ended_at, *(delivery.delivered_at or delivery.dead_at for delivery in deliveries_of)]
    return audit.WatchSpan(row.id, row.host, row.created_at, inf if None in ends else max(ends))


_VERSIONS = (
    select(watches.c.id, watches.c.state, tasks.c.status, tasks.c.polls)
    .join(tasks, tasks.c.id == watches.c.task)
    .where(watches.c.id.in_(bindparam("ids", expanding=True)))
)


def versions(connection: Connection, watch_ids: Sequence[str]) -> dict[str, str]:
    """Returns a text for each watch. It changes when the watch, its task or one of its deliveries changes."""
    found = {
        row.id: f"{row.state} {row.status} {row.polls}" for row in connection.execute(_VERSIONS, {"ids": watch_ids})
    }
    for row in connection.execute(_DELIVERIES, {"ids": watch_ids}):
        if row.watch_id in found:
            found[row.watch_id] += f" {row.type} {row.state} {row.attempts} {row.next_attempt_at}"
    return found


# --- events and secrets -------------------------------------------------------------------------------------------

_TERMINAL = (
    select(watches.c.app, watches.c.secret, events.c.type, events.c.payload)
    .outerjoin(events, (events.c.watch_id == watches.c.id) & events.c.terminal)
    .where(watches.c.id == bindparam("an_id"))
)
_API_KEY = select(watches.c.api_key).where(watches.c.id == bindparam("an_id"))
_KEY_WATCHES = (
    select(tasks.c.credential, func.min(watches.c.id).label("watch_id"))
    .join(watches, watches.c.task == tasks.c.id)
    .where(
        tasks.c.closed_at.is_(None),
        watches.c.api_key.is_not(None),
        IS_ACTIVE,
        tasks.c.credential.in_(bindparam("credentials", expanding=True)),
    )
    .group_by(tasks.c.credential)
    .subquery()
)
_KEYS = select(_KEY_WATCHES.c.credential, watches.c.id, watches.c.api_key).join(
    _KEY_WATCHES, _KEY_WATCHES.c.watch_id == watches.c.id
)


def terminal_event(connection: Connection, cipher: Cipher, watch_id: str, app: str | None) -> StoredEvent:
    """Returns a watch's terminal event as a receiver gets it. Raises NotFound, or WatchActive while there is none."""
    row = connection.execute(_TERMINAL, {"an_id": watch_id}).one_or_none()
    if row is None or app not in {None, row.app}:
        raise NotFound("there is no such watch")
    if row.payload is None:
        raise WatchActive("the watch has no terminal event")
    secret = None if row.secret is None else cipher.decrypt(watch_id, row.secret)
    return StoredEvent(event_id_in(row.payload), row.payload, secret)


def api_key_of(connection: Connection, cipher: Cipher, watch_id: str) -> str | None:
    """Returns a watch's own amux key, decrypted; None when it has none. Raises NotFound."""
    row = connection.execute(_API_KEY, {"an_id": watch_id}).one_or_none()
    if row is None:  # deleted meanwhile; without this error the caller would use the configured key
        raise NotFound("there is no such watch")
    return None if row.api_key is None else cipher.decrypt(watch_id, row.api_key)


def keys_of(connection: Connection, cipher: Cipher, credentials: Sequence[str]) -> dict[str, str]:
    """Returns each credential's amux key, from its active watches. Keys that do not decrypt are logged and left out."""
    found: dict[str, str] = {}
    for row in connection.execute(_KEYS, {"credentials": credentials}):
        try:
            found[row.credential] = cipher.decrypt(row.id, row.api_key)
        except BadSetting as error:
            means = "this amux key cannot be decrypted: its tasks are not polled, and their watches time out"
            _log.event("key_unreadable", level=logging.ERROR, watch_id=row.id, reason=str(error), means=means)
    return found


# --- tasks --------------------------------------------------------------------------------------------------------

_LOADED = (
    *("id", "task_id", "credential", "polls", "last_polled_at", "wants_status", "opened_at"),
    *SNAPSHOT,
    *FACTS,
)
_SNAPSHOT_FROM, _FACTS_FROM = _LOADED.index(SNAPSHOT[0]), _LOADED.index(FACTS[0])
_OWN_AT_ONCE = 500  # these rows stay in the CPU's caches until they are converted
_shared_snapshot = lru_cache(maxsize=8192)(snapshot_from)
_own_closed_too = select(*(tasks.c[name] for name in _LOADED)).where(tasks.c.owner == bindparam("replica"))
_OWN = Query(_own_closed_too.where(tasks.c.closed_at.is_(None)), "replica")
# An SQLite file has one owner, so it has no index of owners. The index of open tasks is in random order: reading a
# million rows at random places takes more than a minute on a busy machine. The plus sign keeps SQLite from using this
# index, so it reads the table in order.
_OWN_IN_ORDER = Query(_own_closed_too.where(text("+tasks.closed_at IS NULL")), "replica")
_OVERDUE = (
    select(watches.c.deadline_at, watches.c.id, watches.c.task)
    .join(tasks, tasks.c.id == watches.c.task)
    .where(
        IS_ACTIVE,
        watches.c.deadline_at <= bindparam("now"),
        tasks.c.owner == bindparam("replica"),
        or_(
            watches.c.deadline_at > bindparam("after"),
            (watches.c.deadline_at == bindparam("after")) & (watches.c.id > bindparam("after_id")),
        ),
    )
    .order_by(watches.c.deadline_at, watches.c.id)
    .limit(bindparam("most"))
)


def own_tasks(connection: Connection, replica: Replica) -> list[TaskView]:
    """Returns a replica's open tasks. A start reads up to a million, so rows are fetched in parts, without names."""
    query = _OWN_IN_ORDER if connection.dialect.name == "sqlite" else _OWN
    with closing(query.parts(connection, _OWN_AT_ONCE, replica.id)) as parts:
        return [
            TaskView(
                row,
                task_id,
                credential,
                _shared_snapshot(*values[_SNAPSHOT_FROM:_FACTS_FROM]),
                polls,
                polled_at,
                bool(wants_status),
                opened_at,
                facts_from(*values[_FACTS_FROM:]),
                replica.id,
            )
            for rows in parts
            for values in rows
            for row, task_id, credential, polls, polled_at, wants_status, opened_at in (values[:_SNAPSHOT_FROM],)
        ]


def overdue(connection: Connection, replica: Replica, now: float, after: Overdue | None, limit: int) -> list[Overdue]:
    """Returns a page of active watches whose deadline has passed, of tasks that the replica owns, by (deadline, id)."""
    start = (
        {"after": -1.0, "after_id": ""} if after is None else {"after": after.deadline_at, "after_id": after.watch_id}
    )
    rows = connection.execute(_OVERDUE, {"now": now, "replica": replica.id, "most": limit} | start)
    return [Overdue(row.deadline_at, row.id, row.task) for row in rows]


# --- deliveries and counts ----------------------------------------------------------------------------------------

_DELIVERY = (
    select(deliveries, watches.c.app, watches.c.traceparent, watches.c.tracestate)
    .join(watches, watches.c.id == deliveries.c.watch_id)
    .where(deliveries.c.id == bindparam("an_id"))
)
_ATTEMPTS = select(attempts).where(attempts.c.delivery_id == bindparam("an_id")).order_by(attempts.c.seq)


def one_delivery(connection: Connection, delivery_id: str, app: str | None) -> tuple[DeliveryView, list[Attempt]]:
    """Returns a delivery of an app (None: of any) with its attempts. Raises NotFound."""
    row = connection.execute(_DELIVERY, {"an_id": delivery_id}).one_or_none()
    if row is None or app not in {None, row.app}:
        raise NotFound("there is no such delivery")
    attempts_made = [
        Attempt(found.started_at, found.duration_seconds, found.status_code, problem_of(found.error), found.body)
        for found in connection.execute(_ATTEMPTS, {"an_id": delivery_id})
    ]
    return replace(delivery_view(row, row.app), trace=trace_of(row)), attempts_made


_ACTIVE_COUNT = select(func.count()).select_from(watches).where(IS_ACTIVE)
_DELIVERY_COUNTS = select(
    select(func.count()).select_from(outbox).scalar_subquery().label("pending"),
    select(func.count()).select_from(deliveries).where(IS_DEAD, GIVEN_UP).scalar_subquery().label("dead"),
)


def counts(connection: Connection) -> Counts:
    """Returns the numbers of active watches, pending and dead deliveries, and when the next delivery is due."""
    deliveries_of = delivery_counts(connection)
    return Counts(active_count(connection), deliveries_of.pending, deliveries_of.dead, next_due_at(connection))


def active_count(connection: Connection) -> int:
    """Returns the number of active watches. A million of them take SQLite 0.1 s of CPU time."""
    count: int = connection.execute(_ACTIVE_COUNT).scalar_one()
    return count


def delivery_counts(connection: Connection) -> DeliveryCounts:
    """Returns the numbers of pending and dead deliveries."""
    row = connection.execute(_DELIVERY_COUNTS).one()
    return DeliveryCounts(row.pending, row.dead)

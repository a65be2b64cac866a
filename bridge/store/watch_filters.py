"""The conditions of lists of watches. Only the condition that the fewest rows meet uses an index: see `unindexed`."""

from typing import Any

from sqlalchemy import and_, exists, select
from sqlalchemy.sql import ColumnElement

from bridge.core.ids import event_key
from bridge.core.model import DeliveryState, Outcome, WatchState
from bridge.core.watch_search import first_id_at
from bridge.store.ending import GIVEN_UP
from bridge.store.records import WatchQuery
from bridge.store.schema import IS_ACTIVE, IS_DEAD, IS_UNSETTLED, deliveries, events, outbox, tasks, unindexed, watches

LAST_PART = 0.1  # a watch is near its deadline in the last tenth of its time
# An id begins with the time of registration, but ids never go back: see `WatchIds`. After the clock was set back, the
# time in a new id is later than `created_at`.
_CLOCK_AHEAD_SECONDS = 86_400.0

Condition = ColumnElement[bool]


def conditions(query: WatchQuery, dialect: str, *, few: bool = False) -> list[Any]:
    """Returns all conditions of a query except its text. `few`: the caller adds a condition that has its own index.

    `dialect` is SQLAlchemy's name of the database.
    """
    indexed = _indexed(query, dialect)
    return [*indexed, *place_in_order(query, few=few or bool(indexed)), *_remaining(query)]


def finds_few(query: WatchQuery, dialect: str) -> bool:
    """Whether an index finds the rows of a query, so that they are few compared with all watches."""
    return bool(_indexed(query, dialect))


def place_in_order(query: WatchQuery, *, few: bool = False) -> list[Any]:
    """Returns the conditions on the app and on ids and times of registration. `few`: another index finds the rows."""
    found: list[Any] = []
    if query.app is not None:
        found.append((unindexed(watches.c.app) if few else watches.c.app) == query.app)
    if query.cursor is not None:
        found.append(watches.c.id > query.cursor if query.oldest_first else watches.c.id < query.cursor)
    if query.created_after is not None:
        found += [watches.c.id >= first_id_at(query.created_after), watches.c.created_at >= query.created_after]
    if query.created_before is not None:
        found.append(watches.c.id < first_id_at(query.created_before + _CLOCK_AHEAD_SECONDS))
        found.append(watches.c.created_at < query.created_before)
    return found


def _indexed(query: WatchQuery, dialect: str) -> list[Any]:
    """Returns the conditions that have an index of their own. The first of them uses its index."""
    found: list[Any] = []
    if query.task_id is not None:
        found.append(of_task(query.task_id, dialect))
    if query.event_id is not None:
        found.append(of_event(query.event_id))
    if query.tasks is not None:
        found += [IS_ACTIVE, watches.c.task.in_(query.tasks)]
    if query.delivery_state is DeliveryState.DEAD and query.given_up_only:
        found.append(watches.c.id.in_(select(deliveries.c.watch_id).where(IS_DEAD, GIVEN_UP)))
    elif query.delivery_state in {DeliveryState.PENDING, DeliveryState.DEAD}:
        found.append(has_delivery(query.delivery_state))
    if query.nearing is not None:
        found += [in_state(WatchState.ACTIVE), near_deadline(query.nearing)]
    if query.state not in {None, WatchState.SETTLED}:
        found.append(watches.c.state == query.state if found else in_state(query.state))
    if query.outcome not in {None, Outcome.COMPLETED}:
        found.append((unindexed(watches.c.outcome) if found else watches.c.outcome) == query.outcome)
    return found


def _remaining(query: WatchQuery) -> list[Any]:
    """Returns the conditions that many rows meet, or that no index has."""
    found: list[Any] = []
    if query.state is WatchState.SETTLED:
        found.append(watches.c.state == query.state)
    if query.outcome is Outcome.COMPLETED:
        found.append(unindexed(watches.c.outcome) == query.outcome)
    if query.delivery_state is DeliveryState.DELIVERED:
        found.append(has_delivery(query.delivery_state))
    if query.host is not None:
        found.append(_to_host(query.host))
    return found


def _to_host(host: str) -> Condition:
    """Returns the condition that callbacks go to a host. Without a port in `host`, any port of the host counts."""
    if host.rpartition(":")[2].isdigit() and not host.endswith("]"):
        return watches.c.host == host
    return watches.c.host.startswith(f"{host}:", autoescape=True)


def of_task(task_id: str, dialect: str) -> Condition:
    """Returns the condition that a watch is of a task id. SQLite has no index of the watches' task ids."""
    if dialect == "sqlite":
        return watches.c.task.in_(select(tasks.c.id).where(tasks.c.task_id == task_id))
    return watches.c.task_id == task_id


def of_event(event_id: str) -> Condition:
    """Returns the condition that a watch has an event, with or without a delivery."""
    delivered = watches.c.id.in_(select(deliveries.c.watch_id).where(deliveries.c.id == event_id))
    key = event_key(event_id)
    if key is None:
        return delivered
    watch_id, event_type = key
    built = select(events.c.watch_id).where(events.c.watch_id == watch_id, events.c.type == event_type)
    return watches.c.id.in_(select(deliveries.c.watch_id).where(deliveries.c.id == event_id).union(built))


def in_state(state: WatchState | None) -> Condition:
    """Returns the condition that a watch is in a state. Active and cancelled watches have an index of their own."""
    condition = watches.c.state == state
    return condition if state is WatchState.SETTLED else and_(IS_UNSETTLED, condition)


def has_delivery(state: DeliveryState | None) -> Condition:
    """Returns the condition that a watch has a delivery in a state.

    Pending and dead deliveries are few, and an index finds them. Others are searched for each watch.
    """
    of_watch = select(deliveries.c.watch_id)
    match state:
        case DeliveryState.PENDING:  # these are exactly the deliveries in the outbox
            return watches.c.id.in_(of_watch.join(outbox, deliveries.c.id == unindexed(outbox.c.id)))
        case DeliveryState.DEAD:
            return watches.c.id.in_(of_watch.where(IS_DEAD))
    return exists().where(deliveries.c.watch_id == watches.c.id, deliveries.c.state == state)


def near_deadline(now: float | ColumnElement[float]) -> Condition:
    """Returns the condition that a watch is in the last tenth of its time."""
    return watches.c.deadline_at - now <= watches.c.timeout_seconds * LAST_PART

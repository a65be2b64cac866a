"""The histories of task classes. All replicas write them: each adds the ends that it saw to the stored numbers."""

from collections.abc import Sequence
from typing import Any

import orjson
from sqlalchemy import Connection, Row, bindparam, delete, func, select
from sqlalchemy.dialects.postgresql import insert

from bridge.core.learned_schedule import BINS, History
from bridge.core.schedule import PollPolicy
from bridge.core.task_class import FORGET_SECONDS, ClassHistory, TaskEnd, with_task_end
from bridge.store.advisory_locks import CLASS_HISTORIES
from bridge.store.schema import class_histories

_TRY_LOCK = select(func.pg_try_advisory_xact_lock(CLASS_HISTORIES))
_ALL = select(class_histories)
_NAMES = ("name", "weights", "ends", "extra_polls", "polls", "last_end_at")
_INSERT = insert(class_histories)
_UPSERT = _INSERT.on_conflict_do_update(
    index_elements=["name"], set_={name: _INSERT.excluded[name] for name in _NAMES[1:]}
)
_DELETE = delete(class_histories).where(class_histories.c.name == bindparam("a_name"))
_DELETE_OLD = delete(class_histories).where(class_histories.c.last_end_at < bindparam("before"))


def read(connection: Connection) -> dict[str, ClassHistory]:
    """Returns the history of each class, by name. A row that this version cannot read is skipped."""
    rows = connection.execute(_ALL).all()
    return {row.name: one for row in rows if (one := _history_of(row)) is not None}


def add_ends(
    connection: Connection, ends: Sequence[TaskEnd], policy: PollPolicy, now: float
) -> dict[str, ClassHistory] | None:
    """Add the ends that this replica saw, and delete old classes; returns the history of each class.

    Returns None, and changes nothing, while another replica writes.
    """
    # This does not wait for the lock: this transaction may hold locks that the other replica waits for.
    if connection.dialect.name == "postgresql" and not connection.execute(_TRY_LOCK).scalar_one():
        return None
    connection.execute(_DELETE_OLD, {"before": now - FORGET_SECONDS})
    classes = read(connection)
    changed: dict[str, ClassHistory | None] = {}
    for end in ends:
        for name, one in with_task_end(classes, end, policy, now).items():
            changed[name] = one
            if one is None:
                del classes[name]
            else:
                classes[name] = one
    if removed := [{"a_name": name} for name, one in changed.items() if one is None]:
        connection.execute(_DELETE, removed)
    if written := [_values(name, one) for name, one in sorted(changed.items()) if one is not None]:
        connection.execute(_UPSERT, written)
    return classes


def _history_of(row: Row[Any]) -> ClassHistory | None:
    try:
        weights = tuple(map(float, orjson.loads(row.weights)))
    except (TypeError, ValueError):
        return None
    if len(weights) != BINS or sum(weights) <= 0:
        return None
    return ClassHistory(History(weights, row.ends, row.extra_polls, row.polls), row.last_end_at)


def _values(name: str, one: ClassHistory) -> dict[str, Any]:
    history = one.history
    weights = orjson.dumps([round(weight, 4) for weight in history.weights]).decode()
    values = (name, weights, history.ends, history.extra_polls, history.polls, one.last_end_at)
    return dict(zip(_NAMES, values, strict=True))

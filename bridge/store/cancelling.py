"""Cancelling a watch: nothing more is polled for it and nothing more is sent."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from sqlalchemy import Connection, bindparam, exists, select, update

from bridge.core.errors import BridgeError, NotFound, WatchSettled
from bridge.core.model import WatchState
from bridge.store.ending import WatchEnd, end_watches
from bridge.store.replicas import Replica
from bridge.store.row_mapping import events_of, wants_status
from bridge.store.schema import IS_ACTIVE, tasks, watches
from bridge.store.settlement import LOCK_WATCHES

Nothing: TypeAlias = None


@dataclass(frozen=True, slots=True)
class Cancelling:
    """Whose watch to cancel; an app of None may cancel any."""

    replica: Replica
    watch_id: str
    app: str | None
    at: float


_FIND = (
    select(watches.c.id, watches.c.app, watches.c.state, watches.c.task, watches.c.events)
    .where(watches.c.id.in_(bindparam("those", expanding=True)))
    .order_by(watches.c.id)
)
_LOCK_TASKS = (
    select(tasks.c.id)
    .where(tasks.c.closed_at.is_(None), tasks.c.id.in_(bindparam("those", expanding=True)))
    .order_by(tasks.c.id)
    .with_for_update()
)
_CLOSE_EMPTY = (
    update(tasks)
    .where(
        tasks.c.id.in_(bindparam("those", expanding=True)),
        tasks.c.closed_at.is_(None),
        ~exists().where(watches.c.task == tasks.c.id, IS_ACTIVE),
    )
    .values(closed_at=bindparam("at"), next_poll_at=None)
)


def cancel(connection: Connection, works: Sequence[Cancelling]) -> Sequence[Nothing | BridgeError]:
    """Cancel each watch that is active and its caller's; a task without an active watch closes."""
    those = {"those": sorted({work.watch_id for work in works})}
    task_rows = sorted({row.task for row in connection.execute(_FIND, those)})
    if task_rows:  # the tasks first, as in settling; what is read after that stays true
        connection.execute(_LOCK_TASKS, {"those": task_rows}).all()
        connection.execute(LOCK_WATCHES, {"those": task_rows}).all()
    rows = {row.id: row for row in connection.execute(_FIND, those)}
    at = works[0].at
    results: list[Nothing | BridgeError] = []
    ending: dict[str, WatchEnd] = {}
    for work in works:
        row = rows.get(work.watch_id)
        if row is None or work.app not in {None, row.app}:
            results.append(NotFound("there is no such watch"))
        elif row.state == WatchState.SETTLED:
            results.append(WatchSettled("the watch is settled; only an active one can be cancelled"))
        else:
            results.append(None)
            if row.state == WatchState.ACTIVE:
                owed_status = wants_status(events_of(row.events))
                ending[row.id] = WatchEnd(row.id, WatchState.CANCELLED, None, at, owed_status=owed_status)
    end_watches(connection, [ending[watch_id] for watch_id in sorted(ending)])
    if ending:
        connection.execute(_CLOSE_EMPTY, {"those": task_rows, "at": at})
    return results

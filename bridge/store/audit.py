"""The audit trail in the store. An entry is written in the transaction of its action, and read with its watch."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, bindparam, delete, select, union_all

from bridge.core.audit import Action, Actor, AuditEntry, Role
from bridge.store.bulk_statements import inserting
from bridge.store.schema import audit

MOST = 1_000  # entries that are read for a page: the newest of its watches, and as many of their receivers


@dataclass(frozen=True, slots=True)
class WatchSpan:
    """A watch, its receiver, and its time from registration to its last delivery (Unix seconds)."""

    watch_id: str
    host: str
    since: float
    until: float


_INSERT = inserting(audit, ("at", "action", "actor", "role", "watch_id", "delivery_id", "receiver"))
_NEWEST = select(audit).order_by(audit.c.seq.desc()).limit(MOST)
_of_watches = _NEWEST.where(audit.c.watch_id.in_(bindparam("ids", expanding=True))).subquery()
_of_receivers = _NEWEST.where(audit.c.receiver.in_(bindparam("hosts", expanding=True))).subquery()
# One statement, because it is part of each read of a watch. UNION and not OR, with which SQLite uses only one index.
_ENTRIES = union_all(select(_of_watches), select(_of_receivers))
_DELETE_OF_WATCHES = delete(audit).where(audit.c.watch_id.in_(bindparam("ids", expanding=True)))
_DELETE_OF_RECEIVERS = delete(audit).where(audit.c.receiver.is_not(None), audit.c.at < bindparam("before"))


def write(connection: Connection, entries: Sequence[AuditEntry]) -> None:
    """Add entries to the audit trail. Call it in the transaction of the action that they describe."""
    _INSERT.execute(connection, [_values(entry) for entry in entries])


def of_watches(connection: Connection, spans: Sequence[WatchSpan]) -> dict[str, tuple[AuditEntry, ...]]:
    """Returns the entries of each watch and of its receiver, by watch id, oldest first.

    Entries of a receiver count from the registration of the watch to its last delivery. A pause of the receiver that
    began earlier and still lasted counts too. A watch without entries is not in the result.
    """
    parameters = {"ids": [span.watch_id for span in spans], "hosts": sorted({span.host for span in spans})}
    rows = connection.execute(_ENTRIES, parameters).all()
    if not rows:
        return {}
    entries = [_entry(row) for row in sorted(rows, key=lambda row: int(row.seq))]
    found = {span.watch_id: tuple(_within(span, entries)) for span in spans}
    return {watch_id: of_watch for watch_id, of_watch in found.items() if of_watch}


def _within(span: WatchSpan, entries: Sequence[AuditEntry]) -> Iterator[AuditEntry]:
    of_receiver = [entry for entry in entries if entry.receiver == span.host]
    earlier = [entry for entry in of_receiver if entry.at < span.since][-1:]
    yield from (entry for entry in earlier if entry.action is Action.PAUSED)
    for entry in entries:
        if entry.watch_id == span.watch_id or (entry.receiver == span.host and span.since <= entry.at <= span.until):
            yield entry


def delete_of_watches(connection: Connection, watch_ids: Sequence[str]) -> None:
    """Delete the entries of watches."""
    connection.execute(_DELETE_OF_WATCHES, {"ids": watch_ids})


def delete_of_receivers(connection: Connection, before: float) -> None:
    """Delete the entries of receivers that were written before a moment."""
    connection.execute(_DELETE_OF_RECEIVERS, {"before": before})


def _values(one: AuditEntry) -> tuple[Any, ...]:
    return one.at, one.action.value, one.by.name, one.by.role.value, one.watch_id, one.delivery_id, one.receiver


def _entry(row: Row[Any]) -> AuditEntry:
    by = Actor(row.actor, Role(row.role))
    return AuditEntry(row.at, Action(row.action), by, row.watch_id, row.delivery_id, row.receiver)

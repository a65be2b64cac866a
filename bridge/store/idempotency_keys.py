"""The Idempotency-Keys of registrations. A repeated key gets the first answer's status and the same watch."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row, bindparam, delete, exists, or_, select, tuple_, update
from sqlalchemy.dialects.postgresql import insert

from bridge.core.errors import IdempotencyConflict
from bridge.store.records import RegisteredWatch
from bridge.store.registration_entry import Entry
from bridge.store.schema import idempotency, watches

IDEMPOTENCY_SECONDS = 86_400.0  # an Idempotency-Key is kept for 24 h
_CREATED, _FOUND = 201, 200
_NOT_ANSWERED = 0  # the status of an Idempotency-Key until its registration has a result

_BY_NAME = (idempotency.c.app == bindparam("an_app"), idempotency.c.key == bindparam("a_key"))
# The watch of a key may be deleted before the key: retention can be less than a day.
_DELETE_OLD_KEY = delete(idempotency).where(
    *_BY_NAME,
    or_(
        idempotency.c.created_at < bindparam("cutoff"),
        ~exists().where(watches.c.id == idempotency.c.watch_id),
    ),
)
_INSERT_KEY = insert(idempotency).on_conflict_do_nothing(index_elements=["app", "key"])
_FIND_KEYS = select(idempotency).where(
    tuple_(idempotency.c.app, idempotency.c.key).in_(bindparam("names", expanding=True))
)
_UPDATE_KEY = update(idempotency).where(*_BY_NAME).values(status=bindparam("answered"), watch_id=bindparam("a_watch"))
_DELETE_KEY = delete(idempotency).where(*_BY_NAME)


def _name(entry: Entry) -> tuple[str, str]:
    key = entry.new.idempotency
    return entry.new.watch.app, "" if key is None else key.key


def _parameters(entry: Entry) -> dict[str, Any]:
    app, key = _name(entry)
    return {"an_app": app, "a_key": key}


def claim(connection: Connection, entries: Sequence[Entry]) -> list[Entry]:
    """Insert each Idempotency-Key first, so that another caller with the same key waits here for our commit.

    Returns the entries that own their key. For the others this sets `result`, `key_owner` or `existing`.
    """
    groups: dict[tuple[str, str], list[Entry]] = defaultdict(list)
    for entry in entries:
        groups[_name(entry)].append(entry)
    names = sorted(groups)
    firsts = [groups[name][0] for name in names]
    connection.execute(
        _DELETE_OLD_KEY,
        [_parameters(entry) | {"cutoff": entry.new.watch.created_at - IDEMPOTENCY_SECONDS} for entry in firsts],
    )
    connection.execute(_INSERT_KEY, [_values(entry) for entry in firsts])
    rows = {(row.app, row.key): row for row in connection.execute(_FIND_KEYS, {"names": names})}
    return [entry for name, group in groups.items() for entry in group if _claim_one(entry, group, rows[name])]


def _values(entry: Entry) -> dict[str, Any]:
    watch = entry.new.watch
    body = b"" if entry.new.idempotency is None else entry.new.idempotency.body
    app, key = _name(entry)
    return {
        "app": app,
        "key": key,
        "body": body,
        "status": _NOT_ANSWERED,
        "watch_id": watch.id,
        "created_at": watch.created_at,
    }


def _claim_one(entry: Entry, group: Sequence[Entry], row: Row[Any]) -> bool:
    """Return whether this entry owns its key. If not, set its `result`, `key_owner` or `existing`."""
    if row.watch_id == entry.new.watch.id:
        return True
    if entry.new.idempotency is not None and row.body != entry.new.idempotency.body:
        entry.result = IdempotencyConflict("this Idempotency-Key was used with another body in the last 24 hours")
    elif row.status == _NOT_ANSWERED:
        entry.key_owner = group[0]
    else:
        entry.existing, entry.created = row.watch_id, row.status == _CREATED
    return False


def update_answered(connection: Connection, entries: Sequence[Entry]) -> None:
    """Store the answers with their keys, and delete the keys of refused registrations."""
    answered: list[dict[str, Any]] = []
    refused: list[dict[str, Any]] = []
    for entry in sorted(entries, key=_name):
        if isinstance(entry.result, RegisteredWatch):
            status = _CREATED if entry.result.created else _FOUND
            answered.append(_parameters(entry) | {"answered": status, "a_watch": entry.result.watch.id})
        else:
            refused.append(_parameters(entry))
    if answered:
        connection.execute(_UPDATE_KEY, answered)
    if refused:
        connection.execute(_DELETE_KEY, refused)

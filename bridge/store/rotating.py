"""Sealing everything anew under the newest encryption key, in small batches, while services go on.

A service whose keys do not hold the newest one can't open what this has written: give it to all of them first.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from sqlalchemy import Connection, bindparam, or_, select, update
from sqlalchemy.exc import DBAPIError

from bridge.core.errors import StoreUnavailable
from bridge.store.database import Database, reason_of
from bridge.store.encryption import Cipher
from bridge.store.schema import secrets, watches

BATCH = 200  # rows to a transaction: at most 600 texts, some 40 ms; a service's writes wait no longer

_SEALED = (watches.c.headers, watches.c.secret, watches.c.api_key)
_NEXT_WATCHES = (
    select(watches.c.id, *_SEALED)
    .where(watches.c.id > bindparam("after"), or_(*(column.is_not(None) for column in _SEALED)))
    .order_by(watches.c.id)
    .limit(BATCH)
)
_WRITE_WATCH = (
    update(watches)
    .where(watches.c.id == bindparam("an_id"))
    .values({column: bindparam(f"new_{column.name}") for column in _SEALED})
)
_SECRETS = select(secrets.c.name, secrets.c.sealed).order_by(secrets.c.name)
_WRITE_SECRET = (
    update(secrets)
    .where(secrets.c.name == bindparam("a_name"), secrets.c.sealed == bindparam("old"))
    .values(sealed=bindparam("new"))
)


@dataclass(frozen=True, slots=True)
class Resealed:
    """What was sealed anew: rows of watches, and the database's own secrets."""

    watches: int
    secrets: int


def reseal(database: Database, cipher: Cipher) -> Resealed:
    """Seal every stored text anew under the sealer's first key; repeatable, and what is done stays done.

    Raises BadSetting when no key opens a text, StoreUnavailable when the database does not answer. New watches are
    sealed by their service, and a watch's texts never change, so nothing is missed or overwritten.
    """
    try:
        own = database.transaction(lambda connection: _reseal_secrets(connection, cipher))
        return Resealed(sum(_reseal_watches(database, cipher)), own)
    except DBAPIError as error:
        raise StoreUnavailable(f"the database refuses: {reason_of(error)}") from None


def _reseal_secrets(connection: Connection, cipher: Cipher) -> int:
    rows = connection.execute(_SECRETS).all()
    for row in rows:
        old = bytes(row.sealed)
        connection.execute(_WRITE_SECRET, {"a_name": row.name, "old": old, "new": cipher.rotate(old)})
    return len(rows)


def _reseal_watches(database: Database, cipher: Cipher) -> Iterator[int]:
    """How many watches each batch held."""
    last = ""
    while ids := database.transaction(partial(_reseal_batch, cipher=cipher, after=last)):
        yield len(ids)
        last = ids[-1]


def _reseal_batch(connection: Connection, cipher: Cipher, after: str) -> list[str]:
    rows = connection.execute(_NEXT_WATCHES, {"after": after}).all()
    if rows:
        connection.execute(_WRITE_WATCH, [_resealed(row, cipher) for row in rows])
    return [row.id for row in rows]


def _resealed(row: Any, cipher: Cipher) -> dict[str, Any]:
    values = {f"new_{column.name}": getattr(row, column.name) for column in _SEALED}
    return {"an_id": row.id} | {name: None if blob is None else cipher.rotate(blob) for name, blob in values.items()}

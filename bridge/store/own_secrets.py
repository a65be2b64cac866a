"""The database's own secrets, sealed: the root that keys are derived from, and a signing secret of our own making."""

from collections.abc import Sequence
from secrets import token_bytes

from sqlalchemy import Connection, bindparam, inspect, select
from sqlalchemy.dialects.postgresql import insert

from bridge.core.errors import BridgeError
from bridge.core.signing import new_secret
from bridge.store.database import Database
from bridge.store.encryption import Cipher
from bridge.store.schema import secrets

ROOT, SIGNING = "root", "signing"

_FIND = select(secrets.c.sealed).where(secrets.c.name == bindparam("a_name"))
_KEEP = insert(secrets).on_conflict_do_nothing(index_elements=["name"])


def any_kept(database: Database) -> bool:
    """Whether something is sealed here already, so that a new key would not open it."""

    def question(connection: Connection) -> bool:
        known = inspect(connection).has_table("secrets")
        return known and connection.execute(_FIND, {"a_name": ROOT}).first() is not None

    return database.read(question)


def with_root_key(database: Database, cipher: Cipher) -> Cipher:
    """The sealer with the root that fingerprints come from. It is the canary as well: a wrong key does not open it."""
    root = database.transaction(lambda connection: _kept(connection, cipher, ROOT, token_bytes(32).hex()))
    return cipher.with_root_key(bytes.fromhex(root))


def signing_secret(connection: Connection, works: Sequence[Cipher]) -> Sequence[str | BridgeError]:
    """The `whsec_...` that signs when none is configured: made once, kept sealed."""
    kept = _kept(connection, works[0], SIGNING, new_secret(token_bytes(32)).text)
    return [kept] * len(works)


def _kept(connection: Connection, cipher: Cipher, name: str, fresh: str) -> str:
    """A secret of the database's own: the one that is there, or `fresh`. Raises BadSetting for a wrong key."""
    sealed = connection.execute(_FIND, {"a_name": name}).scalar_one_or_none()
    if sealed is None:
        connection.execute(_KEEP, {"name": name, "sealed": cipher.seal(name, fresh)})
        sealed = connection.execute(_FIND, {"a_name": name}).scalar_one()
    return cipher.open(name, sealed)

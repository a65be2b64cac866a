"""Encryption of stored secrets, the database's own secrets, and re-encryption with a new key.

Texts are encrypted with Fernet. Fernet has no associated data, so the plaintext begins with the id of its row. A
ciphertext that was moved to another row is refused.
"""

import hashlib
import hmac
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from sqlalchemy import Connection, bindparam, inspect, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import DBAPIError

from bridge.core.errors import BadSetting, StoreUnavailable
from bridge.core.signing import new_secret
from bridge.store.database import Database, cause_of, reason_of
from bridge.store.schema import secrets, watches

WRONG_KEY = "BRIDGE_ENCRYPTION_KEYS: the key does not decrypt the data in this database; give the key that encrypted it"
_FINGERPRINT_BYTES = 16


class Cipher:
    """Encrypts and decrypts texts, and derives keys and fingerprints from a root key that all replicas share."""

    def __init__(self, keys: Sequence[str], root: bytes = b"") -> None:
        self._fernet_keys = tuple(keys)
        self._fernet = MultiFernet([Fernet(key) for key in keys])
        self._root = root
        self._derived: dict[str, bytes] = {}

    def with_root_key(self, root: bytes) -> "Cipher":
        """Returns the same cipher with the database's root key."""
        return Cipher(self._fernet_keys, root)

    def encrypt(self, row_id: str, text: str) -> bytes:
        """Encrypt a text for one row, with the newest key."""
        return self._fernet.encrypt(f"{row_id}\n{text}".encode())

    def decrypt(self, row_id: str, ciphertext: bytes) -> str:
        """Decrypt the text of a row. Raises BadSetting if no key fits, or if the text belongs to another row."""
        try:
            owner, _, text = self._fernet.decrypt(bytes(ciphertext)).decode().partition("\n")
        except InvalidToken:
            raise BadSetting(WRONG_KEY) from None
        if owner != row_id:
            raise BadSetting("a stored secret belongs to another row of the database")
        return text

    def rotate(self, ciphertext: bytes) -> bytes:
        """Encrypt the same text with the newest key. Raises BadSetting when no key fits."""
        try:
            return self._fernet.rotate(bytes(ciphertext))
        except InvalidToken:
            raise BadSetting(WRONG_KEY) from None

    def key(self, purpose: str) -> bytes:
        """Returns a key of 32 bytes for one purpose: the same on every replica, as long as the database exists."""
        if purpose not in self._derived:
            self._derived[purpose] = hmac.digest(self._root, f"amux-bridge {purpose}".encode(), "sha256")
        return self._derived[purpose]

    def fingerprint(self, purpose: str, data: bytes) -> bytes:
        """Returns a keyed hash of 16 bytes, for comparing secrets without storing them.

        It is keyed BLAKE2b (RFC 7693, section 2.9), which costs a fifth of an HMAC. Each registration computes one.
        """
        return hashlib.blake2b(data, key=self.key(purpose), digest_size=_FINGERPRINT_BYTES).digest()


# --- the database's own secrets -----------------------------------------------------------------------------------

ROOT, SIGNING = "root", "signing"  # names in the table `secrets`

_FIND_SECRET = select(secrets.c.encrypted).where(secrets.c.name == bindparam("a_name"))
_INSERT_SECRET = insert(secrets).on_conflict_do_nothing(index_elements=["name"])


def has_encrypted_data(database: Database) -> bool:
    """Whether this database already holds encrypted data, which a new key could not decrypt."""

    def query(connection: Connection) -> bool:
        exists = inspect(connection).has_table("secrets")
        return exists and connection.execute(_FIND_SECRET, {"a_name": ROOT}).first() is not None

    return database.read(query)


def with_root_key(database: Database, cipher: Cipher) -> Cipher:
    """Returns the cipher with the database's root key. A new database gets a root key here.

    Raises BadSetting if the encryption key does not decrypt the root key.
    """
    new = database.system.token_hex(32)
    root = database.transaction(lambda connection: _own_secret(connection, cipher, ROOT, new))
    return cipher.with_root_key(bytes.fromhex(root))


def signing_secret(connection: Connection, cipher: Cipher, new: bytes) -> str:
    """Returns the stored signing secret (`whsec_...`). It is used if the settings have none.

    The first call makes it of `new`, 32 random bytes. Raises BadSetting for a wrong encryption key.
    """
    return _own_secret(connection, cipher, SIGNING, new_secret(new).text)


def _own_secret(connection: Connection, cipher: Cipher, name: str, new: str) -> str:
    """Returns the stored secret of this name. If there is none, stores `new`. Raises BadSetting for a wrong key."""
    ciphertext = connection.execute(_FIND_SECRET, {"a_name": name}).scalar_one_or_none()
    if ciphertext is None:
        connection.execute(_INSERT_SECRET, {"name": name, "encrypted": cipher.encrypt(name, new)})
        ciphertext = connection.execute(_FIND_SECRET, {"a_name": name}).scalar_one()  # another replica may be first
    return cipher.decrypt(name, ciphertext)


# --- re-encryption ------------------------------------------------------------------------------------------------

BATCH = 200  # rows in a transaction: up to 600 texts, about 40 ms, in which the writes of a service wait

_ENCRYPTED = (watches.c.headers, watches.c.secret, watches.c.api_key)
_NEXT_WATCHES = (
    select(watches.c.id, *_ENCRYPTED)
    .where(watches.c.id > bindparam("after"), or_(*(column.is_not(None) for column in _ENCRYPTED)))
    .order_by(watches.c.id)
    .limit(BATCH)
)
_UPDATE_WATCH = (
    update(watches)
    .where(watches.c.id == bindparam("an_id"))
    .values({column: bindparam(f"new_{column.name}") for column in _ENCRYPTED})
)
_ALL_SECRETS = select(secrets.c.name, secrets.c.encrypted).order_by(secrets.c.name)
_UPDATE_SECRET = (
    update(secrets)
    .where(secrets.c.name == bindparam("a_name"), secrets.c.encrypted == bindparam("old"))
    .values(encrypted=bindparam("new"))
)


@dataclass(frozen=True, slots=True)
class Reencrypted:
    """How many rows were encrypted again: watches, and the database's own secrets."""

    watches: int
    secrets: int


def reencrypt(database: Database, cipher: Cipher) -> Reencrypted:
    """Encrypt every stored text with the cipher's newest key, in small batches, while services run.

    Give the newest key to all services first: a service without it cannot decrypt what this writes. The call can be
    repeated after an error. No text is missed or overwritten: services encrypt new watches with the newest key, and the
    texts of a watch never change.

    Raises BadSetting if no key decrypts a text, and StoreUnavailable if the database does not answer.
    """
    try:
        own = database.transaction(lambda connection: _reencrypt_secrets(connection, cipher))
        return Reencrypted(sum(_reencrypt_watches(database, cipher)), own)
    except DBAPIError as error:
        raise StoreUnavailable(f"the database reports an error: {reason_of(error)}", cause_of(error)) from None


def _reencrypt_secrets(connection: Connection, cipher: Cipher) -> int:
    rows = connection.execute(_ALL_SECRETS).all()
    for row in rows:
        old = bytes(row.encrypted)
        connection.execute(_UPDATE_SECRET, {"a_name": row.name, "old": old, "new": cipher.rotate(old)})
    return len(rows)


def _reencrypt_watches(database: Database, cipher: Cipher) -> Iterator[int]:
    """Yields the number of watches of each batch."""
    last = ""
    while ids := database.transaction(partial(_reencrypt_batch, cipher=cipher, after=last)):
        yield len(ids)
        last = ids[-1]


def _reencrypt_batch(connection: Connection, cipher: Cipher, after: str) -> list[str]:
    rows = connection.execute(_NEXT_WATCHES, {"after": after}).all()
    if rows:
        connection.execute(_UPDATE_WATCH, [_reencrypted_values(row, cipher) for row in rows])
    return [row.id for row in rows]


def _reencrypted_values(row: Any, cipher: Cipher) -> dict[str, Any]:
    values = {f"new_{column.name}": getattr(row, column.name) for column in _ENCRYPTED}
    return {"an_id": row.id} | {name: None if old is None else cipher.rotate(old) for name, old in values.items()}

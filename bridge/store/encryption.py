"""What is stored encrypted, and keyed fingerprints: Fernet, with each row's id bound in.

Fernet has no associated data, so the id stands before the text inside: a blob moved to another row does not open.
"""

import hashlib
import hmac
from collections.abc import Sequence

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from bridge.core.errors import BadSetting

WRONG_KEY = (
    "BRIDGE_ENCRYPTION_KEYS: the key does not open what is stored in this database; give the one it was made with"
)
_FINGERPRINT_BYTES = 16


class Cipher:
    """Seals and opens texts, and makes fingerprints under keys that every replica derives from one root."""

    def __init__(self, keys: Sequence[str], root: bytes = b"") -> None:
        self._texts = tuple(keys)
        self._fernet = MultiFernet([Fernet(key) for key in keys])
        self._root = root
        self._keys: dict[str, bytes] = {}

    def with_root_key(self, root: bytes) -> "Cipher":
        """The same sealer with the database's root secret."""
        return Cipher(self._texts, root)

    def seal(self, row_id: str, text: str) -> bytes:
        """Encrypt a text for one row, under the newest key."""
        return self._fernet.encrypt(f"{row_id}\n{text}".encode())

    def open(self, row_id: str, blob: bytes) -> str:
        """Decrypt a row's text. Raises BadSetting when no key opens it, or it is another row's."""
        try:
            owner, _, text = self._fernet.decrypt(bytes(blob)).decode().partition("\n")
        except InvalidToken:
            raise BadSetting(WRONG_KEY) from None
        if owner != row_id:
            raise BadSetting("the database holds a secret under a row that it was not made for")
        return text

    def rotate(self, blob: bytes) -> bytes:
        """The same text under the newest key. Raises BadSetting when no key opens it."""
        try:
            return self._fernet.rotate(bytes(blob))
        except InvalidToken:
            raise BadSetting(WRONG_KEY) from None

    def key(self, purpose: str) -> bytes:
        """A key of 32 bytes for one purpose, the same on every replica and for the database's life."""
        if purpose not in self._keys:
            self._keys[purpose] = hmac.digest(self._root, f"amux-bridge {purpose}".encode(), "sha256")
        return self._keys[purpose]

    def fingerprint(self, purpose: str, data: bytes) -> bytes:
        """16 bytes that tell two data apart and nothing about either.

        Keyed BLAKE2b (RFC 7693, 2.9): a fifth of the cost of an HMAC, and every registration has one.
        """
        return hashlib.blake2b(data, key=self.key(purpose), digest_size=_FINGERPRINT_BYTES).digest()

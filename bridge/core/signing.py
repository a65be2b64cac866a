"""Standard Webhooks: secrets, signatures and their verification.

Source: https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md. The signed content
is `id.timestamp.body`. `v1` is HMAC-SHA256 with a shared secret, `v1a` is Ed25519 with a key pair.
"""

import base64
import hmac
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum, auto
from functools import lru_cache

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bridge.core.headers import header_bytes

HEADERS = ("webhook-id", "webhook-timestamp", "webhook-signature")
SECRET_PREFIX = "whsec_"  # noqa: S105  a prefix, not a secret
PRIVATE_PREFIX = "whsk_"
PUBLIC_PREFIX = "whpk_"
SHORTEST_SECRET, LONGEST_SECRET = 24, 64  # bytes, as the standard recommends
SEED_BYTES = 32  # RFC 8032: the length of an Ed25519 seed, and also of its public key
TOLERANCE_SECONDS = 300.0  # every Standard Webhooks library uses this


class MismatchCode(Enum):
    """The check that a message failed."""

    MISSING = auto()  # a header
    MALFORMED = auto()  # a header
    TOO_OLD = auto()
    TOO_NEW = auto()
    NO_MATCH = auto()


class SignatureMismatch(ValueError):
    """A message whose signature could not be verified. `code` and the text say which check failed."""

    def __init__(self, code: MismatchCode, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code


@dataclass(frozen=True, slots=True)
class Secret:
    """A shared secret of 24 to 64 bytes. Its repr does not show it."""

    key: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if not SHORTEST_SECRET <= len(self.key) <= LONGEST_SECRET:
            raise ValueError(
                f"a signing secret must have {SHORTEST_SECRET} to {LONGEST_SECRET} bytes; this one has {len(self.key)}"
            )

    @property
    def text(self) -> str:
        """The secret as receivers configure it: `whsec_` and standard base64."""
        return SECRET_PREFIX + base64.b64encode(self.key).decode()


@dataclass(frozen=True, slots=True)
class SigningKey:
    """An Ed25519 key pair, made from its 32-byte seed. Its repr does not show it."""

    seed: bytes = field(repr=False)
    _private: Ed25519PrivateKey = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # The key is derived once, because this costs about as much as a signature.
        object.__setattr__(self, "_private", Ed25519PrivateKey.from_private_bytes(self.seed))

    @property
    def public_text(self) -> str:
        """`whpk_` and standard base64 of the 32-byte public key. Receivers verify `v1a` with it."""
        return PUBLIC_PREFIX + base64.b64encode(self._public_bytes()).decode()

    @property
    def text(self) -> str:
        """`whsk_` and standard base64 of seed and public key: how the standard writes a private key."""
        return PRIVATE_PREFIX + base64.b64encode(self.seed + self._public_bytes()).decode()

    @property
    def seed_text(self) -> str:
        """`whsk_` and standard base64 of the seed alone: the other form that settings accept."""
        return PRIVATE_PREFIX + base64.b64encode(self.seed).decode()

    def sign(self, content: bytes) -> bytes:
        """Returns the signature of `content` (RFC 8032), 64 bytes."""
        return self._private.sign(content)

    def _public_bytes(self) -> bytes:
        return self._private.public_key().public_bytes_raw()


def parse_secret(text: str) -> Secret:
    """Reads a `whsec_...` secret.

    The text must be `whsec_` and padded standard base64 of 24 to 64 bytes, the one form that all libraries read in the
    same way. Raises ValueError for any other text; the message repeats no part of it.
    """
    return Secret(_decoded(text, SECRET_PREFIX, "a signing secret"))


def new_secret(random_bytes: bytes) -> Secret:
    """Returns a secret made of 24 to 64 random bytes. Raises ValueError for any other length."""
    return Secret(bytes(random_bytes))


def parse_signing_key(text: str) -> SigningKey:
    """Reads a `whsk_...` key: base64 of the 32-byte seed, or of the seed and its public key (64 bytes).

    Raises ValueError for any other text, and for a public key that does not belong to the seed. The message repeats no
    part of the text.
    """
    raw = _decoded(text, PRIVATE_PREFIX, "a signing key")
    if len(raw) not in {SEED_BYTES, 2 * SEED_BYTES}:
        raise ValueError(f"a signing key must have {SEED_BYTES} or {2 * SEED_BYTES} bytes; this one has {len(raw)}")
    key = SigningKey(raw[:SEED_BYTES])
    if raw[SEED_BYTES:] not in {b"", key._public_bytes()}:  # noqa: SLF001  a private method of this module
        raise ValueError("the second half of a signing key must be the public key of the first half")
    return key


class Signer:
    """Signs events with the configured secrets, and with the Ed25519 key if there is one.

    `secrets` has the current secret first. It is read at each call, so the caller may change it in place.
    """

    __slots__ = ("_key", "_secrets")

    def __init__(self, secrets: Sequence[Secret], key: SigningKey | None = None) -> None:
        self._secrets = secrets
        self._key = key

    def headers(self, event_id: str, timestamp: int, body: bytes, own_secret: str | None = None) -> dict[str, str]:
        """Returns the three `webhook-*` headers of one attempt at `timestamp` (whole Unix seconds).

        A watch's own secret (`whsec_...`) replaces the configured ones. The Ed25519 key signs in both cases. Raises
        ValueError as `sign` does, and for an own secret that is malformed.
        """
        secrets = self._secrets if own_secret is None else (_parsed(own_secret),)
        return {
            HEADERS[0]: event_id,
            HEADERS[1]: str(timestamp),
            HEADERS[2]: sign(event_id, timestamp, body, secrets, self._key),
        }


_parsed = lru_cache(maxsize=256)(parse_secret)  # a watch's own secret is needed at each attempt


def sign(event_id: str, timestamp: int, body: bytes, secrets: Sequence[Secret], key: SigningKey | None = None) -> str:
    """Returns the value of `webhook-signature`: a `v1,...` for each secret in order, then `v1a,...` if there is a key.

    `timestamp` is the attempt's time in whole Unix seconds. Raises ValueError for an id that is empty, is not ASCII or
    contains a full stop, which separates the id from the rest of the signed content.
    """
    if not event_id or not event_id.isascii() or "." in event_id:
        raise ValueError(f"an event id is ASCII without full stops, not {event_id!r}")
    content = _signed_content(event_id, str(timestamp), body)
    signatures = [f"v1,{_hmac_base64(secret, content)}" for secret in secrets]
    if key is not None:
        signatures.append(f"v1a,{base64.b64encode(key.sign(content)).decode()}")
    return " ".join(signatures)


def verify(
    headers: Mapping[str, str],
    body: bytes,
    secrets: Sequence[Secret],
    *,
    now: float,
    tolerance_seconds: float = TOLERANCE_SECONDS,
) -> None:
    """Checks that the message has a `v1` signature by one of `secrets`, made near `now` (Unix seconds).

    `headers` are the message's headers, their names in any case. Headers other than the three `webhook-*` ones are
    ignored, and so are signatures of unknown versions, as the standard requires. Raises SignatureMismatch with the
    reason: a header is missing, malformed, too old or too new, or no signature matches. Compares in constant time.
    """
    lowered = {name.lower(): value for name, value in headers.items()}
    event_id, timestamp, signature = (lowered.get(name) for name in HEADERS)
    if not (event_id and timestamp and signature):
        raise SignatureMismatch(MismatchCode.MISSING, f"{', '.join(HEADERS)} must all be given")
    _check_time(timestamp, now, tolerance_seconds)
    received = [value for version, _, value in (part.partition(",") for part in signature.split()) if version == "v1"]
    if not any(received):
        raise SignatureMismatch(
            MismatchCode.MALFORMED, "webhook-signature is malformed: it has no v1,<base64> signature"
        )
    content = _signed_content(event_id, timestamp, body)
    expected = [_hmac_base64(secret, content).encode() for secret in secrets]
    # Bytes: compare_digest raises TypeError for a str that is not ASCII. A list: a match must not end the loop early.
    matches = [hmac.compare_digest(one, header_bytes(other)) for one in expected for other in received]
    if not any(matches):
        raise SignatureMismatch(
            MismatchCode.NO_MATCH,
            "no signature matches: another secret signed this, or the body was changed on its way",
        )


def _check_time(timestamp: str, now: float, tolerance_seconds: float) -> None:
    # int() would accept signs, underscores and digits of other scripts. 12 digits reach to the year 33658.
    if not (timestamp.isascii() and timestamp.isdigit() and len(timestamp) <= 12):
        raise SignatureMismatch(MismatchCode.MALFORMED, "webhook-timestamp is malformed: it must be whole Unix seconds")
    age = now - int(timestamp)
    if age > tolerance_seconds:
        raise SignatureMismatch(
            MismatchCode.TOO_OLD, f"webhook-timestamp is too old: by {age - tolerance_seconds:.0f} s"
        )
    if age < -tolerance_seconds:
        raise SignatureMismatch(
            MismatchCode.TOO_NEW, f"webhook-timestamp is too new: by {-age - tolerance_seconds:.0f} s"
        )


def _signed_content(event_id: str, timestamp: str, body: bytes) -> bytes:
    return b".".join((header_bytes(event_id), timestamp.encode(), body))


def _hmac_base64(secret: Secret, content: bytes) -> str:
    # One call into OpenSSL, 1.6 µs for 700 bytes. A prepared hmac object would save 0.5 µs but would keep state.
    return base64.b64encode(hmac.digest(secret.key, content, "sha256")).decode()


def _decoded(text: str, prefix: str, what: str) -> bytes:
    if not text.startswith(prefix):
        raise ValueError(f"{what} must begin with {prefix}")
    encoded = text.removeprefix(prefix)
    with suppress(ValueError):  # the decoder's
        raw = base64.b64decode(encoded)
        # Encoding it again finds what the decoder accepts but other libraries may not: other characters, unused bits.
        if raw and base64.b64encode(raw).decode() == encoded:
            return raw
    raise ValueError(f"{what} must be {prefix} and padded standard base64 (with + and /, not - and _)")

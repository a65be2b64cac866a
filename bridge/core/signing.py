"""Standard Webhooks: secrets, signatures and their proof.

Source: https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md. What is signed is
`id.timestamp.body`; `v1` is HMAC-SHA256 under a shared secret, `v1a` is Ed25519 under a key pair.
"""

import base64
import binascii
import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

HEADERS = ("webhook-id", "webhook-timestamp", "webhook-signature")
SECRET_PREFIX = "whsec_"  # noqa: S105  a marker, not a secret
PRIVATE_PREFIX = "whsk_"
PUBLIC_PREFIX = "whpk_"
SHORTEST_SECRET, LONGEST_SECRET = 24, 64  # bytes, the standard's recommendation
SEED_BYTES = 32  # RFC 8032: an Ed25519 seed, and its public key as well
TOLERANCE_SECONDS = 300.0  # what every Standard Webhooks library takes


class MismatchCode(Enum):
    """The check that a message failed."""

    MISSING = auto()  # a header
    MALFORMED = auto()  # a header
    TOO_OLD = auto()
    TOO_NEW = auto()
    NO_MATCH = auto()


class SignatureMismatch(ValueError):
    """A message that is not proven to be the sender's; `code` and the text say which check it failed."""

    def __init__(self, code: MismatchCode, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code


@dataclass(frozen=True, slots=True)
class Secret:
    """A shared secret of 24 to 64 bytes; its repr shows nothing of it."""

    key: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if not SHORTEST_SECRET <= len(self.key) <= LONGEST_SECRET:
            raise ValueError(
                f"a signing secret holds {SHORTEST_SECRET} to {LONGEST_SECRET} bytes; this one holds {len(self.key)}"
            )

    @property
    def text(self) -> str:
        """`whsec_` and standard base64: the form that receivers are given."""
        return SECRET_PREFIX + base64.b64encode(self.key).decode()


@dataclass(frozen=True, slots=True)
class SigningKey:
    """An Ed25519 key pair, from its 32-byte seed; its repr shows nothing of it."""

    seed: bytes = field(repr=False)
    _private: Ed25519PrivateKey = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # Built once: deriving the key costs about as much as a signature.
        object.__setattr__(self, "_private", Ed25519PrivateKey.from_private_bytes(self.seed))

    @property
    def public_text(self) -> str:
        """`whpk_` and standard base64 of the 32-byte public key: what receivers verify `v1a` with."""
        return PUBLIC_PREFIX + base64.b64encode(self._public_bytes()).decode()

    @property
    def text(self) -> str:
        """`whsk_` and standard base64 of seed and public key: the standard's own spelling of a private key."""
        return PRIVATE_PREFIX + base64.b64encode(self.seed + self._public_bytes()).decode()

    @property
    def seed_text(self) -> str:
        """The same without the public key, as it may be given as well."""
        return PRIVATE_PREFIX + base64.b64encode(self.seed).decode()

    def sign(self, content: bytes) -> bytes:
        """The 64-byte signature of RFC 8032."""
        return self._private.sign(content)

    def _public_bytes(self) -> bytes:
        return self._private.public_key().public_bytes_raw()


def parse_secret(text: str) -> Secret:
    """Read a `whsec_...` secret.

    Raises ValueError, with a sentence that repeats nothing of the text, unless it is `whsec_` and padded standard
    base64 of 24 to 64 bytes: the one spelling that every library reads alike.
    """
    return Secret(_decoded(text, SECRET_PREFIX, "a signing secret"))


def new_secret(random_bytes: bytes) -> Secret:
    """A secret made of 24 to 64 bytes of the caller's own drawing; ValueError for any other length."""
    return Secret(bytes(random_bytes))


def parse_signing_key(text: str) -> SigningKey:
    """Read a `whsk_...` key: base64 of the 32-byte seed, or of seed and public key (64 bytes).

    Raises ValueError, with a sentence that repeats nothing of the text, for anything else and for halves that do not
    belong together.
    """
    raw = _decoded(text, PRIVATE_PREFIX, "a signing key")
    if len(raw) not in {SEED_BYTES, 2 * SEED_BYTES}:
        raise ValueError(f"a signing key holds {SEED_BYTES} or {2 * SEED_BYTES} bytes; this one holds {len(raw)}")
    key = SigningKey(raw[:SEED_BYTES])
    if raw[SEED_BYTES:] not in {b"", key._public_bytes()}:  # noqa: SLF001  the same module
        raise ValueError("the signing key's second half is not the public key of its first half")
    return key


def sign(event_id: str, timestamp: int, body: bytes, secrets: Sequence[Secret], key: SigningKey | None = None) -> str:
    """The value of `webhook-signature`: one `v1,...` for each secret, in order, then `v1a,...` if there is a key.

    `timestamp` is the attempt's time in whole Unix seconds. Raises ValueError for an id that is empty, not ASCII or
    holds a full stop, which would blur where the id ends.
    """
    if not event_id or not event_id.isascii() or "." in event_id:
        raise ValueError(f"an event id is ASCII without full stops, not {event_id!r}")
    content = _signed_content(event_id, str(timestamp), body)
    signatures = [f"v1,{_hmac_base64(secret, content)}" for secret in secrets]
    if key is not None:
        signatures.append(f"v1a,{base64.b64encode(key.sign(content)).decode()}")
    return " ".join(signatures)


def signed_headers(
    event_id: str, timestamp: int, body: bytes, secrets: Sequence[Secret], key: SigningKey | None = None
) -> dict[str, str]:
    """The three `webhook-*` headers of one attempt at `timestamp` (whole Unix seconds); errors as of `sign`."""
    return {
        HEADERS[0]: event_id,
        HEADERS[1]: str(timestamp),
        HEADERS[2]: sign(event_id, timestamp, body, secrets, key),
    }


def verify(
    headers: Mapping[str, str],
    body: bytes,
    secrets: Sequence[Secret],
    *,
    now: float,
    tolerance_seconds: float = TOLERANCE_SECONDS,
) -> None:
    """Prove, by `v1`, that the holder of one of `secrets` sent this message near `now` (Unix seconds).

    `headers` are the message's, in any case; others than `webhook-*` don't matter. Raises SignatureMismatch with the
    reason: one missing, malformed, too old, too new, or no signature that matches. Signatures of versions we don't
    know are passed over, as the standard asks. Compares in constant time.
    """
    lowered = {name.lower(): value for name, value in headers.items()}
    event_id, timestamp, signature = (lowered.get(name, "") for name in HEADERS)
    if not (event_id and timestamp and signature):
        raise SignatureMismatch(MismatchCode.MISSING, f"{', '.join(HEADERS)} must all be given")
    _check_time(timestamp, now, tolerance_seconds)
    given = [value for version, _, value in (part.partition(",") for part in signature.split()) if version == "v1"]
    if not any(given):
        raise SignatureMismatch(
            MismatchCode.MALFORMED, "webhook-signature is malformed: it holds no v1,<base64> signature"
        )
    content = _signed_content(event_id, timestamp, body)
    expected = [_hmac_base64(secret, content).encode() for secret in secrets]
    # Bytes, for compare_digest raises on strings that are not ASCII; a list, so that no match ends the work early.
    matches = [hmac.compare_digest(one, _as_bytes(other)) for one in expected for other in given]
    if not any(matches):
        raise SignatureMismatch(
            MismatchCode.NO_MATCH,
            "no signature matches: another secret signed this, or the body was changed on its way",
        )


def _check_time(timestamp: str, now: float, tolerance_seconds: float) -> None:
    # int() would take signs, underscores and other scripts' digits. 12 digits reach to the year 33658.
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
    return b".".join((_as_bytes(event_id), timestamp.encode(), body))


def _hmac_base64(secret: Secret, content: bytes) -> str:
    # One call of OpenSSL's, 1.6 µs for 700 bytes; a prepared hmac object would save 0.5 and hold state for it.
    return base64.b64encode(hmac.digest(secret.key, content, "sha256")).decode()


def _as_bytes(text: str) -> bytes:
    """UTF-8 that takes lone surrogates too: header parsers make them of stray bytes, and proving must not raise."""
    return text.encode(errors="surrogatepass")


def _decoded(text: str, prefix: str, what: str) -> bytes:
    if not text.startswith(prefix):
        raise ValueError(f"{what} begins with {prefix}")
    encoded = text.removeprefix(prefix)
    try:
        raw = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    # Encoding it again finds what the decoder forgives, such as stray bits at the end.
    if not raw or base64.b64encode(raw).decode() != encoded:
        raise ValueError(f"{what} is {prefix} and padded standard base64 (with + and /, not - and _)")
    return raw

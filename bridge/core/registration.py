"""What a registration may hold, and what makes two of them the same.

Each check raises ValueError with the end of a sentence that begins with the field's name, and repeats no value: a
value may be a secret.
"""

import json
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

import orjson

from bridge.core.model import TERMINAL_EVENTS, EventType

TASK_ID_PATTERN = r"[A-Za-z0-9._:-]{1,191}"
WATCH_ID_PREFIX = "wat_"
WATCH_ID_PATTERN = WATCH_ID_PREFIX + r"[0-9a-hjkmnp-tv-z]{26}"
MAX_CONTEXT_BYTES = 4 * 1024
MAX_HEADERS = 10
MAX_HEADER_NAME = 128  # characters; receivers' own limits on a whole header block are 8 KiB and up
MAX_HEADER_VALUE = 4 * 1024  # a signed token with many claims fits
MAX_API_KEY = 512
MAX_IDEMPOTENCY_KEY = 255
MASK = "********"

_TASK_ID = re.compile(TASK_ID_PATTERN)
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")  # RFC 9110, 5.6.2
_VALUE = re.compile(r"[ -~]*")
_VISIBLE = re.compile(r"[!-~]+")
_LONG_NUMBER = re.compile(rb"[0-9]{19}")  # orjson makes floats of integers past 64 bits; these have 19 digits or more

# Hop-by-hop (RFC 9110, 7.6.1, and their older kin), then those that the request itself needs.
REFUSED_HEADERS = frozenset(
    {
        "connection",
        "http2-settings",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "accept-encoding",
        "expect",
        "host",
        "user-agent",
    }
)
REFUSED_PREFIXES = ("content-", "webhook-")


def check_task_id(text: str) -> str:
    """A task id that cannot leave its place in amux's path."""
    if not _TASK_ID.fullmatch(text) or not text.strip("."):
        raise ValueError("must be 1 to 191 of the characters A-Z a-z 0-9 . _ : - and not only dots")
    return text


def check_headers(headers: Mapping[str, str]) -> Mapping[str, str]:
    """Extra headers for callbacks: ones that HTTP can carry and that take nothing over from the request itself."""
    if len(headers) > MAX_HEADERS:
        raise ValueError(f"must be at most {MAX_HEADERS}")
    for number, (name, value) in enumerate(headers.items(), 1):
        _check_header(number, name, value)
    if len({name.lower() for name in headers}) < len(headers):
        raise ValueError("must not name one header twice; names differ by more than their case")
    return headers


def _check_header(number: int, name: str, value: str) -> None:
    if len(name) > MAX_HEADER_NAME or not _TOKEN.fullmatch(name):
        raise ValueError(f"entry {number} must have a header's name of up to {MAX_HEADER_NAME} ASCII token characters")
    lowered = name.lower()
    if lowered in REFUSED_HEADERS or lowered.startswith(REFUSED_PREFIXES):
        raise ValueError(f"must not set {name}, which is the request's own")
    if len(value) > MAX_HEADER_VALUE or not _VALUE.fullmatch(value) or value != value.strip():
        raise ValueError(
            f"the value of {name} must be up to {MAX_HEADER_VALUE:,} printable ASCII characters, "
            "without line breaks and without spaces around it"
        )


def check_api_key(text: str) -> str:
    """A key that an Authorization header can carry."""
    if len(text) > MAX_API_KEY or not _VISIBLE.fullmatch(text):
        raise ValueError(f"must be 1 to {MAX_API_KEY} visible ASCII characters without spaces")
    return text


def check_idempotency_key(text: str) -> str:
    """An Idempotency-Key that a database can hold and a header carries unchanged."""
    if len(text) > MAX_IDEMPOTENCY_KEY or not _VISIBLE.fullmatch(text):
        raise ValueError(f"must be 1 to {MAX_IDEMPOTENCY_KEY} visible ASCII characters without spaces")
    return text


# --- JSON ---------------------------------------------------------------------------------------------------------


def read_json(body: bytes) -> Any:
    """Read a JSON text by the letter (no NaN, no lone surrogates, no byte order mark), integers of any size exact.

    Raises ValueError.
    """
    value = orjson.loads(body)
    if not _LONG_NUMBER.search(body):
        return value
    try:
        return json.loads(body)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def compact(context: Mapping[str, Any]) -> bytes:
    """A context as it is stored and sent: compact UTF-8, keys in the app's order, of at most 4 KiB."""
    written = _written(context)
    if len(written) > MAX_CONTEXT_BYTES:
        raise ValueError(f"must be at most {MAX_CONTEXT_BYTES:,} bytes as compact JSON; it is {len(written):,}")
    return written


def _written(context: Mapping[str, Any], *, sort_keys: bool = False) -> bytes:
    try:
        return orjson.dumps(context, option=orjson.OPT_SORT_KEYS if sort_keys else None)
    except orjson.JSONEncodeError:  # an integer past 64 bits, or 254 levels
        pass
    try:
        text = json.dumps(context, ensure_ascii=False, allow_nan=False, separators=(",", ":"), sort_keys=sort_keys)
    except (RecursionError, ValueError):
        raise ValueError("must be a JSON object that is not nested so deeply") from None
    return text.encode()


# --- the same? ----------------------------------------------------------------------------------------------------


def wanted_events(events: Iterable[str] | None) -> frozenset[EventType]:
    """The event types to send: those given, else the four terminal ones."""
    return TERMINAL_EVENTS if events is None else frozenset(map(EventType, events))


def options_text(  # noqa: PLR0913, PLR0917  what two registrations must share
    events: frozenset[EventType],
    context: Mapping[str, Any] | None,
    timeout_seconds: float,
    headers: Mapping[str, str],
    secret: str | None,
    credential: str,
) -> bytes:
    """All that two registrations must share to be the same, after defaults, in one spelling.

    Events are a set, an object's keys have no order, header names no case. It holds secrets: fingerprint it at once.
    """
    lowered = sorted((name.lower(), value) for name, value in headers.items())
    meant = None if context is None else orjson.Fragment(_written(context, sort_keys=True))
    return orjson.dumps([_sorted(events), meant, float(timeout_seconds), lowered, secret, credential])


@lru_cache(maxsize=64)  # there are 63 sets of six types
def _sorted(events: frozenset[EventType]) -> list[str]:
    return sorted(event.value for event in events)

"""The rules for the fields of a registration, and the rule by which two registrations are equal.

Each check raises ValueError. Its text continues a sentence that begins with the field's name, and it repeats no value,
because a value may be a secret.
"""

import json
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import orjson

from bridge.core.headers import HOP_BY_HOP
from bridge.core.ids import TASK_ID_PATTERN
from bridge.core.model import EventType

MAX_CONTEXT_BYTES = 4 * 1024
MAX_HEADERS = 10
MAX_HEADER_NAME = 128  # characters; receivers limit a whole block of headers to 8 KiB or more
MAX_HEADER_VALUE = 4 * 1024  # characters; a signed token with many claims fits
MAX_API_KEY = 512  # characters
MAX_IDEMPOTENCY_KEY = 255  # characters
MASK = "********"

_TASK_ID = re.compile(TASK_ID_PATTERN)
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")  # RFC 9110, 5.6.2
_VALUE = re.compile(r"[ -~]*")
_VISIBLE = re.compile(r"[!-~]+")
_LONG_NUMBER = re.compile(rb"[0-9]{19}")  # orjson reads integers of more than 64 bits, which are longer, as floats

# The bridge sets these itself in each request.
REFUSED_HEADERS = HOP_BY_HOP | {"accept-encoding", "expect", "host", "user-agent"}
REFUSED_PREFIXES = ("content-", "webhook-")


def check_task_id(text: str) -> str:
    """Returns the task id if it is always one segment of amux's URL path."""
    if not _TASK_ID.fullmatch(text) or not text.strip("."):
        raise ValueError("must be 1 to 191 of the characters A-Z a-z 0-9 . _ : - and not only dots")
    return text


def check_headers(headers: Mapping[str, str]) -> Mapping[str, str]:
    """Returns the extra headers of callbacks if HTTP allows them and the bridge does not set them itself."""
    if len(headers) > MAX_HEADERS:
        raise ValueError(f"must contain at most {MAX_HEADERS} headers")
    for number, (name, value) in enumerate(headers.items(), 1):
        _check_header(number, name, value)
    if len({name.lower() for name in headers}) < len(headers):
        raise ValueError("must not name one header twice; upper and lower case count as the same")
    return headers


def _check_header(number: int, name: str, value: str) -> None:
    if len(name) > MAX_HEADER_NAME or not _TOKEN.fullmatch(name):
        raise ValueError(
            f"the name of entry {number} must be 1 to {MAX_HEADER_NAME} ASCII letters, digits or !#$%&'*+-.^_`|~"
        )
    lowered = name.lower()
    if lowered in REFUSED_HEADERS or lowered.startswith(REFUSED_PREFIXES):
        raise ValueError(f"must not set {name}, because the bridge sets it")
    if len(value) > MAX_HEADER_VALUE or not _VALUE.fullmatch(value) or value != value.strip():
        raise ValueError(
            f"the value of {name} must be up to {MAX_HEADER_VALUE:,} printable ASCII characters, "
            "without line breaks and without spaces around it"
        )


def check_api_key(text: str) -> str:
    """Returns the amux key if it can be sent in an Authorization header."""
    if len(text) > MAX_API_KEY or not _VISIBLE.fullmatch(text):
        raise ValueError(f"must be 1 to {MAX_API_KEY} visible ASCII characters without spaces")
    return text


def check_idempotency_key(text: str) -> str:
    """Returns the Idempotency-Key if it can be sent in a header and stored in the database, both unchanged."""
    if len(text) > MAX_IDEMPOTENCY_KEY or not _VISIBLE.fullmatch(text):
        raise ValueError(f"must be 1 to {MAX_IDEMPOTENCY_KEY} visible ASCII characters without spaces")
    return text


# --- JSON ---------------------------------------------------------------------------------------------------------


def read_json(body: bytes) -> Any:
    """Reads strict JSON: no NaN, no lone surrogates, no byte order mark. Integers of any size stay exact.

    Raises ValueError.
    """
    value = orjson.loads(body)
    if not _LONG_NUMBER.search(body):
        return value
    try:
        return json.loads(body)
    except RecursionError:
        raise ValueError("the JSON is nested too deeply") from None


def compact(context: Mapping[str, Any]) -> bytes:
    """Returns a context as it is stored and sent: compact UTF-8, keys in the app's order, at most 4 KiB."""
    encoded = encode_json(context)
    if len(encoded) > MAX_CONTEXT_BYTES:
        raise ValueError(f"must be at most {MAX_CONTEXT_BYTES:,} bytes as compact JSON; it is {len(encoded):,}")
    return encoded


def encode_json(context: Any, *, sort_keys: bool = False) -> bytes:
    """Returns a value as compact JSON in UTF-8. Raises ValueError for one that is nested hundreds of levels deep."""
    try:
        return orjson.dumps(context, option=orjson.OPT_SORT_KEYS if sort_keys else None)
    except orjson.JSONEncodeError:  # an integer of more than 64 bits, or more than 254 levels
        pass
    try:
        text = json.dumps(context, ensure_ascii=False, allow_nan=False, separators=(",", ":"), sort_keys=sort_keys)
    except (RecursionError, ValueError):
        raise ValueError("must not be nested hundreds of levels deep") from None
    return text.encode()


# --- equal registrations ------------------------------------------------------------------------------------------


def options_text(  # noqa: PLR0913, PLR0917  the options of a registration
    events: frozenset[EventType],
    context: Mapping[str, Any] | None,
    timeout_seconds: float,
    headers: Mapping[str, str],
    secret: str | None,
    credential: str,
    body: Mapping[str, Any] | None = None,
) -> bytes:
    """Returns the options of a registration in a canonical form: equal registrations give equal bytes.

    The caller has filled in the defaults. The order of events, of an object's keys and of headers does not matter, and
    neither does the case of header names. The result contains secrets: store only a fingerprint of it.
    """
    lowered = sorted((name.lower(), value) for name, value in headers.items())
    canonical = None if context is None else orjson.Fragment(encode_json(context, sort_keys=True))
    options = [_sorted(events), canonical, float(timeout_seconds), lowered, secret, credential]
    if body is not None:  # without a body the form is that of version 0.2.0, because its watches are compared too
        options.append(orjson.Fragment(encode_json(body, sort_keys=True)))
    return orjson.dumps(options)


@lru_cache(maxsize=64)  # there are 63 sets of six types
def _sorted(events: frozenset[EventType]) -> list[str]:
    return sorted(event.value for event in events)

"""JSON Schemas of values whose rules are code: each is as exact as a pattern can be, but not stricter than the code."""

from typing import Any, Final

from bridge.core import registration as rules
from bridge.core.event_cursor import CURSOR_PATTERN
from bridge.core.ids import EVENT_ID_PATTERN, TASK_ID_PATTERN, WATCH_ID_PATTERN
from bridge.core.task_class import MAX_MODEL
from bridge.core.watch_search import MAX_TEXT

COMPONENTS: Final = "#/components/schemas/"
MAX_APP_NAME: Final = 64
_MAX_HOST_NAME: Final = 253  # RFC 1035, 2.3.4: 255 bytes on the wire


def reference_to(model: type) -> dict[str, str]:
    """Returns a reference to a model's schema in the OpenAPI document."""
    return {"$ref": COMPONENTS + model.__name__}


def _any_case(word: str) -> str:
    """Returns a pattern that matches a word in any case: JSON Schema's patterns have no flags."""
    return "".join(f"[{letter.upper()}{letter}]" if letter.isalpha() else letter for letter in word)


_REFUSED_NAMES = "|".join(
    [*(f"{_any_case(name)}$" for name in sorted(rules.REFUSED_HEADERS)), *map(_any_case, rules.REFUSED_PREFIXES)]
)
_FOUR_BASE64 = "[A-Za-z0-9+/]{4}"

TEXT: Final[dict[str, Any]] = {"type": "string"}
PRINTABLE: Final[dict[str, Any]] = {"type": "string", "pattern": "^[ -~]*$"}
BINARY: Final[dict[str, Any]] = {"type": "string", "format": "binary"}
ANY_OBJECT: Final[dict[str, Any]] = {"type": "object", "additionalProperties": True}
# The content types of a video's bytes, with their schemas.
VIDEO: Final[dict[str, dict[str, Any]]] = dict.fromkeys(
    ("video/*", "audio/*", "image/*", "application/octet-stream"), BINARY
)
WATCH_ID: Final[dict[str, Any]] = {"type": "string", "pattern": f"^{WATCH_ID_PATTERN}$"}
DELIVERY_ID: Final[dict[str, Any]] = {"type": "string", "pattern": f"^{EVENT_ID_PATTERN}$"}
CURSOR: Final[dict[str, Any]] = {"type": "string", "pattern": f"^{CURSOR_PATTERN}$"}
TASK_ID: Final[dict[str, Any]] = {"type": "string", "pattern": f"^(?=[.]*[^.]){TASK_ID_PATTERN}$"}
# Python's `isprintable` refuses more characters than this: all spaces except U+0020, and unassigned ones.
MODEL: Final[dict[str, Any]] = {
    "type": "string",
    "minLength": 1,
    "maxLength": MAX_MODEL,
    "pattern": r"^[^\x00-\x1f\x7f-\xa0\u2028\u2029]*$",
}
APP_NAME: Final[dict[str, Any]] = {"type": "string", "pattern": f"^[ -~]{{1,{MAX_APP_NAME}}}$"}
CALLBACK_URL: Final[dict[str, Any]] = {"type": "string", "format": "uri"}
HEADERS: Final[dict[str, Any]] = {
    "type": "object",
    "maxProperties": rules.MAX_HEADERS,
    "propertyNames": {
        "pattern": f"^(?!{_REFUSED_NAMES})[A-Za-z0-9!#$%&'*+.^_`|~-]{{1,{rules.MAX_HEADER_NAME}}}$",
    },
    "additionalProperties": {
        "type": "string",
        "pattern": "^([!-~]([ -~]*[!-~])?)?$",
        "maxLength": rules.MAX_HEADER_VALUE,
    },
}
# 24 to 64 bytes in padded base64. The unused bits of the last character are zero.
SECRET: Final[dict[str, Any]] = {
    "type": "string",
    "format": "password",
    "writeOnly": True,
    "pattern": f"^whsec_(({_FOUR_BASE64}){{8,21}}|({_FOUR_BASE64}){{8,21}}[A-Za-z0-9+/][AQgw]==|"
    f"({_FOUR_BASE64}){{8,20}}[A-Za-z0-9+/]{{2}}[AEIMQUYcgkosw048]=)$",
}
API_KEY: Final[dict[str, Any]] = {
    "type": "string",
    "format": "password",
    "writeOnly": True,
    "pattern": f"^[!-~]{{1,{rules.MAX_API_KEY}}}$",
}
# A host, in brackets for IPv6, and a port from 1 to 65535. The rules for names are code.
RECEIVER: Final[dict[str, Any]] = {"type": "string", "maxLength": 2 * _MAX_HOST_NAME, "pattern": r":[0-9]{1,5}$"}
IDEMPOTENCY_KEY: Final[dict[str, Any]] = {"type": "string", "pattern": f"^[!-~]{{1,{rules.MAX_IDEMPOTENCY_KEY}}}$"}
TIME: Final[dict[str, Any]] = {"type": "string", "format": "date-time"}
# Text with a character other than white space. The exact rule is in `core/watch_search.py`.
SEARCH_TEXT: Final[dict[str, Any]] = {
    "type": "string",
    "minLength": 1,
    "maxLength": MAX_TEXT,
    "pattern": r"^[^\x00]*[^\x00\s][^\x00]*$",
}
HOST: Final[dict[str, Any]] = {
    "anyOf": [{"type": "string", "format": form, "maxLength": _MAX_HOST_NAME} for form in ("hostname", "ipv4", "ipv6")]
}

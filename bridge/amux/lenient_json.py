"""Reads JSON of vendors, even if it has some errors, and cleans its texts for a payload."""

import json
import re
from typing import Any

import orjson

# int() refuses more than 4,300 digits. No number that the bridge passes on has more than 20.
_LONGEST_INTEGER = 400
_SURROGATE = re.compile("[\ud800-\udfff]")


def read_json(body: bytes) -> Any:
    """Returns the JSON value in `body`, read by orjson, or by Python's `json` if orjson refuses it.

    Numbers of any size, a byte order mark, lone surrogates, control characters in texts and bytes that are not UTF-8
    are accepted. NaN, infinities and integers of more than 400 digits become None. Raises ValueError for anything that
    is not JSON, and for JSON that is nested too deeply.
    """
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        pass
    try:
        text = body.decode("utf-8-sig", errors="replace")
        return json.loads(text, strict=False, parse_constant=_as_none, parse_int=_integer)
    except RecursionError:
        raise ValueError("the JSON is nested too deeply") from None


def clean(text: str) -> str:
    """Removes NUL, which PostgreSQL cannot store. Replaces lone surrogates, which UTF-8 cannot encode, by U+FFFD."""
    if not text.isascii():
        text = _SURROGATE.sub("\ufffd", text)
    return text.replace("\0", "")


def _as_none(_name: str) -> None:
    return None


def _integer(digits: str) -> int | None:
    return int(digits) if len(digits) <= _LONGEST_INTEGER else None

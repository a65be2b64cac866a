"""JSON that vendors wrote, read where it can be read at all, and its texts made fit for a payload."""

import json
import re
from typing import Any

import orjson

# Python makes no integer of more than 4,300 digits from text. No number of amux's that we pass on has more than 20.
_LONGEST_INTEGER = 400
_SURROGATE = re.compile("[\ud800-\udfff]")


def read_json(body: bytes) -> Any:
    """The JSON value in `body`: by orjson, and by Python's reader where orjson refuses.

    So numbers of any size, a BOM, lone surrogates, bare control characters and bytes that are not UTF-8 are borne with.
    NaN, infinities and integers of absurd length become None. Raises ValueError when it is no JSON, or too deep.
    """
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        pass
    try:
        text = body.decode("utf-8-sig", errors="replace")
        return json.loads(text, strict=False, parse_constant=_nothing, parse_int=_integer)
    except RecursionError:
        raise ValueError("the JSON is nested too deeply") from None


def clean(text: str) -> str:
    """The text without NUL (PostgreSQL stores none), and with U+FFFD for lone surrogates (UTF-8 has none)."""
    if not text.isascii():
        text = _SURROGATE.sub("\ufffd", text)
    return text.replace("\0", "")


def _nothing(_name: str) -> None:
    return None


def _integer(digits: str) -> int | None:
    return int(digits) if len(digits) <= _LONGEST_INTEGER else None

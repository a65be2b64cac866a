"""Bodies in a receiver's own form: a JSON object whose strings have placeholders for the values of an event.

`{{data.url}}` in a string is replaced by the event's value; a string that is one placeholder alone becomes the value
itself. There are no expressions.

The template is kept as compact JSON, and placeholders are replaced in its bytes. This is safe, because `{{` occurs in
compact JSON only inside strings, and because each inserted text is JSON itself: a whole value, or the inner part of a
JSON string. So no value can end the string that it is in, and the result is always JSON.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

import orjson

from bridge.core.registration import encode_json, read_json

MAX_BODY_BYTES: Final = 4 * 1024  # of the template, as compact JSON
MAX_FILLED_BYTES: Final = 64 * 1024  # three times the largest event
MAX_LEVELS: Final = 32  # far more than any receiver's form has

_NAMES: Final = ("id", "object", "type", "created_at", "timestamp", "data")  # of an event: core/event.py
_PATH: Final = r"[\w-]+(?:\.[\w-]+)*"
_OPEN: Final = "{{"
_NULL: Final = "null"
_PLACEHOLDER = re.compile(rf"\{{\{{ *({_PATH}) *\}}\}}")
# A string that is one placeholder alone, or else a placeholder. A quote after a backslash does not begin a string.
_IN_JSON = re.compile(rf'(?<!\\)"\{{\{{ *({_PATH}) *\}}\}}"|\{{\{{ *({_PATH}) *\}}\}}')
_MALFORMED: Final = (
    "has a malformed placeholder; it must be {{name}} or {{name.name}}, with names of letters, digits, _ and -"
)


def compile_body(body: Mapping[str, Any]) -> bytes:
    """Returns a body as it is stored: compact JSON in UTF-8, of at most 4 KiB.

    Raises BadBody, which names each part that breaks a rule, or ValueError if the whole body is too long.
    """
    problems = list(_problems(body, (), 1))
    if problems:
        raise BadBody(problems)
    encoded = encode_json(body)
    if len(encoded) > MAX_BODY_BYTES:
        raise ValueError(f"must be at most {MAX_BODY_BYTES:,} bytes as compact JSON; it is {len(encoded):,}")
    return encoded


class BadBody(ValueError):
    """Parts of a body that break a rule. `problems` has the path of each part within the body, and the rule."""

    def __init__(self, problems: list[tuple[tuple[str, ...], str]]) -> None:
        super().__init__("; ".join(rule for _, rule in problems))
        self.problems = problems


def _problems(value: Any, path: tuple[str, ...], level: int) -> Iterator[tuple[tuple[str, ...], str]]:
    if isinstance(value, str):
        if (rule := _broken_rule(value)) is not None:
            yield path, rule
        return
    if not isinstance(value, dict | list):
        return
    if level > MAX_LEVELS:
        yield path, f"must not be nested more than {MAX_LEVELS} levels deep"
        return
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in items:
        place = (*path, str(key))
        if isinstance(key, str) and _OPEN in key:
            yield place, "must have no placeholder in its name; only values have placeholders"
        yield from _problems(item, place, level + 1)


def _broken_rule(text: str) -> str | None:
    names = [match[1].partition(".")[0] for match in _PLACEHOLDER.finditer(text)]
    if _OPEN in _PLACEHOLDER.sub(" ", text):
        return _MALFORMED
    if any(name not in _NAMES for name in names):
        return f"has a placeholder with an unknown name; begin it with one of {', '.join(_NAMES)}"
    return None


def fill_body(template: bytes, event: bytes) -> bytes:
    """Returns the body of one event: the template of `compile_body`, with the values of the event's bytes.

    A missing value becomes null, or an empty text if it is a part of a string. The same happens to a value for which
    there is no room: the result has at most 64 KiB.
    """
    return _Filling(template, event).filled()


class _Filling:
    """Fills one template. `_room` is how many bytes may still be added."""

    def __init__(self, template: bytes, event: bytes) -> None:
        self._template = template.decode()
        self._event = _parse(event)
        self._room = MAX_FILLED_BYTES - len(template)
        self._texts: dict[tuple[str, bool], str] = {}

    def filled(self) -> bytes:
        """Returns the body."""
        return _IN_JSON.sub(self._replacement, self._template).encode()

    def _replacement(self, match: re.Match[str]) -> str:
        path, alone = match[1] or match[2], match[1] is not None
        text = self._texts.get((path, alone))
        if text is None:
            text = self._texts[path, alone] = self._text(path, alone=alone)
        placeholder = len(match[0].encode())
        if len(text.encode()) - placeholder > self._room:
            text = _NULL if alone else ""
        self._room -= len(text.encode()) - placeholder
        return text

    def _text(self, path: str, *, alone: bool) -> str:
        """Returns a value as JSON, or as the inner part of a JSON string."""
        value = _value_at(self._event, path.split("."))
        if alone:
            return _json(value)
        text = value if isinstance(value, str) else _json(value)
        return "" if text == _NULL and not isinstance(value, str) else _json(text)[1:-1]


def _parse(event: bytes) -> Any:
    try:
        return read_json(event)
    except ValueError:  # a context with a number of more than 64 bits, nested hundreds of levels deep
        return orjson.loads(event)


def _value_at(value: Any, path: list[str]) -> Any:
    """Returns the value at a path of an object's names and a list's numbers; None if there is none."""
    for name in path:
        if isinstance(value, dict):
            value = value.get(name)
        elif isinstance(value, list) and name.isascii() and name.isdigit() and len(name) < 5:
            value = value[int(name)] if int(name) < len(value) else None
        else:
            return None
    return value


def _json(value: Any) -> str:
    try:
        return encode_json(value).decode()
    except ValueError:  # nested hundreds of levels deep
        return _NULL

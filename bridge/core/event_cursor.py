"""Cursors of the event feed: positions in the order of events, as apps keep them.

Each event gets a number once, and the feed is in the order of the numbers. A number is at least the time of its
assignment, in Unix microseconds. So even if an older state of the database is restored, every new event comes after
every cursor that readers already have, and they miss no event. Removals get their numbers in the same way.
"""

import re
from dataclasses import dataclass

PREFIX = "cursor_"
CURSOR_PATTERN = PREFIX + r"[0-9a-hjkmnp-tv-z]{28}"

_DIGITS = "0123456789abcdefghjkmnpqrstvwxyz"
_VALUES = {digit: value for value, digit in enumerate(_DIGITS)}
_LENGTH = 13  # digits of a number: 65 bits
_MAX_NUMBER = 2**63 - 1  # the largest number that both databases can store
_CHECK_LENGTH = 2
_CHECK = 1021  # a prime: one wrong digit always changes the remainder, so a mistyped cursor is refused
_CURSOR = re.compile(CURSOR_PATTERN)


@dataclass(frozen=True, slots=True)
class Position:
    """A reader's place in the feed: after the event with this number; 0 is before the first one.

    `removal` is the number of the last removal of events before the reader began. Events that were removed until then
    do not count as missed.
    """

    number: int = 0
    removal: int = 0


def cursor_of(position: Position) -> str:
    """Returns a position as a cursor."""
    digits = _text(position.number, _LENGTH) + _text(position.removal, _LENGTH)
    return PREFIX + digits + _check(digits)


def position_of(cursor: str) -> Position:
    """Returns the position in a cursor. Raises ValueError with the rule."""
    digits = cursor.removeprefix(PREFIX)[: 2 * _LENGTH]
    if _CURSOR.fullmatch(cursor) and cursor.endswith(_check(digits)):
        position = Position(_number(digits[:_LENGTH]), _number(digits[_LENGTH:]))
        if max(position.number, position.removal) <= _MAX_NUMBER:
            return position
    raise ValueError("must be a next_cursor of this route")


def next_number(last: int, now: float) -> int:
    """Returns the next number, at `now` (Unix seconds), when `last` is the largest one so far."""
    return max(last + 1, int(now * 1_000_000))


def is_expired(position: Position, removed: int, last: int, now: float) -> bool:
    """Whether a reader that continues from this position may miss events.

    `removed` is the largest number of the reader's events that were removed since it began. `last` is the largest
    number of all events. A position after both the last event and the clock belongs to another database.
    """
    return position.number < removed or position.number > max(last, int(now * 1_000_000))


def _check(digits: str) -> str:
    return _text(_number(digits) % _CHECK, _CHECK_LENGTH)


def _text(value: int, length: int) -> str:
    return "".join(_DIGITS[value >> 5 * place & 31] for place in range(length - 1, -1, -1))


def _number(digits: str) -> int:
    value = 0
    for digit in digits:
        value = value << 5 | _VALUES[digit]
    return value

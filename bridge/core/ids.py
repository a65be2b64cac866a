"""Ids: how the ids of watches and events are made, and the patterns of all ids that come in from outside.

Nothing here reads a clock or draws random numbers: both are passed in.
"""

import base64
import re
from collections.abc import Callable

from bridge.core.model import EventType

TASK_ID_PATTERN = r"[A-Za-z0-9._:-]{1,191}"
WATCH_ID_PREFIX = "wat_"
WATCH_ID_PATTERN = WATCH_ID_PREFIX + r"[0-9a-hjkmnp-tv-z]{26}"
EVENT_ID_PREFIX = "evt_"
# The first form is that of this version. Version 0.1.0 and pings have the second form.
EVENT_ID_PATTERN = EVENT_ID_PREFIX + r"(?:[0-9a-hjkmnp-tv-z]{26}[cftuqp]|[a-z2-7]{32})"

_SUFFIXES = {
    EventType.COMPLETED: "c",
    EventType.FAILED: "f",
    EventType.TIMED_OUT: "t",
    EventType.UNAVAILABLE: "u",
    EventType.QUEUED: "q",
    EventType.IN_PROGRESS: "p",
}
_EVENT_TYPES = {suffix: event_type for event_type, suffix in _SUFFIXES.items()}
EVENT_ID_SUFFIXES = "".join(_SUFFIXES.values())
_WATCH_ID = re.compile(WATCH_ID_PATTERN)
_CROCKFORD = "0123456789abcdefghjkmnpqrstvwxyz"
_PAIRS = [first + second for first in _CROCKFORD for second in _CROCKFORD]  # 10 bits each: twice as fast as 5 bits
_RANDOM_BITS = 80


class WatchIds:
    """Makes watch ids whose order is the order of registration: 48 bits of milliseconds, then 80 random bits.

    Within one millisecond, or while the clock is behind the last id, an id is the last one plus a random step.
    `random_bits(n)` returns a random integer of n bits. Ids are unique, not secret: a fast generator that is seeded
    once is good enough.
    """

    def __init__(self, random_bits: Callable[[int], int]) -> None:
        self._random_bits = random_bits
        self._last = 0

    def next(self, now: float) -> str:
        """Returns the id of a watch that is registered at `now` (Unix seconds)."""
        value = int(now * 1000) << _RANDOM_BITS | self._random_bits(_RANDOM_BITS)
        if value >> _RANDOM_BITS <= self._last >> _RANDOM_BITS:
            value = self._last + 1 + self._random_bits(_RANDOM_BITS // 2)
        self._last = value
        return WATCH_ID_PREFIX + watch_id_text(value)


def watch_id_text(value: int) -> str:
    """Returns 128 bits as 26 characters of Crockford's base32 in lower case. Texts have the order of their numbers."""
    return "".join([_PAIRS[value >> shift & 0x3FF] for shift in range(120, -1, -10)])


def event_id(watch_id: str, event_type: EventType) -> str:
    """Returns the id of a watch's event of one type.

    It depends on these two values only, so it is the same after any restart or restore. It contains the watch's id
    without the prefix, so event ids sort in the order of registration, and events that are sent together are neighbours
    in the store.
    """
    return EVENT_ID_PREFIX + watch_id.removeprefix(WATCH_ID_PREFIX) + _SUFFIXES[event_type]


def event_key(event_id: str) -> tuple[str, EventType] | None:
    """Returns the watch and the type that an event's id is made of; None for the form of version 0.1.0."""
    event_type = _EVENT_TYPES.get(event_id[-1:])
    watch_id = WATCH_ID_PREFIX + event_id.removeprefix(EVENT_ID_PREFIX)[:-1]
    return None if event_type is None or not _WATCH_ID.fullmatch(watch_id) else (watch_id, event_type)


def random_event_id(random_bytes: bytes) -> str:
    """Returns the event id of a ping or a notice, made of 20 random bytes."""
    return EVENT_ID_PREFIX + base64.b32encode(random_bytes).decode().lower()

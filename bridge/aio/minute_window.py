"""Limits how often something happens in a minute."""

from collections import deque
from typing import Final

MINUTE: Final = 60.0


class MinuteWindow:
    """Allows `limit` events in any minute. It keeps the times of the last `limit` events, in monotonic seconds."""

    __slots__ = ("_times",)

    def __init__(self, limit: int) -> None:
        self._times: deque[float] = deque(maxlen=limit)

    def add(self, now: float) -> None:
        """Counts an event."""
        self._times.append(now)

    def seconds_until_free(self, now: float) -> float:
        """Returns the seconds until another event is allowed; 0 or less if it is allowed now."""
        if len(self._times) < (self._times.maxlen or 0):
            return 0.0
        return self._times[0] + MINUTE - now

"""How many pings an app may send: one at a time, and 30 a minute."""

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from bridge.web.errors import TooManyPings

PINGS_A_MINUTE = 30
_MINUTE = 60.0


class PingLimits:
    """Counts each caller's pings. `clock` is monotonic, in seconds; callers are as many as there are tokens."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._begun: dict[str, deque[float]] = {}
        self._under_way: set[str] = set()

    @contextmanager
    def one(self, caller: str) -> Iterator[None]:
        """Hold a caller's only place for one ping, and count it. Raises TooManyPings."""
        now = self._clock()
        begun = self._begun.setdefault(caller, deque())
        while begun and now - begun[0] >= _MINUTE:
            begun.popleft()
        if caller in self._under_way:
            raise TooManyPings("a ping is under way; pings go one at a time", 1.0)
        if len(begun) >= PINGS_A_MINUTE:
            raise TooManyPings(f"{PINGS_A_MINUTE} pings were sent within a minute", begun[0] + _MINUTE - now)
        begun.append(now)
        self._under_way.add(caller)
        try:
            yield
        finally:
            self._under_way.discard(caller)

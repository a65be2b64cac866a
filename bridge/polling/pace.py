"""How fast polls may begin: smooth, and never more than the rate in any one second."""

from collections import deque
from math import inf

# amux counts arrivals, not our starts. 50 ms more than a second absorb what a connection's set-up or a stalled loop
# bring closer together on the way; they cost 5 % of the rate.
WINDOW_SECONDS = 1.05
# Starts may catch up by this much after a delay: the tick is 50 ms, and a timer fires a millisecond late.
CATCH_UP_SECONDS = 0.05


class RateLimiter:
    """A rate limit without a clock of its own: moments are passed in, and never go back.

    `rate` is starts a second, above 0. A fraction counts as well: at 2.5 no second sees more than 2, and at 0.5 two
    starts are more than 2 s apart.
    """

    __slots__ = ("_earliest", "_starts", "_step", "_window")

    def __init__(self, rate: float) -> None:
        most = max(1, int(rate))
        self._window = WINDOW_SECONDS * max(1.0, 1.0 / rate)
        self._step = self._window / most
        self._starts: deque[float] = deque(maxlen=most)
        self._earliest = -inf

    def opens_at(self, now: float) -> float:
        """From when on the next poll may begin; `now` or earlier: it may begin now."""
        starts = self._starts
        window = starts[0] + self._window if len(starts) == starts.maxlen else now
        return max(window, self._earliest - CATCH_UP_SECONDS)

    def begin(self, now: float) -> None:
        """Count a start."""
        self._starts.append(now)
        self._earliest = max(self._earliest, now) + self._step

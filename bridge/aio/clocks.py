"""Clocks: due times in memory are on a monotonic clock; times that are shown or stored are Unix time."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import overload

# If the difference of the two clocks changes by more between two checks, the wall clock was set. Slewing moves a clock
# by only half a millisecond a second.
CLOCK_STEP_SECONDS = 2.0

# CLOCK_BOOTTIME continues while the machine is suspended. time.monotonic() stops, so a lease would seem to last longer.
_BOOTTIME = getattr(time, "CLOCK_BOOTTIME", None)


def running_seconds() -> float:
    """Returns the seconds of a clock that is never set and that also counts while the machine is suspended.

    On a system without such a clock it returns the seconds of the monotonic clock.
    """
    return time.monotonic() if _BOOTTIME is None else time.clock_gettime(_BOOTTIME)


@dataclass(frozen=True, slots=True)
class Clocks:
    """Two clocks. `monotonic` counts seconds and never goes back; `wall` is Unix seconds and can be set at any time.

    A moment in memory becomes a Unix time only when it is shown. So a change of the wall clock shifts all shown times
    by the same amount.
    """

    monotonic: Callable[[], float]
    wall: Callable[[], float]

    @overload
    def unix(self, moment: float) -> float: ...
    @overload
    def unix(self, moment: float | None) -> float | None: ...
    def unix(self, moment: float | None) -> float | None:
        """Returns a moment of the monotonic clock in Unix seconds; None for None."""
        return None if moment is None else self.wall() - (self.monotonic() - moment)

    @overload
    def moment(self, unix: float) -> float: ...
    @overload
    def moment(self, unix: float | None) -> float | None: ...
    def moment(self, unix: float | None) -> float | None:
        """Returns Unix seconds as a moment of the monotonic clock; None for None."""
        return None if unix is None else self.monotonic() - (self.wall() - unix)

    def offset(self) -> float:
        """Returns what is added to Unix seconds to get a moment, for a caller that converts many times."""
        return self.monotonic() - self.wall()

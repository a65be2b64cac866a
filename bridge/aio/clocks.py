"""Two clocks: what is due is kept by the monotonic one, what is shown and stored by the wall clock."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import overload


@dataclass(frozen=True, slots=True)
class Clocks:
    """`monotonic` counts seconds and never goes back; `wall` is Unix seconds and may be set at any moment.

    A moment in memory becomes a Unix time only when it is shown: a clock that was set shifts all of them alike.
    """

    monotonic: Callable[[], float]
    wall: Callable[[], float]

    @overload
    def unix(self, moment: float) -> float: ...
    @overload
    def unix(self, moment: float | None) -> float | None: ...
    def unix(self, moment: float | None) -> float | None:
        """A moment of the monotonic clock in Unix seconds."""
        return None if moment is None else self.wall() - (self.monotonic() - moment)

    @overload
    def moment(self, unix: float) -> float: ...
    @overload
    def moment(self, unix: float | None) -> float | None: ...
    def moment(self, unix: float | None) -> float | None:
        """Unix seconds as a moment of the monotonic clock."""
        return None if unix is None else self.monotonic() - (self.wall() - unix)

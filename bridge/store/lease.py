"""The lease of this replica, as far as its own clock shows it."""

from collections.abc import Callable
from math import inf

from bridge.aio.clocks import running_seconds


class Lease:
    """The time until which this replica may poll and send. `clock` counts seconds, also while the machine sleeps.

    `until` is infinity if no other replica can take its tasks over.
    """

    def __init__(self, clock: Callable[[], float] = running_seconds, until: float = inf) -> None:
        self.clock = clock
        self.until = until

    @property
    def ended(self) -> bool:
        """Whether `end` was called, and the lease was not renewed since then."""
        return self.until == -inf

    def is_valid(self) -> bool:
        """Whether the lease is valid now. It is computed at each call, because the process may have been suspended."""
        return self.clock() < self.until

    def seconds_left(self) -> float:
        """Returns how long the lease is still valid unless it is renewed; 0 or less when it is not."""
        return 0.0 if self.ended else self.until - self.clock()

    def end(self) -> None:
        """End the lease until it is renewed."""
        self.until = -inf

"""How late polls are, read from the bridge's own histogram of single polls."""

import re
from bisect import bisect_left
from dataclasses import dataclass
from math import inf
from typing import Self

from tests.bench.bridge_process import Bridge

_NAME = "amux_bridge_poll_lag_seconds"
_BUCKET = re.compile(rf'{_NAME}_bucket\{{lane="single",le="([^"]+)"\}}')


@dataclass(frozen=True)
class Lag:
    """Polls by their lag: `below[i]` polls were at most `bounds[i]` seconds late. `total` is the sum of all lags."""

    bounds: tuple[float, ...]
    below: tuple[float, ...]
    total: float

    @classmethod
    def read(cls, bridge: Bridge) -> Self:
        """Reads the lag of all polls so far."""
        samples = bridge.metrics()
        buckets = sorted((float(m[1]), value) for name, value in samples.items() if (m := _BUCKET.fullmatch(name)))
        return cls(tuple(b for b, _ in buckets), tuple(v for _, v in buckets), samples[f'{_NAME}_sum{{lane="single"}}'])

    def since(self, before: Self) -> Self:
        """Returns the polls since an earlier reading."""
        below = tuple(now - then for now, then in zip(self.below, before.below, strict=True))
        return type(self)(self.bounds, below, self.total - before.total)

    @property
    def count(self) -> float:
        return self.below[-1]

    @property
    def mean(self) -> float:
        """The mean lag in seconds."""
        return self.total / max(self.count, 1)

    def share_over(self, seconds: float) -> float:
        """Returns the share of polls that were later. `seconds` is one of the bounds."""
        return 1 - self.below[self.bounds.index(seconds)] / max(self.count, 1)

    def quantile(self, share: float) -> float:
        """Returns the upper bound of the bucket with the quantile, in seconds."""
        return (*self.bounds, inf)[bisect_left(self.below, share * self.count)]

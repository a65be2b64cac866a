"""How late polls are, or how long a stage took, read from the bridge's own histograms."""

import re
from bisect import bisect_left
from dataclasses import dataclass
from math import inf
from typing import Self

from tests.bench.bridge_process import Bridge

SINGLE_POLLS = ("amux_bridge_poll_lag_seconds", 'lane="single"')
FIRST_ATTEMPTS = ("amux_bridge_stage_seconds", 'stage="attempted"')
SETTLEMENTS = ("amux_bridge_stage_seconds", 'stage="settled"')
"""The names and labels of histograms: the lag of single polls, the time from a settlement to the first attempt, and the
time from amux's answer with an end to the settlement."""


@dataclass(frozen=True)
class Lag:
    """The polls by their lag, as a histogram counts them. Other histograms are read in the same way.

    `below[i]` polls were at most `bounds[i]` seconds late. `total` is the sum of all lags.
    """

    bounds: tuple[float, ...]
    below: tuple[float, ...]
    total: float

    @classmethod
    def read(cls, bridge: Bridge, histogram: tuple[str, str] = SINGLE_POLLS) -> Self:
        """Reads all that a histogram has counted so far. `histogram` is its name and its labels."""
        (name, labels), samples = histogram, bridge.metrics()
        bucket = re.compile(rf'{name}_bucket\{{(?:{labels},le="([^"]+)"|le="([^"]+)",{labels})\}}')
        found = sorted((float(m[1] or m[2]), value) for key, value in samples.items() if (m := bucket.fullmatch(key)))
        return cls(tuple(b for b, _ in found), tuple(v for _, v in found), samples[f"{name}_sum{{{labels}}}"])

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
        """Returns the share of polls that were more than `seconds` late. `seconds` is one of the bounds."""
        return 1 - self.below[self.bounds.index(seconds)] / max(self.count, 1)

    def quantile(self, share: float) -> float:
        """Returns the upper bound of the bucket that contains the quantile, in seconds."""
        return (*self.bounds, inf)[bisect_left(self.below, share * self.count)]

    def interpolated(self, share: float) -> float:
        """Returns a quantile in seconds, by the line through the bounds of its bucket."""
        wanted, lower, below = share * self.count, 0.0, 0.0
        for upper, count in zip(self.bounds, self.below, strict=True):
            if count >= wanted and count > below:
                return lower if upper == inf else lower + (upper - lower) * (wanted - below) / (count - below)
            lower, below = upper, count
        return 0.0

"""How much each counter grew in each minute of the last hour, for the dashboard's charts. A restart loses it."""

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from bridge.telemetry import Metrics

MINUTES: Final = 60
SAMPLE_SECONDS: Final = 10.0

_Key = tuple[str, str]  # a sample's name, and the value of its label in _KEPT_LABELS ("" if it has none there)
_KEPT_LABELS: Final = {
    "amux_bridge_polls_total": "result",
    "amux_bridge_attempts_total": "result",
    "amux_bridge_settled_total": "outcome",
    "amux_bridge_registered_total": "",
    "amux_bridge_poll_lag_seconds_bucket": "le",
    "amux_bridge_store_seconds_sum": "unit",
    "amux_bridge_store_seconds_count": "unit",
}
_LAG: Final = "amux_bridge_poll_lag_seconds_bucket"


@dataclass(slots=True)
class Minute:
    """How much each counter grew in one minute. `at` is the minute's start in Unix seconds."""

    at: int
    counts: dict[_Key, float] = field(default_factory=dict)

    def growth(self, name: str, labels: Sequence[str] | None = None) -> float:
        """Returns how much a counter grew, summed over the label values in `labels`, or over all."""
        return sum(
            count
            for (counter, label), count in self.counts.items()
            if counter == name and (not labels or label in labels)
        )

    def growth_except(self, name: str, labels: Sequence[str]) -> float:
        """Returns how much a counter grew, summed over all label values but those in `labels`."""
        return self.growth(name) - self.growth(name, labels)


class History:
    """The last 60 minutes, with the current one. `sample` must be called every 10 s. `now` returns Unix seconds."""

    def __init__(self, metrics: Metrics, now: Callable[[], float]) -> None:
        self._metrics = metrics
        self._now = now
        self._minutes: deque[Minute] = deque(maxlen=MINUTES)
        self._last: dict[_Key, float] | None = None

    async def sample(self) -> None:
        """Adds the counters' growth since the last sample to the current minute."""
        values = self._read()
        minute = int(self._now() // 60) * 60
        if not self._minutes or self._minutes[-1].at < minute:
            self._minutes.append(Minute(minute))
        if self._last is not None:
            counts = self._minutes[-1].counts
            for key, value in values.items():
                if growth := value - self._last.get(key, 0.0):
                    counts[key] = counts.get(key, 0.0) + growth
        self._last = values

    def minutes(self) -> Sequence[Minute]:
        """Returns the last hour, oldest minute first, without the minutes that have no sample."""
        since = self._now() - MINUTES * 60
        return [minute for minute in self._minutes if minute.at > since]

    def _read(self) -> dict[_Key, float]:
        values: dict[_Key, float] = {}
        for family in self._metrics.registry.collect():
            for sample in family.samples:
                label = _KEPT_LABELS.get(sample.name)
                if label is not None:
                    key = sample.name, sample.labels.get(label, "")
                    values[key] = values.get(key, 0.0) + sample.value  # a counter may have other labels as well
        return values


def lag_quantile(minutes: Sequence[Minute], share: float) -> float | None:
    """Returns a quantile of the polls' lags: the upper bound of its bucket, in seconds. None without polls.

    `share` is the quantile, from 0 to 1.
    """
    buckets: dict[float, float] = {}
    for minute in minutes:
        for (counter, end), count in minute.counts.items():
            if counter == _LAG:
                bound = math.inf if end == "+Inf" else float(end)
                buckets[bound] = buckets.get(bound, 0.0) + count
    total = buckets.get(math.inf, 0.0)
    if not total:
        return None
    # The buckets are cumulative. A bucket that is missing did not grow, so its count is the count of the one below.
    return min(bound for bound, count in buckets.items() if count >= share * total)


def store_milliseconds(minutes: Sequence[Minute]) -> float | None:
    """Returns the mean duration of a unit of work of the store, in milliseconds. None if there was none."""
    count = sum(minute.growth("amux_bridge_store_seconds_count") for minute in minutes)
    seconds = sum(minute.growth("amux_bridge_store_seconds_sum") for minute in minutes)
    return 1000 * seconds / count if count else None


def settled_by_outcome(minutes: Sequence[Minute]) -> Mapping[str, int]:
    """Returns how many watches settled, by outcome."""
    settled: dict[str, int] = {}
    for minute in minutes:
        for (counter, outcome), count in minute.counts.items():
            if counter == "amux_bridge_settled_total":
                settled[outcome] = settled.get(outcome, 0) + round(count)
    return settled

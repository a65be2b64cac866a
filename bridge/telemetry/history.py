"""The last hour in minutes: what the counters did, for the page's charts. In memory, and gone with the process."""

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from bridge.telemetry import Metrics

MINUTES: Final = 60
SAMPLE_SECONDS: Final = 10.0
GOOD_POLLS: Final = frozenset({"seen"})

_Key = tuple[str, str]  # a sample's name, and the label that tells it from its family's others
_COUNTED: Final = {
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
    """One minute's differences of the counters; `at` is its beginning in Unix seconds."""

    at: int
    counts: dict[_Key, float] = field(default_factory=dict)

    def of(self, name: str, labels: Sequence[str] | None = None) -> float:
        """How much a counter grew: all its labels, or those named."""
        return sum(
            grown
            for (family, label), grown in self.counts.items()
            if family == name and (not labels or label in labels)
        )

    def but(self, name: str, labels: Sequence[str]) -> float:
        """How much the labels that are not named grew."""
        return self.of(name) - self.of(name, labels)


class History:
    """Sixty minutes, the newest still open. `sample` it every 10 s; `now` gives Unix seconds."""

    def __init__(self, metrics: Metrics, now: Callable[[], float]) -> None:
        self._metrics = metrics
        self._now = now
        self._minutes: deque[Minute] = deque(maxlen=MINUTES)
        self._last: dict[_Key, float] | None = None
        self.version = 0

    async def sample(self) -> None:
        """Add what the counters did since the last sample to the minute that runs now."""
        found = self._read()
        minute = int(self._now() // 60) * 60
        if not self._minutes or self._minutes[-1].at < minute:
            self._minutes.append(Minute(minute))
        if self._last is not None:
            counts = self._minutes[-1].counts
            for key, value in found.items():
                if grown := value - self._last.get(key, 0.0):
                    counts[key] = counts.get(key, 0.0) + grown
        self._last = found
        self.version += 1

    def minutes(self) -> Sequence[Minute]:
        """The last hour, oldest first; a minute without a sample (the process was not there) is left out."""
        since = self._now() - MINUTES * 60
        return [minute for minute in self._minutes if minute.at > since]

    def _read(self) -> dict[_Key, float]:
        found: dict[_Key, float] = {}
        for family in self._metrics.registry.collect():
            for sample in family.samples:
                label = _COUNTED.get(sample.name)
                if label is not None:
                    found[sample.name, sample.labels.get(label, "")] = sample.value
        return found


def lag_quantile(minutes: Sequence[Minute], share: float) -> float | None:
    """The upper bound, in seconds, of the bucket that holds this share of the polls' lags; None without polls."""
    buckets: dict[float, float] = {}
    for minute in minutes:
        for (family, end), grown in minute.counts.items():
            if family == _LAG:
                bound = math.inf if end == "+Inf" else float(end)
                buckets[bound] = buckets.get(bound, 0.0) + grown
    total = buckets.get(math.inf, 0.0)
    if not total:
        return None
    # Cumulative, and a bucket that did not grow is not in a minute's counts: it has what the one below it has.
    return min(bound for bound, count in buckets.items() if count >= share * total)


def store_milliseconds(minutes: Sequence[Minute]) -> float | None:
    """How long a unit of the store's work took on average; None when there was none."""
    count = sum(minute.of("amux_bridge_store_seconds_count") for minute in minutes)
    return 1000 * sum(minute.of("amux_bridge_store_seconds_sum") for minute in minutes) / count if count else None


def ended(minutes: Sequence[Minute]) -> Mapping[str, int]:
    """How many watches settled, by outcome."""
    found: dict[str, int] = {}
    for minute in minutes:
        for (family, outcome), grown in minute.counts.items():
            if family == "amux_bridge_settled_total":
                found[outcome] = found.get(outcome, 0) + round(grown)
    return found

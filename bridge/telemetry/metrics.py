"""Metrics in Prometheus' text format, in a registry for each runtime. No label has the name of a watch, task or host.

Names and units follow https://prometheus.io/docs/practices/naming/: seconds, and `_total` for counters. Polls and
attempts are counted in plain integers by the event loop's thread, and each scrape reads the integers. This costs 0.3 µs
a poll (measured); prometheus_client's counter and two histograms, which take locks, cost 1.5 µs.
"""

import math
import platform
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from itertools import accumulate
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.metrics_core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from bridge import __version__
from bridge.core.batch_lane import (
    BatchAnswer,
    BatchFailed,
    BatchObservation,
    BatchUnchanged,
    Lane,
    NoBatchRoute,
    TaskMissing,
    TooManyTasks,
)
from bridge.core.model import (
    Answer,
    Answered,
    KeyRefused,
    NoAnswer,
    Observation,
    Outcome,
    PollRejected,
    RefusedTarget,
    TaskForbidden,
    TaskNotFound,
    TaskRecord,
    Throttled,
    TransientError,
)

CONTENT_TYPE: Final = CONTENT_TYPE_PLAIN_0_0_4  # every Prometheus and every agent reads it

# Names and label values do not change, even if another word would be better: operators use them in queries.
POLL_RESULTS: Final[Mapping[type[Observation], str]] = {
    TaskRecord: "seen",
    TaskNotFound: "not_found",
    TaskForbidden: "forbidden",
    PollRejected: "rejected",
    KeyRefused: "key_refused",
    Throttled: "slow_down",
    TransientError: "trouble",
}
BATCH_RESULTS: Final = ("seen", "no_route", "slow_down", "trouble")
CONTENT_RESULTS: Final = ("hit", "miss", "passed_through")
ATTEMPT_RESULTS: Final = ("2xx", "3xx", "4xx", "5xx", "other", "unanswered", "refused")

# Seconds. A poll is on time below 50 ms, the fastest tick. Polls that are over a minute late need no finer buckets.
_LAG_BOUNDS: Final = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_CALL_BOUNDS: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0, 30.0)
_STORE_BOUNDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)
_DETECTION_BOUNDS: Final = (0.5, 1.0, 2.5, 5.0, 7.5, 10.0, 15.0, 30.0, 60.0, 300.0, 1800.0)  # polls are 5-15 s apart
_STAGE_BOUNDS: Final = (0.01, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0, 30.0, 60.0, 120.0, 300.0, 900.0, 3600.0, 86400.0)
_DELIVERED_BOUNDS: Final = (0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 15.0, 60.0, 600.0, 3600.0, 21600.0, 86400.0, 259200.0)


class PlainHistogram(Collector):
    """A histogram of plain integers, for one thread. `bounds` are the buckets' upper bounds, ascending, no +Inf."""

    __slots__ = ("_bounds", "_counts", "_sum", "documentation", "name")

    def __init__(self, name: str, documentation: str, bounds: Sequence[float]) -> None:
        self.name = f"amux_bridge_{name}"
        self.documentation = documentation
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """Counts one value. A value that equals a bucket's bound is counted in this bucket."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def collect(self) -> Iterator[Metric]:
        """Yields the counts so far, as prometheus_client's family of metrics."""
        buckets, total = self.values()
        yield HistogramMetricFamily(self.name, self.documentation, buckets=buckets, sum_value=total)

    def values(self) -> tuple[list[tuple[str, float]], float]:
        """Returns the buckets, each with its upper bound, and the sum. Prometheus' buckets are cumulative."""
        ends = [*map(floatToGoString, self._bounds), "+Inf"]
        return list(zip(ends, map(float, accumulate(self._counts)), strict=True)), self._sum


class StuckReason(StrEnum):
    """Why a task is stuck: amux gives no answer, a poll is late, or amux refuses or throttles the key."""

    NO_ANSWER = "no_answer"
    LATE = "late"
    KEY_RESTS = "key_rests"


class Stage(StrEnum):
    """A part of the time from a task's submission to its delivered event. The name is the moment at its end."""

    FINISHED = "finished"
    SEEN = "seen"
    SETTLED = "settled"
    ATTEMPTED = "attempted"
    DELIVERED = "delivered"


class StageMetrics(Collector):
    """A histogram for each stage."""

    NAME: Final = "stage_seconds"
    DOCUMENTATION: Final = (
        "How long each stage took: finished (from the submission to the end, by amux's times), seen (from amux's end to"
        " the poll), settled (from the poll to the settlement), attempted and delivered (from the settlement to the"
        " first attempt and to the 2xx)."
    )

    def __init__(self) -> None:
        self._stages = {stage: PlainHistogram(self.NAME, self.DOCUMENTATION, _STAGE_BOUNDS) for stage in Stage}

    def observe(self, stage: Stage, seconds: float) -> None:
        """Counts the duration of one stage. A negative one, which different clocks cause, counts as 0."""
        self._stages[stage].observe(max(seconds, 0.0))

    def collect(self) -> Iterator[Metric]:
        """Yields the counts so far, as prometheus_client's family of metrics."""
        family = HistogramMetricFamily(f"amux_bridge_{self.NAME}", self.DOCUMENTATION, labels=["stage"])
        for stage, histogram in self._stages.items():
            family.add_metric([stage.value], *histogram.values())
        yield family


class LaneMetrics:
    """The metrics of one lane's polls. A poll is one request, even if it reads many tasks."""

    def __init__(self, results: Iterable[str]) -> None:
        self.results = dict.fromkeys(results, 0)
        self.tasks = 0
        self.lag = PlainHistogram("poll_lag_seconds", "From a poll's due time to its start, by lane.", _LAG_BOUNDS)
        self.seconds = PlainHistogram("poll_seconds", "How long a poll took, by lane.", _CALL_BOUNDS)


class PollMetrics(Collector):
    """The metrics of polls, without a lock: only the event loop's thread may count."""

    def __init__(self) -> None:
        self.single = LaneMetrics(POLL_RESULTS.values())
        self.batch = LaneMetrics(BATCH_RESULTS)

    def count(self, observation: Observation, lag_seconds: float, seconds: float) -> None:
        """Counts one single poll: its observation, how long after its due time it started, and how long it took."""
        lane = self.single
        lane.results[POLL_RESULTS[type(observation)]] += 1
        lane.tasks += 1
        lane.lag.observe(lag_seconds)
        lane.seconds.observe(seconds)

    def count_batch(self, observation: BatchObservation, tasks: int, lag_seconds: float, seconds: float) -> None:
        """Counts one batch: a request for `tasks` tasks."""
        lane = self.batch
        lane.results[batch_result(observation)] += 1
        lane.tasks += tasks
        lane.lag.observe(max(lag_seconds, 0.0))
        lane.seconds.observe(seconds)

    def collect(self) -> Iterator[Metric]:
        """Yields the counts so far, as prometheus_client's families of metrics."""
        lanes = {Lane.SINGLE: self.single, Lane.BATCH: self.batch}
        polls = CounterMetricFamily(
            "amux_bridge_polls", "Requests that read tasks, by lane and result.", labels=["lane", "result"]
        )
        tasks = CounterMetricFamily("amux_bridge_polled_tasks", "Tasks that polls asked for, by lane.", labels=["lane"])
        for lane, metrics in lanes.items():
            for result, count in metrics.results.items():
                polls.add_metric([lane.value, result], count)
            tasks.add_metric([lane.value], metrics.tasks)
        yield polls
        yield tasks
        for histograms in ([one.lag for one in lanes.values()], [one.seconds for one in lanes.values()]):
            first = histograms[0]
            family = HistogramMetricFamily(first.name, first.documentation, labels=["lane"])
            for lane, histogram in zip(lanes, histograms, strict=True):
                family.add_metric([lane.value], *histogram.values())
            yield family


class Metrics:
    """All metrics of one runtime: metrics of prometheus_client, and cheaper ones of our own for frequent events."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.polls = PollMetrics()
        self.registry.register(self.polls)
        self.stages = StageMetrics()
        self.registry.register(self.stages)
        ProcessCollector(registry=self.registry)
        build = Info("amux_bridge_build", "The running version.", registry=self.registry)
        build.info({"version": __version__, "python": platform.python_version()})
        self._watches()
        self._deliveries()
        self._content()
        self._store_and_scheduler()

    def _watches(self) -> None:
        self.registered = self._counter("registered", "Watches registered.")
        settled = self._counter("settled", "Watches settled, by outcome.", "outcome")
        self.settled: Mapping[Outcome, Counter] = {outcome: settled.labels(outcome.value) for outcome in Outcome}
        self.detection_seconds = self._histogram(
            "detection_seconds", "From a task's end by amux's own time to the poll that saw it.", _DETECTION_BOUNDS
        )
        self.unknown_status_words = self._counter("unknown_status_words", "Task records with an unknown status word.")
        self.active_watches = self._gauge("active_watches", "Watches that are neither settled nor cancelled.")
        self.near_deadline_watches = self._gauge(
            "near_deadline_watches", "Active watches in the last tenth of their time, counted up to 1,000."
        )
        self.owned_tasks = self._gauge("owned_tasks", "Tasks that this replica polls.")
        stuck = self._gauge("stuck_tasks", "Tasks of this replica whose polls have no result.", "reason")
        self.stuck_tasks: Mapping[StuckReason, Gauge] = {reason: stuck.labels(reason.value) for reason in StuckReason}
        self.paused_credentials = self._gauge(
            "paused_credentials", "amux keys that are paused because amux refuses them."
        )

    def _deliveries(self) -> None:
        attempts = self._counter("attempts", "Callback attempts, by the class of the answer.", "result")
        self._attempts: Mapping[str, Counter] = {result: attempts.labels(result) for result in ATTEMPT_RESULTS}
        self.attempt_seconds = self._histogram("attempt_seconds", "How long a callback attempt took.", _CALL_BOUNDS)
        self.settle_to_first_attempt_seconds = self._histogram(
            "settle_to_first_attempt_seconds", "From a watch's settlement to its first attempt.", _DELIVERED_BOUNDS
        )
        self.settle_to_delivered_seconds = self._histogram(
            "settle_to_delivered_seconds",
            "From a watch's settlement to the receiver's 2xx, without deliveries that were sent again on request.",
            _DELIVERED_BOUNDS,
        )
        self.pending_deliveries = self._gauge("pending_deliveries", "Pending deliveries.")
        self.dead_deliveries = self._gauge("dead_deliveries", "Deliveries that were given up and are kept.")
        self.failing_receivers = self._gauge(
            "failing_receivers", "Receivers (host and port) with a pending delivery that has failed at least once."
        )

        self.paused_receivers = self._gauge("paused_receivers", "Receivers (host and port) that an operator paused.")

    def _content(self) -> None:
        requests = self._counter(
            "content_requests", "Requests for a video: from the content cache, read from amux, or passed on.", "result"
        )
        self.content_requests: Mapping[str, Counter] = {result: requests.labels(result) for result in CONTENT_RESULTS}
        self.content_cache_bytes = self._gauge("content_cache_bytes", "The size of all files in the content cache.")

    def _store_and_scheduler(self) -> None:
        self.store_seconds = Histogram(
            "amux_bridge_store_seconds",
            "How long a unit of work of the store took.",
            ["unit"],
            buckets=_STORE_BOUNDS,
            registry=self.registry,
        )
        self.store_writable = self._gauge("store_writable", "1 while the store can be written, 0 while it cannot.")
        self.store_writable.set(1)  # opening a store has written to it
        self.store_size_bytes = self._gauge("store_size_bytes", "The size of the database.")
        self.store_free_bytes = self._gauge(
            "store_free_bytes", "Free space on the disk of a SQLite database. NaN for PostgreSQL."
        )
        self.store_free_bytes.set(math.nan)
        # The runtime sets the function that returns its value at each scrape.
        self.scheduler_tick_age_seconds = self._gauge(
            "scheduler_tick_age_seconds", "Time since the scheduler's last tick."
        )

    def count_attempt(self, answer: Answer) -> None:
        """Counts one callback attempt by its answer."""
        self._attempts[attempt_result(answer)].inc()

    def render(self) -> bytes:
        """Returns all metrics in Prometheus' text format. The content type is CONTENT_TYPE."""
        return generate_latest(_WithoutCreated(self.registry))

    def _counter(self, name: str, documentation: str, *labels: str) -> Counter:
        return Counter(f"amux_bridge_{name}", documentation, labels, registry=self.registry)

    def _gauge(self, name: str, documentation: str, *labels: str) -> Gauge:
        return Gauge(f"amux_bridge_{name}", documentation, labels, registry=self.registry)

    def _histogram(self, name: str, documentation: str, bounds: Sequence[float]) -> PlainHistogram:
        histogram = PlainHistogram(name, documentation, bounds)
        self.registry.register(histogram)
        return histogram


def batch_result(observation: BatchObservation) -> str:
    """Returns the label for a batch's result, one of BATCH_RESULTS."""
    match observation:
        case BatchAnswer() | BatchUnchanged():
            return "seen"
        case NoBatchRoute() | TooManyTasks() | TaskMissing():
            return "no_route"
        case BatchFailed(code="http_429"):
            return "slow_down"
        case _:
            return "trouble"


def attempt_result(answer: Answer) -> str:
    """Returns the label for an attempt's answer, one of ATTEMPT_RESULTS."""
    match answer:
        case Answered(status=status):
            return f"{status // 100}xx" if 200 <= status < 600 else "other"
        case NoAnswer():
            return "unanswered"
        case RefusedTarget():
            return "refused"


class _WithoutCreated(Collector):
    """A registry without OpenMetrics' `_created` samples, which would double the lines and are not needed.

    prometheus_client can omit them only for the whole process.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterable[Metric]:
        for family in self._registry.collect():
            family.samples = [sample for sample in family.samples if not sample.name.endswith("_created")]
            yield family

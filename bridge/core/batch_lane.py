"""The decisions of the batch lane, in which many tasks are read with one request.

Each credential has a lane. The lane is open if amux's batch route is known to work. Otherwise its tasks are read
singly. A failed batch ends no watch. `core/watch.py` decides what a task's record means for its watches.

Moments are in seconds of one clock. Delays are in seconds.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from math import inf
from typing import TypeAlias

from bridge.core.model import TaskRecord, TaskSnapshot, TaskStatus
from bridge.core.schedule import LONGEST_PAUSE, LONGEST_THROTTLE

TARGET_BYTES = 1 << 20  # of an answer: 1,000 records of a usual size, which amux makes in 35 ms
NO_ROUTE_SECONDS = 60.0
LONGEST_NO_ROUTE_SECONDS = 3_600.0  # a server without the route is asked once an hour
# A batch may take a quarter of its interval. If amux needs longer, the next batch begins later.
SLOW_FACTOR = 4.0
# A million tasks in 28 s: 30 s are promised. Reading one takes 3 to 9 us of CPU, so two thirds of a core are left.
SECONDS_FOR_A_TASK = 28e-6
PROBE_TASKS = 20  # few, because they wait for an answer that may not come
MAX_PLATFORMS = 100  # amux has about 60; further names are not tested
_MAX_DOUBLINGS = 16
_SIZE_TOLERANCE = 0.1


class Lane(StrEnum):
    """How a task is read: alone, or with others in one request. The values are labels of metrics."""

    SINGLE = "single"
    BATCH = "batch"


@dataclass(frozen=True, slots=True)
class BatchPolicy:
    """How tasks are read in batches: the most ids of a request, seconds between two reads, requests at a time."""

    size: int = 500
    interval: float = 2.0
    concurrency: int = 2


# --- what one request brings --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class RunningRecord:
    """A record of running tasks without `submitted_at`. Tasks whose records are equal share this object.

    `snapshot` is the shared snapshot of the record's status and progress. Records with the same object as `kind` differ
    in their progress only. A record without a progress has a kind of its own.
    """

    record: TaskRecord
    snapshot: TaskSnapshot
    kind: object


@dataclass(frozen=True, slots=True)
class BatchAnswer:
    """An answer with the record of at least one task that was asked. `size` is the body's, in bytes.

    Each task is in one of two mappings by task id: `records` has whole records, `running` has shared ones. For the
    tasks in `running`, `submitted` has the time of submission, and `platforms` has the names of their platforms.

    `digest` is a hash of the body; None if any row is not a usual row of a running task.
    """

    records: Mapping[str, TaskRecord]
    size: int
    running: Mapping[str, RunningRecord] = field(default_factory=dict)
    submitted: Mapping[str, float] = field(default_factory=dict)
    platforms: frozenset[str] = frozenset()
    digest: int | None = None

    @property
    def count(self) -> int:
        """For how many tasks there is a record."""
        return len(self.records) + len(self.running)

    def record_of(self, task_id: str) -> TaskRecord | None:
        """Returns the whole record of a task; None if the answer has none."""
        running = self.running.get(task_id)
        if running is None:
            return self.records.get(task_id)
        return running.record._replace(submitted_at=self.submitted[task_id])


@dataclass(frozen=True, slots=True)
class BatchUnchanged:
    """An answer with the same body as the last one about the same tasks, which all run.

    `size` is in bytes, `count` the number of the tasks. `read` returns the observation of the body.
    """

    size: int
    count: int
    read: Callable[[], "BatchObservation"] = field(compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class NoBatchRoute:
    """An answer that shows that this credential has no batch route: 404, HTML, another 4xx, no record at all."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class BatchFailed:
    """An answer that does not show whether the route exists: 5xx, 429, a time-out, a broken body.

    `retry_after` is in seconds.
    """

    code: str
    message: str
    retry_after: float | None = None


@dataclass(frozen=True, slots=True)
class BatchTooLarge:
    """An answer that was longer than the bridge reads."""

    limit: int


@dataclass(frozen=True, slots=True)
class TooManyTasks:
    """A refusal of the request because of its size: 413, for example from a proxy that limits bodies."""

    message: str


@dataclass(frozen=True, slots=True)
class TaskMissing:
    """An answer without a record to a request for one task: the task is missing, or the route is filtered."""

    message: str


BatchObservation: TypeAlias = (
    BatchAnswer | BatchUnchanged | NoBatchRoute | BatchFailed | BatchTooLarge | TooManyTasks | TaskMissing
)


# --- whether a credential has a batch lane ------------------------------------------------------------------------


class LaneState(StrEnum):
    """What is known about the batch route with one credential."""

    UNKNOWN = "unknown"  # not asked yet
    OPEN = "open"  # it works
    ABSENT = "absent"  # there is none
    FAILING = "failing"  # it worked or may work, and answers with errors now


@dataclass(frozen=True, slots=True)
class LaneHealth:
    """What is known about the batch route with one credential, and how many ids a request may have.

    `since` is when the state was entered. Unless the lane is open, the route is asked again from `asks_at` on.
    `failures` counts answers in a row that led to this state. `record_bytes` is the mean size of a record (0: not
    known). Requests for more than `most` ids were refused because of their size.
    """

    size: int
    state: LaneState = LaneState.UNKNOWN
    since: float = -inf
    asks_at: float = -inf
    failures: int = 0
    record_bytes: float = 0.0
    message: str | None = None
    most: float = inf

    @property
    def is_open(self) -> bool:
        """Whether tasks are read in batches."""
        return self.state is LaneState.OPEN

    def may_ask(self, now: float) -> bool:
        """Whether a batch may be sent: the lane is open, or it is time to ask whether it is."""
        return self.state is LaneState.OPEN or now >= self.asks_at


@dataclass(frozen=True, slots=True)
class BatchRequest:
    """One request for `asked` ids, and when it began and ended."""

    asked: int
    began: float
    ended: float


def health_after(
    health: LaneHealth, request: BatchRequest, observation: BatchObservation, policy: BatchPolicy, max_interval: float
) -> LaneHealth:
    """Returns what is known after a request.

    A request that began before the present state changes nothing. So of several requests that fail together only one
    counts, and a request that was sent before an outage does not end the outage. `max_interval` is the longest interval
    of single reads, in seconds.
    """
    if request.began < health.since:
        return health
    match observation:
        case BatchAnswer() | BatchUnchanged():
            return _after_answer(health, request, observation, policy)
        case TaskMissing() if health.is_open:
            return health
        case TooManyTasks() if health.is_open and request.asked > PROBE_TASKS:
            most = max(request.asked // 2, PROBE_TASKS)
            return replace(health, size=min(health.size, most), most=most)
        case BatchTooLarge(limit=limit) if request.asked > 1:
            # The records have at least this size on average. Good answers bring it nearer to the true one.
            return replace(health, size=max(1, request.asked // 2), record_bytes=limit / request.asked)
        case BatchTooLarge(limit=limit):  # one record is too long, or every answer is
            message = f"amux answered with more than {limit >> 20} MiB for one task"
            smallest = replace(health, size=1, record_bytes=float(limit))
            closed = _closed(smallest, LaneState.FAILING, request.ended, message)
            pause = _failure_pause(closed.failures, max_interval)
        case NoBatchRoute(message=message) | TooManyTasks(message=message) | TaskMissing(message=message):
            closed = _closed(health, LaneState.ABSENT, request.ended, message)
            pause = min(NO_ROUTE_SECONDS * _doubled(closed.failures), LONGEST_NO_ROUTE_SECONDS)
        case BatchFailed(message=message, retry_after=retry_after):
            closed = _closed(health, LaneState.FAILING, request.ended, message)
            pause = _failure_pause(closed.failures, max_interval)
            if retry_after is not None:
                pause = max(pause, min(retry_after, LONGEST_THROTTLE))
    return replace(closed, asks_at=request.ended + pause)


def _after_answer(
    health: LaneHealth, request: BatchRequest, answer: BatchAnswer | BatchUnchanged, policy: BatchPolicy
) -> LaneHealth:
    weight = answer.size / max(answer.count, 1)
    if health.record_bytes:
        share = min(answer.count / health.size, 1.0) / 2  # an answer with few records says little about the others
        weight = share * weight + (1 - share) * health.record_bytes
    most = int(min(policy.size, health.most))
    size = max(1, min(int(TARGET_BYTES / max(weight, 1.0)), most, 2 * max(request.asked, health.size)))
    if abs(size - health.size) <= _SIZE_TOLERANCE * health.size and size < most >= health.size:
        size = health.size  # so that the same tasks stay together
    if health.state is LaneState.OPEN:
        return replace(health, size=size, record_bytes=weight)
    return LaneHealth(size, LaneState.OPEN, since=request.ended, record_bytes=weight, most=health.most)


def _closed(health: LaneHealth, state: LaneState, now: float, message: str) -> LaneHealth:
    failures = health.failures + 1 if health.state is state else 1
    return replace(health, state=state, since=now, failures=failures, message=message)


def _failure_pause(failures: int, max_interval: float) -> float:
    return min(max_interval * _doubled(failures), max(max_interval, LONGEST_PAUSE))


def _doubled(count: int) -> float:
    return 2.0 ** min(count - 1, _MAX_DOUBLINGS)


# --- how often ----------------------------------------------------------------------------------------------------


def batch_interval(policy: BatchPolicy, seconds: float, max_interval: float) -> float:
    """Returns the time between two reads of a task, after a batch that took `seconds`."""
    return max(policy.interval, min(SLOW_FACTOR * seconds, max_interval))


def batch_spacing(interval: float, tasks: int, size: int) -> float:
    """Returns the time from the start of a batch to the start of the next one of the same credential.

    `tasks` are read in batches of up to `size`, each task once in `interval`. So each batch is full. Very many tasks
    are read less often, so that a core has time for other work.
    """
    full = min(size, max(tasks, 1))
    return max(interval * full / max(tasks, 1), full * SECONDS_FOR_A_TASK)


def batch_round(spacing: float, tasks: int, size: int) -> float:
    """Returns the time in which each of `tasks` is read once, in batches of up to `size` at this spacing."""
    return max(spacing, spacing * tasks / size)


def begun_on_time(was_due: float, now: float, spacing: float) -> float:
    """Returns the moment from which the spacing to the next batch counts, for a batch that began at `now`.

    A timer fires some milliseconds late. With very many tasks the spacing is about 12 ms, and all these delays would
    make a round longer. Only delays of at most one spacing are corrected, so there are no bursts.
    """
    return was_due if now - was_due <= spacing else now


def batch_cost(tasks: int) -> float:
    """Returns the CPU time that amux needs for a batch of `tasks` tasks, as a multiple of a single read.

    Measured with amux on SQLite, November 2026: a single read takes 0.67 ms or more, a batch of 50 tasks 7.9 ms, of 100
    12.5 ms, of 200 10.6 ms, of 500 23 ms and of 1,000 35 ms. The formula is an upper bound of all these. A batch of one
    task costs the same as a single read.
    """
    return min(1 + 0.23 * (tasks - 1), 15 + tasks / 25)


def no_denser_than_single_reads(spacing: float, single_rate: float, asked: int, due_reads: int = 0) -> float:
    """Returns `spacing`, or more if batches of `asked` tasks would cost amux more than single reads of these tasks.

    The cost is requests and CPU time. `batch_cost` is at least 1, so one bound is enough for both. No task is read
    later than singly, because a batch costs at most as much as single reads of its tasks. `single_rate` is the number
    of requests a second that the single reads would make, above 0. The batch replaces `due_reads` more requests: tasks
    that are due for a single read and that the rate does not count.
    """
    return max(spacing, (batch_cost(asked) - due_reads) / single_rate)


def may_exceed_single_reads(spacing: float, tasks: int, asked: int, longest_delay: float) -> bool:
    """Whether batches of `asked` tasks at this spacing could cost more than single reads of the same `tasks`.

    `longest_delay` is the longest delay between two single reads of a task, in seconds. The rate of the single reads
    must be computed only if this is true: it costs a microsecond for each task.
    """
    return tasks * spacing < batch_cost(asked) * longest_delay


# --- what a record means for how its task is read -----------------------------------------------------------------


class Reading(StrEnum):
    """How a task is read when there is a batch lane.

    BATCH: with others. MISSING: alone, because a batch did not contain it. LIVE: alone, because amux asks the vendor at
    each read. TEST: alone once, to learn whether its platform is live.
    """

    BATCH = "batch"
    MISSING = "missing"
    LIVE = "live"
    TEST = "test"


@dataclass(frozen=True, slots=True)
class Platforms:
    """Which platforms answer live with one credential, and which were tested for that."""

    live: frozenset[str]
    tested: frozenset[str] = frozenset()

    @property
    def recorded(self) -> frozenset[str]:
        """The platforms that are known as recorded."""
        return self.tested - self.live

    def with_tested(self, platform: str | None) -> "Platforms":
        """Returns these with one more tested platform: it is recorded, unless a single read shows that it is live."""
        return replace(self, tested=self.tested | {platform or ""})

    def with_live(self, platform: str) -> "Platforms":
        """Returns these with one more live platform."""
        return replace(self, live=self.live | {platform})


def reading_after_record(platforms: Platforms, record: TaskRecord, *, unconfirmed: bool) -> tuple[Reading, bool]:
    """Decides how the task of a batch's record is read from now on, and whether the record counts as an observation.

    A failure counts in two cases: the task's platform is known as recorded, or amux's row of a live task confirms an
    unconfirmed failure. In all other cases the task is read singly, because amux reports a vendor's error with one
    request as the failure of a live task.
    """
    reading = _reading_of(platforms, record)
    if record.status is not TaskStatus.FAILED:
        return reading, True
    if record.live:  # not amux's row; amux's batch route never answers so, as far as we know
        return Reading.TEST if reading is Reading.BATCH else reading, False
    return reading, reading is Reading.BATCH or (unconfirmed and reading is Reading.LIVE)


def _reading_of(platforms: Platforms, record: TaskRecord) -> Reading:
    name = record.platform or ""
    if name in platforms.live:
        return Reading.LIVE
    if name in platforms.tested or len(platforms.tested) >= MAX_PLATFORMS:
        return Reading.BATCH
    return Reading.TEST

"""The data of the domain: tasks, watches, events, deliveries, and the results of polls and attempts.

Times are Unix seconds (float, UTC), durations are seconds. Nothing here reads a clock.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple, TypeAlias

from bridge.core.trace_context import TraceContext

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"


class TaskStatus(StrEnum):
    """A task's status in the bridge's words. amux uses many more words (see `amux/paths.py`)."""

    UNKNOWN = "unknown"
    QUEUED = "queued"
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    FAILED = "failed"


class WatchState(StrEnum):
    """The state of a watch. Settled and cancelled are final."""

    ACTIVE = "active"
    SETTLED = "settled"
    CANCELLED = "cancelled"


class Outcome(StrEnum):
    """How a settled watch ended."""

    COMPLETED = "completed"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    UNAVAILABLE = "unavailable"


class EventType(StrEnum):
    """The type of an event. The first four are terminal: they end a watch."""

    COMPLETED = "video.completed"
    FAILED = "video.failed"
    TIMED_OUT = "video.timed_out"
    UNAVAILABLE = "video.unavailable"
    QUEUED = "video.queued"
    IN_PROGRESS = "video.in_progress"


TERMINAL_EVENTS: frozenset[EventType] = frozenset(EventType(f"video.{outcome}") for outcome in Outcome)
STATUS_EVENTS: Mapping[TaskStatus, EventType] = {
    TaskStatus.QUEUED: EventType.QUEUED,
    TaskStatus.IN_PROGRESS: EventType.IN_PROGRESS,
}


class DeliveryState(StrEnum):
    """The state of a delivery. A requested retry makes it pending again."""

    PENDING = "pending"
    DELIVERED = "delivered"
    DEAD = "dead"


@dataclass(frozen=True, slots=True)
class Problem:
    """An error: a code for programs and a sentence for people. In an error of amux, each of the two may be None."""

    code: str | int | None
    message: str | None


@dataclass(frozen=True, slots=True)
class VideoMetadata:
    """The fields of a video's metadata that leave the bridge."""

    duration: float | None = None
    fps: float | None = None
    width: float | None = None
    height: float | None = None
    seed: float | None = None


# --- observations: the result of one poll -------------------------------------------------------------------------


class TaskRecord(NamedTuple):
    """A task record, in any of amux's forms.

    This is a NamedTuple, because a batch has hundreds of records and a frozen dataclass takes five times as long.
    `status` is UNKNOWN for the word "unknown" and for words that the bridge does not know. `raw_status` is then that
    word; for every other status it is None. `url` is the video's URL, for a completed task only. It is None if amux
    gives only its own `/content` route. `model` is the model that makes the video, `platform` amux's number of the
    vendor. `submitted_at` and `finished_at` are by amux's clock, in Unix seconds. Fields that the record does not have
    are None. `live` marks an answer for which amux asked the vendor. Such an answer can say "failed" about a task that
    still runs.
    """

    status: TaskStatus
    progress: int | None = None
    url: str | None = None
    format: str | None = None
    metadata: VideoMetadata | None = None
    error: Problem | None = None
    raw_status: str | None = None
    model: str | None = None
    platform: str | None = None
    submitted_at: float | None = None
    finished_at: float | None = None
    live: bool = False


@dataclass(frozen=True, slots=True)
class TaskNotFound:
    """amux knows no such task (400 or 404 with code `task_not_exist` or `task_not_found`)."""

    message: str


@dataclass(frozen=True, slots=True)
class TaskForbidden:
    """A 403 that is about the task: it belongs to another account."""

    message: str


@dataclass(frozen=True, slots=True)
class PollRejected:
    """Any other 4xx that carries amux's JSON error."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class KeyRefused:
    """A 401, or a 403 that is about the key: a problem of the credential, not of the task."""

    message: str


@dataclass(frozen=True, slots=True)
class Throttled:
    """A 429. `retry_after` is in seconds from now, None if the answer had none."""

    message: str
    retry_after: float | None = None


@dataclass(frozen=True, slots=True)
class TransientError:
    """Any result that says nothing about the task: a time-out, 5xx, HTML, bad JSON, an empty record.

    `misrouted` marks answers that come from a wrong base URL or from a proxy: HTML with status 200, redirects, and 4xx
    without the JSON error that amux gives for a task.
    """

    code: str
    message: str
    misrouted: bool = False


Observation: TypeAlias = (
    TaskRecord | TaskNotFound | TaskForbidden | PollRejected | KeyRefused | Throttled | TransientError
)


# --- tasks and watches --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RefusalCounts:
    """How often in a row each kind of refusal came. A task record clears the counts, a transient error keeps them."""

    not_found: int = 0
    forbidden: int = 0
    rejected: int = 0


NO_REFUSALS = RefusalCounts()


@dataclass(frozen=True, slots=True)
class TaskSnapshot:
    """A task as last seen, as apps see it."""

    status: TaskStatus = TaskStatus.UNKNOWN
    progress: int | None = None
    url: str | None = None
    format: str | None = None
    metadata: VideoMetadata | None = None
    error: Problem | None = None


UNSEEN = TaskSnapshot()


@dataclass(frozen=True, slots=True)
class TaskFacts:
    """The other facts in amux's records of a task, and the time when the bridge saw its end. Times are Unix seconds.

    `submitted_at` and `finished_at` are by amux's clock. `task_class` is the name of its class (`core/task_class.py`).
    """

    model: str | None = None
    submitted_at: float | None = None
    finished_at: float | None = None
    seen_at: float | None = None
    task_class: str | None = None


NO_FACTS = TaskFacts()


@dataclass(frozen=True, slots=True)
class Watch:
    """The promise to notify one app about one task. It contains no secrets: the store keeps them encrypted.

    `model` is the video's model as the app named it. `body` is the template of the body that is sent instead of an
    event (`core/body_template.py`). `trace` is the trace of its registration.
    """

    id: str
    app: str
    task_id: str
    callback_url: str
    events: frozenset[EventType]
    context: bytes  # the app's JSON object as compact UTF-8, or b"null" if it gave none
    created_at: float
    deadline_at: float
    timeout_seconds: float
    state: WatchState = WatchState.ACTIVE
    outcome: Outcome | None = None
    settled_at: float | None = None
    header_names: tuple[str, ...] = ()
    model: str | None = None
    body: bytes | None = None
    trace: TraceContext | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """What happened. `payload` is built once. `id` is also the `webhook-id`.

    If the watch has a body of its own, `body` is built at the same time and sent instead.
    """

    id: str
    watch_id: str
    type: EventType
    created_at: float
    payload: bytes
    body: bytes | None = None

    @property
    def terminal(self) -> bool:
        """Whether this event ends its watch."""
        return self.type in TERMINAL_EVENTS

    @property
    def sent(self) -> bytes:
        """The bytes that every attempt sends."""
        return self.payload if self.body is None else self.body


# --- deliveries ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Answered:
    """A receiver's answer whose status came in time. `retry_after` is in seconds, for 429 and 503 only.

    `location` is the target of a redirect, without its query.
    """

    status: int
    retry_after: float | None = None
    body: bytes = b""
    location: str | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class NoAnswer:
    """No answer: a refused connection, a time-out, a reset, or a name without an allowed address."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class RefusedTarget:
    """A rule refuses the URL or its literal address: no later attempt can succeed."""

    reason: str


Answer: TypeAlias = Answered | NoAnswer | RefusedTarget


@dataclass(frozen=True, slots=True)
class Attempt:
    """One POST, as the attempt log shows it. `body` is the first 4 KiB of the answer, with secrets redacted."""

    started_at: float
    duration_seconds: float
    status_code: int | None
    error: Problem | None
    body: str | None


@dataclass(frozen=True, slots=True)
class PendingDelivery:
    """A pending delivery on which this process has a lease, with everything that its next attempt needs.

    `payload` are the bytes to send: the event, or the watch's own body.
    """

    id: str
    watch_id: str
    app: str
    type: str
    callback_url: str
    host: str
    payload: bytes
    lease: str
    round_attempts: int  # attempts in this round of the schedule; a requested retry begins a new round
    created_at: float
    attempts: int = 0  # attempts in all rounds, before this one
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    secret: str | None = field(default=None, repr=False)
    trace: TraceContext | None = None
    claimed_by: tuple[str, int] = ("", 0)  # the replica's id and epoch at the time of the claim
    due_from: float = 0.0  # when its next attempt was due, or when a retry was requested

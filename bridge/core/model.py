"""The nouns: tasks, watches, events, deliveries, and what a poll or an attempt can say.

Times are Unix seconds (float, UTC), durations seconds. Nothing here knows a clock.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeAlias

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"


class TaskStatus(StrEnum):
    """A task's status in our words; amux has many more (see `amux/wire.py`)."""

    UNKNOWN = "unknown"
    QUEUED = "queued"
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    FAILED = "failed"


class WatchState(StrEnum):
    """Where a watch stands; settled and cancelled are final."""

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
    """What an app can be told; the first four end a watch."""

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
    """Where a delivery stands; a retry that is asked for moves it back to pending."""

    PENDING = "pending"
    DELIVERED = "delivered"
    DEAD = "dead"


@dataclass(frozen=True, slots=True)
class Problem:
    """A code for programs and a sentence for people; of amux's errors either may be missing."""

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


# --- what one poll said -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TaskRecord:
    """A task record, in any of amux's forms.

    `status` is UNKNOWN for the word "unknown" and for words we don't know; `word` then holds it (else null).
    `url` is the video's, on success only, and null where it is amux's own `/content`.
    `finished_at` is amux's own time of the end, where it tells it.
    """

    status: TaskStatus
    progress: int | None = None
    url: str | None = None
    format: str | None = None
    metadata: VideoMetadata | None = None
    error: Problem | None = None
    word: str | None = None
    finished_at: float | None = None


@dataclass(frozen=True, slots=True)
class TaskNotFound:
    """amux knows no such task (400 or 404 with code `task_not_exist` or `task_not_found`)."""

    message: str


@dataclass(frozen=True, slots=True)
class TaskForbidden:
    """A 403 that speaks of the task: it is another account's."""

    message: str


@dataclass(frozen=True, slots=True)
class PollRejected:
    """Any other 4xx that carries amux's JSON error."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class KeyRefused:
    """A 401, or a 403 that speaks of the key: the credential's trouble, not the task's."""

    message: str


@dataclass(frozen=True, slots=True)
class Throttled:
    """A 429; `retry_after` in seconds from now, null when amux did not say."""

    message: str
    retry_after: float | None = None


@dataclass(frozen=True, slots=True)
class TransientError:
    """Anything that says nothing of the task: time-outs, 5xx, HTML, bad JSON, an empty record.

    `misrouted` marks answers that a wrong base URL or a proxy gives (404s and 4xx without amux's JSON error).
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
    """How often in a row each kind of refusal came; a good answer clears them, trouble leaves them alone."""

    not_found: int = 0
    forbidden: int = 0
    rejected: int = 0


NO_REFUSALS = RefusalCounts()


@dataclass(frozen=True, slots=True)
class TaskSnapshot:
    """A task as last seen: what apps are shown."""

    status: TaskStatus = TaskStatus.UNKNOWN
    progress: int | None = None
    url: str | None = None
    format: str | None = None
    metadata: VideoMetadata | None = None
    error: Problem | None = None


UNSEEN = TaskSnapshot()


@dataclass(frozen=True, slots=True)
class Watch:
    """Our promise to tell one app about one task. Secrets are not part of it: the store keeps them sealed."""

    id: str
    app: str
    task_id: str
    callback_url: str
    events: frozenset[EventType]
    context: bytes  # a JSON object as the app gave it, compact UTF-8; b"null" when none was given
    created_at: float
    deadline_at: float
    timeout_seconds: float
    state: WatchState = WatchState.ACTIVE
    outcome: Outcome | None = None
    settled_at: float | None = None
    header_names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Event:
    """What happened, as bytes that are built once and sent as they are. `id` is also `webhook-id`."""

    id: str
    watch_id: str
    type: EventType
    created_at: float
    payload: bytes

    @property
    def terminal(self) -> bool:
        """Whether this event ends its watch."""
        return self.type in TERMINAL_EVENTS


# --- deliveries ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Answered:
    """A receiver's answer: its headers came in time. `retry_after` in seconds, of 429 and 503 only."""

    status: int
    retry_after: float | None = None
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class NoAnswer:
    """No answer: a refused connection, a time-out, a reset, a name that did not resolve or resolved badly."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class RefusedTarget:
    """A literal address or a rule refuses the target: no later attempt can succeed."""

    reason: str


Answer: TypeAlias = Answered | NoAnswer | RefusedTarget


@dataclass(frozen=True, slots=True)
class Attempt:
    """One POST, as its log tells it; `body` is the first 4 KiB of the answer, redacted."""

    started_at: float
    duration_seconds: float
    status_code: int | None
    error: Problem | None
    body: str | None


@dataclass(frozen=True, slots=True)
class PendingDelivery:
    """One pending delivery that this process holds a lease on: everything its next attempt needs."""

    id: str
    watch_id: str
    app: str
    type: str
    callback_url: str
    host: str
    payload: bytes
    lease: str
    round_attempts: int  # attempts in this round of the schedule; a retry that is asked for begins a new one
    created_at: float
    attempts: int = 0  # attempts in all rounds, before this one
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    secret: str | None = field(default=None, repr=False)

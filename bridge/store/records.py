"""What goes into the store and comes out of it: plain values, no SQL."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from bridge.core.delivery import Verdict
from bridge.core.model import (
    UNSEEN,
    Attempt,
    DeliveryState,
    Event,
    EventType,
    Outcome,
    PendingDelivery,
    Problem,
    TaskSnapshot,
    Watch,
    WatchState,
)
from bridge.core.watch import Ending

CONFIGURED = "configured"
"""The credential that is the key in AMUX_API_KEY, looked up at each poll."""


@dataclass(frozen=True, slots=True)
class EncryptedFields:
    """A watch's secrets as they lie in the database: encrypted, bound to the watch's id."""

    headers: bytes | None = None
    secret: bytes | None = None
    api_key: bytes | None = None


@dataclass(frozen=True, slots=True)
class Idempotency:
    """An app's Idempotency-Key, and the digest of the body it came with."""

    key: str
    body: bytes


@dataclass(frozen=True, slots=True)
class NewWatch:
    """A watch to be registered.

    `task` is the row id its task gets if none is open for (credential, task_id); `options` is the keyed fingerprint
    of all that two registrations must share to be the same; `host` is the callback's host and port. `beyond_limit`:
    the limit of active watches does not refuse it.
    """

    watch: Watch
    credential: str
    task: str
    options: bytes
    host: str
    sealed: EncryptedFields = EncryptedFields()
    idempotency: Idempotency | None = None
    beyond_limit: bool = False


@dataclass(frozen=True, slots=True)
class TaskRow:
    """An open task as its owner loads it. Times are Unix seconds; `first_watched_at` is its first watch's beginning.

    `sight_owed`: a watch that asked for status events has not had its first sight yet.
    """

    id: str
    task_id: str
    credential: str
    snapshot: TaskSnapshot = UNSEEN
    polls: int = 0
    last_polled_at: float | None = None
    sight_owed: bool = False


@dataclass(frozen=True, slots=True)
class RegisteredWatch:
    """What registering came to: the watch as it is now; `created` decides between 201 and 200.

    `task` is set when this replica has to poll it from now on (it may know it already).
    """

    watch: Watch
    created: bool
    task: TaskRow | None = None
    task_row: str = ""


@dataclass(frozen=True, slots=True)
class PollNote:
    """What a poll leaves behind on its task's row, beside the status: for who reads it elsewhere or later."""

    polls: int
    last_polled_at: float | None
    next_poll_at: float | None
    last_error: Problem | None = None
    last_error_at: float | None = None


@dataclass(frozen=True, slots=True)
class StatusChange:
    """A task's status as an owner saw it change (or seen by a watch for the first time).

    `event` is built for each active watch that asked for `event_type` and has not had it.
    """

    task: str
    snapshot: TaskSnapshot
    note: PollNote
    at: float
    event_type: EventType | None = None
    event: Callable[[Watch], Event] | None = None


@dataclass(frozen=True, slots=True)
class Settlement:
    """A task's watches that may end now.

    `ending` decides for each active watch (None: it stays), `event` builds the terminal event of one that ends.
    With no active watch left the task closes.
    """

    task: str
    snapshot: TaskSnapshot
    note: PollNote
    at: float
    ending: Callable[[Watch], Ending | None]
    event: Callable[[Watch, Ending], Event]


@dataclass(frozen=True, slots=True)
class Changed:
    """What a status change or a settlement did.

    `owed` deliveries are already claimed for this replica: send them or release them. `task_closed`: poll no more.
    `errors` are those of settled watches, by id.
    """

    settled: tuple[Watch, ...] = ()
    touched: tuple[str, ...] = ()
    owed: tuple[PendingDelivery, ...] = ()
    task_closed: bool = False
    errors: Mapping[str, Problem] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Overdue:
    """An active watch of an own task whose deadline has passed; `deadline_at` and `watch_id` make the page's key."""

    deadline_at: float
    watch_id: str
    task: str


@dataclass(frozen=True, slots=True)
class AttemptResult:
    """One attempt and what it came to. `host_failures` is written when given: the host's failures in a row now.

    `round_attempts` is the claim's: the delivery has fewer by now when a retry was asked for meanwhile.
    """

    delivery_id: str
    lease: str
    attempt: Attempt
    verdict: Verdict
    host: str
    at: float
    host_failures: int | None = None
    round_attempts: int = 0


@dataclass(frozen=True, slots=True)
class DeliveryView:
    """A delivery as apps see it. `attempts` counts all, over all rounds."""

    id: str
    watch_id: str
    app: str
    type: str
    state: DeliveryState
    attempts: int
    created_at: float
    next_attempt_at: float | None = None
    delivered_at: float | None = None
    dead_at: float | None = None
    last_error: Problem | None = None


@dataclass(frozen=True, slots=True)
class TaskView:
    """A task as its row tells it."""

    row: str
    owner: str | None
    snapshot: TaskSnapshot
    note: PollNote
    closed: bool = False
    credential: str = CONFIGURED


@dataclass(frozen=True, slots=True)
class WatchView:
    """A watch with its task and its deliveries (oldest first)."""

    watch: Watch
    task: TaskView
    deliveries: tuple[DeliveryView, ...] = ()


@dataclass(frozen=True, slots=True)
class WatchQuery:
    """A page of watches, newest first; `before` is the last id of the page before."""

    limit: int
    before: str | None = None
    app: str | None = None
    state: WatchState | None = None
    outcome: Outcome | None = None
    task_id: str | None = None
    delivery_state: DeliveryState | None = None


@dataclass(frozen=True, slots=True)
class DeadFilter:
    """Which dead deliveries to send again; times are when they became dead. `host` is a name without a port."""

    app: str | None = None
    since: float | None = None
    until: float | None = None
    host: str | None = None


@dataclass(frozen=True, slots=True)
class Counts:
    """What gauges and the page show."""

    active_watches: int
    pending_deliveries: int
    dead_deliveries: int
    oldest_due_at: float | None = None


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """A terminal event's bytes, and the watch's own sealed secret if it has one."""

    event_id: str
    payload: bytes
    secret: str | None = field(default=None, repr=False)


HostFailures: TypeAlias = Mapping[str, int]

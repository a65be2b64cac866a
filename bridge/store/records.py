"""The values that callers pass to the store and get from it, without SQL."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from bridge.core.audit import AuditEntry
from bridge.core.delivery import Verdict
from bridge.core.event_cursor import Position
from bridge.core.model import (
    NO_FACTS,
    TERMINAL_EVENTS,
    UNSEEN,
    Attempt,
    DeliveryState,
    Event,
    EventType,
    Outcome,
    PendingDelivery,
    Problem,
    TaskFacts,
    TaskSnapshot,
    Watch,
    WatchState,
)
from bridge.core.trace_context import TraceContext
from bridge.core.watch import Ending
from bridge.core.watch_search import SearchText

CONFIGURED = "configured"
"""The credential whose key is AMUX_API_KEY; the store does not have the key itself."""


@dataclass(frozen=True, slots=True)
class EncryptedFields:
    """A watch's secrets as they are stored: encrypted, and bound to the watch's id."""

    headers: bytes | None = None
    secret: bytes | None = None
    api_key: bytes | None = None


@dataclass(frozen=True, slots=True)
class Idempotency:
    """An app's Idempotency-Key, and the digest of the request body that it came with."""

    key: str
    body: bytes


@dataclass(frozen=True, slots=True)
class NewWatch:
    """A watch to be registered.

    `task` is the row id for its task, which is used if no task is open for (credential, task_id). `options` is the
    keyed fingerprint of all fields that must be equal in two equal registrations. `host` is the callback's host and
    port. With `exempt_from_limit` it is registered even if the limit of active watches is reached. `api_key` is the
    app's own amux key, for the poller; the store keeps only the encrypted form.
    """

    watch: Watch
    credential: str
    task: str
    options: bytes
    host: str
    encrypted: EncryptedFields = EncryptedFields()
    idempotency: Idempotency | None = None
    exempt_from_limit: bool = False
    api_key: str | None = field(default=None, repr=False)


class TaskView(NamedTuple):
    """A task as its row describes it, or newer, as the replica that polls it knows it. Times are Unix seconds.

    `row` is the row id, `owner` the id of the replica that polls it. `opened_at` is when its first watch was
    registered. `status_update_due`: a watch that asked for status events did not get the task's present status yet.
    `closed`: every watch of the task has ended, so it is not polled any more. `failures` counts the last polls in a row
    without a task record; it is not in the row. This is a named tuple because a start makes up to a million of them,
    and a frozen dataclass takes five times as long.
    """

    row: str
    task_id: str
    credential: str
    snapshot: TaskSnapshot = UNSEEN
    polls: int = 0
    last_polled_at: float | None = None
    status_update_due: bool = False
    opened_at: float | None = None
    facts: TaskFacts = NO_FACTS
    owner: str | None = None
    closed: bool = False
    next_poll_at: float | None = None
    last_error: Problem | None = None
    last_error_at: float | None = None
    failures: int = 0


@dataclass(frozen=True, slots=True)
class CancelledWatch:
    """A watch that was cancelled now or earlier. `task_row` is the row id of its task, which may be closed."""

    id: str
    app: str
    task_id: str
    task_row: str
    trace: TraceContext | None = None


@dataclass(frozen=True, slots=True)
class StatusChange:
    """A task with a new status, or with its present status, if a watch did not get an event for it yet.

    `event` builds the event of each active watch that asked for `event_type` and does not have it yet.
    """

    task: TaskView
    at: float
    event_type: EventType | None = None
    event: Callable[[Watch], Event] | None = None


@dataclass(frozen=True, slots=True)
class Settlement:
    """A task after its last poll, and the rule that decides which of its watches end.

    `ending` returns the end of an active watch (None: it stays active). `event` builds the terminal event of a watch
    that ends. When no active watch is left, the task closes.
    """

    task: TaskView
    at: float
    ending: Callable[[Watch], Ending | None]
    event: Callable[[Watch, Ending], Event]


@dataclass(frozen=True, slots=True)
class Changed:
    """The result of a status change or a settlement: the settled watches, or the ids of the watches with a new status.

    `claimed` are the new deliveries, already claimed for this replica: send them or release them. `task_closed`: do not
    poll the task any more. `errors` are the errors of settled watches, and `traces` the traces of the updated ones, by
    watch id. `event_apps` are the apps of the new events.
    """

    settled: tuple[Watch, ...] = ()
    updated: tuple[str, ...] = ()
    claimed: tuple[PendingDelivery, ...] = ()
    task_closed: bool = False
    errors: Mapping[str, Problem] = field(default_factory=dict)
    event_apps: frozenset[str] = frozenset()
    traces: Mapping[str, TraceContext] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Overdue:
    """An active watch whose deadline has passed, of a task that this replica owns.

    Pages are in the order of (`deadline_at`, `watch_id`). `task` is the task's row id.
    """

    deadline_at: float
    watch_id: str
    task: str


@dataclass(frozen=True, slots=True)
class AttemptResult:
    """One attempt and its verdict. `at` is the time of the verdict (Unix seconds).

    `host_failures` is the new number of failures in a row of the host; None leaves the stored number unchanged.
    """

    delivery_id: str
    lease: str
    attempt: Attempt
    verdict: Verdict
    host: str
    at: float
    host_failures: int | None = None


@dataclass(frozen=True, slots=True)
class DeliveryView:
    """A delivery as apps see it. `attempts` counts all attempts, also the ones before a requested retry."""

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
    trace: TraceContext | None = None


@dataclass(frozen=True, slots=True)
class WatchView:
    """A watch with its task and its deliveries (oldest first).

    `first_attempt_at` is when the first attempt of its terminal event began. `audit` has what users did, oldest first.
    """

    watch: Watch
    task: TaskView
    deliveries: tuple[DeliveryView, ...] = ()
    first_attempt_at: float | None = None
    audit: tuple[AuditEntry, ...] = ()

    @property
    def terminal_delivery(self) -> DeliveryView | None:
        """The delivery of the terminal event; None if there is no such event, or if the app did not ask for it."""
        return next((delivery for delivery in self.deliveries if delivery.type in TERMINAL_EVENTS), None)


@dataclass(frozen=True, slots=True)
class RegisteredWatch:
    """The result of a registration: the watch as it is now.

    `created` is true if the first answer to the request was 201, false if it was 200. `task` is set if this replica
    polls the task (it may be polling it already).
    """

    view: WatchView
    created: bool
    task: TaskView | None = None

    @property
    def watch(self) -> Watch:
        """The watch without its task and its deliveries."""
        return self.view.watch


@dataclass(frozen=True, slots=True)
class WatchQuery:
    """A page of watches, newest first unless `oldest_first`.

    `cursor` is the last id of the previous page. `host` is a callback host, with or without its port, in the form in
    which targets are stored. `created_after` is in the time range, `created_before` is not (Unix seconds). `tasks` are
    row ids of tasks. `nearing` (Unix seconds) finds the active watches that are in the last tenth of their time at this
    moment. `given_up_only`: a superseded status event does not count as a dead delivery.
    """

    limit: int
    cursor: str | None = None
    oldest_first: bool = False
    app: str | None = None
    state: WatchState | None = None
    outcome: Outcome | None = None
    task_id: str | None = None
    event_id: str | None = None
    delivery_state: DeliveryState | None = None
    host: str | None = None
    created_after: float | None = None
    created_before: float | None = None
    text: SearchText | None = None
    tasks: tuple[str, ...] | None = None
    nearing: float | None = None
    given_up_only: bool = False

    @property
    def needs_scan(self) -> bool:
        """Whether it has a condition that no index answers, so that it may have to read many rows."""
        return self.text is not None or self.host is not None


@dataclass(frozen=True, slots=True)
class FoundWatches:
    """The ids of the watches that a search found, newest first.

    The search read the watches that were registered from `looked_back_to` on (Unix seconds). This is None if it read
    all watches, or if it found enough.
    """

    ids: Sequence[str]
    looked_back_to: float | None = None


@dataclass(frozen=True, slots=True)
class WatchList:
    """A page of watches, and whether there is a next page. `looked_back_to` is as in `FoundWatches`."""

    views: Sequence["WatchView"]
    more: bool
    looked_back_to: float | None = None


@dataclass(frozen=True, slots=True)
class EventQuery:
    """A page of the event feed: up to `limit` events after a position (None: from the oldest stored event on).

    `types` are the types to list; empty: all types.
    """

    limit: int
    after: Position | None = None
    app: str | None = None
    types: frozenset[EventType] = frozenset()


@dataclass(frozen=True, slots=True)
class EventPage:
    """The payloads of events, in the order of the feed. The next page begins after `end`.

    `more`: the search ended before the page was full, and not at the end of the feed.
    """

    payloads: tuple[bytes, ...]
    end: Position
    more: bool = False


@dataclass(frozen=True, slots=True)
class DeadFilter:
    """Which dead deliveries to send again. They became dead from `since` to `until`. `host` is a name without port."""

    app: str | None = None
    since: float | None = None
    until: float | None = None
    host: str | None = None


@dataclass(frozen=True, slots=True)
class DeliveryCounts:
    """The numbers of pending and dead deliveries."""

    pending: int
    dead: int


@dataclass(frozen=True, slots=True)
class Counts:
    """The counts for the dashboard. `oldest_due_at` is when the next delivery is due (Unix seconds)."""

    active_watches: int
    pending_deliveries: int
    dead_deliveries: int
    oldest_due_at: float | None = None


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """A terminal event's bytes, and the watch's own secret, decrypted, if it has one."""

    event_id: str
    payload: bytes
    secret: str | None = field(default=None, repr=False)

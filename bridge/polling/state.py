"""The tasks and the credentials in memory. Times are seconds of the monotonic clock, unless the text says Unix."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from math import inf

from bridge.aio.clocks import Clocks
from bridge.amux.paths import LIVE_PLATFORMS
from bridge.core.batch_lane import BatchPolicy, LaneHealth, Platforms, Reading, RunningRecord
from bridge.core.credential import (
    CredentialChange,
    CredentialHealth,
    CredentialState,
    change_between,
    health_after_answer,
    is_always_throttled,
)
from bridge.core.model import (
    NO_REFUSALS,
    UNSEEN,
    Observation,
    Problem,
    RefusalCounts,
    TaskFacts,
    TaskRecord,
    TaskSnapshot,
)
from bridge.core.schedule import PollPolicy
from bridge.core.snapshots import shared_snapshot
from bridge.core.task_class import class_by_credential
from bridge.core.watch import TERMINAL, UnconfirmedFailure, problem_in, refusals_after, snapshot_after
from bridge.polling.shared import NO_CLASS, TaskClass
from bridge.polling.task_queue import Group, TaskQueue
from bridge.store.records import TaskView


class Phase(Enum):
    """What a task waits for.

    SCHEDULED: for its time in the heap. BATCHED: in the queue of its batch lane. BLOCKED: for its credential, which is
    paused or throttled. POLLING: for an answer of amux. WRITING: for a write to the store. DROPPED: it is not polled
    here any more.
    """

    SCHEDULED = "scheduled"
    BATCHED = "batched"
    BLOCKED = "blocked"
    POLLING = "polling"
    WRITING = "writing"
    DROPPED = "dropped"


@dataclass(slots=True, eq=False)
class PolledTask:
    """One open task. There may be a million, so it has slots, and equal snapshots are one shared object."""

    row: str
    task_id: str
    credential: "Credential"
    snapshot: TaskSnapshot = UNSEEN
    single_polls: int = 0
    """How many of its polls were single polls, and all polls before it was loaded."""
    unstored_polls: int = 0
    """How many more polls a loaded task had, by an estimate: polls without a change are not stored."""
    reading: Reading = Reading.BATCH
    """How it is read if its credential has a batch lane."""
    batch_polls: int = 0
    """How many of its polls were batches."""
    running: RunningRecord | None = None
    """The record of its last batch; None if the same record, or one with another progress only, needs other work."""
    started: float | None = None
    """When its last poll began."""
    single_started: float | None = None
    """When its last single poll began. Only a single poll is the last one before a deadline."""
    watched_since: float = -inf
    """When its first watch was registered; -infinity for a task that was loaded or taken over."""
    status_update_due: bool = False
    """Its status must be written after the next poll, even if it has not changed."""
    phase: Phase = Phase.SCHEDULED
    due: float = 0.0
    entry: int = 0
    """The number of its valid entry in the heap; other entries are stale."""
    refusal_counts: RefusalCounts = NO_REFUSALS
    failures: int = 0
    """Polls in a row without a task record."""
    error: Problem | None = None
    error_at: float | None = None
    unconfirmed_failure: UnconfirmedFailure | None = None
    """A live failure that waits for confirmation. It is only in memory: after a restart the next one is the first."""
    overdue_at: float | None = None
    """When the latest of the deadlines that wait for a last poll passed."""
    task_class: TaskClass = NO_CLASS
    born: float = 0.0
    """When its age begins: when amux accepted it, if that is known, else when its first watch was registered."""
    submitted_at: float | None = None
    """When amux accepted it, by amux's clock. This and the next two are Unix seconds."""
    finished_at: float | None = None
    seen_at: float | None = None
    """When the bridge saw its end."""
    seen_running: float = -inf
    """When the last poll began that saw it running."""

    @property
    def facts(self) -> TaskFacts:
        """The facts about the task that are stored and shown besides its status."""
        known = self.task_class
        return TaskFacts(known.model, self.submitted_at, self.finished_at, self.seen_at, known.stored_name)

    @property
    def polls(self) -> int:
        """The number of its polls, as it is stored and shown."""
        return self.single_polls + self.batch_polls

    @property
    def steps(self) -> int:
        """The number of polls for the backoff."""
        return self.polls + self.unstored_polls

    def request_status_update(self) -> None:
        """Have its status written after the next poll."""
        self.status_update_due, self.running = True, None

    def set_overdue(self, passed: float) -> None:
        """Note that a deadline passed at `passed`, so the task needs a last poll."""
        self.overdue_at, self.running = passed, None

    def note(self, observation: Observation, now: float) -> None:
        """Update the task with the observation of a poll at `now`."""
        self.snapshot = shared_snapshot(snapshot_after(self.snapshot, observation))
        self.refusal_counts = refusals_after(self.refusal_counts, observation)
        if isinstance(observation, TaskRecord):
            self.failures = 0
            return
        self.failures += 1
        self.error, self.error_at = problem_in(observation), now

    @property
    def present_error(self) -> Problem | None:
        """The error of the last poll; None if it brought a task record."""
        return self.error if self.failures else None


def task_view(task: PolledTask, next_poll: float | None, clocks: Clocks) -> TaskView:
    """Return a task as it is now. `next_poll` is monotonic seconds.

    Its error is the unconfirmed failure, if there is one, else the last error.
    """
    unix, failure = clocks.unix, task.unconfirmed_failure
    error, error_at = (task.error, task.error_at) if failure is None else (failure.problem, failure.since)
    return TaskView(
        task.row,
        task.task_id,
        task.credential.name,
        task.snapshot,
        task.polls,
        unix(task.started),
        facts=task.facts,
        next_poll_at=unix(next_poll),
        last_error=error,
        last_error_at=unix(error_at),
        failures=task.failures,
    )


def next_poll_of(task: PolledTask, now: float) -> float | None:
    """Return when the next poll is; None after the task's end."""
    if task.snapshot.status in TERMINAL:
        return None
    if task.phase is Phase.POLLING:
        return now
    lane = task.credential.lane
    next_batch = lane.next_at if lane is not None and task.phase is Phase.BATCHED else -inf
    return max(task.due, task.credential.health.resumes_at, next_batch)


# --- batch lanes ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LastAnswer:
    """The last answer about some tasks, which all run. `platforms` are what was known about the platforms then."""

    digest: int
    platforms: Platforms


class CredentialLane(TaskQueue[PolledTask, LastAnswer]):
    """The lane of one credential: its tasks, and what was learned about the batch route with its key."""

    __slots__ = (
        "began",
        "credential",
        "entry",
        "health",
        "in_requests",
        "next_at",
        "platforms",
        "released",
        "released_from",
        "requests",
        "round_seconds",
        "single_rate",
        "single_until",
        "spacing",
        "taken_over",
        "to_release",
    )

    def __init__(self, credential: "Credential", policy: BatchPolicy) -> None:
        super().__init__()
        self.credential = credential
        self.health = LaneHealth(policy.size)
        self.platforms = Platforms(LIVE_PLATFORMS)
        self.requests = 0  # requests under way
        self.in_requests = 0  # tasks in these requests
        self.began = -inf  # when the last request began
        self.spacing = policy.interval
        self.round_seconds = policy.interval
        self.single_rate = inf  # requests a second that single reads would make; infinity: many more than batches
        self.taken_over = 0  # tasks that became due for a single read since the last request
        self.next_at = -inf
        self.entry = 0  # the number of its valid entry in the heap of lanes; 0: none
        self.to_release = self.released = 0
        self.released_from = 0.0
        self.single_until = -inf  # until then its tasks are read singly, because its batches were late

    @property
    def tasks(self) -> int:
        """How many tasks are read in this lane."""
        return self.waiting + self.in_requests

    # A task that is not added with `extend` may have left the queue and come back, and its old place may be in a group
    # with a mark. Its record is forgotten, so the next answer about this group is decoded: see `keep_unchanged`.

    def _added(self, group: Group[PolledTask, LastAnswer] | None, item: PolledTask) -> Group[PolledTask, LastAnswer]:
        item.phase, item.running = Phase.BATCHED, None
        return super()._added(group, item)

    def put_back(self, items: Sequence[PolledTask]) -> None:
        """Add tasks to the front of the queue, in their order."""
        for task in items:
            task.phase, task.running = Phase.BATCHED, None
        super().put_back(items)

    def clear(self) -> None:
        """Drop all tasks. What was learned about the route stays."""
        super().clear()
        self.to_release = self.released = self.entry = 0


# --- credentials ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CredentialStatus:
    """A credential as operators see it. `name` is `configured` or the fingerprint of a key. Times are Unix seconds.

    `resumes_at` is when amux is asked again, None for a good credential. `accepted`: amux has sent a record with this
    key since the start.
    """

    name: str
    state: CredentialState
    since: float | None
    resumes_at: float | None
    message: str | None
    accepted: bool = False


class Credential:
    """One amux key and the tasks that wait for it. `key` is None for the configured credential without a key.

    `lane` is None if tasks are never read in batches. While a credential is paused or throttled (`blocked`), one of its
    tasks, the `probe`, is polled at `health.resumes_at`. Its other tasks wait in `waiting`, or in the lane.
    """

    __slots__ = (
        "accepted",
        "blocked",
        "class_name",
        "configured",
        "health",
        "key",
        "lane",
        "name",
        "probe",
        "tasks",
        "waiting",
    )

    def __init__(self, name: str, key: str | None, *, configured: bool = False) -> None:
        self.name = name
        self.key = key
        self.class_name = class_by_credential(name)  # the class of its tasks for which no model is known
        self.configured = configured
        self.health = CredentialHealth()
        self.blocked = False  # a copy of `health.blocked`, because the property is slow and is read three times a poll
        self.accepted = False  # whether amux has sent any record with this key since the start
        self.waiting: dict[PolledTask, None] = {}  # in the order of arrival; a dict, to remove a task in O(1)
        self.probe: PolledTask | None = None
        self.tasks = 0
        self.lane: CredentialLane | None = None

    @property
    def in_use(self) -> bool:
        """Whether it has tasks, or is the configured credential, which always stays."""
        return self.configured or self.tasks > 0

    @property
    def always_throttled(self) -> bool:
        """Whether all polls get 429."""
        return is_always_throttled(self.health, accepted=self.accepted)

    def apply_answer(
        self, task: PolledTask, observation: Observation, now: float, policy: PollPolicy
    ) -> CredentialChange:
        """Apply an answer to a poll of `task`; return the change.

        While the credential is blocked, only the answer of the probe counts. All other polls began before the block.
        """
        if self.blocked and task is not self.probe:
            return CredentialChange.NONE
        before = self.health
        self.health = health_after_answer(before, observation, now, policy)
        self.blocked = self.health.blocked
        return change_between(before.state, self.health.state)

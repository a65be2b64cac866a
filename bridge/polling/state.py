"""The tasks in memory, and the heap of their due times. Moments are those of the monotonic clock."""

from dataclasses import dataclass
from enum import Enum, StrEnum
from heapq import heappop, heappush
from math import inf

from bridge.core.model import (
    NO_REFUSALS,
    UNSEEN,
    KeyRefused,
    Observation,
    Problem,
    RefusalCounts,
    TaskRecord,
    TaskSnapshot,
    TaskStatus,
    Throttled,
    TransientError,
)
from bridge.core.schedule import PollPolicy
from bridge.core.watch import problem_in, refusals_after, snapshot_after


class Phase(Enum):
    """Where a task is: in the heap, with its resting credential, at amux, at the store, or no longer ours."""

    WAITING = "waiting"
    HELD = "held"
    POLLING = "polling"
    WRITING = "writing"
    DROPPED = "dropped"


@dataclass(slots=True, eq=False)
class PolledTask:
    """One open task. There may be 100,000: slots only, and what many have in common is shared between them."""

    row: str
    task_id: str
    credential: "Credential"
    snapshot: TaskSnapshot = UNSEEN
    polls: int = 0
    steps: int = 0
    """Polls as the backoff counts them: those that a row was not told of are guessed."""
    started: float | None = None
    """When its last poll began."""
    watched_since: float = -inf
    """When its first watch began, as far as we know: a task that was loaded has been watched for long."""
    status_update_due: bool = False
    """Its status has to be written at the next sight, even if it is as before."""
    phase: Phase = Phase.WAITING
    due: float = 0.0
    entry: int = 0
    """The number of its entry in the heap; any other entry is stale."""
    strikes: RefusalCounts = NO_REFUSALS
    failures: int = 0
    """Polls in a row that brought no record."""
    error: Problem | None = None
    error_at: float | None = None
    overdue_at: float | None = None
    """When the latest of the deadlines that wait for a last poll passed."""

    def note(self, observation: Observation, now: float) -> None:
        """Take in what a poll said."""
        self.snapshot = shared(snapshot_after(self.snapshot, observation))
        self.strikes = refusals_after(self.strikes, observation)
        if isinstance(observation, TaskRecord):
            self.failures = 0
            return
        self.failures += 1
        self.error, self.error_at = problem_in(observation), now

    @property
    def present_error(self) -> Problem | None:
        """What went wrong at the last poll; None when it brought a record."""
        return self.error if self.failures else None


@dataclass(frozen=True, slots=True)
class LiveTask:
    """A task as its owner knows it: newer than its row. Times are Unix seconds.

    `failures` counts the polls in a row, up to now, that brought no record.
    """

    snapshot: TaskSnapshot
    polls: int
    last_polled_at: float | None
    next_poll_at: float | None
    last_error: Problem | None
    last_error_at: float | None
    failures: int = 0


_STEPS: tuple[int | None, ...] = (None, *range(101))
_PLAIN = {
    (status, progress): TaskSnapshot(status, progress)
    for status in (TaskStatus.UNKNOWN, TaskStatus.QUEUED, TaskStatus.IN_PROGRESS)
    for progress in _STEPS
}


def shared(snapshot: TaskSnapshot) -> TaskSnapshot:
    """The one copy of a snapshot that holds no more than a status and a progress: 300 of them serve every task."""
    plain = _PLAIN.get((snapshot.status, snapshot.progress))
    return plain if plain == snapshot else snapshot


def steps_of_loaded(policy: PollPolicy, polls: int, ago: float) -> int:
    """How far a task's backoff has come that had `polls` polls when its row was written, `ago` seconds since.

    Two steps at least: after a restart tasks of one age are polled in waves. From 7 s on the highest is 1.7 times the
    mean of the first minute, from 5 s on twice.
    """
    if polls == 0:
        return 0
    steps = polls
    while ago > 0 and (delay := policy.delay_after(steps, 0.0)) < policy.max_interval:
        ago -= max(delay, 0.1)
        steps += 1
        if steps > polls + _MOST_GUESSED:
            break
    return max(steps, polls + 2)


_MOST_GUESSED = 50  # a backoff of 1 never comes to its maximum


class DueHeap:
    """A heap of (due, number, task). An entry that its task has left is passed over when its time comes."""

    __slots__ = ("_entries", "_heap")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, PolledTask]] = []
        self._entries = 0

    def put(self, task: PolledTask, due: float) -> None:
        """Make a task due at a moment; an earlier entry of it no longer counts."""
        self._entries = entry = self._entries + 1
        task.phase = Phase.WAITING
        task.due = due
        task.entry = entry
        heappush(self._heap, (due, entry, task))

    def pop_due(self, now: float) -> PolledTask | None:
        """Take the task that has been due for longest, if any is."""
        heap = self._heap
        while heap and heap[0][0] <= now:
            _, entry, task = heappop(heap)
            if task.entry == entry:
                task.entry = 0
                return task
        return None

    def next_due(self) -> float:
        """When the next task is due; infinity when none is waiting."""
        heap = self._heap
        while heap and heap[0][2].entry != heap[0][1]:
            heappop(heap)
        return heap[0][0] if heap else inf

    @staticmethod
    def withdraw(task: PolledTask) -> None:
        """Leave a task's entry to be passed over."""
        task.entry = 0


# --- credentials ------------------------------------------------------------------------------------------------------

SHORTEST_REST = 1.0  # seconds; "Retry-After: 0" for ever would have a probe follow its answer at once


class CredentialState(StrEnum):
    """How amux takes a key."""

    GOOD = "good"
    PAUSED = "paused"
    SLOWED = "slowed"


class CredentialChange(StrEnum):
    """What an answer changed about a credential."""

    SAME = "same"
    PAUSED = "paused"
    SLOWED = "slowed"
    RESUMED = "resumed"


@dataclass(frozen=True, slots=True)
class CredentialStatus:
    """A credential as operators see it. `name` is a fingerprint, never the key; times are Unix seconds.

    `resumes_at` is when amux is asked again, null for a good one.
    """

    name: str
    state: CredentialState
    since: float | None
    resumes_at: float | None
    message: str | None


class Credential:
    """One key and the tasks that wait for it. `key` is None for the configured one, which is looked up at each poll."""

    __slots__ = (
        "configured",
        "held",
        "key",
        "message",
        "name",
        "probe",
        "refusals",
        "refused_key",
        "resting",
        "resumed_at",
        "resumes_at",
        "since",
        "slowdowns",
        "standing",
        "tasks",
    )

    def __init__(self, name: str, key: str | None, *, configured: bool = False) -> None:
        self.name = name
        self.key = key
        self.configured = configured
        self.standing = CredentialState.GOOD
        self.resting = False  # whether only the probe may be polled; asked three times a poll, so no property
        self.since: float | None = None
        self.resumes_at = -inf
        self.message: str | None = None
        self.refusals = 0
        self.slowdowns = 0
        self.resumed_at = -inf
        self.refused_key: str | None = None
        self.held: dict[PolledTask, None] = {}  # in the order they came; leaving is O(1)
        self.probe: PolledTask | None = None
        self.tasks = 0

    def judge(self, task: PolledTask, observation: Observation, now: float, policy: PollPolicy) -> CredentialChange:
        """Decide what an answer to a poll of `task` means for its credential.

        While it rests only the probe's answer counts: all others began before, and say what is known. Whatever amux
        says of the task (a record, not found, forbidden, rejected) it says to a key that it took.
        """
        if self.resting and task is not self.probe:
            return CredentialChange.SAME
        match observation:
            case KeyRefused(message=message):
                return self._refused(message, now, policy)
            case Throttled(message=message, retry_after=retry_after):
                return self._slowed(message, retry_after, now, policy)
            case TransientError():
                if self.resting:  # it says nothing of the key: ask again after the same rest
                    self.resumes_at = now + self._same_rest(policy)
                return CredentialChange.SAME
            case _:
                return self._good(now) if self.resting else CredentialChange.SAME

    def _refused(self, message: str, now: float, policy: PollPolicy) -> CredentialChange:
        known = self.standing is CredentialState.PAUSED
        self.refusals += 1
        self.resumes_at = now + policy.pause_after(self.refusals)
        self.message = message
        if known:
            return CredentialChange.SAME
        self._stand(CredentialState.PAUSED, now)
        return CredentialChange.PAUSED

    def _slowed(self, message: str, retry_after: float | None, now: float, policy: PollPolicy) -> CredentialChange:
        # A 429 soon after the last rest belongs to the same row: a limit below our need makes polls ever rarer.
        again = self.resting or now - self.resumed_at < policy.max_interval
        self.slowdowns = self.slowdowns + 1 if again else 1
        rest = policy.throttle_after(retry_after, self.slowdowns)
        self.resumes_at = now + max(rest, min(SHORTEST_REST, policy.interval))
        self.message = message
        if self.resting:  # a paused one stays paused: a 429 may come before the key was looked at
            return CredentialChange.SAME
        self._stand(CredentialState.SLOWED, now)
        return CredentialChange.SLOWED

    def _same_rest(self, policy: PollPolicy) -> float:
        if self.standing is CredentialState.PAUSED:
            return policy.pause_after(max(self.refusals, 1))
        return policy.throttle_after(None, self.slowdowns)

    def _good(self, now: float) -> CredentialChange:
        self._stand(CredentialState.GOOD, None)
        self.message = None
        self.refusals, self.resumes_at, self.resumed_at = 0, -inf, now
        self.refused_key = None
        return CredentialChange.RESUMED

    def _stand(self, standing: CredentialState, since: float | None) -> None:
        self.standing, self.since = standing, since
        self.resting = standing is not CredentialState.GOOD

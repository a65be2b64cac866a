"""Statistics of all polled tasks: how many fail, are late or wait for their key, and which are the worst. Pure."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from heapq import heappush, heapreplace

from bridge.polling.state import Credential, Phase, PolledTask

FAILING_FROM = 2  # polls in a row without a task record: one failure is normal on the internet, two are a problem
LATE_SECONDS = 10.0  # a due poll is late after this time; a tick comes every 50 ms while polls are due
MAX_POLL_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class PollingStats:
    """Counts of tasks. A task is counted once: as blocked by its credential, else as failing, else as late.

    `errors` counts failing tasks by the code of their last error, for the five most frequent codes. `messages` has one
    message for each code. `keys` counts tasks by credential. `unwritten` counts tasks with a change that the store does
    not have yet. `stuck` has row ids of failing and late tasks, the worst first; `blocked_rows` has row ids of blocked
    tasks. Both are cut to a limit. `batched` tasks are read in batches, which saves about `saved_per_minute` requests a
    minute.
    """

    tasks: int
    failing: int
    late: int
    blocked: int
    unwritten: int
    errors: Mapping[str, int]
    messages: Mapping[str, str | None]
    keys: Mapping[str, int]
    stuck: Sequence[str]
    blocked_rows: Sequence[str] = ()
    batched: int = 0
    saved_per_minute: float = 0.0


class _Worst:
    """Counts tasks and keeps the worst ones. A list of a million late tasks would take 0.2 GB."""

    __slots__ = ("_heap", "_most", "count")

    def __init__(self, most: int) -> None:
        self._most = most
        self._heap: list[tuple[float, str]] = []
        self.count = 0

    def add(self, badness: float, row: str) -> None:
        """Count a task, and keep it if it is one of the worst."""
        self.count += 1
        if len(self._heap) < self._most:
            heappush(self._heap, (badness, row))
        elif self._most and badness > self._heap[0][0]:
            heapreplace(self._heap, (badness, row))

    def rows(self) -> list[str]:
        """Return the rows of the tasks that were kept, the worst first."""
        return [row for _, row in sorted(self._heap, reverse=True)]


def polling_stats(tasks: Iterable[PolledTask], now: float, max_rows: int) -> PollingStats:
    """Compute the statistics; `now` is monotonic seconds. A million tasks take 0.3 s, so call it in another thread."""
    unwritten = blocked = 0
    by_credential: defaultdict[Credential, int] = defaultdict(int)
    errors: Counter[str] = Counter()
    messages: dict[str, str | None] = {}
    failing, late = _Worst(max_rows), _Worst(max_rows)
    blocked_rows: list[str] = []
    # Looked up once and compared by identity: the hash of an enum member takes longer than everything else here.
    scheduled, batched, writing, in_time = Phase.SCHEDULED, Phase.BATCHED, Phase.WRITING, now - LATE_SECONDS
    for task in tasks:
        credential, phase = task.credential, task.phase
        by_credential[credential] += 1
        if phase is writing:
            unwritten += 1
        if credential.blocked:
            blocked += 1
            if len(blocked_rows) < max_rows:
                blocked_rows.append(task.row)
        elif task.failures >= FAILING_FROM:
            failing.add(float(task.failures), task.row)
            code = "unknown" if task.error is None else str(task.error.code)
            errors[code] += 1
            messages[code] = None if task.error is None else task.error.message
        elif phase is batched or phase is scheduled:
            if task.due < in_time:
                late.add(in_time - task.due, task.row)
        elif phase is Phase.POLLING and task.started is not None and task.started < now - MAX_POLL_SECONDS:
            late.add(now - task.started - MAX_POLL_SECONDS, task.row)
    keys: Counter[str] = Counter()
    for credential, count in by_credential.items():
        keys[credential.name] += count
    return PollingStats(
        tasks=keys.total(),
        failing=failing.count,
        late=late.count,
        blocked=blocked,
        unwritten=unwritten,
        errors=dict(errors.most_common(5)),
        messages=messages,
        keys=dict(keys),
        stuck=(failing.rows() + late.rows())[:max_rows],
        blocked_rows=tuple(blocked_rows),
    )

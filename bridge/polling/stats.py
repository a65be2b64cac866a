"""Statistics of all polled tasks: how many fail, are late or wait for their key, and which are the worst. Pure."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from heapq import heappush, heapreplace
from itertools import chain

from bridge.polling.state import Phase, PolledTask

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


def polling_stats(
    parts: Iterable[Sequence[PolledTask]], keys: Mapping[str, int], now: float, max_rows: int
) -> PollingStats:
    """Compute the statistics of the tasks in `parts`. Of these tasks, `keys` has the number for each credential.

    `now` is monotonic seconds. A million tasks take 0.15 to 0.2 s, so call it in another thread.
    """
    unwritten = blocked = 0
    errors: Counter[str] = Counter()
    messages: dict[str, str | None] = {}
    failing, late = _Worst(max_rows), _Worst(max_rows)
    blocked_rows: list[str] = []
    in_time = now - LATE_SECONDS
    for task in chain.from_iterable(_unusual(part, in_time) for part in parts):
        phase = task.phase
        if phase is Phase.WRITING:
            unwritten += 1
        if task.credential.blocked:
            blocked += 1
            if len(blocked_rows) < max_rows:
                blocked_rows.append(task.row)
        elif task.failures >= FAILING_FROM:
            failing.add(float(task.failures), task.row)
            code = "unknown" if task.error is None else str(task.error.code)
            errors[code] += 1
            messages[code] = None if task.error is None else task.error.message
        elif phase is Phase.BATCHED or phase is Phase.SCHEDULED:
            if task.due < in_time:
                late.add(in_time - task.due, task.row)
        elif phase is Phase.POLLING and task.started is not None and task.started < now - MAX_POLL_SECONDS:
            late.add(now - task.started - MAX_POLL_SECONDS, task.row)
    return PollingStats(
        tasks=sum(keys.values()),
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


def _unusual(tasks: Sequence[PolledTask], in_time: float) -> list[PolledTask]:
    """Returns the tasks that may count as blocked, failing, late or unwritten: all that do not wait in time for a poll.

    Nearly all tasks wait in time, and this excludes them in a third of the time that the statistics take for a task.
    """
    scheduled, batched = Phase.SCHEDULED, Phase.BATCHED  # looked up once
    return [
        task
        for task in tasks
        if task.due < in_time
        or task.failures >= FAILING_FROM
        or ((phase := task.phase) is not batched and phase is not scheduled)
        or task.credential.blocked
    ]

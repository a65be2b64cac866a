"""Statistics over all polled tasks: how many fail, are late or wait for their key, and which are the worst. Pure."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from heapq import nlargest

from bridge.polling.state import Phase, PolledTask

FAILING_FROM = 2  # polls in a row without a task record: one failure is normal on the internet, two are a problem
LATE_SECONDS = 10.0  # a due poll has not begun for so long; a tick comes every 50 ms while polls are due
MAX_POLL_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class PollingStats:
    """Counts of tasks. A task is counted once: as blocked by its credential, else as failing, else as late.

    `errors` counts failing tasks by the code of their last error, and `messages` has one message for each code. `keys`
    counts tasks by credential. `unwritten` tasks have a change that the store does not have yet. `stuck` holds row ids
    of failing and late tasks, the worst first; `blocked_rows` those of blocked tasks. Both are cut to a limit.
    `batched` tasks are read in batches, which saves about `saved_per_minute` requests a minute.
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


def polling_stats(tasks: Iterable[PolledTask], now: float, max_rows: int) -> PollingStats:
    """Look at every task once; `now` is monotonic. 100,000 tasks take 30 ms, so it runs in another thread."""
    phases: Counter[Phase] = Counter()
    keys: Counter[str] = Counter()
    errors: Counter[str] = Counter()
    messages: dict[str, str | None] = {}
    failing: list[tuple[float, str]] = []
    late: list[tuple[float, str]] = []
    blocked = 0
    blocked_rows: list[str] = []
    for task in tasks:
        phases[task.phase] += 1
        keys[task.credential.name] += 1
        if task.credential.blocked:
            blocked += 1
            if len(blocked_rows) < max_rows:
                blocked_rows.append(task.row)
        elif task.failures >= FAILING_FROM:
            failing.append((float(task.failures), task.row))
            code = "unknown" if task.error is None else str(task.error.code)
            errors[code] += 1
            messages[code] = None if task.error is None else task.error.message
        elif (seconds := _late_by(task, now)) > 0:
            late.append((seconds, task.row))
    return PollingStats(
        tasks=phases.total(),
        failing=len(failing),
        late=len(late),
        blocked=blocked,
        unwritten=phases[Phase.WRITING],
        errors=dict(errors.most_common(5)),
        messages=messages,
        keys=dict(keys),
        stuck=[row for _, row in nlargest(max_rows, failing) + nlargest(max_rows, late)][:max_rows],
        blocked_rows=tuple(blocked_rows),
    )


def _late_by(task: PolledTask, now: float) -> float:
    """By how many seconds a task's poll is too late; 0 or less for a poll in time."""
    if task.phase in {Phase.SCHEDULED, Phase.BATCHED}:
        return now - task.due - LATE_SECONDS
    if task.phase is Phase.POLLING and task.started is not None:
        return now - task.started - MAX_POLL_SECONDS
    return 0.0

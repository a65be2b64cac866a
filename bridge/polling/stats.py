"""All tasks at a glance: how many fail, are late or wait for their key, and which are worst. Pure."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from heapq import nlargest

from bridge.polling.state import Phase, PolledTask

FAILING_FROM = 2  # polls in a row without a record: one failure is the internet, two are trouble
LATE_SECONDS = 10.0  # a poll that is due for so long has not been begun: the tick is 50 ms
LONGEST_POLL_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class PollingStats:
    """What a look at all tasks found. A task is counted once: held by its key, else failing, else late.

    `errors` counts failing tasks by their last error's code, and `messages` has the message of one for each. `keys`
    counts tasks by credential; `unwritten` are tasks whose change waits for the store. `stuck` are the row ids of
    failing and late tasks, the worst first, cut; `resting` are those of tasks that their key holds, cut as well.
    """

    tasks: int
    failing: int
    late: int
    held: int
    unwritten: int
    errors: Mapping[str, int]
    messages: Mapping[str, str | None]
    keys: Mapping[str, int]
    stuck: Sequence[str]
    resting: Sequence[str] = ()


def polling_stats(tasks: Iterable[PolledTask], now: float, most_stuck: int) -> PollingStats:
    """Look at every task once; `now` is monotonic. 100,000 take 30 ms, so not on the event loop's thread."""
    phases: Counter[Phase] = Counter()
    keys: Counter[str] = Counter()
    errors: Counter[str] = Counter()
    messages: dict[str, str | None] = {}
    failing: list[tuple[float, str]] = []
    late: list[tuple[float, str]] = []
    held = 0
    resting: list[str] = []
    for task in tasks:
        phases[task.phase] += 1
        keys[task.credential.name] += 1
        if task.credential.resting:
            held += 1
            if len(resting) < most_stuck:
                resting.append(task.row)
        elif task.failures >= FAILING_FROM:
            failing.append((float(task.failures), task.row))
            code = "unknown" if task.error is None else str(task.error.code)
            errors[code] += 1
            messages[code] = None if task.error is None else task.error.message
        elif _overdue_by(task, now) > 0:
            late.append((_overdue_by(task, now), task.row))
    return PollingStats(
        tasks=phases.total(),
        failing=len(failing),
        late=len(late),
        held=held,
        unwritten=phases[Phase.WRITING],
        errors=dict(errors.most_common(5)),
        messages=messages,
        keys=dict(keys),
        stuck=[row for _, row in nlargest(most_stuck, failing) + nlargest(most_stuck, late)][:most_stuck],
        resting=tuple(resting),
    )


def _overdue_by(task: PolledTask, now: float) -> float:
    """How much too late a task's poll is, seconds; not above 0 for one in time."""
    if task.phase is Phase.WAITING:
        return now - task.due - LATE_SECONDS
    if task.phase is Phase.POLLING and task.started is not None:
        return now - task.started - LONGEST_POLL_SECONDS
    return 0.0

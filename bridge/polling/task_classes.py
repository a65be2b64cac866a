"""The classes of tasks in memory: the class of each task, how long the tasks of a class took, and when to poll them.

An end is counted in memory at once, and written to the store every 30 s in the background. A crash loses the ends of
the last 30 s. Schedules are rebuilt in the background when the counted ends of their class have changed by 5 %.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial

from bridge.aio.clocks import Clocks
from bridge.aio.threads import Runner
from bridge.core.learned_schedule import (
    MEMORY_ENDS,
    MIN_ENDS,
    History,
    LearnedSchedule,
    fixed_schedule,
    quantile,
)
from bridge.core.model import TaskFacts, TaskRecord
from bridge.core.schedule import PollPolicy
from bridge.core.task_class import (
    FORGET_SECONDS,
    MAX_CLASSES,
    OTHER,
    ClassHistory,
    TaskEnd,
    class_by_record,
    model_by_app,
    with_task_end,
)
from bridge.core.watch import TERMINAL
from bridge.polling.shared import TaskClass
from bridge.polling.state import PolledTask
from bridge.store.store import Store

REBUILD_SHARE = 0.05  # of the counted ends: a schedule from 5 % other ends is nearly the same
REBUILDS_AT_ONCE = 20  # 0.3 ms each
# The most ends that a class counts in 30 s, a third of its memory. Without a limit 1,000 ends a second cost 1 % of CPU.
MAX_PENDING_ENDS = int(MEMORY_ENDS / 3)
MAX_AGE_SECONDS = 86_400.0  # amux fails a task after a day; an older `submitted_at` is a wrong clock or a wrong unit
SHOWN_CLASSES = 20


@dataclass(frozen=True, slots=True)
class ClassFigures:
    """A class as operators see it. Durations are seconds.

    `learned_delay` and `fixed_delay` are the expected mean time from a task's end to the poll that sees it, with the
    learned and with the fixed schedule. `learned_delay` is None while the fixed schedule applies.
    """

    name: str
    ends: int
    p50: float | None
    p90: float | None
    polls: float | None
    learned_delay: float | None
    fixed_delay: float


class TaskClasses:
    """The classes of this replica's tasks. Use it from one event loop.

    Schedules are rebuilt on `background`. If `learn` is false, ends are counted and shown, but the fixed schedule
    applies to every task.
    """

    def __init__(self, store: Store, policy: PollPolicy, clocks: Clocks, background: Runner, *, learn: bool) -> None:
        self._store = store
        self._policy = policy
        self._clocks = clocks
        self._background = background
        self._learn = learn
        self._classes: dict[str, TaskClass] = {}
        self._by_model: dict[str, TaskClass] = {}  # classes that amux's records name
        self._histories: dict[str, ClassHistory] = {}
        self._schedules: dict[str, tuple[int, LearnedSchedule]] = {}  # with the number of ends at the build
        self._changed: set[str] = set()
        self._pending: list[TaskEnd] = []
        self._pending_by_class: Counter[str] = Counter()

    # --- the class of a task --------------------------------------------------------------------------------------

    def delay(self, task: PolledTask, now: float, jitter: float) -> float:
        """Return the seconds until the next poll of a running task, by its class's schedule or by the fixed one."""
        schedule = task.task_class.schedule
        if schedule is None:
            return self._policy.delay_after(task.steps, jitter)
        return schedule.delay_after(now - task.born, task.single_polls, jitter)

    def start(self, task: PolledTask, facts: TaskFacts, opened: float, offset: float) -> None:
        """Set the class and the age of a task that is polled from now on, from the store's values.

        `opened` is the moment of its first registration. `offset` is that of the clocks.
        """
        task.born = opened
        if facts.submitted_at is not None:
            self._take_submission(task, facts.submitted_at, facts.submitted_at + offset)
        if facts.task_class is None:
            task.task_class = self._named(task.credential.class_name)
        else:
            self.name(task, facts)

    def name(self, task: PolledTask, facts: TaskFacts) -> None:
        """Set the class of a task by the name in the store, unless the class is from amux's record.

        A class by an app's `model` becomes the class of the same model in amux's records, if there is one.
        """
        name = facts.task_class
        if name is None or task.task_class.from_record:
            return
        known = self._classes.get(name)
        if known is not None and known.from_record:
            task.task_class = known
        elif (model := model_by_app(name)) is not None:
            task.task_class = self._by_model.get(model) or self._named(name, stored=True)
        else:
            task.task_class = self._named(name, facts.model, from_record=True, stored=True)

    def describe(self, task: PolledTask, record: TaskRecord) -> None:
        """Set a task's class, its submission time and `seen_running` from amux's record. Call it after `task.note`."""
        if task.snapshot.status not in TERMINAL and task.unconfirmed_failure is None and task.started is not None:
            task.seen_running = task.started
        if record.submitted_at is not None and task.submitted_at is None:
            self._take_submission(task, record.submitted_at, self._clocks.moment(record.submitted_at))
        name = class_by_record(record.platform, record.model)
        if name is not None and name != task.task_class.name:
            task.task_class = known = self._named(name, record.model, from_record=True, stored=True)
            if record.model is not None and self._classes.get(name) is known:
                self._by_model[record.model] = known

    @staticmethod
    def _take_submission(task: PolledTask, submitted_at: float, submitted: float) -> None:
        """Take a time of submission: `submitted_at` in Unix seconds, `submitted` as a moment."""
        task.submitted_at = _shared_time(submitted_at)
        # For a task that was registered in the second of its submission, the time of registration is more exact.
        if _resolution(submitted_at) <= task.born - submitted <= MAX_AGE_SECONDS:
            task.born = submitted

    def _named(
        self, name: str, model: str | None = None, *, from_record: bool = False, stored: bool = False
    ) -> TaskClass:
        known = self._classes.get(name)
        if known is not None:
            return known
        new = TaskClass(name, model, from_record=from_record, stored_name=name if stored else None)
        kept = len(self._classes) < MAX_CLASSES or self._remove_unused()
        if kept:
            self._classes[name] = new
        # With too many classes, the new one is not kept. Its tasks then have the schedule of the class `OTHER`.
        if (built := self._schedules.get(name if kept else OTHER)) is not None:
            new.schedule = built[1]
        return new

    def _remove_unused(self) -> bool:
        """Remove the oldest class without an end; false if each class has one."""
        unused = next((name for name in self._classes if name not in self._histories), None)
        if unused is None:
            return False
        self._drop(unused)
        return True

    def _drop(self, name: str) -> None:
        self._schedules.pop(name, None)
        self._changed.discard(name)
        known = self._classes.pop(name, None)
        if known is not None and known.model is not None and self._by_model.get(known.model) is known:
            del self._by_model[known.model]

    # --- ends -----------------------------------------------------------------------------------------------------

    def note_end(self, task: PolledTask, finished_at: float | None, now: float) -> TaskEnd | None:
        """Note a task's end, which was seen at `now`, and return it with its duration; None if that is not known.

        A task that no poll saw running may have ended long before its registration. It counts only if amux's record has
        the times of its submission and of its end.
        """
        task.finished_at, task.seen_at = finished_at, self._clocks.unix(now)
        until = now - task.born
        after = max(task.seen_running - task.born, 0.0)
        known = None if finished_at is None else self._within(after, until, finished_at, task.born)
        if task.seen_running < task.born and (known is None or task.submitted_at is None):
            return None
        after, until = known or (after, max(until, after))
        watched = task.watched_since >= task.born  # if not, it was loaded, and not all its polls are known
        # A batch lane reads a task more often than single reads would. So its polls do not show the schedule's cost.
        polls = task.single_polls if watched and task.batch_polls <= 1 else None
        polled_from = task.watched_since - task.born if watched else 0.0
        poll_seconds = 0.0 if task.started is None else now - task.started
        return TaskEnd(task.task_class.name, after, until, polls, polled_from, poll_seconds)

    def _within(self, after: float, until: float, finished_at: float, born: float) -> tuple[float, float] | None:
        """Return the part of the interval in which the end is by amux's time; None if it is outside the interval."""
        earliest = self._clocks.moment(finished_at) - born
        latest = earliest + _resolution(finished_at)
        if latest < after or earliest > until:
            return None  # amux's clock differs from ours
        return max(after, earliest), min(until, latest)

    def add(self, end: TaskEnd) -> None:
        """Count a task's end."""
        if self._pending_by_class[end.name] >= MAX_PENDING_ENDS:
            return
        self._pending_by_class[end.name] += 1
        self._pending.append(end)
        self._count(end)

    def _count(self, end: TaskEnd) -> None:
        for name, one in with_task_end(self._histories, end, self._policy, self._store.now()).items():
            if one is None:
                del self._histories[name]
                self._drop(name)
            else:
                self._histories[name] = one
                self._changed.add(name)

    async def load(self) -> None:
        """Read all histories and build their schedules. Call it before the first poll. Raises StoreUnavailable."""
        self._replace(await self._store.class_histories())
        while self._learn and self._changed:
            await self.rebuild()

    async def synchronize(self) -> None:
        """Write the new ends to the store, and read the ends of other replicas. Raises StoreUnavailable."""
        ends, self._pending = self._pending, []
        try:
            if ends:
                stored = await self._store.add_task_ends(ends, self._policy)
            else:
                stored = await self._store.class_histories()
        except BaseException:
            self._pending = ends + self._pending
            raise
        if stored is None:  # another replica is writing; the next call writes these ends
            self._pending = ends + self._pending
            return
        self._replace(stored)
        self._pending_by_class = Counter(end.name for end in self._pending)

    def _replace(self, stored: Mapping[str, ClassHistory]) -> None:
        before, oldest = self._histories, self._store.now() - FORGET_SECONDS
        self._histories = {name: one for name, one in stored.items() if one.last_end_at >= oldest}
        for end in self._pending:
            self._count(end)
        for name in before.keys() - self._histories.keys():
            self._drop(name)
        self._changed |= {
            name for name, one in self._histories.items() if name not in before or one.history != before[name].history
        }

    # --- schedules ------------------------------------------------------------------------------------------------

    async def rebuild(self) -> None:
        """Rebuild the schedules of the classes whose counted ends have changed enough; call it every second."""
        if not (self._learn and self._changed):
            return
        due = [name for name in self._changed if self._has_changed_enough(name)][:REBUILDS_AT_ONCE]
        histories = {name: self._histories[name].history for name in due}
        self._changed = {name for name in self._changed - histories.keys() if self._has_changed_enough(name)}
        built = await self._background.submit(partial(_built, histories, self._policy)) if histories else {}
        for name, schedule in built.items():
            if name not in self._histories:
                continue
            self._schedules[name] = (histories[name].ends, schedule)
            if (known := self._classes.get(name)) is not None:
                known.schedule = schedule

    def _has_changed_enough(self, name: str) -> bool:
        one = self._histories.get(name)
        if one is None or one.history.ends < MIN_ENDS:
            return False
        built = self._schedules.get(name)
        return built is None or abs(one.history.ends - built[0]) >= REBUILD_SHARE * sum(one.history.weights)

    # --- figures --------------------------------------------------------------------------------------------------

    def figures(self) -> Sequence[ClassFigures]:
        """Return the classes with the most ends, up to 20."""
        ordered = sorted(self._histories.items(), key=lambda item: (-item[1].history.ends, item[0]))
        return [self._figures_of(name, one.history) for name, one in ordered[:SHOWN_CLASSES]]

    def _figures_of(self, name: str, history: History) -> ClassFigures:
        built = self._schedules.get(name)
        return ClassFigures(
            name,
            history.ends,
            quantile(history, 0.5),
            quantile(history, 0.9),
            history.mean_polls,
            None if built is None else built[1].mean_wait(history),
            fixed_schedule(self._policy).mean_wait(history),
        )


# Tasks that were submitted in the same second share one float object, because there may be a million in memory.
_shared_time = lru_cache(maxsize=8192)(float)


def _resolution(unix: float) -> float:
    """Returns the resolution of one of amux's times in seconds. Most are whole seconds."""
    return 1.0 if float(unix).is_integer() else 0.0


def _built(histories: Mapping[str, History], policy: PollPolicy) -> dict[str, LearnedSchedule]:
    return {name: LearnedSchedule(history, policy) for name, history in histories.items()}

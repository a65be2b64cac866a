"""Due tasks → one question each → what the answer means → the store, when something changed.

What the answer means is core's to say; here it is carried. When to poll next lives in memory, by the monotonic clock.
"""

import asyncio
import logging
import random as randomness
import time
from collections.abc import Callable, Sequence

from bridge.aio.clocks import Clocks
from bridge.aio.worker_pool import WorkerPool
from bridge.amux.client import AmuxClient
from bridge.core.errors import StoreUnavailable
from bridge.core.health import HealthReason
from bridge.core.model import KeyRefused, Observation, PendingDelivery, TaskRecord, TransientError, Watch
from bridge.core.schedule import PollPolicy
from bridge.core.watch import TERMINAL, ending_after
from bridge.polling.anomalies import Anomalies
from bridge.polling.credentials import Credentials
from bridge.polling.deadlines import Deadlines
from bridge.polling.endings import PendingSettlement, StatusUpdate, is_terminal
from bridge.polling.result_writer import ResultWriter, Told
from bridge.polling.schedule import PollSchedule
from bridge.polling.state import CredentialState, CredentialStatus, LiveTask, Phase, PolledTask, shared, steps_of_loaded
from bridge.polling.stats import PollingStats, polling_stats
from bridge.store.records import CONFIGURED, TaskRow
from bridge.store.store import Store
from bridge.telemetry import Metrics, get_logger

__all__ = ["CredentialState", "CredentialStatus", "LiveTask", "Poller"]

KEYS_AT_ONCE = 1_000
NO_KEY = KeyRefused("no amux key is known here for this task")

_log = get_logger("polling")


class Poller:
    """Polls the tasks that this replica owns. Use it from one event loop; nothing here blocks.

    `configured_key` is asked at each poll, so a rotated key takes over every task. `content_url` is called by the
    store's thread. `hand_over` takes deliveries that are claimed already, `announce` the ids of watches that changed.
    `rate_per_second` 0: no limit. `clock` is monotonic seconds, `random` draws from [0, 1).
    """

    def __init__(  # noqa: PLR0913  the rooms around it, its limits, and what tests inject
        self,
        store: Store,
        client: AmuxClient,
        *,
        policy: PollPolicy,
        configured_key: Callable[[], str | None],
        content_url: Callable[[Watch, float], str | None],
        hand_over: Callable[[Sequence[PendingDelivery]], None],
        announce: Callable[[Sequence[str]], None],
        metrics: Metrics,
        concurrency: int,
        rate_per_second: float = 0,
        clock: Callable[[], float] = time.monotonic,
        random: Callable[[], float] = randomness.random,
    ) -> None:
        self._store, self._client, self._policy = store, client, policy
        self._configured_key = configured_key
        self._count = metrics.polls.count
        self._clock, self._random = clock, random
        self._began = clock()
        self._clocks = Clocks(clock, store.now)
        self._tasks: dict[str, PolledTask] = {}
        self._signs = Anomalies(metrics)
        self._credentials = Credentials(policy, metrics, clock)
        self._schedule = PollSchedule(
            policy,
            self._credentials,
            rate_per_second=rate_per_second,
            clock=clock,
            random=random,
            ring=self._ring,
            expired=self._expired,
        )
        told = Told(hand_over, announce, content_url, metrics)
        self._recorder = ResultWriter(store, told, clocks=self._clocks, written=self._written)
        self._deadlines = Deadlines(store, self._tasks, self._clocks)
        self._workers: WorkerPool[PolledTask] = WorkerPool(concurrency, self._schedule.take, self._poll, "poller-poll")
        self._concurrency = concurrency
        self._to_look_at: set[PolledTask] = set()
        self._draining = False

    # --- what comes and goes --------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Load the own open tasks and spread their first polls over one interval. Raises StoreUnavailable."""
        self._schedule.spread([task for row in await self._load() if (task := self._new(*row)) is not None])

    def add(self, task: TaskRow, api_key: str | None = None) -> None:
        """Poll a task from now on; one that is known keeps its schedule, and may owe a sight.

        `api_key` is the key of a credential other than the configured one.
        """
        known = self._tasks.get(task.id)
        if known is not None:
            known.sight_owed = known.sight_owed or task.sight_owed
            return
        new = self._new(task, api_key)
        if new is None:
            return
        if new.polls:
            # It was another's: a dead replica's tasks come by the thousand, and must not all be due in 5 s.
            self._schedule.schedule_soon(new)
            return
        new.watched_since = self._clock()
        self._schedule.plan(new, new.watched_since + self._policy.delay_after(0, self._random()))

    def drop(self, task_row: str) -> None:
        """Poll a task no more: it has closed in the store, or is another's."""
        task = self._tasks.pop(task_row, None)
        if task is None:
            return
        self._schedule.leave(task, Phase.DROPPED)
        self._to_look_at.discard(task)
        self._credentials.left(task.credential)

    def look_again(self, task_row: str) -> None:
        """A watch of the task was cancelled: ask the store whether the task has closed with it."""
        task = self._tasks.get(task_row)
        if task is None:
            return
        if task.phase in {Phase.WAITING, Phase.HELD}:
            self._record(task, news=False)
        else:
            self._to_look_at.add(task)

    def forget_all(self) -> None:
        """Ownership is lost: drop everything, also what is under way."""
        self._schedule.forget(self._tasks.values())
        self._tasks.clear()
        self._to_look_at.clear()
        self._recorder.forget()

    async def drain(self, seconds: float) -> None:
        """Begin nothing more, let polls and writes under way end within so many seconds, then cancel them."""
        until = self._clock() + seconds
        self._draining = True
        self._schedule.stop()
        await self._workers.finish(seconds)
        await self._recorder.finish(until - self._clock())

    # --- what is due ----------------------------------------------------------------------------------------------

    def tick(self) -> None:
        """Begin what is due; call it every 50 ms. Between ticks a timer of our own does the same in time."""
        self._schedule.try_new_key(self._configured_key)
        self._workers.wake()
        self._recorder.tick()

    async def check_deadlines(self) -> None:
        """Give each overdue watch its last poll, or its end; call it every second. A store that fails is logged."""
        if self._draining:
            return
        if await self._deadlines.look(self._hurry_all):
            await self._load_missing()

    def _ring(self) -> None:
        self._workers.wake()

    # --- one poll -------------------------------------------------------------------------------------------------

    async def _poll(self, task: PolledTask) -> None:
        credential = task.credential
        key = self._configured_key() if credential.configured else credential.key
        task.started = started = self._clock()
        try:
            said = NO_KEY if key is None else await self._client.poll(task.task_id, key)
        except Exception as error:  # noqa: BLE001  a fault of ours costs one poll, never a worker or the task
            _log.event("poll_failed", level=logging.ERROR, trace=error, task_id=task.task_id)
            said = TransientError("internal_error", f"the poll failed in the bridge: {type(error).__name__}")
        now = self._clock()
        self._count(said, started - task.due, now - started)
        if task.phase is Phase.POLLING:  # not dropped meanwhile
            if credential.configured and type(said) is KeyRefused:
                credential.refused_key = key
            task.polls += 1
            task.steps += 1
            self._answered(task, said, started, now)

    def _answered(self, task: PolledTask, said: Observation, started: float, now: float) -> None:
        """Carry an answer to where it belongs. Nearly every one says "still running", and that is the first branch."""
        known = task.snapshot
        if (
            type(said) is TaskRecord
            and said.status is known.status
            and said.word is None
            and known.status not in TERMINAL
        ):
            if (
                (said.progress is not None and said.progress != known.progress)
                or task.failures
                or self._signs.misrouted
            ):
                self._note(task, said, now)
            if task.credential.resting:
                self._schedule.judge(task, said, now)
            if not task.sight_owed and task.overdue_at is None:
                due = now + self._policy.delay_after(task.steps, self._random())
                if self._to_look_at:
                    self._free(task, due)
                else:
                    self._schedule.plan(task, due)
                return
            status_changed = False
        else:
            self._note(task, said, now)
            self._schedule.judge(task, said, now)
            status_changed = task.snapshot.status is not known.status
        task.due = now + self._delay(task, said)
        began = task.watched_since
        last = task.overdue_at is not None and started >= task.overdue_at
        if last or ending_after(task.snapshot, task.strikes, said, began, now) is not None:
            self._end(task, said, started, now)
        elif type(said) is TaskRecord and (status_changed or task.sight_owed):
            self._record(task, news=status_changed)
        else:
            self._free(task, task.due)

    def _note(self, task: PolledTask, said: Observation, now: float) -> None:
        task.note(said, now)
        self._signs.read(said, task.task_id)

    def _delay(self, task: PolledTask, said: Observation) -> float:
        jitter = self._random()
        delay = self._policy.delay_after(task.steps, jitter)
        if type(said) is TransientError:
            # Never sooner than without trouble: 100,000 tasks that have slowed down would come back as a storm.
            return max(delay, self._policy.delay_after_trouble(task.failures, jitter))
        return delay

    # --- what changes the store -----------------------------------------------------------------------------------

    def _end(self, task: PolledTask, said: Observation | None, began: float, now: float) -> None:
        """Have the watches settled that end by an answer, or by their deadline when `said` is the last one or None."""
        if isinstance(said, TaskRecord) and said.finished_at is not None and is_terminal(task.snapshot):
            self._signs.detected(self._store.now() - said.finished_at, now - task.watched_since)
        self._schedule.leave(task, Phase.WRITING)
        if said is None or (task.overdue_at is not None and began >= task.overdue_at):
            task.overdue_at = None
        self._recorder.put(PendingSettlement(task, task.snapshot, task.strikes, said, began, task.present_error))

    def _record(self, task: PolledTask, *, news: bool) -> None:
        self._schedule.leave(task, Phase.WRITING)
        self._recorder.put(StatusUpdate(task, news))

    def _written(self, task: PolledTask, closed: bool) -> None:  # noqa: FBT001  the recorder's one call
        if closed:
            self.drop(task.row)
        else:
            self._free(task, task.due)

    # --- where a task goes next -----------------------------------------------------------------------------------

    def _free(self, task: PolledTask, due: float) -> None:
        """A task comes back from amux or the store."""
        if self._to_look_at and task in self._to_look_at:
            self._to_look_at.discard(task)
            task.due = due
            self._record(task, news=False)
        elif task.overdue_at is not None:
            task.due, task.phase = due, Phase.HELD
            self._hurry(task, self._clock(), 0.0)
        else:
            self._schedule.plan(task, due)

    def _hurry_all(self, tasks: list[PolledTask]) -> None:
        """Last polls: at once, or over one interval when a restart finds more of them than we poll at a time."""
        now = self._clock()
        span = self._policy.interval if len(tasks) > self._concurrency else 0.0
        for place, task in enumerate(tasks):
            if task.phase in {Phase.WAITING, Phase.HELD}:
                self._hurry(task, now, place / len(tasks) * span)
        self._workers.wake()

    def _expired(self, task: PolledTask) -> None:
        """An overdue task whose credential rests ends without a last poll."""
        now = self._clock()
        self._end(task, None, now, now)

    def _hurry(self, task: PolledTask, now: float, delay: float) -> None:
        """An overdue task's last poll, ahead of its schedule; its end at once when that poll was or cannot be."""
        if task.overdue_at is None:
            return
        # A poll of another life counts for nothing here: its answer is not known, and the video may be ready now.
        had_its_last = task.started is not None and task.started >= max(task.overdue_at, self._began)
        if had_its_last or task.credential.resting:
            self._end(task, None, now, now)
        elif task.phase is not Phase.WAITING or task.due > now + delay:
            self._schedule.put(task, now + delay)

    # --- their parts ----------------------------------------------------------------------------------------------

    async def _load(self) -> list[tuple[TaskRow, str | None]]:
        rows = await self._store.own_tasks()
        own = sorted({row.credential for row in rows if row.credential != CONFIGURED})
        keys: dict[str, str] = {}
        for first in range(0, len(own), KEYS_AT_ONCE):  # a statement takes 32,766 parameters
            keys |= await self._store.keys_of(own[first : first + KEYS_AT_ONCE])
        return [(row, keys.get(row.credential)) for row in rows]

    async def _load_missing(self) -> None:
        """Load tasks that memory lacks: a registration was cut off between the store and us, and nobody polls it."""
        try:
            rows = await self._load()
        except StoreUnavailable as error:
            _log.event("tasks_not_loaded", level=logging.WARNING, reason=str(error), means="tried again within 20 s")
            return
        found = [task for row in rows if (task := self._new(*row)) is not None]
        _log.event("tasks_found", level=logging.WARNING, count=len(found))
        self._schedule.spread(found)

    def _new(self, row: TaskRow, api_key: str | None) -> PolledTask | None:
        """A task as it is kept in memory; None for one that is known."""
        if row.id in self._tasks:
            return None
        credential = self._credentials.joined(row.credential, api_key)
        task = PolledTask(row.id, row.task_id, credential, shared(row.snapshot), row.polls)
        task.started = self._clocks.moment(row.last_polled_at)
        ago = 0.0 if task.started is None else self._clock() - task.started
        task.steps = steps_of_loaded(self._policy, row.polls, ago)
        task.sight_owed = row.sight_owed
        self._tasks[row.id] = task
        return task

    # --- what is shown --------------------------------------------------------------------------------------------

    @property
    def owned(self) -> int:
        """How many tasks are polled here."""
        return len(self._tasks)

    def live(self, task_row: str) -> LiveTask | None:
        """A task as it is now; None when it is not polled here. The last error stays, with its time."""
        task = self._tasks.get(task_row)
        if task is None:
            return None
        unix = self._clocks.unix
        return LiveTask(
            *(task.snapshot, task.polls, unix(task.started), unix(self._next_poll(task))),
            *(task.error, unix(task.error_at), task.failures),
        )

    def _next_poll(self, task: PolledTask) -> float | None:
        if is_terminal(task.snapshot):
            return None
        if task.phase is Phase.POLLING:
            return self._clock()
        return max(task.due, task.credential.resumes_at)

    def credentials(self) -> Sequence[CredentialStatus]:
        """The keys in use, by name, and how amux takes each."""
        return self._credentials.states(self._clocks)

    async def stats(self, most_stuck: int) -> PollingStats:
        """How all tasks fare, and the rows of the worst; looked through in a thread, for there may be 100,000."""
        return await asyncio.to_thread(polling_stats, list(self._tasks.values()), self._clock(), most_stuck)

    def degraded(self) -> list[HealthReason]:
        """What an operator has to mend at amux or in the settings: a sentence each."""
        return [*self._credentials.degraded(), *self._signs.degraded()]

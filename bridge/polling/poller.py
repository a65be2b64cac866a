"""Polls the tasks that are due, decides what each answer means, and has changes written to the store.

The decisions are functions of `core/`. When a task is polled next lives in memory, by the monotonic clock.
"""

import logging
from collections.abc import Callable, Sequence
from functools import partial

from bridge.aio.clocks import Clocks
from bridge.aio.system import SYSTEM, System
from bridge.aio.threads import Runner
from bridge.aio.worker_pool import WorkerPool
from bridge.amux.client import AmuxClient
from bridge.core.errors import StoreUnavailable
from bridge.core.health import HealthReason
from bridge.core.model import KeyRefused, Observation, TaskRecord, TransientError
from bridge.core.schedule import PollPolicy
from bridge.core.watch import TERMINAL, ending_after
from bridge.polling.anomalies import Anomalies
from bridge.polling.credentials import Credentials, load_keys
from bridge.polling.deadlines import Deadlines
from bridge.polling.live_failures import apply_doubt
from bridge.polling.result_writer import (
    ChangeListener,
    ContentUrl,
    DeliveryQueue,
    PendingSettlement,
    ResultWriter,
    StatusUpdate,
)
from bridge.polling.schedule import PollSchedule, steps_of_loaded
from bridge.polling.state import CredentialStatus, LiveTask, Phase, PolledTask, live_task, shared_snapshot
from bridge.polling.stats import PollingStats, polling_stats
from bridge.polling.task_classes import TaskClasses
from bridge.store.records import TaskRow
from bridge.store.store import Store
from bridge.telemetry import Metrics, get_logger

CALM_INTERVALS = 4  # without a misrouted answer, until the warning ends: one task is polled four times meanwhile
NO_KEY = KeyRefused("no amux key is known here for this task")

_log = get_logger("polling")


class Poller:
    """Polls the tasks that this replica owns. Use it from one event loop; nothing here blocks.

    `configured_key` is called at each poll, so that a new key is used at once. `content_url` is called by the store's
    thread. `rate_per_second` 0: no limit. With `learn` a task is polled when tasks of its class tend to end.
    `background` runs what takes long.
    """

    def __init__(  # noqa: PLR0913  its collaborators, its limits, and what tests inject
        self,
        store: Store,
        client: AmuxClient,
        deliverer: DeliveryQueue,
        change_listener: ChangeListener,
        *,
        policy: PollPolicy,
        configured_key: Callable[[], str | None],
        content_url: ContentUrl,
        metrics: Metrics,
        concurrency: int,
        background: Runner,
        rate_per_second: float = 0,
        learn: bool = True,
        system: System = SYSTEM,
    ) -> None:
        self._store, self._client, self._policy = store, client, policy
        self._configured_key, self._count = configured_key, metrics.polls.count
        self._clock, self._random = system.monotonic, system.random
        self._created_at = self._clock()
        self._clocks = Clocks(self._clock, store.now)
        self._background = background
        self._tasks: dict[str, PolledTask] = {}
        self.classes = TaskClasses(store, policy, self._clocks, background, learn=learn)
        self._anomalies = Anomalies(metrics, CALM_INTERVALS * policy.max_interval)
        self._credentials = Credentials(policy, metrics, self._clock)
        self._schedule = PollSchedule(
            policy,
            self._credentials,
            rate_per_second=rate_per_second,
            clock=self._clock,
            random=self._random,
            wake=lambda: self._workers.wake(),  # noqa: PLW0108  the pool is created after the schedule
            expire=self._expire,
        )
        self._result_writer = ResultWriter(
            store,
            deliverer,
            change_listener,
            content_url=content_url,
            metrics=metrics,
            clocks=self._clocks,
            classes=self.classes,
            on_written=self._on_written,
        )
        self._deadlines = Deadlines(store, self._tasks, self._clocks, self._result_writer.outage_log)
        self._workers: WorkerPool[PolledTask] = WorkerPool(concurrency, self._schedule.take, self._poll, "poller-poll")
        self._concurrency = concurrency
        self._to_recheck: set[PolledTask] = set()  # a watch was cancelled while its task was being polled or written
        self._draining = False

    # --- which tasks are polled here ------------------------------------------------------------------------------

    async def start(self) -> None:
        """Load the own open tasks and spread their first polls over one interval. Raises StoreUnavailable."""
        self._schedule.schedule_evenly(await self._load_new())

    def add(self, task: TaskRow, api_key: str | None = None) -> None:
        """Poll a task from now on. A task that is known keeps its schedule, but its status may have to be written.

        `api_key` is the key of a credential other than the configured one.
        """
        known = self._tasks.get(task.id)
        if known is not None:
            known.status_update_due = known.status_update_due or task.status_update_due
            self.classes.name(known, task.facts)
            return
        new = self._create(task, api_key)
        if new.polls:
            # It was another replica's: a dead replica's tasks come by the thousand and must not all be due in 5 s.
            self._schedule.schedule_soon(new)
            return
        new.watched_since = self._clock()
        self._schedule.schedule_at(new, new.watched_since + self.classes.delay(new, new.watched_since, self._random()))

    def drop(self, task_row: str) -> None:
        """Stop polling a task: it has closed in the store, or another replica owns it."""
        task = self._tasks.pop(task_row, None)
        if task is None:
            return
        self._schedule.remove(task, Phase.DROPPED)
        self._to_recheck.discard(task)
        self._anomalies.forget(task)
        self._credentials.remove_task(task.credential)

    def look_again(self, task_row: str) -> None:
        """Ask the store whether a task has closed: one of its watches was cancelled."""
        task = self._tasks.get(task_row)
        if task is None:
            return
        if task.phase in {Phase.SCHEDULED, Phase.BLOCKED}:
            self._write_status(task, changed=False)
        else:
            self._to_recheck.add(task)

    def forget_all(self) -> None:
        """Drop all tasks, also those under way: this replica's lease is lost."""
        self._schedule.clear(self._tasks.values())
        self._tasks.clear()
        self._anomalies.forget_all()
        self._to_recheck.clear()
        self._result_writer.clear()

    async def drain(self, seconds: float) -> None:
        """Begin no more polls, let polls and writes under way end within `seconds`, then cancel them."""
        until = self._clock() + seconds
        self._draining = True
        self._schedule.stop()
        await self._workers.finish(seconds)
        await self._result_writer.finish(until - self._clock())

    # --- regular calls --------------------------------------------------------------------------------------------

    def tick(self) -> bool:
        """Begin what a timer has missed; return whether polls are due that cannot begin, or results wait."""
        self._schedule.try_new_key(self._configured_key)
        self._workers.wake()
        self._result_writer.tick()
        return self._schedule.is_due() or self._result_writer.is_waiting

    async def check_deadlines(self) -> None:
        """Give each overdue watch its last poll, or end it; call it every second. A store that fails is logged."""
        if self._draining:
            return
        overdue, missing = await self._deadlines.check()
        self._poll_overdue(overdue)
        if missing:
            await self._load_missing()

    # --- one poll -------------------------------------------------------------------------------------------------

    async def _poll(self, task: PolledTask) -> None:
        credential = task.credential
        key = self._configured_key() if credential.configured else credential.key
        task.started = started = self._clock()
        try:
            observation = NO_KEY if key is None else await self._client.poll(task.task_id, key)
        except Exception as error:  # noqa: BLE001  a bug costs one poll, never a worker or the task
            _log.event("poll_failed", level=logging.ERROR, trace=error, task_id=task.task_id)
            observation = TransientError("internal_error", f"the poll failed in the bridge: {type(error).__name__}")
        now = self._clock()
        self._count(observation, started - task.due, now - started)
        if task.phase is Phase.POLLING:  # not dropped meanwhile
            if credential.configured and type(observation) is KeyRefused:
                credential.refused_key = key
            if type(observation) is TaskRecord:
                credential.accepted = True
            task.polls += 1
            task.steps += 1
            self._handle(task, observation, started, now)

    def _handle(self, task: PolledTask, observation: Observation, started: float, now: float) -> None:
        """Act on an answer. Nearly every answer says "still running", and that is the first branch."""
        known, was_blocked = task.snapshot, task.credential.blocked
        if (
            type(observation) is TaskRecord
            and observation.status is known.status
            and observation.raw_status is None
            and known.status not in TERMINAL
            and task.doubt is None
        ):
            if (
                (observation.progress is not None and observation.progress != known.progress)
                or (observation.submitted_at is not None and task.submitted_at is None)
                or task.failures
                or self._anomalies.misrouted
            ):
                self._note(task, observation, now)
            task.seen_running = started
            if was_blocked:
                self._schedule.judge(task, observation, now)
            elif not task.status_update_due and task.overdue_at is None:
                due = now + self.classes.delay(task, now, self._random())
                if self._to_recheck:
                    self._reschedule(task, due)
                else:
                    self._schedule.schedule_at(task, due)
                return
            doubt_changed = False
        else:
            observation, doubt_changed = apply_doubt(task, observation, started, now, self._policy.interval)
            self._note(task, observation, now)
            self._schedule.judge(task, observation, now)
        changed = task.snapshot.status is not known.status
        task.due = now + self._delay(task, observation, now, probe=was_blocked)
        if self._ends_watches(task, observation, started, now):
            self._settle(task, observation, started, now)
        elif type(observation) is TaskRecord and (changed or doubt_changed or task.status_update_due):
            self._write_status(task, changed=changed)
        else:
            self._reschedule(task, task.due)

    def _note(self, task: PolledTask, observation: Observation, now: float) -> None:
        task.note(observation, now)
        if type(observation) is TaskRecord:
            self.classes.describe(task, observation)
        self._anomalies.check(observation, task, now)

    def _delay(self, task: PolledTask, observation: Observation, now: float, *, probe: bool) -> float:
        jitter = self._random()
        if task.doubt is not None:
            # A failure in doubt is asked about again as soon as the second answer counts.
            delay = self._policy.interval
        elif type(observation) is TaskRecord and task.snapshot.status not in TERMINAL and not probe:
            return self.classes.delay(task, now, jitter)
        else:  # learning makes no other poll sooner
            delay = max(self.classes.delay(task, now, jitter), self._policy.delay_after(task.steps, jitter))
        if type(observation) is TransientError:
            # Never sooner than without the failure: 100,000 tasks with long intervals would come back as a storm.
            return max(delay, self._policy.delay_after_failure(task.failures, jitter))
        return delay

    @staticmethod
    def _ends_watches(task: PolledTask, observation: Observation, started: float, now: float) -> bool:
        """Whether an answer may end watches: it was a last poll, or the answer ends the task's oldest watch."""
        if task.overdue_at is not None and started >= task.overdue_at:
            return True
        ending = ending_after(task.snapshot, task.refusal_counts, observation, task.watched_since, now)
        return ending is not None

    # --- writes to the store --------------------------------------------------------------------------------------

    def _settle(self, task: PolledTask, observation: Observation | None, began: float, now: float) -> None:
        """Settle the watches that end by an answer, or by their deadline.

        With an observation of None there was no last poll: only deadlines count.
        """
        end = None
        if isinstance(observation, TaskRecord) and task.snapshot.status in TERMINAL:
            end = self.classes.note_end(task, observation.finished_at, now)
            if observation.finished_at is not None:
                self._anomalies.record_detection(self._store.now() - observation.finished_at, now - task.watched_since)
        self._schedule.remove(task, Phase.WRITING)
        if observation is None or (task.overdue_at is not None and began >= task.overdue_at):
            task.overdue_at = None
        pending = PendingSettlement(
            *(task, task.snapshot, task.refusal_counts, observation, began, task.present_error, task.doubt, end)
        )
        self._result_writer.put(pending)

    def _write_status(self, task: PolledTask, *, changed: bool) -> None:
        self._schedule.remove(task, Phase.WRITING)
        self._result_writer.put(StatusUpdate(task, changed))

    def _on_written(self, task: PolledTask, closed: bool) -> None:  # noqa: FBT001  the result writer's one call
        if closed:
            self.drop(task.row)
        else:
            self._reschedule(task, task.due)

    # --- what a task does next ------------------------------------------------------------------------------------

    def _reschedule(self, task: PolledTask, due: float) -> None:
        """Schedule a task after a poll or a write; recheck it, or give it its last poll, if that is due."""
        if self._to_recheck and task in self._to_recheck:
            self._to_recheck.discard(task)
            task.due = due
            self._write_status(task, changed=False)
        elif task.overdue_at is not None:
            task.due, task.phase = due, Phase.BLOCKED
            self._poll_last(task, self._clock(), 0.0)
        else:
            self._schedule.schedule_at(task, due)

    def _poll_overdue(self, tasks: list[PolledTask]) -> None:
        """Give tasks their last poll: at once, or over one interval if there are more of them than `concurrency`."""
        now = self._clock()
        interval = self._policy.interval if len(tasks) > self._concurrency else 0.0
        for place, task in enumerate(tasks):
            if task.phase in {Phase.SCHEDULED, Phase.BLOCKED}:
                self._poll_last(task, now, place / len(tasks) * interval)
        self._workers.wake()

    def _poll_last(self, task: PolledTask, now: float, delay: float) -> None:
        """Schedule an overdue task's last poll early. Settle it at once if it had that poll, or cannot have it."""
        if task.overdue_at is None:
            return
        # A poll of an earlier process does not count: its answer is not known, and the video may be ready now.
        had_last_poll = task.started is not None and task.started >= max(task.overdue_at, self._created_at)
        if had_last_poll or task.credential.blocked:
            self._settle(task, None, now, now)
        elif task.phase is not Phase.SCHEDULED or task.due > now + delay:
            self._schedule.put(task, now + delay)

    def _expire(self, task: PolledTask) -> None:
        """Settle an overdue task without a last poll: its credential is blocked."""
        now = self._clock()
        self._settle(task, None, now, now)

    # --- loading --------------------------------------------------------------------------------------------------

    async def _load_new(self) -> list[PolledTask]:
        """Load the own open tasks that memory lacks. Raises StoreUnavailable."""
        replica = self._store.replica
        rows = await self._store.own_tasks()
        keys = await load_keys(self._store, rows)
        if self._store.replica is not replica:
            return []  # the tasks were those of an earlier replica id: others adopt them
        return [self._create(row, keys.get(row.credential)) for row in rows if row.id not in self._tasks]

    async def _load_missing(self) -> None:
        """Load tasks that memory lacks: a registration was cancelled after its commit and before `add`."""
        try:
            found = await self._load_new()
        except StoreUnavailable as error:
            _log.event("tasks_not_loaded", level=logging.WARNING, reason=str(error), means="tried again within 20 s")
            return
        _log.event("tasks_found", level=logging.WARNING, count=len(found), means="they are polled from now on")
        self._schedule.schedule_evenly(found)

    def _create(self, row: TaskRow, api_key: str | None) -> PolledTask:
        credential = self._credentials.add_task(row.credential, api_key)
        task = PolledTask(row.id, row.task_id, credential, shared_snapshot(row.snapshot), row.polls)
        task.started = self._clocks.moment(row.last_polled_at)
        ago = 0.0 if task.started is None else self._clock() - task.started
        task.steps = steps_of_loaded(self._policy, row.polls, ago)
        task.status_update_due = row.status_update_due
        self.classes.start(task, row.facts, row.opened_at)
        self._tasks[row.id] = task
        return task

    # --- what others may read -------------------------------------------------------------------------------------

    @property
    def owned(self) -> int:
        """How many tasks are polled here."""
        return len(self._tasks)

    def live(self, task_row: str) -> LiveTask | None:
        """Return a task as it is now; None when it is not polled here. The last error stays, with its time."""
        task = self._tasks.get(task_row)
        return None if task is None else live_task(task, self._clocks)

    def credentials(self) -> Sequence[CredentialStatus]:
        """Return the credentials in use and how amux treats each."""
        return self._credentials.states(self._clocks)

    async def stats(self, max_rows: int) -> PollingStats:
        """Return statistics over all tasks, with at most `max_rows` rows; computed in the background."""
        return await self._background.submit(
            partial(polling_stats, list(self._tasks.values()), self._clock(), max_rows)
        )

    def degraded(self) -> list[HealthReason]:
        """Return one reason for each problem at amux or in the settings that an operator has to fix."""
        return [*self._credentials.degraded(), *self._anomalies.degraded()]

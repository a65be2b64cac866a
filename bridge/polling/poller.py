"""Polls the tasks that are due, decides what each answer means, and passes changes to the writer of results.

The decisions are functions of `core/`. The time of each next poll is kept in memory, by the monotonic clock.
"""

import asyncio
import logging
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial

from bridge.aio.clocks import Clocks
from bridge.aio.system import SYSTEM, System
from bridge.aio.threads import Runner, parts_with_pauses
from bridge.aio.worker_pool import WorkerPool
from bridge.amux.client import AmuxClient
from bridge.core.batch_lane import BatchAnswer, BatchFailed, BatchPolicy, BatchUnchanged
from bridge.core.errors import StoreUnavailable
from bridge.core.health import HealthReason
from bridge.core.model import KeyRefused, TaskRecord, TransientError
from bridge.core.schedule import PollPolicy
from bridge.polling.anomalies import Anomalies
from bridge.polling.credentials import Credentials
from bridge.polling.deadlines import Deadlines
from bridge.polling.lanes import CALM_INTERVALS, Batch, BatchLanes
from bridge.polling.loading import TaskLoader
from bridge.polling.read_handler import ReadHandler, log_poll_error
from bridge.polling.result_writer import (
    ContentUrl,
    DeliveryQueue,
    PendingStatus,
    ResultWriter,
)
from bridge.polling.schedule import PollSchedule
from bridge.polling.state import CredentialStatus, Phase, PolledTask, next_poll_of, task_view
from bridge.polling.stats import PollingStats, polling_stats
from bridge.polling.task_classes import TaskClasses
from bridge.store.change_listener import ChangeListener
from bridge.store.records import TaskView
from bridge.store.store import Store
from bridge.telemetry import Metrics, get_logger

HANDLED_AT_ONCE = 500  # tasks of a batch; those that changed take 5 ms
NO_KEY = KeyRefused("the bridge has no amux key for this task")

_log = get_logger("polling")


class Poller:
    """Polls the tasks that this replica owns. Use it from one event loop; nothing here blocks.

    `configured_key` is the amux key of the settings, None without one. `content_url` returns the link to a video; the
    store's thread calls it. `rate_per_second` is the limit of requests, 0 for none. With `learn` a task is polled when
    tasks of its class tend to end. Without `batch` no task is read with others in one request. `background` runs long
    computations.
    """

    def __init__(  # noqa: PLR0913  its collaborators, its limits, and what tests inject
        self,
        store: Store,
        client: AmuxClient,
        deliverer: DeliveryQueue,
        change_listener: ChangeListener,
        *,
        policy: PollPolicy,
        configured_key: str | None,
        content_url: ContentUrl,
        metrics: Metrics,
        concurrency: int,
        background: Runner,
        rate_per_second: float = 0,
        learn: bool = True,
        batch: BatchPolicy | None = None,
        system: System = SYSTEM,
    ) -> None:
        self._store, self._client, self._policy = store, client, policy
        self._metrics = metrics.polls
        self._clock, self._random = system.monotonic, system.random
        self._clocks = Clocks(self._clock, store.now)
        self._background = background
        self._tasks: dict[str, PolledTask] = {}
        self.classes = TaskClasses(store, policy, self._clocks, background, learn=learn)
        self._anomalies = Anomalies(metrics, CALM_INTERVALS * policy.max_interval)
        self._lanes = (
            None
            if batch is None
            else BatchLanes(batch, policy, self.classes, self._random, limited=rate_per_second > 0)
        )
        self._credentials = Credentials(policy, metrics, configured_key, self._lanes)
        self._schedule = PollSchedule(
            policy,
            self._credentials,
            self,
            rate_per_second=rate_per_second,
            clock=self._clock,
            random=self._random,
            lanes=self._lanes,
        )
        self._result_writer = ResultWriter(
            store,
            deliverer,
            change_listener,
            self,
            content_url=content_url,
            metrics=metrics,
            clocks=self._clocks,
            classes=self.classes,
        )
        self._handler = ReadHandler(
            self._schedule,
            self._result_writer,
            self.classes,
            self._anomalies,
            policy=policy,
            clocks=self._clocks,
            random=self._random,
            concurrency=concurrency,
        )
        self._loader = TaskLoader(store, self._tasks, self._credentials, self.classes, policy, self._clocks)
        self._deadlines = Deadlines(store, self._tasks, self._clocks, self._result_writer.outage_log)
        self._workers: WorkerPool[PolledTask] = WorkerPool(concurrency, self._schedule.take, self._poll, "poller-poll")
        at_a_time = 0 if batch is None else batch.concurrency
        self._batch_workers: WorkerPool[Batch] = WorkerPool(
            at_a_time, self._schedule.take_batch, self._read_batch, "poller-batch"
        )
        self._draining = False

    # --- which tasks are polled here ------------------------------------------------------------------------------

    async def load(self) -> int:
        """Load the own open tasks and spread their first polls over one interval; returns how many are new.

        Call it again after a write whose result is unknown: it then also drops the tasks that have closed. Raises
        StoreUnavailable.
        """
        found, gone = await self._loader.load()
        for task_row in gone:
            self.drop(task_row)
        self._schedule.schedule_loaded(found)
        return len(found)

    def add(self, task: TaskView, api_key: str | None = None) -> None:
        """Poll a task from now on. A known task keeps its schedule; its status is written if a new watch asks for it.

        `api_key` is the key of a credential other than the configured one.
        """
        known = self._tasks.get(task.row)
        if known is not None:
            if task.status_update_due:
                known.request_status_update()
            self.classes.name(known, task.facts)
            return
        new = self._loader.create(task, api_key)
        if new.polls:
            # It comes from another replica. A dead replica may have had thousands: they must not be due all at once.
            self._schedule.schedule_soon(new)
            return
        new.watched_since = self._clock()
        self._schedule.schedule_at(new, new.watched_since + self.classes.delay(new, new.watched_since, self._random()))

    def drop(self, task_row: str) -> None:
        """Stop polling a task: it has closed in the store, or another replica owns it."""
        self._loader.note_dropped(task_row)
        task = self._tasks.pop(task_row, None)
        if task is None:
            return
        self._schedule.remove(task, Phase.DROPPED)
        self._handler.forget(task)
        self._anomalies.forget(task)
        self._credentials.remove_task(task.credential)

    def noting_dropped(self) -> AbstractContextManager[set[str]]:
        """Yields a set of the rows of tasks that are dropped during the block, also of tasks that are not in memory."""
        return self._loader.noting_dropped()

    def check_closed(self, task_row: str) -> None:
        """Ask the store whether a task has closed: one of its watches was cancelled."""
        task = self._tasks.get(task_row)
        if task is not None:
            self._handler.check_closed(task)

    def forget_all(self) -> None:
        """Drop all tasks, also with polls under way, because this replica has lost its lease."""
        self._schedule.clear(self._tasks.values())
        self._tasks.clear()
        self._anomalies.forget_all()
        self._handler.forget_all()
        self._result_writer.clear()

    async def drain(self, seconds: float) -> None:
        """Begin no more polls, let polls and writes under way end within `seconds`, then cancel them."""
        until = self._clock() + seconds
        self._draining = True
        self._schedule.stop()
        await asyncio.gather(self._workers.finish(seconds), self._batch_workers.finish(seconds))
        await self._result_writer.finish(until - self._clock())

    # --- regular calls --------------------------------------------------------------------------------------------

    def tick(self) -> bool:
        """Begin due polls that no timer has begun. Return whether due polls cannot begin, or results wait."""
        self._schedule.release_closed_lanes()
        self.wake()
        self._result_writer.tick()
        return self._schedule.is_due() or self._result_writer.is_waiting

    def wake(self) -> None:
        """Begin the due polls for which workers are free."""
        self._batch_workers.wake()
        self._workers.wake()

    def wake_batches(self) -> None:
        """Begin the batches that are due."""
        self._batch_workers.wake()

    async def check_deadlines(self) -> None:
        """Give each overdue watch its last poll, or end it; call it every second. A failure of the store is logged."""
        if self._draining:
            return
        overdue, missing = await self._deadlines.check()
        self._handler.poll_overdue(overdue)
        self.wake()
        if missing:
            await self._load_missing()

    # --- one poll -------------------------------------------------------------------------------------------------

    async def _poll(self, task: PolledTask) -> None:
        credential = task.credential
        key = credential.key
        task.started = task.single_started = started = self._clock()
        try:
            observation = NO_KEY if key is None else await self._client.poll(task.task_id, key)
        except Exception as error:  # noqa: BLE001  a bug costs one poll, never a worker or the task
            log_poll_error(task, error)
            observation = TransientError("internal_error", f"the poll failed in the bridge: {type(error).__name__}")
        now = self._clock()
        self._metrics.count(observation, started - task.due, now - started)
        if task.phase is not Phase.POLLING:
            return  # it was dropped meanwhile
        if type(observation) is TaskRecord:
            credential.accepted = True
        task.single_polls += 1
        try:
            if self._lanes is not None:
                self._lanes.learn(task, observation)
            self._handler.handle(task, observation, started, now)
        except Exception as error:  # noqa: BLE001  a task that stayed in phase POLLING would never be polled again
            self._handler.handle_error(task, error, now)

    async def _read_batch(self, batch: Batch) -> None:
        """Read the tasks of a batch with one request."""
        lanes, credential = self._lanes, batch.credential
        if lanes is None:
            raise RuntimeError("a batch without lanes")
        key = credential.key
        if key is None:
            for task in batch.tasks:
                if task.phase is Phase.POLLING:  # not dropped meanwhile
                    self._handler.handle(task, NO_KEY, batch.began, batch.began)
            lanes.finish(batch, batch.began)
            return
        try:
            observation = await self._client.read_many(
                [task.task_id for task in batch.tasks], key, None if batch.last is None else batch.last.digest
            )
        except Exception as error:  # noqa: BLE001  as in a single poll
            observation = _batch_error(batch, error)
        now = self._clock()
        self._metrics.count_batch(observation, len(batch.tasks), batch.began - batch.was_due, now - batch.began)
        lanes.apply_answer(batch, observation, now)
        if isinstance(observation, BatchUnchanged) and not self._handler.keep_unchanged(batch):
            try:
                observation = observation.read()
            except Exception as error:  # noqa: BLE001  tasks that stayed in phase POLLING would never be polled again
                observation = _batch_error(batch, error)
        if isinstance(observation, BatchAnswer):
            credential.accepted = True
            await self._handle_answer(lanes, batch, observation, now)
        elif not isinstance(observation, BatchUnchanged):
            self._handler.handle_batch(batch, lanes.results(batch, batch.tasks, observation), now)
        self._handler.check_closed_after_batch(batch.tasks)
        lanes.finish(batch, now)
        self._schedule.ensure_probe(credential)
        self._schedule.release_closed_lanes()

    async def _handle_answer(self, lanes: BatchLanes, batch: Batch, answer: BatchAnswer, now: float) -> None:
        """Handle the records of a batch. Other work runs before, and before each part of the tasks with a change."""
        await asyncio.sleep(0)
        others = self._handler.keep_running(batch, answer)
        for tasks in _parts(others, HANDLED_AT_ONCE):
            await asyncio.sleep(0)
            self._handler.handle_batch(batch, lanes.results(batch, tasks, answer), now)

    # --- calls of the schedule and of the writer of results -------------------------------------------------------

    def expire(self, task: PolledTask) -> None:
        """Settle an overdue task without a last poll, because its credential is blocked."""
        self._handler.expire(task)

    def written(self, task: PolledTask, *, closed: bool) -> None:
        """Poll a task again after a write, or drop it if it has closed."""
        if closed:
            self.drop(task.row)
        else:
            self._handler.reschedule(task, task.due)

    def refused(self, update: PendingStatus) -> None:
        """Poll a task again, and then write its status."""
        # The refused write may have been the check whether the task has closed.
        self._handler.continue_unwritten(update.task, check_later=not update.changed)

    async def _load_missing(self) -> None:
        """Load tasks that are not in memory: a registration was cancelled after its commit and before `add`."""
        try:
            found = await self.load()
        except StoreUnavailable as error:
            _log.event(
                "tasks_not_loaded",
                level=logging.WARNING,
                reason=str(error),
                means="some open tasks may not be polled; they are loaded from the database again within 20 s",
            )
            return
        _log.event(
            "tasks_found",
            level=logging.WARNING,
            count=found,
            means="these open tasks were in the database but were not polled; they are polled from now on",
        )

    # --- state ----------------------------------------------------------------------------------------------------

    @property
    def owned(self) -> int:
        """How many tasks are polled here."""
        return len(self._tasks)

    def live(self, task_row: str) -> TaskView | None:
        """Return a task as it is now; None if it is not polled here. Its last error stays after a success."""
        task = self._tasks.get(task_row)
        return None if task is None else task_view(task, next_poll_of(task, self._clock()), self._clocks)

    def credentials(self) -> Sequence[CredentialStatus]:
        """Return the credentials in use, each with its state."""
        return self._credentials.states(self._clocks)

    async def stats(self, max_rows: int) -> PollingStats:
        """Return the statistics of all tasks, with at most `max_rows` rows; computed in the background."""
        parts = parts_with_pauses(list(self._tasks.values()))
        stats = await self._background.submit(
            partial(polling_stats, parts, self._credentials.task_counts(), self._clock(), max_rows)
        )
        batched, saved = (0, 0.0) if self._lanes is None else self._lanes.figures()
        return replace(stats, batched=batched, saved_per_minute=saved)

    def degraded(self) -> list[HealthReason]:
        """Return a reason for each problem of amux or of the settings that an operator must fix."""
        return [*self._credentials.degraded(), *self._anomalies.degraded()]


def _batch_error(batch: Batch, error: Exception) -> BatchFailed:
    """Log an unexpected error of the bridge in a batch, and return the observation for it."""
    _log.event(
        "batch_failed",
        level=logging.ERROR,
        trace=error,
        tasks=len(batch.tasks),
        means="an unexpected error in the bridge; the tasks of the batch are read again",
    )
    return BatchFailed("internal_error", f"the batch failed in the bridge: {type(error).__name__}")


def _parts(tasks: Sequence[PolledTask], most: int) -> Iterator[Sequence[PolledTask]]:
    return (tasks[first : first + most] for first in range(0, len(tasks), most))

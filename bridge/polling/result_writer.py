"""Writes the results of polls: a task's new status, or the settlement of its watches with their events.

A settlement that the store refuses is kept, and written again until the store has it.
"""

import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias

from bridge.aio.clocks import Clocks
from bridge.aio.retry_queue import RetryQueue
from bridge.aio.worker_pool import WorkerPool
from bridge.core.errors import LostClaim, StoreUnavailable
from bridge.core.event import status_event, terminal_event
from bridge.core.model import (
    STATUS_EVENTS,
    Event,
    PendingDelivery,
    Problem,
    Watch,
)
from bridge.core.task_class import TaskEnd
from bridge.core.trace_context import log_fields
from bridge.core.watch import TERMINAL, Ending, PollResult, ending_of
from bridge.polling.state import Phase, PolledTask, task_view
from bridge.polling.task_classes import TaskClasses
from bridge.store.change_listener import ChangeListener, CommitListener
from bridge.store.group_commit import LINGER_SECONDS
from bridge.store.records import Changed, Settlement, StatusChange
from bridge.store.store import Store
from bridge.telemetry import Metrics, Stage, get_logger, without_query
from bridge.telemetry.outage_log import OutageLog

WRITERS = 256  # writes at a time: above 32 a write costs no less in a commit, and a hung database delays at most 256

_ENDS = frozenset(TERMINAL.values())  # only these outcomes show how long a task took

_log = get_logger("polling")

ContentUrl: TypeAlias = Callable[[Watch, float], str | None]
"""Returns the link to a watch's video. The arguments are the watch and the time of its settlement (Unix seconds)."""


class DeliveryQueue(Protocol):
    """Gets the deliveries of settlements: `delivery.Deliverer`, or an object of a test."""

    def add_new(self, deliveries: Sequence[PendingDelivery], /) -> None:
        """Take deliveries that the store has already claimed for this replica. Never blocks."""


class WriteCallbacks(Protocol):
    """What the writer calls of the Poller when a write is over."""

    def written(self, task: PolledTask, /, *, closed: bool) -> None:
        """Poll a task again, or drop it if it has closed."""

    def refused(self, update: "PendingStatus", /) -> None:
        """Poll a task again whose status was not written, because the store did not answer. It may be dropped."""


@dataclass(slots=True)
class PendingStatus:
    """A status that must be written. `changed`: the last poll changed the status.

    If it is false, the write gives a new watch its first status event, repeats a refused write, stores a change of an
    unconfirmed failure, or asks whether the task has closed.
    """

    task: PolledTask
    changed: bool


@dataclass(slots=True)
class PendingSettlement:
    """A result that may end a task's watches. It is kept until the store has it: a terminal status is final.

    `began` is when its poll began (monotonic seconds). `end` is for the history of the task's class. `retried`: the
    store has refused it before.
    """

    task: PolledTask
    result: PollResult
    began: float
    end: TaskEnd | None = None
    retried: bool = False


class _Retry:
    """The work item that writes the refused settlements again."""


_RETRY: Final = _Retry()
Write: TypeAlias = PendingStatus | PendingSettlement


class ResultWriter(CommitListener):
    """A queue of writes and its workers.

    `content_url` is called by the store's thread. `outage_log` logs the outages of the store for all of polling.
    """

    def __init__(  # noqa: PLR0913  its collaborators
        self,
        store: Store,
        deliverer: DeliveryQueue,
        change_listener: ChangeListener,
        callbacks: WriteCallbacks,
        *,
        content_url: ContentUrl,
        metrics: Metrics,
        clocks: Clocks,
        classes: TaskClasses,
    ) -> None:
        self._store = store
        store.add_listener(self)
        self._deliverer = deliverer
        self._change_listener = change_listener
        self._callbacks = callbacks
        self._content_url = content_url
        self._metrics = metrics
        self._clocks = clocks
        self._classes = classes
        self._ready: deque[Write] = deque()
        means = (
            "results of polls wait in memory, and watches past their deadline stay active, until the database answers;"
            " it is tried at least every 5 s"
        )
        self.outage_log = OutageLog(_log, "store_unavailable", "store_available", means=means)
        self._refused: RetryQueue[PolledTask, PendingSettlement] = RetryQueue(
            store.probe, self.outage_log, clock=clocks.monotonic
        )
        self._retrying = False
        self._workers: WorkerPool[Write | _Retry] = WorkerPool(WRITERS, self._take, self._handle, "poller-write")

    @property
    def is_waiting(self) -> bool:
        """Whether a result waits to be written, for the first time or again."""
        return bool(self._ready) or len(self._refused) > 0

    def put(self, write: Write) -> None:
        """Queue the write of a task's change. The task is not polled until it is written."""
        write.task.phase = Phase.WRITING
        self._ready.append(write)
        self._workers.wake()

    def tick(self) -> None:
        """Write refused settlements again when they are due."""
        if self._refused.due:
            self._workers.wake()

    def clear(self) -> None:
        """Drop all writes that have not begun."""
        self._ready.clear()
        self._refused.take_all()

    async def finish(self, seconds: float) -> None:
        """Try all waiting writes once more, within `seconds`."""
        self._ready.extend(self._refused.take_all())
        await self._workers.finish(seconds)
        if unwritten := len(self._ready) + len(self._refused):
            means = (
                "these results of polls are not stored; the tasks stay open and are polled again after the next start"
            )
            _log.event("settlements_unwritten", level=logging.ERROR, count=unwritten, means=means)

    def _take(self) -> Write | _Retry | None:
        if self._refused.due and not self._retrying:
            self._retrying = True  # now, because the pool may ask for more items before the worker runs
            return _RETRY
        return self._ready.popleft() if self._ready else None

    async def _handle(self, item: Write | _Retry) -> None:
        if isinstance(item, _Retry):
            try:
                self._ready.extend(await self._refused.take_due())
            finally:
                self._retrying = False
        elif item.task.phase is not Phase.DROPPED:
            await self._write(item)

    async def _write(self, write: Write) -> None:
        task = write.task
        try:
            if isinstance(write, PendingStatus):
                changed = await self._write_status(task)
            else:
                changed = await self._write_settlement(write)
        except LostClaim as error:
            # Another replica owns the task, or every watch on it was cancelled: there is nothing to do.
            _log.event("result_dropped", level=logging.DEBUG, task_id=task.task_id, reason=str(error))
            self._give_back(task, closed=True)
        except StoreUnavailable as error:
            self._keep(write, error)
        except Exception as error:  # noqa: BLE001  a bug must neither end a worker nor lose what amux answered
            _log.event(
                "result_write_failed",
                level=logging.ERROR,
                trace=error,
                task_id=task.task_id,
                means="an unexpected error in the bridge; the result waits in memory and is written again later",
            )
            self._keep(write, StoreUnavailable(f"{type(error).__name__} in a write"))
        else:
            self._refused.report_success()
            try:
                self._publish(write, changed)
            except Exception as error:  # noqa: BLE001  a bug must not end the polls of the task
                self._log_unpublished(task, error)
            if changed.task_closed:  # also if it was dropped during the write: it may be loaded again by now
                self._callbacks.written(task, closed=True)
            else:
                self._give_back(task, closed=False)

    def _keep(self, write: Write, error: StoreUnavailable) -> None:
        if isinstance(write, PendingStatus):
            write.task.status_update_due = True  # it is written after the next poll
            self._refused.report_failure(error, unwritten=len(self._refused))
            self._callbacks.refused(write)
            return
        self._refused.add(write.task, write, retried=write.retried)
        if not write.retried:
            write.retried = True
            self._refused.report_failure(error, unwritten=len(self._refused))

    def _give_back(self, task: PolledTask, *, closed: bool) -> None:
        if task.phase is Phase.WRITING:  # not dropped meanwhile
            self._callbacks.written(task, closed=closed)

    # --- the writes -----------------------------------------------------------------------------------------------

    async def _write_status(self, task: PolledTask) -> Changed:
        # It does not linger if the next poll is due, or if a watch waits for its first status event.
        linger = not task.status_update_due and task.due - self._clocks.monotonic() > LINGER_SECONDS
        task.status_update_due = False  # before the write: a watch that is registered during the write sets it again
        now, snapshot, seen = self._store.now(), task.snapshot, task_view(task, task.due, self._clocks)
        event_type = STATUS_EVENTS.get(snapshot.status)
        if event_type is None:
            return await self._store.record_status(StatusChange(seen, now), linger=linger)
        status_type = event_type

        def build_event(watch: Watch) -> Event:
            return status_event(watch, status_type, snapshot, now)

        change = StatusChange(seen, now, status_type, build_event)
        return await self._store.record_status(change, linger=linger)

    async def _write_settlement(self, pending: PendingSettlement) -> Changed:
        now = self._store.now()
        began_at = now - (self._clocks.monotonic() - pending.began)
        result, content_url = pending.result, self._content_url
        next_poll = None if result.task.status in TERMINAL else pending.task.due

        def decide_ending(watch: Watch) -> Ending | None:
            return ending_of(result, watch, began_at, now)

        def build_event(watch: Watch, ending: Ending) -> Event:
            return terminal_event(watch, ending, now, content_url(watch, now))

        seen = task_view(pending.task, next_poll, self._clocks)._replace(snapshot=result.task)
        return await self._store.settle(Settlement(seen, now, decide_ending, build_event))

    # --- after a write --------------------------------------------------------------------------------------------

    def _publish(self, write: Write, changed: Changed) -> None:
        """Pass deliveries to the deliverer, log the changes and announce them."""
        self._publish_change(changed)
        if isinstance(write, PendingStatus) and write.changed:
            task = write.task
            for watch_id in changed.updated:
                trace = log_fields(changed.traces.get(watch_id))
                status = task.snapshot.status
                _log.event("status_changed", watch_id=watch_id, task_id=task.task_id, status=status, **trace)
        if isinstance(write, PendingSettlement) and any(watch.outcome in _ENDS for watch in changed.settled):
            self._report_end(write)

    @staticmethod
    def _log_unpublished(task: PolledTask, error: Exception) -> None:
        means = (
            "an unexpected error in the bridge; the result is stored, but logs and metrics may lack it; its deliveries"
            " may wait until their claims end"
        )
        _log.event("result_report_failed", level=logging.ERROR, trace=error, task_id=task.task_id, means=means)

    def changed_late(self, changed: Changed, /) -> None:
        """Publish a change that was committed after its caller had given up waiting. The store calls this."""
        self._publish_change(changed)

    def _publish_change(self, changed: Changed) -> None:
        if changed.claimed:
            self._deliverer.add_new(changed.claimed)
        for watch in changed.settled:
            self._log_settled(watch, changed.errors.get(watch.id))
        watch_ids = (*changed.updated, *(watch.id for watch in changed.settled))
        if watch_ids:
            self._change_listener.announce(watch_ids)

    def _report_end(self, pending: PendingSettlement) -> None:
        """Add a task's end to the history of its class, and measure the stages until the settlement."""
        if pending.end is not None:
            self._classes.add(pending.end)
        task = pending.task
        if task.seen_at is not None:
            self._metrics.stages.observe(Stage.SETTLED, self._store.now() - task.seen_at)
        if task.finished_at is not None and task.submitted_at is not None:
            self._metrics.stages.observe(Stage.FINISHED, task.finished_at - task.submitted_at)
        if task.finished_at is not None and task.seen_at is not None:
            self._metrics.stages.observe(Stage.SEEN, task.seen_at - task.finished_at)

    def _log_settled(self, watch: Watch, error: Problem | None) -> None:
        if watch.outcome is not None:
            self._metrics.settled[watch.outcome].inc()
        _log.event(
            "settled",
            watch_id=watch.id,
            task_id=watch.task_id,
            app=watch.app,
            outcome=watch.outcome,
            error=None if error is None else error.code,
            reason=None if error is None else error.message,
            callback_url=without_query(watch.callback_url),
            **log_fields(watch.trace),
        )

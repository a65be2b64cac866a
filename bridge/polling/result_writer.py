"""Writes what polls changed, and keeps what could not be written until it is."""

import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import count

from bridge.aio.clocks import Clocks
from bridge.aio.worker_pool import WorkerPool
from bridge.core.errors import LostClaim, StoreUnavailable
from bridge.core.model import PendingDelivery, Problem, Watch
from bridge.core.schedule import with_jitter
from bridge.polling.endings import ContentUrl, PendingSettlement, StatusUpdate, is_terminal, settlement, status_change
from bridge.polling.state import Phase, PolledTask
from bridge.store.records import Changed, PollNote
from bridge.store.store import Store
from bridge.telemetry import Metrics, get_logger, without_query

WRITERS = 256  # at a time: the cost of one in a commit is flat from 32 on, and a database that hangs keeps no more
FIRST_RETRY_SECONDS = 0.5
LAST_RETRY_SECONDS = 5.0
TELL_AGAIN_SECONDS = 30.0  # an outage is told once, then twice a minute

_log = get_logger("polling")


@dataclass(frozen=True, slots=True)
class Told:
    """Who hears of what was written: the deliverer, those who wait for a watch, and the metrics."""

    hand_over: Callable[[Sequence[PendingDelivery]], None]
    announce: Callable[[Sequence[str]], None]
    content_url: ContentUrl
    metrics: Metrics


class StoreOutageLog:
    """A store that does not answer, told once and then now and then, however many calls fail.

    `means` says what it means for watches, and when it is tried again.
    """

    __slots__ = ("_failures", "_means", "_tell_at")

    def __init__(self, means: str) -> None:
        self._failures = 0
        self._means = means
        self._tell_at = 0.0

    def failed(self, error: StoreUnavailable, now: float, waiting: int | None = None) -> None:
        """A call failed at a moment; `waiting` endings are kept."""
        self._failures += 1
        if self._failures > 1 and now < self._tell_at:
            return
        self._tell_at = now + TELL_AGAIN_SECONDS
        _log.event(
            "store_unavailable",
            level=logging.ERROR,
            reason=str(error),
            failures=self._failures,
            waiting=waiting,
            means=self._means,
        )

    def ended(self) -> None:
        """A call succeeded."""
        if self._failures:
            _log.event("store_available", failures=self._failures)
            self._failures = 0


class ResultWriter:
    """A queue of writes and its workers. `written(task, closed)` gives a task back, to be polled on or dropped."""

    def __init__(
        self, store: Store, told: Told, *, clocks: Clocks, written: Callable[[PolledTask, bool], None]
    ) -> None:
        self._trouble = StoreOutageLog(
            "what amux said is kept, and written when the store answers: each try within 5 s"
        )
        self._store = store
        self._told = told
        self._clocks = clocks
        self._written = written
        self._ready: deque[StatusUpdate | PendingSettlement] = deque()
        self._later: list[tuple[float, int, PendingSettlement]] = []
        self._numbers = count()
        self._workers: WorkerPool[StatusUpdate | PendingSettlement] = WorkerPool(
            WRITERS, self._take, self._write, "poller-write"
        )

    def put(self, write: StatusUpdate | PendingSettlement) -> None:
        """Have a task's change written; until then the task is not polled."""
        write.task.phase = Phase.WRITING
        self._ready.append(write)
        self._workers.wake()

    def tick(self) -> None:
        """Try again what has waited long enough."""
        if self._later and self._later[0][0] <= self._clocks.monotonic():
            self._workers.wake()

    def forget(self) -> None:
        """Drop what is not written yet."""
        self._ready.clear()
        self._later.clear()

    async def finish(self, seconds: float) -> None:
        """Try everything that waits once more, within so many seconds."""
        self._ready.extend(end for _, _, end in sorted(self._later, key=lambda entry: entry[:2]))
        self._later.clear()
        await self._workers.finish(seconds)
        if unwritten := len(self._ready) + len(self._later):
            means = "their tasks are open in the store: the next owner asks amux again"
            _log.event("endings_unwritten", level=logging.ERROR, count=unwritten, means=means)

    def _take(self) -> StatusUpdate | PendingSettlement | None:
        if self._later and self._later[0][0] <= self._clocks.monotonic():
            return heappop(self._later)[2]
        return self._ready.popleft() if self._ready else None

    async def _write(self, write: StatusUpdate | PendingSettlement) -> None:
        task = write.task
        if task.phase is Phase.DROPPED:
            return
        try:
            if isinstance(write, StatusUpdate):
                changed = await self._record(write)
            else:
                changed = await self._settle(write)
        except LostClaim as error:
            # Another's now, or every watch on it was cancelled: in both cases nothing is ours to do.
            _log.event("task_let_go", level=logging.DEBUG, task_id=task.task_id, reason=str(error))
            self._give_back(task, closed=True)
        except StoreUnavailable as error:
            self._failed(write, error)
        except Exception as error:  # noqa: BLE001  a fault of ours must not end a worker, nor lose what amux said
            _log.event("write_failed", level=logging.ERROR, trace=error, task_id=task.task_id)
            self._failed(write, StoreUnavailable(f"{type(error).__name__} in a write"))
        else:
            self._trouble.ended()
            self._tell(write, changed)
            self._give_back(task, closed=changed.task_closed)

    def _failed(self, write: StatusUpdate | PendingSettlement, error: StoreUnavailable) -> None:
        now = self._clocks.monotonic()
        if isinstance(write, StatusUpdate):
            write.task.status_update_due = True  # the next sight writes it
            self._trouble.failed(error, now, waiting=len(self._later))
            self._give_back(write.task, closed=False)
            return
        write.tries += 1
        delay = min(FIRST_RETRY_SECONDS * 2.0 ** min(write.tries - 1, 8), LAST_RETRY_SECONDS)
        number = next(self._numbers)
        # The writes of one outage come back a few at a time: the numbers spread what randomness would.
        heappush(self._later, (now + with_jitter(delay, number % 16 / 16), number, write))
        self._trouble.failed(error, now, waiting=len(self._later))

    def _give_back(self, task: PolledTask, *, closed: bool) -> None:
        if task.phase is Phase.WRITING:  # not dropped meanwhile
            self._written(task, closed)

    async def _record(self, sight: StatusUpdate) -> Changed:
        task = sight.task
        task.status_update_due = False  # before the write: a watch that registers during it sets it again
        change = status_change(task.row, task.snapshot, self._note(task, task.due), self._store.now())
        return await self._store.record_status(change)

    async def _settle(self, end: PendingSettlement) -> Changed:
        now = self._store.now()
        next_poll = None if is_terminal(end.snapshot) else end.task.due
        began_at = now - (self._clocks.monotonic() - end.began)
        note = self._note(end.task, next_poll)
        return await self._store.settle(settlement(end, note, began_at, now, self._told.content_url))

    def _note(self, task: PolledTask, next_poll: float | None) -> PollNote:
        unix = self._clocks.unix
        return PollNote(task.polls, unix(task.started), unix(next_poll), task.error, unix(task.error_at))

    def _tell(self, write: StatusUpdate | PendingSettlement, changed: Changed) -> None:
        told = self._told
        if changed.claimed:
            told.hand_over(changed.claimed)
        if isinstance(write, StatusUpdate) and write.news:
            task = write.task
            for watch_id in changed.touched:
                _log.event("status_changed", watch_id=watch_id, task_id=task.task_id, status=task.snapshot.status)
        for watch in changed.settled:
            self._tell_settled(watch, changed.errors.get(watch.id))
        ids = dict.fromkeys((*changed.touched, *(watch.id for watch in changed.settled)))
        if ids:
            told.announce(tuple(ids))

    def _tell_settled(self, watch: Watch, error: Problem | None) -> None:
        if watch.outcome is not None:
            self._told.metrics.settled[watch.outcome].inc()
        _log.event(
            "settled",
            watch_id=watch.id,
            task_id=watch.task_id,
            app=watch.app,
            outcome=watch.outcome,
            error=None if error is None else error.code,
            reason=None if error is None else error.message,
            callback_url=without_query(watch.callback_url),
        )

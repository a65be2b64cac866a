"""Group commit: units of work that wait for the writer share one transaction, and none fails its neighbours."""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from itertools import chain, islice
from typing import Any, Generic, TypeAlias, TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, ProgrammingError

from bridge.core.errors import BridgeError, StoreUnavailable
from bridge.store.database import cause_of, reason_of
from bridge.telemetry import Metrics, get_logger

Given = TypeVar("Given")
Result = TypeVar("Result")

Unit: TypeAlias = Callable[[Connection, Sequence[Given]], Sequence[Result | BridgeError]]
"""Does one kind of work for many callers in one transaction: a result, or a BridgeError, for each in order.

A unit decides before it writes: a caller that gets a BridgeError has written nothing.
"""

Transaction: TypeAlias = Callable[[Callable[[Connection], Any]], Any]
"""Runs a function in one transaction and commits; raises what the database raises."""

CALL_TIMEOUT_SECONDS = 4.0  # a caller waits no longer: `POST /watch` promises its 503 within 5 s
BEGIN_WITHIN_SECONDS = 3.0  # what has not begun by then is not begun: its caller would not see the end
# A commit costs as much as ten registrations in it. A writer that takes what waits at once gets 28 of 64 callers' to a
# commit; one that lets as many come together again as it just had, for at most twice as long as they took, gets 60.
GATHER_FROM = 12
GATHER_TURNS = 2.0
GATHER_AT_MOST_SECONDS = 0.025
_SWEEP_SECONDS = 0.1
MOST_AT_ONCE = 512  # things to a commit, or little more: each costs the same from 32 on, and a caller waits for all
_ROW_TROUBLE = (DataError, IntegrityError, ProgrammingError)  # of what was given; all else is the database's own

_log = get_logger("store")


class _Work(Generic[Given, Result]):
    """One caller's work: what its unit is given, the results in the same order, and until when it may begin."""

    __slots__ = ("begins_before", "future", "given", "results", "unit")

    def __init__(
        self,
        unit: Unit[Given, Result],
        given: Sequence[Given],
        future: "asyncio.Future[Sequence[Result | BridgeError]]",
        begins_before: float,
    ) -> None:
        self.unit = unit
        self.given = given
        self.future = future
        self.begins_before = begins_before
        self.results: Sequence[Result | BridgeError] | BridgeError = StoreUnavailable("the database was too busy")


class GroupWriter:
    """One thread that writes. `transaction` runs a function on the database's one writing connection."""

    def __init__(self, transaction: Transaction, metrics: Metrics) -> None:
        self._transaction = transaction
        self._metrics = metrics
        self._waiting: deque[_Work[Any, Any]] = deque()
        self._weight = 0  # how many things to do wait in all
        self._enough = 1  # how many the thread waits for
        self._wake = threading.Condition()
        self._closing = False
        self._patience = _Patience()
        self.late: Callable[[object], None] = lambda _: None
        self.unconfirmed_writes = 0  # transactions that failed: of some it is not known whether they were committed
        self._thread = threading.Thread(target=self._run, name="bridge-writer", daemon=True)
        self._thread.start()

    async def do(self, unit: Unit[Given, Result], given: Given) -> Result:
        """Have a unit done, durably; raises its BridgeError, or StoreUnavailable within 4 s when nothing was written.

        A caller that was told StoreUnavailable because time ran out may find its work done later: `late` is then
        called with the result, on the caller's loop.
        """
        [result] = await self.do_all(unit, [given])
        if isinstance(result, BridgeError):
            raise result
        return result

    async def do_all(self, unit: Unit[Given, Result], given: Sequence[Given]) -> Sequence[Result | BridgeError]:
        """Have a unit done for several, in one transaction unless one of them spoils it; a result for each in order.

        Raises StoreUnavailable as `do` does, for them all.
        """
        loop = asyncio.get_running_loop()
        now = time.monotonic()
        work = _Work(unit, given, loop.create_future(), now + BEGIN_WITHIN_SECONDS)
        with self._wake:
            if self._closing:
                raise StoreUnavailable("the bridge is stopping")
            self._waiting.append(work)
            self._weight += len(given)
            if self._weight >= self._enough:
                self._wake.notify()
        self._patience.give(work.future, now + CALL_TIMEOUT_SECONDS)
        results: Sequence[Result | BridgeError] = await work.future
        return results

    def close(self) -> None:
        """Finish what waits and end the thread."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join(CALL_TIMEOUT_SECONDS + 1)

    def _run(self) -> None:
        while batch := self._next_batch():
            began = time.perf_counter()
            self._do_together(batch)
            seconds = time.perf_counter() - began
            for name in {work.unit.__name__ for work in batch}:
                self._metrics.store_seconds.labels(name).observe(seconds)
            self._answer(batch)
            if (done := sum(len(work.given) for work in batch)) >= GATHER_FROM:
                self._gather(done, min(GATHER_TURNS * seconds, GATHER_AT_MOST_SECONDS))

    def _gather(self, enough: int, seconds: float) -> None:
        """Let so many come, for so long."""
        with self._wake:
            self._enough = enough
            self._wake.wait_for(lambda: self._closing or self._weight >= enough, seconds)
            self._enough = 1

    def _next_batch(self) -> list[_Work[Any, Any]]:
        """What waits and may still begin; an empty list ends the thread."""
        while True:
            with self._wake:
                while not self._waiting:
                    if self._closing:
                        return []
                    self._wake.wait()
                batch, left = [], MOST_AT_ONCE
                while self._waiting and left > 0:
                    batch.append(self._waiting.popleft())
                    left -= len(batch[-1].given)
                self._weight -= MOST_AT_ONCE - left
            now = time.monotonic()
            live = [work for work in batch if work.begins_before > now and not work.future.cancelled()]
            if late := [work for work in batch if work.begins_before <= now]:
                self._answer(late)
            if live:
                return live

    def _do_together(self, batch: list[_Work[Any, Any]]) -> None:
        try:
            self._transaction(lambda connection: _run_kinds(connection, batch))
        except Exception as error:  # noqa: BLE001  one bad row among many: each has another chance, alone
            if isinstance(error, DBAPIError) and not isinstance(error, _ROW_TROUBLE):
                self.unconfirmed_writes += 1
                _fail(batch, error)
            elif len(batch) > 1:
                for work in batch:
                    self._do_together([work])
            else:
                self._do_one_by_one(batch[0], error)

    def _do_one_by_one(self, work: _Work[Any, Any], error: Exception) -> None:
        """Do each of a work's parts by itself, for together they failed."""
        if len(work.given) == 1:
            _log.event("write_failed", level=40, trace=error, unit=work.unit.__name__)
            work.results = [StoreUnavailable(f"the write failed: {type(error).__name__}")]
            return
        parts = [_Work(work.unit, [given], work.future, work.begins_before) for given in work.given]
        for part in parts:
            self._do_together([part])
        work.results = [part.results if isinstance(part.results, BridgeError) else part.results[0] for part in parts]

    def _answer(self, batch: list[_Work[Any, Any]]) -> None:
        """Hand the results over to the callers' loops, one call for each loop."""
        loops: dict[asyncio.AbstractEventLoop, list[_Work[Any, Any]]] = {}
        for work in batch:
            loops.setdefault(work.future.get_loop(), []).append(work)
        for loop, works in loops.items():
            try:
                loop.call_soon_threadsafe(self._resolve, works)
            except RuntimeError:  # the loop is closed: nobody waits any more
                continue

    def _resolve(self, works: list[_Work[Any, Any]]) -> None:
        for work in works:
            results = work.results
            if work.future.done():
                for result in () if isinstance(results, BridgeError) else results:
                    if not isinstance(result, BridgeError):
                        self.late(result)
            elif isinstance(results, BridgeError):
                work.future.set_exception(results)
            else:
                work.future.set_result(results)


class _Patience:
    """Ends what is waited for too long, by one timer for all: one for each costs as much as the rest of a call."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[float, asyncio.Future[Any]]] = deque()  # by their ends, for all wait equally long
        self._loop: asyncio.AbstractEventLoop | None = None  # the one whose timer runs

    def give(self, future: "asyncio.Future[Any]", until: float) -> None:
        """Let a future of the running loop wait until a moment (monotonic seconds), or a little less."""
        self._waiting.append((until, future))
        loop = future.get_loop()
        if self._loop is not loop:
            self._loop = loop
            loop.call_later(_SWEEP_SECONDS, self._sweep, loop)

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        next_sweep = time.monotonic() + _SWEEP_SECONDS
        waiting = self._waiting
        while waiting and (waiting[0][1].done() or waiting[0][0] < next_sweep):
            _, future = waiting.popleft()
            if not future.done():
                future.set_exception(StoreUnavailable("the database does not answer"))
        if waiting:
            loop.call_later(_SWEEP_SECONDS, self._sweep, loop)
        else:
            self._loop = None


def _run_kinds(connection: Connection, batch: list[_Work[Any, Any]]) -> None:
    """Each kind of work once, for all who want it; kinds in the order of their first."""
    kinds: dict[Unit[Any, Any], list[_Work[Any, Any]]] = {}
    for work in batch:
        kinds.setdefault(work.unit, []).append(work)
    for unit, works in kinds.items():
        results = iter(unit(connection, list(chain.from_iterable(work.given for work in works))))
        for work in works:
            work.results = list(islice(results, len(work.given)))


def _fail(batch: list[_Work[Any, Any]], error: DBAPIError) -> None:
    for work in batch:
        work.results = StoreUnavailable(f"the database refuses: {reason_of(error)}", cause_of(error))

"""Group commit: calls that wait for the writer share one transaction, and no call fails because of another one.

An *operation* is a function that writes. Its first argument is the connection of a transaction; it does not commit.
Most operations serve one caller: they return a result or raise a BridgeError. A *bulk operation* serves many callers
at once: its second argument is a sequence of items, and it returns a result or a BridgeError for each item, in order.

An operation decides before it writes: if the result is a BridgeError, nothing was written for that caller. So the
transaction continues for the others.

A *lingering* call may wait up to 0.1 s for the commit of another call. It is for work that is repeated if a crash loses
it, such as the record of an attempt. A commit of its own costs as much as ten more registrations in another commit.

All other calls are *urgent*. They begin at once, unless recent calls overlapped: they came while others were
unanswered. Then a call waits up to 5 ms for the next one. At 100 ends a second this halves the commits. A caller that
sends one call after the other never waits.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import lru_cache, partial, wraps
from itertools import chain, islice
from typing import Any, TypeAlias, TypeVar, TypeVarTuple

from sqlalchemy import Connection
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, ProgrammingError

from bridge.aio.threads import Runner
from bridge.aio.timeouts import Limit, TimeoutSweep
from bridge.core.errors import BridgeError, StoreUnavailable
from bridge.store.database import cause_of, reason_of
from bridge.telemetry import Metrics, get_logger

Item = TypeVar("Item")
Result = TypeVar("Result")
Arguments = TypeVarTuple("Arguments")

Transaction: TypeAlias = Callable[[Callable[[Connection], Any]], Any]
"""Runs a function in one transaction and commits. Raises what the database raises."""

CALL_TIMEOUT_SECONDS = 4.0  # the longest wait of a caller: `POST /watch` promises its 503 within 5 s
BEGIN_WITHIN_SECONDS = 3.0  # a call that has not begun by then is dropped, because its caller would not see the end
# A commit costs as much as ten registrations in it. With 64 callers a commit has 28 registrations if the next
# transaction begins at once. It has 60 if the writer first waits for as many items as the last transaction had, for at
# most twice the time of that transaction.
FILL_FROM = 12
FILL_TURNS = 2.0
FILL_AT_MOST_SECONDS = 0.025
LINGER_SECONDS = 0.1
COMMIT_DELAY_SECONDS = 0.005  # 100 ends a second are 200 calls, one every 5 ms
OVERLAP_SHARE = 0.4  # the share of overlapping calls from which on a call waits for the next one
CALLS_AVERAGED = 20
INTERVALS_AVERAGED = 10  # calls: the mean interval between them shows whether another call is likely to come in time
ENOUGH_ITEMS = 32  # in a commit: with more, an item costs no less
MOST_AT_ONCE = 512  # items in a commit, or slightly more, because a call is not split; a caller waits for all items
_ITEM_ERRORS = (DataError, IntegrityError, ProgrammingError)  # an item causes these; the database causes all others

_log = get_logger("store")


class _Call:
    """The call of one caller: a bulk operation and its items. It must begin before `begins_before` (monotonic seconds).

    `results` has one entry for each item, or is the error of the whole call.
    """

    __slots__ = ("arguments", "begins_before", "future", "items", "linger", "operation", "results")

    def __init__(  # noqa: PLR0913  a call's parts
        self,
        operation: Callable[..., Sequence[Any]],
        items: Sequence[Any],
        arguments: tuple[Any, ...],
        future: "asyncio.Future[Sequence[Any]]",
        begins_before: float,
        *,
        linger: bool,
    ) -> None:
        self.operation = operation
        self.items = items
        self.arguments = arguments
        self.linger = linger
        self.future = future
        self.begins_before = begins_before
        self.results: Sequence[Any] | BridgeError = ()


class GroupWriter:
    """Writes one transaction at a time. `transaction` runs a function on the database's one writing connection.

    The transactions run on `runner`, which it closes at the end. `clock` is monotonic, in seconds.
    """

    def __init__(
        self, transaction: Transaction, metrics: Metrics, runner: Runner, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._transaction = transaction
        self._metrics = metrics
        self._runner = runner
        self._clock = clock
        self._waiting: deque[_Call] = deque()
        self._waiting_items = 0
        self._due = False  # whether a waiting call may wait no longer
        self._timer: asyncio.TimerHandle | None = None  # makes the waiting calls due
        # Of calls that do not linger: the items that wait, the items of the running or the last transaction, and the
        # share of the calls that came while others were unanswered.
        self._urgent = 0
        self._urgent_taken = 0
        self._overlap = 0.0
        self._last_at = clock()  # when the last call came that did not linger
        self._interval = 1.0  # the mean interval between such calls, in seconds
        self._filled: asyncio.Event | None = None  # set when `_enough` items wait; None while no batch is filled
        self._enough = 1
        self._writing: asyncio.Task[None] | None = None  # runs as long as calls wait
        self._closing = False
        self.limits = TimeoutSweep(CALL_TIMEOUT_SECONDS, clock)
        self.on_late_result: Callable[[object], None] = lambda _: None
        self.unconfirmed_writes = 0  # failed transactions: some of them may have been committed

    async def run(self, operation: Callable[[Connection, *Arguments], Result], *arguments: *Arguments) -> Result:
        """Run an operation, durably. Raises its BridgeError, or StoreUnavailable within 4 s.

        After StoreUnavailable the operation may have been written in two cases. After a timeout it may still succeed,
        and `on_late_result` is called with its result, on the caller's loop. When the connection fails during the
        commit, the result is not known: `unconfirmed_writes` counts these transactions.
        """
        [result] = await self.run_all(_one_by_one(operation), [arguments])
        if isinstance(result, BridgeError):
            raise result
        returned: Result = result
        return returned

    async def run_all(
        self,
        operation: Callable[[Connection, Sequence[Item], *Arguments], Sequence[Result | BridgeError]],
        items: Sequence[Item],
        *arguments: *Arguments,
        linger: bool = False,
    ) -> Sequence[Result | BridgeError]:
        """Run a bulk operation, durably; returns a result for each item, in order. Raises StoreUnavailable as `run`.

        The items share one transaction with the items of other calls of the same operation with equal arguments. When
        the transaction fails because of an item, each call is tried alone, and then each item of the call that fails.
        With `linger` the call waits up to 0.1 s for a call that does not linger, if such calls come often enough.
        """
        if not items:
            return []
        if self._closing:
            raise StoreUnavailable("the bridge is stopping")
        future: asyncio.Future[Sequence[Result | BridgeError]] = asyncio.get_running_loop().create_future()
        now = self._clock()
        call = _Call(operation, items, arguments, future, now + BEGIN_WITHIN_SECONDS, linger=linger)
        self._waiting.append(call)
        self._waiting_items += len(items)
        if linger:
            self._begin_within(LINGER_SECONDS if self._interval <= LINGER_SECONDS else 0.0)
        else:
            self._interval += (min(now - self._last_at, 1.0) - self._interval) / INTERVALS_AVERAGED
            self._last_at = now
            self._begin_within(0.0 if self._count_and_may_begin(len(items)) else COMMIT_DELAY_SECONDS)
        try:
            with Limit(self.limits):
                return await future
        except asyncio.CancelledError:
            self._caller_left(future)
            raise
        except TimeoutError:
            if not future.cancelled():  # the results came in the same turn of the loop
                return future.result()
            raise StoreUnavailable("the database does not answer") from None

    def _count_and_may_begin(self, items: int) -> bool:
        """Count a call that does not linger. Returns whether the transaction need not wait for more such calls.

        If calls overlap, it waits for as many items as the last transaction had: they come from the same callers. Items
        count, because after a pause of the event loop one call may have the items of all callers.
        """
        unanswered = self._urgent > 0 or (self._writing is not None and self._urgent_taken > 0)
        self._overlap += ((1.0 if unanswered else 0.0) - self._overlap) / CALLS_AVERAGED
        self._urgent += items
        if self._overlap < OVERLAP_SHARE or self._filled is not None:
            return True
        return self._urgent >= max(2, min(self._urgent_taken, ENOUGH_ITEMS))

    def _begin_within(self, seconds: float) -> None:
        """Write the waiting calls within `seconds`, or after the running transaction, if that is later."""
        if seconds == 0.0:
            self._begin()
            return
        loop = asyncio.get_running_loop()
        if self._timer is not None:
            if self._timer.when() <= loop.time() + seconds:
                return
            self._timer.cancel()
        self._timer = loop.call_later(seconds, self._begin)

    def _begin(self) -> None:
        """Write the waiting calls now, or after the running transaction."""
        self._due = True
        if self._writing is None:
            self._writing = asyncio.get_running_loop().create_task(self._write(), name="store-writer")
        elif self._filled is not None and self._waiting_items >= self._enough:
            self._filled.set()

    async def close(self) -> None:
        """Finishes the waiting calls, and closes the runner. Later calls raise StoreUnavailable."""
        self._closing = True
        if self._waiting:
            self._begin()
        if self._filled is not None:
            self._filled.set()
        if self._writing is not None:
            await asyncio.wait([self._writing], timeout=CALL_TIMEOUT_SECONDS + 1)
        await self._runner.close(CALL_TIMEOUT_SECONDS + 1)

    async def _write(self) -> None:
        """Write the waiting calls, one transaction after the other, until no call is due."""
        try:
            while batch := self._next_batch():
                began = self._clock()
                await self._runner.submit(partial(self._execute, batch))
                seconds = self._clock() - began
                for name in dict.fromkeys(call.operation.__name__ for call in batch):
                    self._metrics.store_seconds.labels(name).observe(seconds)
                self._resolve(batch)
                if (done := sum(len(call.items) for call in batch)) >= FILL_FROM:
                    await self._fill_batch(done, min(FILL_TURNS * seconds, FILL_AT_MOST_SECONDS))
                    self._due = self._due or self._urgent > 0
        finally:
            self._writing = None

    async def _fill_batch(self, enough: int, seconds: float) -> None:
        """Wait until `enough` items have come for the next transaction, for at most `seconds`."""
        if self._closing or self._waiting_items >= enough:
            return
        self._enough, self._filled = enough, asyncio.Event()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._filled.wait()
        self._filled = None

    def _next_batch(self) -> list[_Call]:
        """Returns the waiting calls that may still begin, up to 512 items; an empty list if no call is due."""
        while self._due:
            batch = self._take()
            now = self._clock()
            if late := [call for call in batch if call.begins_before <= now]:
                for call in late:
                    call.results = StoreUnavailable("the database was too busy")
                self._resolve(late)
            if live := [call for call in batch if call.begins_before > now and not call.future.cancelled()]:
                return live
        return []

    def _take(self) -> list[_Call]:
        batch, left = [], MOST_AT_ONCE
        while self._waiting and left > 0:
            batch.append(self._waiting.popleft())
            left -= len(batch[-1].items)
        self._waiting_items -= MOST_AT_ONCE - left
        self._urgent_taken = sum(len(call.items) for call in batch if not call.linger)
        self._urgent -= self._urgent_taken
        if not self._waiting:
            self._due = False
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
        return batch

    # --- off the event loop ---------------------------------------------------------------------------------------

    def _execute(self, batch: list[_Call]) -> None:
        """Execute calls in one transaction. If an item makes it fail, execute each call alone."""
        try:
            self._transaction(lambda connection: _execute_grouped(connection, batch))
        except Exception as error:  # noqa: BLE001  one bad item among many: each call is tried again, alone
            if isinstance(error, DBAPIError) and not isinstance(error, _ITEM_ERRORS):
                self.unconfirmed_writes += 1
                for call in batch:
                    call.results = StoreUnavailable(
                        f"the database reports an error: {reason_of(error)}", cause_of(error)
                    )
            elif len(batch) > 1:
                for call in batch:
                    self._execute([call])
            else:
                self._execute_items(batch[0], error)

    def _execute_items(self, call: _Call, error: Exception) -> None:
        """Execute each item of a call alone, because together they failed with `error`."""
        if len(call.items) == 1:
            _log.event(
                "write_failed",
                level=logging.ERROR,
                trace=error,
                operation=call.operation.__name__,
                means="this write changed nothing, and its caller got an error",
            )
            call.results = [StoreUnavailable(f"the write failed: {type(error).__name__}")]
            return
        parts = [
            _Call(call.operation, [item], call.arguments, call.future, call.begins_before, linger=call.linger)
            for item in call.items
        ]
        for part in parts:
            self._execute([part])
        call.results = [part.results if isinstance(part.results, BridgeError) else part.results[0] for part in parts]

    # --- results --------------------------------------------------------------------------------------------------

    def _caller_left(self, future: "asyncio.Future[Sequence[Any]]") -> None:
        """Report the results of a call whose caller was cancelled in the same turn of the loop."""
        if future.done() and not future.cancelled() and future.exception() is None:
            self._report_late(future.result())

    def _report_late(self, results: Sequence[Any]) -> None:
        for result in results:
            if not isinstance(result, BridgeError):
                self.on_late_result(result)

    def _resolve(self, calls: list[_Call]) -> None:
        for call in calls:
            results = call.results
            if call.future.done():
                self._report_late(() if isinstance(results, BridgeError) else results)
            elif isinstance(results, BridgeError):
                call.future.set_exception(results)
            else:
                call.future.set_result(results)


def _execute_grouped(connection: Connection, batch: list[_Call]) -> None:
    """Execute each operation once for all calls with the same arguments, in the order of the first calls."""
    groups: dict[tuple[Any, ...], list[_Call]] = {}
    for call in batch:
        groups.setdefault((call.operation, call.arguments), []).append(call)
    for (operation, arguments), calls in groups.items():
        items = list(chain.from_iterable(call.items for call in calls))
        results = iter(operation(connection, items, *arguments))
        for call in calls:
            call.results = list(islice(results, len(call.items)))


@lru_cache(maxsize=128)
def _one_by_one(
    operation: Callable[..., Result],
) -> Callable[[Connection, Sequence[tuple[Any, ...]]], Sequence[Result | BridgeError]]:
    """Returns a bulk operation made of an operation that serves one caller. An item has the arguments of one caller."""

    @wraps(operation)
    def bulk(connection: Connection, items: Sequence[tuple[Any, ...]]) -> Sequence[Result | BridgeError]:
        return [_result(operation, connection, arguments) for arguments in items]

    return bulk


def _result(
    operation: Callable[..., Result], connection: Connection, arguments: tuple[Any, ...]
) -> Result | BridgeError:
    """Returns the result of an operation: what it returns, or the BridgeError that it raises."""
    try:
        return operation(connection, *arguments)
    except BridgeError as error:
        return error

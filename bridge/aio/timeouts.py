"""Time limits for many calls, with one timer. A timer for each call would cost a quarter of a poll's CPU time."""

import asyncio
from collections.abc import Callable
from types import TracebackType

# asyncio's loop counts milliseconds. A shorter timer would fire at once, again and again.
SHORTEST_TIMER_SECONDS = 0.001


class TimeoutSweep:
    """Time limits, each of `seconds`, by `clock` (monotonic seconds). Use it from one event loop, and close it.

    If another loop uses it, the limits of the earlier loop are dropped.
    """

    def __init__(self, seconds: float, clock: Callable[[], float]) -> None:
        self.seconds = seconds
        self.clock = clock
        self.active: dict[Limit, None] = {}  # in the order of their ends, because all are equally long
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None

    def close(self) -> None:
        """Stops the timer and drops the active limits, which then cancel nothing."""
        self.active.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def add(self, limit: "Limit") -> None:
        """Adds a limit to the active ones. `Limit` calls it when its `with` block begins."""
        if self._loop is not limit.loop:
            self.close()
            self._loop = limit.loop
        self.active[limit] = None
        if self._timer is None:
            self._start_timer(limit)

    def _sweep(self) -> None:
        now = self.clock()
        expired: list[Limit] = []
        for limit in self.active:
            if limit.at > now:
                break
            expired.append(limit)
        for limit in expired:
            del self.active[limit]
            limit.expire()
        # The timer is set for the oldest limit only. Nearly all limits are removed before it fires: it fires about once
        # in `seconds`, and an idle bridge has no timer.
        self._timer = None
        if self.active:
            self._start_timer(next(iter(self.active)))

    def _start_timer(self, limit: "Limit") -> None:
        self._timer = limit.loop.call_later(max(limit.at - self.clock(), SHORTEST_TIMER_SECONDS), self._sweep)


class Limit:
    """A limit for the `with` block that the current asyncio task runs next. The time starts now; `at` is its end.

    The block raises TimeoutError when the limit ends it. As with `asyncio.timeout`, a cancellation from elsewhere is
    still raised as CancelledError, even when it comes at the same moment.
    """

    __slots__ = ("_cancelling", "_expired", "_sweep", "_task", "at", "loop")

    def __init__(self, sweep: TimeoutSweep) -> None:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a time limit needs an asyncio task to cancel")
        self.at = sweep.clock() + sweep.seconds
        self.loop = task.get_loop()
        self._sweep = sweep
        self._task = task
        self._cancelling = task.cancelling()
        self._expired = False

    def __enter__(self) -> None:
        self._sweep.add(self)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._sweep.active.pop(self, None)
        # Our own cancellation request is always removed. A request from elsewhere then still counts.
        if self._expired and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise TimeoutError from error

    def expire(self) -> None:
        """Cancels the asyncio task of the `with` block. The block then raises TimeoutError."""
        self._expired = True
        self._task.cancel()

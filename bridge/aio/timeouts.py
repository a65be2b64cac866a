"""A time limit on each of many calls, kept by one timer: a timer for each call is a quarter of a poll's cost."""

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Any

SHORTEST_TIMER_SECONDS = 0.001  # a loop counts milliseconds: a timer for less would fire at once, again and again


class TimeoutSweep:
    """The limits in force, all of `seconds` by `clock` (monotonic). Make it on the running loop, and close it."""

    def __init__(self, seconds: float, clock: Callable[[], float]) -> None:
        self.seconds = seconds
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._in_force: dict[Limit, None] = {}  # in the order of their ends, for all are equally long

    def limit(self) -> "Limit":
        """A limit on what the current asyncio task does in `with`; it begins now. TimeoutError when it ends it.

        As with `asyncio.timeout`, a cancellation from elsewhere stays one, even in the same moment.
        """
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a time limit needs an asyncio task to end")
        return Limit(self, task, self._clock() + self.seconds)

    def close(self) -> None:
        """Stop the timer; limits still in force end nothing more."""
        self._in_force.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def enter(self, limit: "Limit") -> None:
        """Put a limit in force."""
        self._in_force[limit] = None
        if self._timer is None:
            self._wake_for(limit)

    def leave(self, limit: "Limit") -> None:
        """Take a limit out of force."""
        self._in_force.pop(limit, None)

    def _sweep(self) -> None:
        now = self._clock()
        over: list[Limit] = []
        for limit in self._in_force:
            if limit.at > now:
                break
            over.append(limit)
        for limit in over:
            del self._in_force[limit]
            limit.expire()
        # The timer is for the oldest limit alone. Nearly all have left by then: it fires about once in `seconds`,
        # and an idle bridge has none.
        self._timer = None
        if self._in_force:
            self._wake_for(next(iter(self._in_force)))

    def _wake_for(self, limit: "Limit") -> None:
        self._timer = self._loop.call_later(max(limit.at - self._clock(), SHORTEST_TIMER_SECONDS), self._sweep)


class Limit:
    """One call's limit, to be used once, by `with`, in the asyncio task that asked for it. `at` is on the clock."""

    __slots__ = ("_cancelling", "_expired", "_limits", "_task", "at")

    def __init__(self, limits: TimeoutSweep, task: asyncio.Task[Any], at: float) -> None:
        self.at = at
        self._limits = limits
        self._task = task
        self._cancelling = task.cancelling()
        self._expired = False

    def __enter__(self) -> None:
        self._limits.enter(self)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._limits.leave(self)
        # Our own request to cancel is taken back whatever came of it; one that came from elsewhere then still counts.
        if self._expired and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise TimeoutError from error

    def expire(self) -> None:
        """End the call: its asyncio task is cancelled, and `with` makes a TimeoutError of that."""
        self._expired = True
        self._task.cancel()

"""A time limit on each of many calls, kept by one timer: a timer for each call is a quarter of a poll's cost."""

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Any

LATEST_SECONDS = 0.25  # how late a limit may come; of the default 10 s nobody misses it


class Deadlines:
    """The limits in force, all of `seconds` by `clock` (monotonic seconds). Make it on the running loop, and close it.

    A limit ends its call up to a quarter of a second late, or a quarter of itself where it is shorter.
    """

    def __init__(self, seconds: float, clock: Callable[[], float]) -> None:
        self.seconds = seconds
        self._clock = clock
        self._period = min(LATEST_SECONDS, seconds / 4)
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
            self._timer = self._loop.call_later(self._period, self._sweep)

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
        # Without a call to watch there is no timer: an idle bridge does not wake four times a second.
        self._timer = self._loop.call_later(self._period, self._sweep) if self._in_force else None


class Limit:
    """One call's limit, to be used once, by `with`, in the asyncio task that asked for it. `at` is on the clock."""

    __slots__ = ("_cancelling", "_deadlines", "_expired", "_task", "at")

    def __init__(self, deadlines: Deadlines, task: asyncio.Task[Any], at: float) -> None:
        self.at = at
        self._deadlines = deadlines
        self._task = task
        self._cancelling = task.cancelling()
        self._expired = False

    def __enter__(self) -> None:
        self._deadlines.enter(self)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._deadlines.leave(self)
        # Our own request to cancel is taken back whatever came of it; one that came from elsewhere then still counts.
        if self._expired and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise TimeoutError from error

    def expire(self) -> None:
        """End the call: its asyncio task is cancelled, and `with` makes a TimeoutError of that."""
        self._expired = True
        self._task.cancel()

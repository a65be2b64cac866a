"""Threads for functions that block. They are daemon threads: a function that never returns does not block an exit."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, Protocol, TypeVar

Result = TypeVar("Result")
Item = TypeVar("Item")

ITEMS_AT_ONCE = 4_000  # they take 0.5 ms
PAUSE_SECONDS = 0.001


class Stopped(RuntimeError):
    """The runner accepts no more functions."""


def parts_with_pauses(items: Sequence[Item]) -> Iterator[Sequence[Item]]:
    """Yields items in parts, with a short pause after each, for a function that reads very many of them in a thread.

    Without pauses, each turn of the event loop waits up to 5 ms for the interpreter's lock while the function runs.
    """
    for first in range(0, len(items), ITEMS_AT_ONCE):
        if first:
            time.sleep(PAUSE_SECONDS)
        yield items[first : first + ITEMS_AT_ONCE]


class Runner(Protocol):
    """Runs functions that block outside the event loop. The service uses `Threads`."""

    def submit(
        self, function: Callable[[], Result], discard: Callable[[Result], object] | None = None
    ) -> "asyncio.Future[Result]":
        """Starts a function and returns the future of its result. Raises Stopped after `close`.

        If the future is cancelled before the function starts, it does not start. If the future is cancelled later, the
        function continues, and `discard` gets its result, outside the event loop.
        """

    async def close(self, seconds: float) -> None:
        """Accepts no more functions, and waits at most `seconds` until the running ones have ended."""


async def run_once(
    runner: Runner, function: Callable[[], Result], discard: Callable[[Result], object] | None = None
) -> Result:
    """Runs one function on a runner, closes the runner, and returns the function's result.

    If the caller is cancelled, a function that has started continues.
    """
    try:
        return await runner.submit(function, discard)
    finally:
        await runner.close(0.0)


@dataclass(slots=True, eq=False)
class _Job:
    function: Callable[[], Any]
    future: "asyncio.Future[Any]"
    discard: Callable[[Any], object] | None


class Threads:
    """Up to `size` threads, which start when they are needed. Use it from one event loop at a time."""

    def __init__(self, size: int, name: str) -> None:
        self._size = size
        self._name = name
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._unfinished: set[_Job] = set()
        self._started = 0
        self._closed = False
        self._all_ended: asyncio.Future[None] | None = None

    def submit(
        self, function: Callable[[], Result], discard: Callable[[Result], object] | None = None
    ) -> "asyncio.Future[Result]":
        """Starts a function as soon as a thread is free; see `Runner`."""
        if self._closed:
            raise Stopped
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        job = _Job(function, future, discard)
        self._unfinished.add(job)
        self._jobs.put(job)
        if self._started < min(self._size, len(self._unfinished)):
            self._started += 1
            threading.Thread(target=self._run, name=self._name, daemon=True).start()
        return future

    async def close(self, seconds: float) -> None:
        """Ends the threads when their functions have ended; see `Runner`."""
        self._closed = True
        if self._unfinished:
            self._all_ended = asyncio.get_running_loop().create_future()
            await asyncio.wait([self._all_ended], timeout=seconds)
        for _ in range(self._started):
            self._jobs.put(None)

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            result, error = None, None
            if not job.future.cancelled():
                try:
                    result = job.function()
                except BaseException as raised:  # noqa: BLE001  the caller gets it
                    error = raised
                else:
                    if job.future.cancelled() and job.discard is not None:
                        job.discard(result)
            with suppress(RuntimeError):  # the loop is closed, so no caller waits any more
                job.future.get_loop().call_soon_threadsafe(self._ended, job, result, error)

    def _ended(self, job: _Job, result: Any, error: BaseException | None) -> None:
        self._unfinished.discard(job)
        if not self._unfinished and self._all_ended is not None and not self._all_ended.done():
            self._all_ended.set_result(None)
        if job.future.done():
            return
        if error is None:
            job.future.set_result(result)
        else:
            job.future.set_exception(error)

"""Long-lived workers: asyncio tasks that take the next piece of work themselves when they have finished one."""

import asyncio
import logging
import sys
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from bridge.telemetry import get_logger

Item = TypeVar("Item")

_log = get_logger("worker_pool")


class WorkerPool(Generic[Item]):
    """At most `size` asyncio tasks, begun when they are needed and kept.

    `take` gives the next item or None and is asked whenever a worker is free; `work` does one and never raises. A
    worker without an item ends when `max_idle` others are idle already.
    """

    def __init__(
        self,
        size: int,
        take: Callable[[], Item | None],
        work: Callable[[Item], Awaitable[None]],
        name: str,
        *,
        max_idle: int = sys.maxsize,
    ) -> None:
        self._size = size
        self._take = take
        self._work = work
        self._name = name
        self._max_idle = max_idle
        self._tasks: set[asyncio.Task[None]] = set()
        self._idle: list[asyncio.Future[Item | None]] = []
        self._closing = False

    def wake(self) -> None:
        """Begin what there is while a worker is free."""
        while self._idle or len(self._tasks) < self._size:
            item = self._take()
            if item is None:
                return
            if self._idle:
                self._idle.pop().set_result(item)  # the one that slept shortest: its memory is warm
            else:
                self._spawn(item)

    async def finish(self, seconds: float) -> None:
        """Let workers end what `take` still gives, for so many seconds; then cancel."""
        self.wake()
        self._closing = True
        for sleeping in self._idle:
            sleeping.set_result(None)
        self._idle.clear()
        if not self._tasks:
            return
        _, late = await asyncio.wait(self._tasks, timeout=max(seconds, 0.0))
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)

    def _spawn(self, item: Item) -> None:
        task = asyncio.get_running_loop().create_task(self._run(item), name=self._name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.event("worker_died", level=logging.ERROR, trace=error, worker=self._name)
        if not self._closing:
            self.wake()

    async def _run(self, item: Item | None) -> None:
        loop = asyncio.get_running_loop()
        while item is not None:
            await self._work(item)
            item = self._take()
            if item is not None:
                self.wake()  # the end of one item may have made room for more than one
            elif not self._closing and len(self._idle) < self._max_idle:
                sleeping: asyncio.Future[Item | None] = loop.create_future()
                self._idle.append(sleeping)
                item = await sleeping

"""A pool of workers, which are long-lived asyncio tasks. A worker that has finished an item takes the next one."""

import asyncio
import logging
import sys
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from bridge.telemetry import get_logger

Item = TypeVar("Item")

_log = get_logger("worker_pool")


class WorkerPool(Generic[Item]):
    """At most `size` asyncio tasks. They are created when they are needed and then kept.

    `take` returns the next item, or None when there is none; it is called whenever a worker is free. `handler`
    processes one item and never raises. A worker without an item ends when `max_idle` others are idle.
    """

    def __init__(
        self,
        size: int,
        take: Callable[[], Item | None],
        handler: Callable[[Item], Awaitable[None]],
        name: str,
        *,
        max_idle: int = sys.maxsize,
    ) -> None:
        self._size = size
        self._take = take
        self._handler = handler
        self._name = name
        self._max_idle = max_idle
        self._workers: set[asyncio.Task[None]] = set()
        self._idle: list[asyncio.Future[Item | None]] = []
        self._closing = False

    def wake(self) -> None:
        """Starts the items that `take` returns, as long as a worker is free."""
        while self._idle or len(self._workers) < self._size:
            item = self._take()
            if item is None:
                return
            if self._idle:
                self._idle.pop().set_result(item)  # the last idle worker: its memory is still in the CPU's cache
            else:
                self._start_worker(item)

    async def finish(self, seconds: float) -> None:
        """Processes the items that `take` still returns, for at most `seconds`. Then cancels the workers."""
        self.wake()
        self._closing = True
        for waiting in self._idle:
            waiting.set_result(None)
        self._idle.clear()
        if not self._workers:
            return
        _, unfinished = await asyncio.wait(self._workers, timeout=max(seconds, 0.0))
        for worker in unfinished:
            worker.cancel()
        await asyncio.gather(*unfinished, return_exceptions=True)

    def _start_worker(self, item: Item) -> None:
        worker = asyncio.get_running_loop().create_task(self._run(item), name=self._name)
        self._workers.add(worker)
        worker.add_done_callback(self._worker_ended)

    def _worker_ended(self, worker: asyncio.Task[None]) -> None:
        self._workers.discard(worker)
        if worker.cancelled():
            return
        if (error := worker.exception()) is not None:
            _log.event(
                "worker_died",
                level=logging.ERROR,
                trace=error,
                worker=self._name,
                means="the task or delivery of this worker may wait until the bridge restarts; other work continues",
            )
        if not self._closing:
            self.wake()  # an item may wait for a worker, because this one counted as running until now

    async def _run(self, item: Item | None) -> None:
        loop = asyncio.get_running_loop()
        while item is not None:
            await self._handler(item)
            item = self._take()
            if item is not None:
                self.wake()  # the end of one item may allow more than one to start
            elif not self._closing and len(self._idle) < self._max_idle:
                waiting: asyncio.Future[Item | None] = loop.create_future()
                self._idle.append(waiting)
                item = await waiting

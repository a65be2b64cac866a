"""Run to completion: an operation that has begun is finished even when its caller is cancelled."""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, TypeVar

from bridge.core.errors import BridgeError
from bridge.telemetry import Log

Result = TypeVar("Result")


class Operations:
    """Asyncio tasks that finish even if their callers are cancelled.

    `log` gets the errors of operations whose callers in `wait` or `run` were cancelled.
    """

    def __init__(self, log: Log) -> None:
        self._log = log
        self._running: set[asyncio.Task[Any]] = set()

    @property
    def running(self) -> int:
        """The number of operations that have not ended."""
        return len(self._running)

    def start(self, operation: Coroutine[Any, Any, Result]) -> "asyncio.Task[Result]":
        """Starts an operation and returns its asyncio task. Keeps a reference to the task until it ends."""
        task = asyncio.create_task(operation)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task

    async def run(self, operation: Coroutine[Any, Any, Result]) -> Result:
        """Starts an operation and returns its result, as `wait` does."""
        return await self.wait(self.start(operation))

    async def wait(self, task: "asyncio.Task[Result]") -> Result:
        """Returns the result of an operation that `start` has started. Raises the operation's error.

        When the caller is cancelled, the operation continues. A later error of the operation is logged: a BridgeError
        as a warning, any other as an error.
        """
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(self._log_error)
            raise

    async def finish(self, seconds: float | None = None) -> int:
        """Waits at most `seconds` (None: no limit) until all operations have ended. Cancels those that still run.

        Returns how many were cancelled.
        """
        if not self._running:
            return 0
        _, unfinished = await asyncio.wait(self._running, timeout=seconds)
        for task in unfinished:
            task.cancel()
        await asyncio.gather(*unfinished, return_exceptions=True)
        return len(unfinished)

    def _log_error(self, task: asyncio.Task[Any]) -> None:
        if task.cancelled() or (error := task.exception()) is None:
            return
        known = isinstance(error, BridgeError)
        level = logging.WARNING if known else logging.ERROR
        self._log.event(
            "call_failed",
            level=level,
            trace=None if known else error,
            reason=str(error),
            means="the caller had disconnected, so no answer reported this error",
        )

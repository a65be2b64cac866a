"""Run to completion: an operation that has begun is finished even when its caller is cancelled."""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, TypeVar

from bridge.core.errors import BridgeError
from bridge.telemetry import Log

Result = TypeVar("Result")


class Operations:
    """Asyncio tasks that finish even if their callers are cancelled. `log` gets the errors that no caller gets."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._running: set[asyncio.Task[Any]] = set()

    @property
    def running(self) -> int:
        """The number of operations that have not ended."""
        return len(self._running)

    def start(self, operation: Coroutine[Any, Any, Result]) -> "asyncio.Task[Result]":
        """Start an operation and keep a reference to its asyncio task until it ends."""
        task = asyncio.create_task(operation)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task

    async def run(self, operation: Coroutine[Any, Any, Result]) -> Result:
        """Start an operation and return its result, as `wait` does."""
        return await self.wait(self.start(operation))

    async def wait(self, task: "asyncio.Task[Result]") -> Result:
        """Return the result of an operation that was started here. When the caller is cancelled, it continues.

        An error that the operation raises after that is logged: a BridgeError as a warning, any other as an error.
        """
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(self._log_error)
            raise

    async def finish(self, seconds: float | None = None) -> int:
        """Wait until all operations have ended, but at most `seconds` (None: without a limit). Then cancel the others.

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
            means="the caller had left: no answer reported this error",
        )

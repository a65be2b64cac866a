"""Runs a function that may never return in a thread that keeps neither the caller nor the process from ending."""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

Result = TypeVar("Result")


async def in_daemon_thread(function: Callable[[], Result], *, discard: Callable[[Result], None]) -> Result:
    """Returns what `function` returns. When the caller is cancelled, it ends at once and the thread goes on alone.

    What the function then returns goes to `discard`, in that thread. `asyncio.to_thread` is of no use here: the end of
    `asyncio.run` waits for its threads.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Result] = loop.create_future()
    lock = threading.Lock()
    cancelled = False

    def run() -> None:
        try:
            result = function()
        except BaseException as error:  # noqa: BLE001  the caller gets it
            _call(loop, _fail, future, error)
            return
        with lock:
            if not cancelled:
                _call(loop, _succeed, future, result)
                return
        discard(result)

    threading.Thread(target=run, name="bridge-opening", daemon=True).start()
    try:
        return await future
    except asyncio.CancelledError:
        with lock:
            cancelled = True
        if future.done() and not future.cancelled() and future.exception() is None:
            await asyncio.to_thread(discard, future.result())
        raise


def _call(loop: asyncio.AbstractEventLoop, *call: object) -> None:
    function, *arguments = call
    with suppress(RuntimeError):  # the loop is closed, so no caller waits any more
        loop.call_soon_threadsafe(function, *arguments)  # type: ignore[arg-type]


def _succeed(future: "asyncio.Future[Result]", result: Result) -> None:
    if not future.done():
        future.set_result(result)


def _fail(future: "asyncio.Future[Result]", error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)

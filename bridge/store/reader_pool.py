"""Threads for reads of the database, each call with a time limit."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from sqlalchemy.exc import DBAPIError

from bridge.aio.timeouts import TimeoutSweep
from bridge.core.errors import StoreUnavailable
from bridge.store.database import cause_of, reason_of

Result = TypeVar("Result")

READERS = 3  # threads; a page of watches takes a millisecond, so few are enough


class ReaderPool:
    """Runs synchronous reads off the event loop."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(READERS, thread_name_prefix="bridge-reader")

    async def run(self, function: Callable[[], Result], limits: TimeoutSweep) -> Result:
        """Call a function in a thread. Raises StoreUnavailable at the limit, and when the database refuses."""
        try:
            answer = self._threads.submit(function)
        except RuntimeError:
            raise StoreUnavailable("the bridge is stopping") from None
        try:
            # When the caller has given up before its turn, the function is not called at all.
            with limits.limit():
                return await asyncio.wrap_future(answer)
        except TimeoutError:
            raise StoreUnavailable("the database does not answer") from None
        except DBAPIError as error:
            raise StoreUnavailable(f"the database refuses: {reason_of(error)}", cause_of(error)) from None

    async def close(self) -> None:
        """Drop the calls that have not started, and wait for the others."""
        await asyncio.to_thread(self._threads.shutdown, cancel_futures=True)

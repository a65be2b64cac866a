"""Reads of the database off the event loop, each call with a time limit."""

from collections.abc import Callable
from typing import TypeVar

from sqlalchemy.exc import DBAPIError

from bridge.aio.threads import Runner, Stopped
from bridge.aio.timeouts import Limit, TimeoutSweep
from bridge.core.errors import StoreUnavailable
from bridge.store.database import cause_of, reason_of

Result = TypeVar("Result")

READERS = 3  # threads; a page of watches takes a millisecond, so few are enough
CLOSE_SECONDS = 10.0  # for reads whose callers have gone; a file system that does not answer must not stop the exit


class ReaderPool:
    """Runs synchronous reads on `runner`, which it closes at the end."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner

    async def run(self, function: Callable[[], Result], limits: TimeoutSweep) -> Result:
        """Call a function off the event loop. Raises StoreUnavailable at the limit, and when the database refuses."""
        try:
            # When the caller has given up before its turn, the function is not called at all.
            with Limit(limits):
                return await self._runner.submit(function)
        except Stopped:
            raise StoreUnavailable("the bridge is stopping") from None
        except TimeoutError:
            raise StoreUnavailable("the database does not answer") from None
        except DBAPIError as error:
            raise StoreUnavailable(f"the database refuses: {reason_of(error)}", cause_of(error)) from None

    async def close(self) -> None:
        """Wait for the reads that have begun."""
        await self._runner.close(CLOSE_SECONDS)

"""Reads of the database off the event loop, each call with a time limit."""

from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, TypeVar, TypeVarTuple

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from bridge.aio.threads import Runner, Stopped
from bridge.aio.timeouts import Limit, TimeoutSweep
from bridge.core.errors import StoreUnavailable
from bridge.store.database import Database, cause_of, reason_of

Arguments = TypeVarTuple("Arguments")
Result = TypeVar("Result")

READERS = 3  # threads; a page of watches takes a millisecond, so few are enough
CLOSE_SECONDS = 10.0  # for reads whose callers have gone; a file system that does not answer must not stop the exit


class Reader:
    """Runs the queries of one database on the threads of `runner`, each within a limit of `limits`."""

    def __init__(self, database: Database, runner: Runner, limits: TimeoutSweep) -> None:
        self.database = database
        self._runner = runner
        self._limits = limits

    def run(
        self, query: Callable[[Connection, *Arguments], Result], *arguments: *Arguments
    ) -> Coroutine[Any, Any, Result]:
        """Run a query in a transaction that writes nothing. Raises the errors of `call` and of the query."""
        return self.call(partial(self.database.read, query, *arguments))

    async def call(self, function: Callable[[], Result]) -> Result:
        """Call a function in a thread. Raises StoreUnavailable at the limit, and for an error of the database."""
        try:
            # If the caller gives up before a thread is free, the function is not called.
            with Limit(self._limits):
                return await self._runner.submit(function)
        except Stopped:
            raise StoreUnavailable("the bridge is stopping") from None
        except TimeoutError:
            raise StoreUnavailable("the database does not answer") from None
        except DBAPIError as error:
            raise StoreUnavailable(f"the database reports an error: {reason_of(error)}", cause_of(error)) from None

    async def close(self) -> None:
        """Wait for the reads that have begun, then end the threads."""
        await self._runner.close(CLOSE_SECONDS)

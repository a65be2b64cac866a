"""The store's calls for the operators' dashboard and the stuck monitor."""

from collections.abc import Callable
from functools import partial
from typing import TypeVar, TypeVarTuple

from sqlalchemy import Connection

from bridge.aio.timeouts import TimeoutSweep
from bridge.store import dashboard_queries, outgoing
from bridge.store.database import Database
from bridge.store.encryption import Cipher
from bridge.store.reader_pool import ReaderPool

Arguments = TypeVarTuple("Arguments")
Result = TypeVar("Result")


class DashboardCalls:
    """Reads that only operators see. Every call raises StoreUnavailable as the store's own do."""

    def __init__(self, database: Database, readers: ReaderPool, limits: TimeoutSweep, cipher: Cipher) -> None:
        self._database = database
        self._readers = readers
        self._limits = limits
        self._cipher = cipher

    async def history(self, watch_id: str) -> dashboard_queries.WatchHistory:
        """What happened to a watch: its events and every delivery's attempts. Raises NotFound."""
        return await self._read(dashboard_queries.history, watch_id)

    async def outgoing(self, watch_id: str) -> outgoing.Outgoing:
        """What is sent to the receiver of a watch, with its secrets decrypted. Raises NotFound or BadSetting."""
        return await self._read(outgoing.outgoing, self._cipher, watch_id)

    async def nearing_deadline(self) -> int:
        """How many active watches are in the last tenth of their time, counted up to 1,000."""
        return await self._read(dashboard_queries.nearing_deadline, self._database.now())

    async def facts(self) -> dashboard_queries.StoreFacts:
        """The store's size, the free space of its disk, its replicas."""
        return await self._read(dashboard_queries.facts)

    async def _read(self, query: Callable[[Connection, *Arguments], Result], *arguments: *Arguments) -> Result:
        return await self._readers.run(partial(self._database.read, query, *arguments), self._limits)

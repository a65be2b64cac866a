"""The store's calls for the operators' dashboard and the stuck monitor."""

from bridge.store import dashboard_queries, outgoing
from bridge.store.encryption import Cipher
from bridge.store.near_deadline import NearDeadlineCount
from bridge.store.reader import Reader


class DashboardCalls:
    """Reads that only operators see. Every call raises StoreUnavailable as the store's own do."""

    def __init__(self, reader: Reader, cipher: Cipher) -> None:
        self._reader = reader
        self._cipher = cipher
        self._near_deadline = NearDeadlineCount()

    async def history(self, watch_id: str) -> dashboard_queries.WatchHistory:
        """Returns what happened to a watch: its events and every delivery's attempts. Raises NotFound."""
        return await self._reader.run(dashboard_queries.history, watch_id)

    async def outgoing(self, watch_id: str) -> outgoing.Outgoing:
        """Returns what is sent to a watch's receiver, with its secrets decrypted. Raises NotFound or BadSetting."""
        return await self._reader.run(outgoing.outgoing, self._cipher, watch_id)

    async def nearing_deadline(self) -> int:
        """Returns how many active watches are in the last tenth of their time, counted up to 1,000."""
        return await self._reader.run(self._near_deadline.count, self._reader.database.now())

    async def facts(self) -> dashboard_queries.StoreFacts:
        """Returns the store's size, replicas and disk space. Raises NotFound as `dashboard_queries.facts` does."""
        return await self._reader.run(dashboard_queries.facts)

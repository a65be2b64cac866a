"""Retention: deletes watches that ended long ago, in small batches. A watch with a pending delivery is not deleted."""

import asyncio

from bridge.maintenance.health import Health
from bridge.store.idempotency_keys import IDEMPOTENCY_SECONDS
from bridge.store.store import Store
from bridge.telemetry import get_logger

BATCH = 200  # watches in a transaction: about 10 ms, in which settlements wait
PAUSE_SECONDS = 0.02  # between batches: other writes get at least as much of the writer's time

_log = get_logger("retention")


class Retention:
    """Deletes final watches `retention_seconds` after their end, with events, deliveries, attempts and secrets."""

    def __init__(self, store: Store, health: Health, *, retention_seconds: float) -> None:
        self._store = store
        self._health = health
        self._retention_seconds = retention_seconds

    async def sweep(self) -> int:
        """Deletes all watches that are old enough, and idempotency keys that have expired.

        Returns how many watches were deleted. Ends early if the bridge stops. Raises StoreUnavailable.
        """
        now = self._store.now()
        deleted = 0
        while not self._health.draining:
            count = await self._store.delete_ended_before(now - self._retention_seconds, BATCH)
            deleted += count
            if count < BATCH:
                break
            await asyncio.sleep(PAUSE_SECONDS)
        await self._store.delete_idempotency_keys_before(now - IDEMPOTENCY_SECONDS)
        if deleted:
            _log.event("watches_deleted", count=deleted, means="they had ended more than BRIDGE_RETENTION_SECONDS ago")
        return deleted

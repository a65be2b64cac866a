"""Retention: what ended long ago goes, in small batches, and never while it is still owed to somebody."""

import asyncio
from collections.abc import Callable

from bridge.store.registration import IDEMPOTENCY_SECONDS
from bridge.store.store import Store
from bridge.telemetry import get_logger

BATCH = 200  # watches to a transaction: some 10 ms, which is all that a settlement can wait behind one
REST_SECONDS = 0.02  # between batches: the writer is others' at least as long as it is ours

_log = get_logger("retention")


class Retention:
    """Deletes final watches `retention_seconds` after their end, with events, deliveries, attempts and secrets."""

    def __init__(self, store: Store, *, retention_seconds: float, stopping: Callable[[], bool]) -> None:
        self._store = store
        self._retention_seconds = retention_seconds
        self._stopping = stopping

    async def sweep(self) -> int:
        """Delete all that is old enough by now; how many watches. Raises StoreUnavailable."""
        now = self._store.now()
        deleted = 0
        while not self._stopping():
            done = await self._store.delete_ended_before(now - self._retention_seconds, BATCH)
            deleted += done
            if done < BATCH:
                break
            await asyncio.sleep(REST_SECONDS)
        await self._store.delete_idempotency_keys_before(now - IDEMPOTENCY_SECONDS)
        if deleted:
            _log.event("retention", deleted_watches=deleted)
        return deleted

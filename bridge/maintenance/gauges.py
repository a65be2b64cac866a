"""Sets the gauges of the watches and deliveries in the database."""

import time
from collections.abc import Callable

from bridge.maintenance.read_pace import ReadPace
from bridge.store.store import Store
from bridge.telemetry import Metrics


class StoreGauges:
    """Counts active watches, pending and dead deliveries. More than 200,000 active watches are counted less often.

    `clock` is monotonic seconds.
    """

    def __init__(self, store: Store, metrics: Metrics, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._metrics = metrics
        self._pace = ReadPace(clock)

    async def update(self) -> None:
        """Sets the gauges. Call it every 5 s. Raises StoreUnavailable."""
        deliveries = await self._store.delivery_counts()
        self._metrics.pending_deliveries.set(deliveries.pending)
        self._metrics.dead_deliveries.set(deliveries.dead)
        if self._pace.is_due():
            active = await self._store.active_count()
            self._metrics.active_watches.set(active)
            self._pace.note_read(active)

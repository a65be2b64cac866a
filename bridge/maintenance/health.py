"""Whether this replica can do its work: what `/readyz` answers from."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from bridge.core.errors import StoreUnavailable
from bridge.core.health import HealthCode, HealthReason
from bridge.store.store import Store

PROBE_SECONDS = 2.0  # a store that takes longer for one small write is no store to rely on
PROBE_GOOD_FOR_SECONDS = 1.0  # however many ask, the store is asked once a second
OLDEST_TICK_SECONDS = 5.0  # ticks come every 50 ms; a stalled loop or a lost job shows within seconds

Verdict = Literal["ready", "degraded", "unready"]


@dataclass(frozen=True, slots=True)
class Readiness:
    """A verdict, each check's own, and a reason for every one that is not ok."""

    status: Verdict
    checks: dict[str, str]
    reasons: tuple[HealthReason, ...]


class Health:
    """Looks at the store, the scheduler, the amux key and whether a stop was asked for.

    `tick_age` gives the seconds since the scheduler's last tick, `degraded` the poller's reasons.
    """

    def __init__(
        self,
        store: Store,
        *,
        tick_age: Callable[[], float],
        degraded: Callable[[], Sequence[HealthReason]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._tick_age = tick_age
        self._degraded = degraded
        self._clock = clock
        self._probing = asyncio.Lock()
        self._probed_at: float | None = None
        self._store_trouble: HealthReason | None = None
        self.draining = False

    async def readiness(self) -> Readiness:
        """The verdict now; takes no longer than the probe may."""
        store = await self._probe()
        age = self._tick_age()
        stalled = HealthReason(HealthCode.SCHEDULER_STALLED, f"the scheduler has not ticked for {age:.1f} s")
        draining = HealthReason(HealthCode.DRAINING, "the bridge is stopping")
        hard = {
            "store": store,
            "scheduler": stalled if age > OLDEST_TICK_SECONDS else None,
            "drain": draining if self.draining else None,
        }
        amux = tuple(self._degraded())
        checks = {name: "ok" if reason is None else "failing" for name, reason in hard.items()}
        checks["amux"] = "degraded" if amux else "ok"
        failing = tuple(reason for reason in hard.values() if reason is not None)
        status: Verdict = "unready" if failing else "degraded" if amux else "ready"
        return Readiness(status, checks, failing + amux)

    async def store_trouble(self) -> str | None:
        """Why the store takes no write, None when it does; takes no longer than the probe may."""
        failure = await self._probe()
        return None if failure is None else failure.message

    async def _probe(self) -> HealthReason | None:
        """What is wrong with the store, None for nothing; one probe for all who ask within a second."""
        async with self._probing:
            if self._probed_at is None or self._clock() - self._probed_at >= PROBE_GOOD_FOR_SECONDS:
                try:
                    async with asyncio.timeout(PROBE_SECONDS):
                        await self._store.probe()
                    self._store_trouble = None
                except StoreUnavailable as error:
                    self._store_trouble = HealthReason(error.cause, f"the store is not writable: {error}")
                except TimeoutError:
                    self._store_trouble = HealthReason(
                        HealthCode.STORE_UNWRITABLE,
                        f"the store is not writable: it did not answer within {PROBE_SECONDS:g} s",
                    )
                self._probed_at = self._clock()
            return self._store_trouble

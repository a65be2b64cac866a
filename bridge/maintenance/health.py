"""Health: whether this replica can do its work. `/readyz` returns it."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from bridge.aio.resources import present_shortage
from bridge.core.errors import StoreUnavailable
from bridge.core.health import HealthCode, HealthReason
from bridge.store.store import Store

PROBE_SECONDS = 2.0  # a store that needs longer for one small write counts as not writable
PROBE_VALID_SECONDS = 1.0  # the store is probed at most once a second; all requests of this second share the result
MAX_TICK_AGE_SECONDS = 5.0  # a tick comes every second, so a stalled loop or a lost job is detected within seconds

Verdict = Literal["ready", "degraded", "unready"]


@dataclass(frozen=True, slots=True)
class Readiness:
    """A verdict, the result of each check, and a reason for each check that is not ok."""

    status: Verdict
    checks: dict[str, str]
    reasons: tuple[HealthReason, ...]


class CheckedScheduler(Protocol):
    """The part of the scheduler that is checked."""

    def tick_age(self) -> float:
        """Returns the seconds since the last tick."""


class CheckedPoller(Protocol):
    """The part of the poller that is checked."""

    def degraded(self) -> Sequence[HealthReason]:
        """Returns a reason for each problem of amux or of the settings that an operator must fix."""


class CheckedDeliverer(Protocol):
    """The part of the deliverer that is checked."""

    def shortage(self) -> str | None:
        """Returns a sentence about the shortage that prevents sending now; None if there is none."""


class Health:
    """Checks the store, the scheduler, amux, the process's resources, and whether the bridge is stopping."""

    def __init__(
        self,
        store: Store,
        scheduler: CheckedScheduler,
        poller: CheckedPoller,
        deliverer: CheckedDeliverer,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._scheduler = scheduler
        self._poller = poller
        self._deliverer = deliverer
        self._clock = clock
        self._probe_lock = asyncio.Lock()
        self._probed_at: float | None = None
        self._store_error: HealthReason | None = None
        self.draining = False

    async def readiness(self) -> Readiness:
        """Returns the present verdict, within `PROBE_SECONDS`. Never raises StoreUnavailable."""
        store_error = await self._probe()
        age = self._scheduler.tick_age()
        stalled = HealthReason(HealthCode.SCHEDULER_STALLED, f"the scheduler has not ticked for {age:.1f} s")
        required = {
            "store": store_error,
            "scheduler": stalled if age > MAX_TICK_AGE_SECONDS else None,
            "drain": HealthReason(HealthCode.DRAINING, "draining: the bridge is stopping") if self.draining else None,
        }
        if shortage := self._deliverer.shortage() or present_shortage():
            required["resources"] = HealthReason(HealthCode.OUT_OF_RESOURCES, shortage)
        amux = tuple(self._poller.degraded())
        checks = {name: "ok" if reason is None else "failing" for name, reason in required.items()}
        checks["amux"] = "degraded" if amux else "ok"
        failing = tuple(reason for reason in required.values() if reason is not None)
        status: Verdict = "unready" if failing else "degraded" if amux else "ready"
        return Readiness(status, checks, failing + amux)

    async def store_error(self) -> str | None:
        """Returns why the store accepts no writes, or None if it accepts them, within `PROBE_SECONDS`."""
        error = await self._probe()
        return None if error is None else error.message

    async def _probe(self) -> HealthReason | None:
        """Returns the error of the store, or None. All callers within one second share one probe."""
        async with self._probe_lock:
            if self._probed_at is None or self._clock() - self._probed_at >= PROBE_VALID_SECONDS:
                try:
                    async with asyncio.timeout(PROBE_SECONDS):
                        await self._store.probe()
                    self._store_error = None
                except StoreUnavailable as error:
                    self._store_error = HealthReason(error.cause, f"the store is not writable: {error}")
                except TimeoutError:
                    message = f"the store is not writable: it did not answer within {PROBE_SECONDS:g} s"
                    self._store_error = HealthReason(HealthCode.STORE_UNWRITABLE, message)
                self._probed_at = self._clock()
            return self._store_error

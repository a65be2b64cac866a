"""The overview of the page. It is read once for all open pages, from the store, the poller and the metrics."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

from aiohttp import web

from bridge.core.errors import BridgeError
from bridge.telemetry.history import Minute, lag_quantile, store_milliseconds
from bridge.web.context import AppContext
from bridge.web.dashboard.alert import AlertInputs
from bridge.web.dashboard.alerts import current_alerts
from bridge.web.dashboard.context import MAX_STUCK_TASKS, DashboardContext
from bridge.web.dashboard.serializers import overview_json

Result = TypeVar("Result")

_POLLS: Final = "amux_bridge_polls_total"
_ATTEMPTS: Final = "amux_bridge_attempts_total"
_MAX_LAG_SECONDS: Final = 60.0  # what is shown for the histogram's last bucket, which has no upper bound


class Overview:
    """Keeps the last overview for two seconds, and the rows of tasks that are stuck or wait for their key."""

    def __init__(
        self, context: AppContext, dashboard: DashboardContext, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._context = context
        self._dashboard = dashboard
        self._clock = clock
        self._lock = asyncio.Lock()
        self._read_at: float | None = None
        self._last: dict[str, Any] = {}
        self.stuck_tasks: Sequence[str] = ()
        self.tasks_waiting_for_key: Sequence[str] = ()

    async def current(self) -> dict[str, Any]:
        """Returns the overview, at most two seconds old. The parts that the store does not answer are null."""
        async with self._lock:
            read_at = self._read_at
            if read_at is None or self._clock() - read_at >= self._dashboard.overview_max_age_seconds:
                self._last = await self._read()
                self._read_at = self._clock()
            return self._last

    async def _read(self) -> dict[str, Any]:
        context, dashboard = self._context, self._dashboard
        store = context.store
        readiness, stats, counts, store_facts, receivers, nearing_deadline = await asyncio.gather(
            context.health.readiness(),
            dashboard.poller.stats(MAX_STUCK_TASKS),
            _or_none(store.counts()),
            _or_none(store.dashboard.facts()),
            _or_none(store.receivers.in_trouble()),
            _or_none(store.dashboard.nearing_deadline()),
        )
        self.stuck_tasks, self.tasks_waiting_for_key = stats.stuck, stats.blocked_rows
        inputs = AlertInputs(
            now=store.now(),
            readiness=readiness,
            stats=stats,
            credentials=dashboard.poller.credentials(),
            minutes=dashboard.history.minutes(),
            shared=store.shared,
            counts=counts,
            store=store_facts,
            receivers=receivers,
            all_receivers=await _or_none(store.receivers.all()),
            nearing_deadline=nearing_deadline,
        )
        classes = dashboard.poller.classes.figures()
        return overview_json(inputs, current_alerts(inputs), figures(inputs), classes)


async def _or_none(query: Awaitable[Result]) -> Result | None:
    try:
        return await query
    except BridgeError:  # `readiness` probes the store at the same time and gives the reason
        return None


def figures(inputs: AlertInputs) -> Mapping[str, Any]:
    """Returns the numbers above the table; None where the store did not answer."""
    counts, recent = inputs.counts, inputs.minutes[-2:]
    return {
        "active": None if counts is None else counts.active_watches,
        "pending": None if counts is None else counts.pending_deliveries,
        "dead": None if inputs.receivers is None else sum(receiver.dead for receiver in inputs.receivers),
        "stuck": inputs.stats.failing + inputs.stats.late,
        "waiting_for_key": inputs.stats.blocked,
        "nearing_deadline": inputs.nearing_deadline,
        "tasks": inputs.stats.tasks,
        "tasks_in_batches": inputs.stats.batched,
        "requests_saved_per_minute": round(inputs.stats.saved_per_minute),
        "lag_seconds": _lag_seconds(recent),
        "store_milliseconds": store_milliseconds(recent),
    }


def charts(minutes: Sequence[Minute]) -> list[dict[str, Any]]:
    """Returns the data of the charts: one point for each minute of the last hour."""
    return [_point(minute) for minute in minutes]


def _point(minute: Minute) -> dict[str, Any]:
    return {
        "at": minute.at,
        "polls": round(minute.growth(_POLLS, ("seen",))),
        "failed_polls": round(minute.growth_except(_POLLS, ("seen",))),
        "lag_seconds": _lag_seconds([minute]),
        "delivered": round(minute.growth(_ATTEMPTS, ("2xx",))),
        "failed_attempts": round(minute.growth_except(_ATTEMPTS, ("2xx",))),
    }


def _lag_seconds(minutes: Sequence[Minute]) -> float | None:
    """Returns the 95th percentile of the polls' lag in seconds, at most 60; None without polls."""
    lag = lag_quantile(minutes, 0.95)
    return None if lag is None else min(lag, _MAX_LAG_SECONDS)


OVERVIEW: Final = web.AppKey("OVERVIEW", Overview)

"""The overview: asked of the store, the poller and the metrics once, however many pages are open."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

from aiohttp import web

from bridge.core.errors import BridgeError
from bridge.telemetry.history import Minute, lag_quantile, store_milliseconds
from bridge.web.context import AppContext
from bridge.web.dashboard.alerts import AlertInputs, current_alerts
from bridge.web.dashboard.context import MOST_STUCK, DashboardContext
from bridge.web.dashboard.serializers import overview_json

Result = TypeVar("Result")

_POLLS: Final = "amux_bridge_polls_total"
_ATTEMPTS: Final = "amux_bridge_attempts_total"


class Overview:
    """Keeps the last answer for two seconds, and the rows of the tasks that were found stuck or wait for their key."""

    def __init__(
        self, services: AppContext, page: DashboardContext, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._services = services
        self._page = page
        self._clock = clock
        self._asking = asyncio.Lock()
        self._asked_at: float | None = None
        self._known: dict[str, Any] = {}
        self.stuck: Sequence[str] = ()
        self.resting: Sequence[str] = ()

    async def look(self) -> dict[str, Any]:
        """The overview, at most two seconds old; a store that does not answer leaves its parts empty."""
        async with self._asking:
            asked_at = self._asked_at
            if asked_at is None or self._clock() - asked_at >= self._page.overview_good_for_seconds:
                self._known = await self._ask()
                self._asked_at = self._clock()
            return self._known

    async def _ask(self) -> dict[str, Any]:
        services, page = self._services, self._page
        store = services.store
        readiness, stats, counts, room, receivers, nearing = await asyncio.gather(
            services.health.readiness(),
            page.poller.stats(MOST_STUCK),
            _or_none(store.counts()),
            _or_none(store.facts()),
            _or_none(store.receivers()),
            _or_none(store.nearing_deadline()),
        )
        self.stuck, self.resting = stats.stuck, stats.blocked_rows
        facts = AlertInputs(
            now=store.now(),
            readiness=readiness,
            stats=stats,
            credentials=page.poller.credentials(),
            minutes=page.history.minutes(),
            shared=store.shared,
            counts=counts,
            store=room,
            receivers=receivers,
            nearing=nearing,
        )
        return overview_json(facts, current_alerts(facts), figures(facts))


async def _or_none(question: Awaitable[Result]) -> Result | None:
    try:
        return await question
    except BridgeError:  # told by the store's own probe, which is asked at the same time
        return None


def figures(facts: AlertInputs) -> Mapping[str, Any]:
    """The numbers of the page's strip; null where the store could not say."""
    counts, late = facts.counts, facts.minutes[-2:]
    lag = lag_quantile(late, 0.95)
    return {
        "active": None if counts is None else counts.active_watches,
        "pending": None if counts is None else counts.pending_deliveries,
        "dead": None if facts.receivers is None else sum(one.dead for one in facts.receivers),
        "stuck": facts.stats.failing + facts.stats.late,
        "held": facts.stats.blocked,
        "nearing": facts.nearing,
        "tasks": facts.stats.tasks,
        "lag_seconds": None if lag is None else min(lag, 60.0),
        "store_milliseconds": store_milliseconds(late),
    }


def charts(minutes: Sequence[Minute]) -> list[dict[str, Any]]:
    """The last hour for the charts: a point a minute."""
    return [_point(minute) for minute in minutes]


def _point(minute: Minute) -> dict[str, Any]:
    lag = lag_quantile([minute], 0.95)
    return {
        "at": minute.at,
        "polls": round(minute.growth(_POLLS, ("seen",))),
        "failed_polls": round(minute.growth_except(_POLLS, ("seen",))),
        "lag_seconds": None if lag is None else min(lag, 60.0),
        "delivered": round(minute.growth(_ATTEMPTS, ("2xx",))),
        "failed_attempts": round(minute.growth_except(_ATTEMPTS, ("2xx",))),
    }


OVERVIEW: Final = web.AppKey("OVERVIEW", Overview)

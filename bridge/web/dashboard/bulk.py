"""Changes of all watches that a filter finds: cancel them, or send their callbacks again. They are counted first."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Final

from aiohttp import web

from bridge.core.errors import BridgeError, InvalidRequest, NotFound, WatchCancelled, WatchSettled
from bridge.core.model import TERMINAL_EVENTS, DeliveryState, WatchState
from bridge.store.records import DeliveryView, WatchQuery
from bridge.telemetry import get_logger
from bridge.web.api.request_models import BulkRequest
from bridge.web.api.response_models import BulkResult
from bridge.web.context import CONTEXT
from bridge.web.dashboard.formatting import is_superseded
from bridge.web.dashboard.sessions import Session
from bridge.web.dashboard.watch_table import CONDITIONS, query_of_filters
from bridge.web.requests import Query, bad_parameters, json_answer, read_json

MOST_AT_ONCE: Final = 10_000  # watches of one request: 10 s, after which a proxy may give up
_TOGETHER: Final = 200  # that wait for the writer at the same time: they share its transactions

_log = get_logger("dashboard")


async def cancel_watches(request: web.Request, session: Session) -> web.Response:
    """`POST /page/watches/cancel`: cancels the active watches that the filters find; with `dry_run` counts them."""
    bad = bad_parameters(request)
    value = await read_json(request, bad)
    body = BulkRequest.read(value, outside=bad)
    query = _query_of(request.app, body)
    # One that is active now may end before its turn; no other state becomes active.
    found = await _watches_of(request.app, replace(query, state=WatchState.ACTIVE), body, session)
    if query.state not in {None, WatchState.ACTIVE}:
        found = []
    chosen = found[:MOST_AT_ONCE]
    if body.dry_run:
        return json_answer(_counted(chosen, len(chosen), found))
    cancel, by = request.app[CONTEXT].registration.cancel, session.actor
    count = await _each(chosen, lambda watch_id: cancel(watch_id, None, by), (NotFound, WatchSettled))
    _log.event("cancels_requested", count=count, by=by.name, role=by.role)
    return json_answer(_counted(chosen, count, found))


async def resend_deliveries(request: web.Request, session: Session) -> web.Response:
    """`POST /page/watches/resend`: sends dead callbacks of the watches that the filters find again.

    `delivered`: also those that were delivered. With `dry_run` it counts them.
    """
    context = request.app[CONTEXT]
    context.check_not_draining()
    bad = bad_parameters(request)
    value = await read_json(request, bad)
    body = BulkRequest.read(value, outside=bad)
    found = await _watches_of(request.app, _query_of(request.app, body), body, session)
    chosen = found[:MOST_AT_ONCE]
    deliveries = await _deliveries_of(request.app, chosen, delivered=bool(body.delivered))
    if body.dry_run:
        return json_answer(_counted(chosen, len(deliveries), found))
    retry, by = context.store.retry, session.actor
    count = await _each(deliveries, lambda delivery_id: retry(delivery_id, None, by), (NotFound, WatchCancelled))
    context.deliverer.wake()
    context.change_notifier.announce(chosen)
    _log.event("retries_requested", count=count, app=None, by=by.name, role=by.role)
    return json_answer(_counted(chosen, count, found), 202)


def _query_of(app: web.Application, body: BulkRequest) -> WatchQuery:
    if not any(body.filters.values()):
        raise InvalidRequest([("filters", "must have at least one filter: not every watch may be changed at once")])
    unknown = {name: "is not a filter" for name in body.filters if name not in CONDITIONS}
    return query_of_filters(app, Query(body.filters, unknown))


async def _watches_of(app: web.Application, query: WatchQuery, body: BulkRequest, session: Session) -> list[str]:
    """Returns the ids of the watches that were counted, newest first, or of those to be counted."""
    found = await app[CONTEXT].store.searches.all(query, _name(session))
    return [one for one in found.ids if body.up_to is None or one <= body.up_to]


async def _deliveries_of(app: web.Application, watch_ids: Sequence[str], *, delivered: bool) -> list[str]:
    found = []
    for first in range(0, len(watch_ids), _TOGETHER):
        for view in await app[CONTEXT].store.searches.views(watch_ids[first : first + _TOGETHER]):
            if view.watch.state is not WatchState.CANCELLED:
                found += [one.id for one in view.deliveries if _is_sent_again(one, delivered=delivered)]
    return found


def _is_sent_again(one: DeliveryView, *, delivered: bool) -> bool:
    """Whether a delivery is sent again: a status event that was delivered would be out of date."""
    if one.state is DeliveryState.DEAD:
        return not is_superseded(one)
    return delivered and one.state is DeliveryState.DELIVERED and one.type in TERMINAL_EVENTS


async def _each(
    ids: Sequence[str], change: Callable[[str], Awaitable[object]], passed_over: tuple[type[BridgeError], ...]
) -> int:
    """Changes each id, many at a time. Returns how many were changed; some may have ended meanwhile."""

    async def one(an_id: str) -> bool:
        try:
            await change(an_id)
        except passed_over:
            return False
        return True

    count = 0
    for first in range(0, len(ids), _TOGETHER):
        count += sum(await asyncio.gather(*map(one, ids[first : first + _TOGETHER])))
    return count


def _counted(chosen: Sequence[str], count: int, found: Sequence[str]) -> BulkResult:
    return {"count": count, "left": len(found) - len(chosen), "up_to": found[0] if found else None}


def _name(session: Session) -> str:
    return f"operator {session.operator}"

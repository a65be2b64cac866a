"""Changes all watches that match the filters: cancels them, or sends their callbacks again. A dry run counts them."""

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

MAX_WATCHES: Final = 10_000  # in one request: they take about 10 s, and a proxy may give up after that
_CHUNK: Final = 200  # changes that wait for the writer at the same time: they share its transactions

_log = get_logger("dashboard")


async def cancel_watches(request: web.Request, session: Session) -> web.Response:
    """Answers `POST /page/watches/cancel`: cancels the active watches that match; with `dry_run` only counts them."""
    bad = bad_parameters(request)
    value = await read_json(request, bad)
    body = BulkRequest.read(value, outside=bad)
    query = _query_of(request.app, body)
    # Only active watches can be cancelled. A watch that ends before its turn is not counted.
    found = await _watches_of(request.app, replace(query, state=WatchState.ACTIVE), body, session)
    if query.state not in {None, WatchState.ACTIVE}:
        found = []
    chosen = found[:MAX_WATCHES]
    if body.dry_run:
        return json_answer(_result_json(chosen, len(chosen), found))
    cancel, by = request.app[CONTEXT].registration.cancel, session.caller.actor
    count = await _change_each(chosen, lambda watch_id: cancel(watch_id, None, by), (NotFound, WatchSettled))
    _log.event("cancels_requested", count=count, by=by.name, role=by.role)
    return json_answer(_result_json(chosen, count, found))


async def resend_deliveries(request: web.Request, session: Session) -> web.Response:
    """Answers `POST /page/watches/resend`: sends the dead callbacks of all matching watches again.

    With `delivered` it also sends the terminal events that were delivered. With `dry_run` it only counts.
    """
    context = request.app[CONTEXT]
    context.check_not_draining()
    bad = bad_parameters(request)
    value = await read_json(request, bad)
    body = BulkRequest.read(value, outside=bad)
    found = await _watches_of(request.app, _query_of(request.app, body), body, session)
    chosen = found[:MAX_WATCHES]
    deliveries = await _deliveries_of(request.app, chosen, delivered=bool(body.delivered))
    if body.dry_run:
        return json_answer(_result_json(chosen, len(deliveries), found))
    retry, by = context.store.retry, session.caller.actor
    count = await _change_each(deliveries, lambda delivery_id: retry(delivery_id, None, by), (NotFound, WatchCancelled))
    context.deliverer.wake()
    context.change_notifier.announce(chosen)
    _log.event("retries_requested", count=count, app=None, by=by.name, role=by.role)
    return json_answer(_result_json(chosen, count, found), 202)


def _query_of(app: web.Application, body: BulkRequest) -> WatchQuery:
    if not any(body.filters.values()):
        raise InvalidRequest([("filters", "must have at least one filter: all watches cannot be changed at once")])
    unknown = {name: "is not a filter" for name in body.filters if name not in CONDITIONS}
    return query_of_filters(app, Query(body.filters, unknown))


async def _watches_of(app: web.Application, query: WatchQuery, body: BulkRequest, session: Session) -> list[str]:
    """Returns the ids of the watches that match, newest first. With `up_to`, newer watches than that are left out."""
    found = await app[CONTEXT].store.searches.all(query, session.caller.key)
    return [one for one in found.ids if body.up_to is None or one <= body.up_to]


async def _deliveries_of(app: web.Application, watch_ids: Sequence[str], *, delivered: bool) -> list[str]:
    found = []
    for first in range(0, len(watch_ids), _CHUNK):
        for view in await app[CONTEXT].store.searches.views(watch_ids[first : first + _CHUNK]):
            if view.watch.state is not WatchState.CANCELLED:
                found += [one.id for one in view.deliveries if _is_sent_again(one, delivered=delivered)]
    return found


def _is_sent_again(one: DeliveryView, *, delivered: bool) -> bool:
    """Returns whether a delivery is sent again. A delivered status event is not: it would be out of date."""
    if one.state is DeliveryState.DEAD:
        return not is_superseded(one)
    return delivered and one.state is DeliveryState.DELIVERED and one.type in TERMINAL_EVENTS


async def _change_each(
    ids: Sequence[str], change: Callable[[str], Awaitable[object]], skipped: tuple[type[BridgeError], ...]
) -> int:
    """Calls `change` for each id, 200 at a time. Returns how many calls raised none of the errors in `skipped`."""

    async def is_changed(an_id: str) -> bool:
        try:
            await change(an_id)
        except skipped:
            return False
        return True

    count = 0
    for first in range(0, len(ids), _CHUNK):
        count += sum(await asyncio.gather(*map(is_changed, ids[first : first + _CHUNK])))
    return count


def _result_json(chosen: Sequence[str], count: int, found: Sequence[str]) -> BulkResult:
    return {"count": count, "left": len(found) - len(chosen), "up_to": found[0] if found else None}

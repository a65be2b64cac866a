"""The routes of deliveries: one with its attempts, and sending again."""

from aiohttp import web

from bridge.store.records import DeadFilter
from bridge.telemetry import get_logger
from bridge.web.api.request_models import RetryRequest
from bridge.web.api.response_models import Count
from bridge.web.api.serializers import delivery_with_log, owned_delivery
from bridge.web.auth import Caller
from bridge.web.context import CONTEXT
from bridge.web.requests import delivery_id_of, json_answer, parsed, query_of, read_body

_log = get_logger("web")


async def read_delivery(request: web.Request, caller: Caller) -> web.Response:
    """`GET /deliveries/{id}`."""
    query_of(request)
    delivery, attempts = await request.app[CONTEXT].store.delivery(delivery_id_of(request), caller.sees)
    return json_answer(delivery_with_log(delivery, attempts))


async def retry_delivery(request: web.Request, caller: Caller) -> web.Response:
    """`POST /deliveries/{id}/retry`: due now, with a new schedule and the same `webhook-id`."""
    services = request.app[CONTEXT]
    query_of(request)
    delivery = await services.store.retry(delivery_id_of(request), caller.sees)
    services.deliverer.wake()
    services.waiting.announce([delivery.watch_id])
    _log.event("retry_asked", delivery_id=delivery.id, watch_id=delivery.watch_id, app=delivery.app, by=caller.key)
    return json_answer(owned_delivery(delivery), 202)


async def retry_deliveries(request: web.Request, caller: Caller) -> web.Response:
    """`POST /deliveries/retry`: all dead ones that a filter finds, or their number only."""
    services = request.app[CONTEXT]
    query_of(request)
    asked = RetryRequest.read(parsed(await read_body(request)))
    since, until = asked.moments()
    wanted = DeadFilter(caller.sees, since, until, asked.callback_host)
    dead = await services.store.count_dead(wanted)
    if asked.dry_run:
        return json_answer(Count(count=dead))
    count = 0
    # The store takes a few thousand at a time. Those that die again meanwhile are not this request's any more.
    while count < dead and (resent := await services.store.retry_dead(wanted)):
        count += resent
        services.deliverer.wake()
    _log.event("retries_asked", count=count, app=caller.sees, by=caller.key)
    return json_answer(Count(count=count), 202)

"""The routes of deliveries: read a delivery with its attempts, and send deliveries again."""

from aiohttp import web

from bridge.core.trace_context import log_fields
from bridge.store.records import DeadFilter
from bridge.telemetry import get_logger
from bridge.web.api.request_models import RetryRequest
from bridge.web.api.response_models import Count
from bridge.web.api.serializers import delivery_with_log, owned_delivery
from bridge.web.auth import Caller
from bridge.web.context import CONTEXT
from bridge.web.requests import bad_parameters, delivery_id_of, json_answer, query_of, read_json

_log = get_logger("web")


async def read_delivery(request: web.Request, caller: Caller) -> web.Response:
    """Answers `GET /deliveries/{id}` with a delivery and its attempts."""
    query_of(request)
    delivery, attempts = await request.app[CONTEXT].store.delivery(delivery_id_of(request), caller.visible_app)
    return json_answer(delivery_with_log(delivery, attempts))


async def retry_delivery(request: web.Request, caller: Caller) -> web.Response:
    """Answers `POST /deliveries/{id}/retry`: makes the delivery due now. It gets a new schedule of attempts."""
    context = request.app[CONTEXT]
    query_of(request)
    context.check_not_draining()
    delivery = await context.store.retry(delivery_id_of(request), caller.visible_app, caller.actor)
    context.deliverer.wake()
    context.change_notifier.announce([delivery.watch_id])
    _log.event(
        "retry_requested",
        delivery_id=delivery.id,
        watch_id=delivery.watch_id,
        app=delivery.app,
        by=caller.name,
        role=caller.actor.role,
        **log_fields(delivery.trace),
    )
    return json_answer(owned_delivery(delivery), 202)


async def retry_deliveries(request: web.Request, caller: Caller) -> web.Response:
    """Answers `POST /deliveries/retry`: makes all dead deliveries that a filter matches due now.

    With `dry_run` it only counts them.
    """
    context = request.app[CONTEXT]
    context.check_not_draining()
    bad = bad_parameters(request)
    value = await read_json(request, bad)
    body = RetryRequest.read(value, outside=bad)
    since, until = body.time_range()
    dead_filter = DeadFilter(caller.visible_app, since, until, body.callback_host)
    count = 0
    try:
        async with context.store.request_limit():
            dead = await context.store.count_dead(dead_filter)
            if body.dry_run:
                return json_answer(Count(count=dead))
            # The store retries up to 2,000 at a time. The loop stops at the number that was counted first: a delivery
            # that becomes dead again meanwhile is not part of this request.
            while count < dead and (retried := await context.store.retry_dead(dead_filter, caller.actor)):
                count += retried
                context.deliverer.wake()
    finally:
        if not body.dry_run:
            _log.event("retries_requested", count=count, app=caller.visible_app, by=caller.name, role=caller.actor.role)
    return json_answer(Count(count=count), 202)

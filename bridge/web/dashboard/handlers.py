"""The routes that show the overview or one watch, and the routes that change something or send a ping."""

from typing import Any

from aiohttp import web

from bridge.telemetry import get_logger
from bridge.web.api import deliveries, receivers
from bridge.web.api.pings import send_ping
from bridge.web.context import CONTEXT
from bridge.web.dashboard.context import DASHBOARD
from bridge.web.dashboard.overview import OVERVIEW, charts
from bridge.web.dashboard.payloads import payloads_json
from bridge.web.dashboard.serializers import watch_json
from bridge.web.dashboard.sessions import Session
from bridge.web.dashboard.watch_table import diagnosed
from bridge.web.requests import json_answer, query_of, watch_id_of

_log = get_logger("dashboard")


# --- data ---------------------------------------------------------------------------------------------------------


async def read_overview(request: web.Request, _: Session) -> web.Response:
    """Answers `GET /page/overview` with the data of the live stream's events `overview` and `charts`."""
    query_of(request)
    overview = await request.app[OVERVIEW].current()
    return json_answer(overview | {"charts": charts(request.app[DASHBOARD].history.minutes())})


async def read_watch(request: web.Request, _: Session) -> web.Response:
    """Answers `GET /page/watches/{id}` with one watch and its timeline."""
    query_of(request)
    return json_answer(await one_watch(request.app, watch_id_of(request)))


async def read_payloads(request: web.Request, _: Session) -> web.Response:
    """Answers `GET /page/watches/{id}/payloads` with each event as the receiver gets it, signed now."""
    query_of(request)
    context = request.app[CONTEXT]
    outgoing = await context.store.dashboard.outgoing(watch_id_of(request))
    return json_answer(payloads_json(outgoing, context.signer, context.store.now()))


async def one_watch(app: web.Application, watch_id: str) -> dict[str, Any]:
    """Returns one watch with its timeline. Raises NotFound."""
    store = app[CONTEXT].store
    history = await store.dashboard.history(watch_id)
    [(_, live, diagnosis)] = diagnosed(app, [history.view])
    paused = history.host in app[CONTEXT].receivers.paused
    return watch_json(history, live, diagnosis, paused=paused) | {"now": store.now()}


# --- changes ------------------------------------------------------------------------------------------------------


async def cancel_watch(request: web.Request, session: Session) -> web.Response:
    """Answers `POST /page/watches/{id}/cancel`: cancels the watch and returns it. A settled watch gets a 409."""
    query_of(request)
    watch_id = watch_id_of(request)
    actor = session.caller.actor
    await request.app[CONTEXT].registration.cancel(watch_id, None, actor)
    _log.event("cancel_requested", watch_id=watch_id, by=actor.name, role=actor.role)
    return json_answer(await one_watch(request.app, watch_id))


async def ping_receiver(request: web.Request, session: Session) -> web.Response:
    """Answers `POST /page/watches/{id}/ping`: sends a ping with the secret and headers of the watch's callbacks."""
    query_of(request)
    context = request.app[CONTEXT]
    context.check_not_draining()
    outgoing = await context.store.dashboard.outgoing(watch_id_of(request))
    return json_answer(
        await send_ping(context, session.caller, outgoing.callback_url, outgoing.headers, outgoing.secret)
    )


async def retry_delivery(request: web.Request, session: Session) -> web.Response:
    """Answers `POST /page/deliveries/{id}/retry` as the API does, for an operator."""
    return await deliveries.retry_delivery(request, session.caller)


async def retry_deliveries(request: web.Request, session: Session) -> web.Response:
    """Answers `POST /page/deliveries/retry` as the API does, for an operator."""
    return await deliveries.retry_deliveries(request, session.caller)


async def pause_receiver(request: web.Request, session: Session) -> web.Response:
    """Answers `POST /page/receivers/{receiver}/pause` as the API does, for an operator."""
    return await receivers.pause_receiver(request, session.caller)


async def resume_receiver(request: web.Request, session: Session) -> web.Response:
    """Answers `POST /page/receivers/{receiver}/resume` as the API does, for an operator."""
    return await receivers.resume_receiver(request, session.caller)

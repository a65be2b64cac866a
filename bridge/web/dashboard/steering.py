"""The routes that change something; what they do is what the API does for an operator."""

from aiohttp import web

from bridge.telemetry import get_logger
from bridge.web.api import deliveries
from bridge.web.auth import Caller
from bridge.web.context import CONTEXT
from bridge.web.dashboard.handlers import one_watch
from bridge.web.dashboard.sessions import Session
from bridge.web.requests import json_answer, query_of, watch_id_of

_log = get_logger("dashboard")


async def cancel_watch(request: web.Request, session: Session) -> web.Response:
    """`POST /page/watches/{id}/cancel`: the watch as it is then, or 409 when it is settled."""
    query_of(request)
    watch_id = watch_id_of(request)
    await request.app[CONTEXT].registration.cancel(watch_id, None)
    _log.event("cancel_asked", watch_id=watch_id, by=_caller(session).key)
    return json_answer(await one_watch(request.app, watch_id))


async def retry_delivery(request: web.Request, session: Session) -> web.Response:
    """`POST /page/deliveries/{id}/retry`."""
    return await deliveries.retry_delivery(request, _caller(session))


async def retry_deliveries(request: web.Request, session: Session) -> web.Response:
    """`POST /page/deliveries/retry`: all dead ones that a filter finds, or with `dry_run` their number."""
    return await deliveries.retry_deliveries(request, _caller(session))


def _caller(session: Session) -> Caller:
    """An operator as the API knows one: sees everything, registers nothing."""
    return Caller(session.operator, None, None)

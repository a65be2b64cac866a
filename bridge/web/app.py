"""The aiohttp application: its routes, and the authentication and error handling around each."""

import logging
import re
from functools import wraps
from http import HTTPStatus
from typing import Final

from aiohttp import hdrs, web
from aiohttp.http import HttpVersion11

from bridge import __version__
from bridge.core.errors import BridgeError, NotFound
from bridge.telemetry import get_logger
from bridge.web.api.docs import API_DOCUMENT, ApiDocument
from bridge.web.api.drop_in_routes import DROP_IN_ROUTES
from bridge.web.api.openapi import ServerInfo, document
from bridge.web.api.route import CallersHandler, Handler
from bridge.web.api.routes import GROUPS, OPEN_ROUTES, ROUTES
from bridge.web.context import CONTEXT, AppContext
from bridge.web.dashboard.context import DASHBOARD, DashboardContext
from bridge.web.dashboard.overview import OVERVIEW, Overview
from bridge.web.dashboard.routes import ROUTES as DASHBOARD_ROUTES
from bridge.web.errors import (
    NoSuchMethod,
    UnknownExpectation,
    as_response,
    problem,
    problem_answer,
    status_of,
)
from bridge.web.requests import abort_connection, is_disconnected, secured, shown

PROBE_PATHS: Final = frozenset({"/healthz", "/readyz", "/metrics"})
_ANY_PATH = "/{rest}"
_AMUX_PREFIX: Final = "/v1/"  # SDKs for OpenAI or amux use these paths

_log = get_logger("web")

_DROP_IN_PATHS: Final = tuple(re.compile(route.path.replace("{id}", "[^/]+")) for route in DROP_IN_ROUTES)


def make_app(context: AppContext, dashboard: DashboardContext | None = None) -> web.Application:
    """Returns the application of the API and, if `dashboard` is given, of the dashboard. Run it by `make_runner`."""
    app = web.Application(middlewares=[_errors_as_responses])
    app[CONTEXT] = context
    routes = (*ROUTES, *(DROP_IN_ROUTES if context.drop_in is not None else ()))
    app[API_DOCUMENT] = ApiDocument(lambda: document((*routes, *OPEN_ROUTES), GROUPS, _server_info(context)))
    for open_route in OPEN_ROUTES:
        _add(app, open_route.method, open_route.path, open_route.handler)
    for route in routes:
        _add(app, route.method, route.path, _authenticated(route.handler))
    if dashboard is not None:
        app[DASHBOARD], app[OVERVIEW] = dashboard, Overview(context, dashboard)
        for method, path, handler in DASHBOARD_ROUTES:
            _add(app, method, path, handler)
    # A fixed path such as `/watch/batch` must not answer with the methods of `/watch/{id}`.
    for path in {resource.canonical for resource in app.router.resources() if "{" not in resource.canonical}:
        app.router.add_route(hdrs.METH_ANY, path, _no_such_route, expect_handler=_check_expectation)
    app.router.add_route(hdrs.METH_ANY, "/{rest:.*}", _no_such_route, expect_handler=_check_expectation)
    app.on_shutdown.append(_end_held_requests)
    return app


def make_probes_app(context: AppContext) -> web.Application:
    """Returns an application with only `/metrics`, `/healthz` and `/readyz`, for the second listener.

    Its routes need no token. It has nothing else, because other machines may reach that listener.
    """
    app = web.Application(middlewares=[_errors_as_responses])
    app[CONTEXT] = context
    for route in OPEN_ROUTES:
        if route.path in PROBE_PATHS:
            _add(app, route.method, route.path, route.handler)
    app.router.add_route(hdrs.METH_ANY, "/{rest:.*}", _no_such_route, expect_handler=_check_expectation)
    return app


def _server_info(context: AppContext) -> ServerInfo:
    return ServerInfo(__version__, context.public_url or "/", context.access.open, context.registration.timeouts)


def _add(app: web.Application, method: str, path: str, handler: Handler) -> None:
    # `add_route` does not add HEAD to GET, as `add_get` does. Both methods share one resource.
    app.router.add_route(method, path, handler, expect_handler=_check_expectation)
    if method == hdrs.METH_GET:
        app.router.add_route(hdrs.METH_HEAD, path, handler, expect_handler=_check_expectation)


def _authenticated(handler: CallersHandler) -> Handler:
    """Returns a handler that finds the caller before it reads anything else of the request."""

    @wraps(handler)
    async def with_caller(request: web.Request) -> web.StreamResponse:
        return await handler(request, request.app[CONTEXT].access.caller(request.headers))

    return with_caller


@web.middleware
async def _errors_as_responses(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turns each error that a handler raises into a response.

    If the response has begun, its status is already sent, and a second response would become a part of its body. Only
    an aborted connection can show that the body is incomplete.
    """
    try:
        response = await handler(request)
    except Exception as error:
        if isinstance(error, ConnectionError) and is_disconnected(request):
            raise  # by the caller: no response can be sent, and it is no error
        if request.writer.output_size > 0:
            _log_incomplete(request, error)
            abort_connection(request)
            raise ConnectionResetError("the connection of an incomplete response is aborted") from None
        response = _problem_response(request, error)
    if request.app[CONTEXT].health.draining and not response.prepared:
        response.force_close()  # the next request of this client reaches another replica, or the next process
    return response


def _problem_response(request: web.Request, error: Exception) -> web.StreamResponse:
    if isinstance(error, web.HTTPException):  # aiohttp's own; no known request causes one: our routes match every path
        status = HTTPStatus(error.status)
        return secured(as_response(problem(status, status.phrase.lower().replace(" ", "_"), status.description)))
    known = error if isinstance(error, BridgeError) else BridgeError()
    if status_of(known) is HTTPStatus.INTERNAL_SERVER_ERROR:
        _log_bug(request, error, "the caller got 500")
    return secured(problem_answer(known, for_sdk=request.path.startswith(_AMUX_PREFIX)))


def _log_incomplete(request: web.Request, error: Exception) -> None:
    """Logs the error of a response that has begun: with its traceback, unless the bridge expects such errors."""
    means = "the caller got an incomplete body, and the bridge aborted the connection to show that"
    if isinstance(error, BridgeError):
        path = shown(request.path)
        _log.event("response_aborted", level=logging.WARNING, reason=str(error), path=path, means=means)
    else:
        _log_bug(request, error, means)


def _log_bug(request: web.Request, error: Exception, means: str) -> None:
    route = request.match_info.route.resource
    path = route.canonical if route is not None else None
    method = shown(request.method)
    _log.event("request_failed", level=logging.ERROR, trace=error, method=method, route=path, means=means)


async def _check_expectation(request: web.Request) -> web.StreamResponse | None:
    """Answers an Expect header (RFC 9110, 10.1.1): 100 for 100-continue, 417 for any other. HTTP/1.0 has no Expect."""
    if request.version < HttpVersion11:
        return None
    if request.headers[hdrs.EXPECT].lower() != "100-continue":
        return secured(problem_answer(UnknownExpectation("Expect must be 100-continue")))
    await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    request.writer.output_size = 0  # aiohttp counts the final response's bytes only
    return None


async def _no_such_route(request: web.Request) -> web.StreamResponse:
    """Answers 404 for a path that no route has, and 405 for a method that its path does not support."""
    if methods := await _methods_of(request):
        raise NoSuchMethod(methods)
    path = request.path.rstrip("/")
    drop_in_off = request.app[CONTEXT].drop_in is None and API_DOCUMENT in request.app
    if drop_in_off and any(pattern.fullmatch(path) for pattern in _DROP_IN_PATHS):
        raise NotFound("drop-in creation is off: set BRIDGE_DROP_IN=true to enable amux's own routes")
    if path and path != request.path and await _methods_of(request.clone(rel_url=request.rel_url.with_path(path))):
        raise NotFound("no route has this path; remove the slash at its end")
    raise NotFound("no route has this path")


async def _methods_of(request: web.Request) -> list[str]:
    """Returns the methods that the routes of a request's path support, sorted."""
    exact: set[str] = set()
    by_pattern: set[str] = set()
    for resource in request.app.router.resources():
        if resource.canonical != _ANY_PATH:
            methods = (await resource.resolve(request))[1]
            (exact if resource.canonical == request.path else by_pattern).update(methods)
    return sorted((exact or by_pattern) - {hdrs.METH_ANY})  # `/watch/batch` also matches `/watch/{id}`


async def _end_held_requests(app: web.Application) -> None:
    context = app[CONTEXT]
    context.health.draining = True
    await context.change_notifier.close()

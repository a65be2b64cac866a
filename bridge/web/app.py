"""The application: its routes, what stands around each of them, and the server that hostile callers meet."""

import logging
from functools import wraps
from http import HTTPStatus
from typing import Any

from aiohttp import hdrs, web
from aiohttp.http import HttpVersion11
from aiohttp.http_exceptions import HttpProcessingError

from bridge import __version__
from bridge.core.errors import BridgeError, NotFound
from bridge.telemetry import get_logger
from bridge.web.api.documents import DOCUMENT, Document
from bridge.web.api.openapi import About, document
from bridge.web.api.route import CallersHandler, Handler
from bridge.web.api.routes import DROP_IN_ROUTES, GROUPS, OPEN_ROUTES, ROUTES
from bridge.web.context import CONTEXT, AppContext
from bridge.web.dashboard.context import DASHBOARD, DashboardContext
from bridge.web.dashboard.overview import OVERVIEW, Overview
from bridge.web.dashboard.routes import ROUTES as PAGE_ROUTES
from bridge.web.errors import (
    NoSuchMethod,
    UnknownExpectation,
    as_response,
    problem,
    problem_answer,
    status_of,
)
from bridge.web.requests import secured, shown

ANYWHERE = "/{rest}"

_log = get_logger("web")


def make_app(services: AppContext, page: DashboardContext | None = None) -> web.Application:
    """The whole API over these services, and the operators' page if there is one. Serve it by `make_runner`."""
    app = web.Application(middlewares=[_answered])
    app[CONTEXT] = services
    for_apps = (*ROUTES, *(DROP_IN_ROUTES if services.drop_in is not None else ()))
    app[DOCUMENT] = Document(lambda: document((*for_apps, *OPEN_ROUTES), GROUPS, _about(services)))
    for route in OPEN_ROUTES:
        _add(app, route.method, route.path, route.handler)
    for for_app in for_apps:
        _add(app, for_app.method, for_app.path, _signed_in(for_app.handler))
    if page is not None:
        app[DASHBOARD], app[OVERVIEW] = page, Overview(services, page)
        for method, path, handler in PAGE_ROUTES:
            _add(app, method, path, handler)
    # Other methods of a fixed path are not those of a path with an id in its place, such as `/watch/batch`.
    for path in {resource.canonical for resource in app.router.resources() if "{" not in resource.canonical}:
        app.router.add_route(hdrs.METH_ANY, path, _nowhere, expect_handler=_expected)
    app.router.add_route(hdrs.METH_ANY, "/{rest:.*}", _nowhere, expect_handler=_expected)
    app.on_shutdown.append(_end_waiting)
    return app


def make_runner(app: web.Application, *, shutdown_seconds: float = 5.0) -> web.AppRunner:
    """A runner for the API: a caller that leaves ends its handler, bodies come as they were sent.

    At a stop, open requests have `shutdown_seconds` to end; held ones have ended before, by themselves.
    """
    return web.AppRunner(
        app,
        handler_cancellation=True,
        access_log=None,
        auto_decompress=False,  # a small body must not become a large one; handlers refuse encodings they can't read
        logger=_server_log(),
        shutdown_timeout=shutdown_seconds,
    )


def _about(services: AppContext) -> About:
    server = services.public_url or "/"
    return About(__version__, server, services.access.open, services.registration.timeouts)


def _add(app: web.Application, method: str, path: str, handler: Handler) -> None:
    # aiohttp adds HEAD to GET only by `add_get`; both share one resource.
    app.router.add_route(method, path, handler, expect_handler=_expected)
    if method == "GET":
        app.router.add_route("HEAD", path, handler, expect_handler=_expected)


def _signed_in(handler: CallersHandler) -> Handler:
    """Tell the caller before anything of the request is read."""

    @wraps(handler)
    async def with_caller(request: web.Request) -> web.StreamResponse:
        return await handler(request, request.app[CONTEXT].access.caller(request.headers))

    return with_caller


@web.middleware
async def _answered(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Make an answer of whatever a handler raises."""
    try:
        return await handler(request)
    except BridgeError as error:
        if status_of(error) is HTTPStatus.INTERNAL_SERVER_ERROR:
            _tell(request, error)
        return secured(problem_answer(error))
    except web.HTTPException as error:  # aiohttp's own; none is known to come, for our routes leave it none
        status = HTTPStatus(error.status)
        return secured(as_response(problem(status, status.phrase.lower().replace(" ", "_"), status.description)))
    except ConnectionError:
        raise  # the caller is gone, and nothing can be told any more
    except Exception as error:  # noqa: BLE001  a fault of ours: the caller gets a problem, the log the trace
        _tell(request, error)
        return secured(problem_answer(BridgeError()))


def _tell(request: web.Request, error: Exception) -> None:
    route = request.match_info.route.resource
    path = route.canonical if route is not None else None
    _log.event("request_failed", level=logging.ERROR, trace=error, method=shown(request.method), route=path)


async def _expected(request: web.Request) -> web.StreamResponse | None:
    """Answer an Expect header (RFC 9110, 10.1.1): go on for 100-continue, 417 for any other; HTTP/1.0 has none."""
    if request.version < HttpVersion11:
        return None
    if request.headers[hdrs.EXPECT].lower() != "100-continue":
        return secured(problem_answer(UnknownExpectation("the only expectation that is met is 100-continue")))
    await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    request.writer.output_size = 0  # what is counted is the answer's own
    return None


async def _nowhere(request: web.Request) -> web.StreamResponse:
    """Any other path or method: 404, or 405 where another method would be right; aiohttp's own is plain text."""
    here: set[str] = set()
    around: set[str] = set()
    for resource in request.app.router.resources():
        if resource.canonical != ANYWHERE:
            methods = (await resource.resolve(request))[1]
            (here if resource.canonical == request.path else around).update(methods)
    allowed = (here or around) - {hdrs.METH_ANY}  # `/watch/batch` is not a watch
    if allowed:
        raise NoSuchMethod(sorted(allowed))
    raise NotFound("there is nothing at this path")


async def _end_waiting(app: web.Application) -> None:
    services = app[CONTEXT]
    services.health.draining = True
    await services.waiting.close()


# --- what the server says of strangers ----------------------------------------------------------------------------


class _StrangersAreNoErrors(logging.Filter):
    """Broken HTTP is the caller's doing: told at DEBUG and without a trace, whatever aiohttp makes of it."""

    def filter(self, record: logging.LogRecord) -> bool:
        error: Any = record.exc_info[1] if record.exc_info else None
        if not isinstance(error, HttpProcessingError | web.RequestPayloadError | ConnectionError):
            return True
        record.levelno, record.levelname = logging.DEBUG, "DEBUG"
        record.exc_info = None
        return logging.getLogger().isEnabledFor(logging.DEBUG)


def _server_log() -> logging.Logger:
    logger = logging.getLogger("bridge.http")
    if not any(isinstance(known, _StrangersAreNoErrors) for known in logger.filters):
        logger.addFilter(_StrangersAreNoErrors())
    return logger

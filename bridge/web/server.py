"""The HTTP server: its limits, its log, and the answers to requests that HTTP parsing refuses."""

import asyncio
import logging
from http import HTTPStatus
from typing import Any, Final

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError, LineTooLong
from aiohttp.web_protocol import RequestHandler

from bridge.core.errors import BridgeError
from bridge.web.errors import as_response, openai_error, problem, problem_of
from bridge.web.requests import secured

MAX_LINE_BYTES: Final = 32 * 1024  # of the request line and of each header


class ApiRunner(web.AppRunner):
    """Runs an application on `_ApiServer`. At a stop, open requests have `shutdown_seconds` to end."""

    @property
    def shutdown_seconds(self) -> float:
        """The time that open requests have to end at a stop, in seconds."""
        return self._shutdown_timeout

    @shutdown_seconds.setter
    def shutdown_seconds(self, seconds: float) -> None:
        self._shutdown_timeout = seconds

    async def _make_server(self) -> web.Server:
        made = await super()._make_server()
        return _ApiServer(
            made.request_handler,
            request_factory=made.request_factory,
            handler_cancellation=made.handler_cancellation,
            **made._kwargs,  # noqa: SLF001  aiohttp has no public way to replace the protocol
        )


def make_runner(app: web.Application, *, shutdown_seconds: float = 5.0) -> ApiRunner:
    """Returns a runner for an application. When a caller disconnects, its handler is cancelled.

    At a stop, open requests have `shutdown_seconds` to end. Held answers and event streams have ended before that.
    """
    return ApiRunner(
        app,
        handler_cancellation=True,
        access_log=None,
        auto_decompress=False,  # a small body must not become a large one: handlers refuse every Content-Encoding
        logger=_server_log(),
        shutdown_timeout=shutdown_seconds,
        max_line_size=MAX_LINE_BYTES,
        max_field_size=MAX_LINE_BYTES,
    )


class _ApiServer(web.Server):
    """Makes a protocol for each connection."""

    def __call__(self) -> RequestHandler:
        return _ApiProtocol(self, loop=self._loop, **self._kwargs)


class _ApiProtocol(RequestHandler):
    """One connection. A request that no handler answers gets problem details, which contain no part of the request."""

    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Returns problem details. aiohttp's own answer would repeat the line that it could not parse."""
        super().handle_error(request, status, exc, message)  # logs, and raises when an answer has begun
        if status == HTTPStatus.BAD_REQUEST:
            details = problem(HTTPStatus.BAD_REQUEST, "malformed_request", _parsing_rule(exc))
        else:
            details = problem_of(BridgeError())
        details["error"] = openai_error(details)  # the request's path may be unknown
        answer = secured(as_response(details))
        answer.force_close()
        return answer


def _parsing_rule(error: BaseException | None) -> str:
    if isinstance(error, LineTooLong):
        return f"the request line and each header may have at most {MAX_LINE_BYTES // 1024} KiB"
    return "the request is not valid HTTP/1.1"


# --- the server's log ---------------------------------------------------------------------------------------------


class _HarmlessErrorsAreDebug(logging.Filter):
    """Lowers aiohttp's records of harmless errors to DEBUG, without a traceback.

    Callers cause errors of broken HTTP. aiohttp raises InvalidStateError when a stop ends an open request in the same
    turn of the event loop in which its answer is sent.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        error: Any = record.exc_info[1] if record.exc_info else None
        harmless = HttpProcessingError | web.RequestPayloadError | ConnectionError | asyncio.InvalidStateError
        if not isinstance(error, harmless):
            return True
        record.levelno, record.levelname = logging.DEBUG, "DEBUG"
        record.exc_info = None
        return logging.getLogger().isEnabledFor(logging.DEBUG)


def _server_log() -> logging.Logger:
    logger = logging.getLogger("bridge.http")
    if not any(isinstance(known, _HarmlessErrorsAreDebug) for known in logger.filters):
        logger.addFilter(_HarmlessErrorsAreDebug())
    return logger

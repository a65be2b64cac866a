"""Drop-in creation: amux's own routes, and a watch on each task that a call with callback headers creates."""

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Final

from aiohttp import hdrs, web
from aiohttp.http_exceptions import HttpProcessingError

from bridge.amux.proxy import Upload, WholeAnswer, forwarded_headers, read_whole
from bridge.amux.wire import created_task
from bridge.core import registration as rules
from bridge.core.errors import BridgeError, InvalidRequest, NotFound, StoreUnavailable
from bridge.core.targets import Target
from bridge.telemetry import get_logger, without_query
from bridge.watches.registration import NO_KEY, WatchRequest
from bridge.web.api.create_body import model_in
from bridge.web.api.request_models import WatchRequestBody
from bridge.web.api.streaming import CONTENT_HEADERS, pass_on, passed, range_headers
from bridge.web.auth import Caller
from bridge.web.context import CONTEXT, AppContext, DropIn
from bridge.web.errors import MalformedBody, UnsupportedMediaType
from bridge.web.requests import (
    DECIMAL,
    GIVEN_TWICE,
    JSON,
    MAX_FIELD_ERRORS,
    bad_parameters,
    check_not_encoded,
    checked_header,
    media_type_of,
    shown,
    trace_of,
)

WATCH_ID: Final = "X-Watch-Id"
WATCH_ERROR: Final = "X-Watch-Error"
API_KEY: Final = "X-Amux-Api-Key"
MULTIPART: Final = "multipart/form-data"
# The request header for each field of `POST /watch` that a create call can have.
CALLBACK_HEADERS: Final[Mapping[str, str]] = {
    "callback_url": "X-Callback-Url",
    "context": "X-Callback-Context",
    "events": "X-Callback-Events",
    "timeout_seconds": "X-Callback-Timeout",
}
_HEADER_OF_FIELD: Final = {**CALLBACK_HEADERS, "api_key": API_KEY}
_CALLBACK_PREFIX: Final = "x-callback-"
_PASSED_HEADERS: Final = (hdrs.CONTENT_TYPE, hdrs.CONTENT_LENGTH, hdrs.ACCEPT, "Idempotency-Key")
_MEDIA_TYPES: Final = frozenset({JSON, MULTIPART})
_MAX_BUFFERED_BODY: Final = 64 * 1024  # bytes: read before amux is asked, so a disconnect cannot interrupt the call
_PLACEHOLDER_TASK_ID: Final = "task"  # until amux has answered with the real one
_ACTION: Final = "use amux's own routes"
_MAX_QUERY: Final = 2_000  # characters
_MAX_ERROR_HEADER: Final = 300  # characters

_log = get_logger("drop_in")


@dataclass(frozen=True, slots=True)
class _CreateCall:
    """A create call after all checks. `watch_request` and `target` are None without callback headers."""

    path: str
    app: str
    key: str = field(repr=False)
    headers: Mapping[str, str]
    body: bytes | Upload = field(repr=False)
    watch_request: WatchRequest | None
    target: Target | None


async def create(request: web.Request, caller: Caller) -> web.Response:
    """Answers `POST /v1/videos` and `POST /v1/video/generations`. A disconnect does not stop the call of amux."""
    context, app = request.app[CONTEXT], caller.require_app(_ACTION)
    context.check_not_draining()
    with _errors_name_headers():
        watch_request, own_key = _read_headers(request, app, context.registration.bad_fields)
        key = _amux_key(context, own_key)
        headers, body = await _read_body(request)
        if watch_request is not None:
            watch_request = replace(watch_request, model=model_in(headers.get(hdrs.CONTENT_TYPE, ""), body))
        target = None if watch_request is None else await context.registration.check(watch_request)
    call = _CreateCall(request.path, app, key, headers, body, watch_request, target)
    check = None if watch_request is None else lambda count: context.store.check_room(count, app)
    answer, watch_headers = await context.proxy.run_to_completion(lambda: _create_and_watch(context, call), check)
    return passed(answer, {**watch_headers, **CONTENT_HEADERS})


async def read_task(request: web.Request, caller: Caller) -> web.StreamResponse:
    """Answers `GET /v1/videos/{id}` and `GET /v1/video/generations/{id}` with amux's answer."""
    return await _read(request, caller, {}, streamed=False)


async def read_content(request: web.Request, caller: Caller) -> web.StreamResponse:
    """Answers `GET /v1/videos/{id}/content` with amux's answer."""
    return await _read(request, caller, range_headers(request), streamed=True)


async def _read(
    request: web.Request, caller: Caller, extra_headers: Mapping[str, str], *, streamed: bool
) -> web.StreamResponse:
    context = request.app[CONTEXT]
    caller.require_app(_ACTION)
    query = _query_for_amux(request)
    with _errors_name_headers():
        bad: list[tuple[str, str]] = []
        own_key = checked_header(request, API_KEY, rules.check_api_key, bad)
        if bad:
            raise InvalidRequest(bad)
        key = _amux_key(context, own_key)
    try:
        rules.check_task_id(request.match_info["id"])
    except ValueError:
        raise NotFound("there is no such task: this is not a task id") from None
    accept = {name: value for name, value in _headers_for_amux(request).items() if name == hdrs.ACCEPT}
    source = await context.proxy.open(request.path + query, key, {**accept, **extra_headers})
    if streamed and source.status in {200, 206}:
        return await pass_on(request, source, {**forwarded_headers(source.headers), **CONTENT_HEADERS})
    return passed(await read_whole(source, key), CONTENT_HEADERS)


def _query_for_amux(request: web.Request) -> str:
    """Returns the query of a request, with its question mark, as amux gets it. Raises InvalidRequest.

    SDKs add parameters, such as `variant` for a video's content.
    """
    query = request.rel_url.raw_query_string
    if len(query) > _MAX_QUERY or not (query.isascii() and query.isprintable()) or " " in query:
        raise InvalidRequest([("query", f"must be percent-encoded and at most {_MAX_QUERY:,} characters")])
    return f"?{query}" if query else ""


# --- reading a create call ----------------------------------------------------------------------------------------


@contextmanager
def _errors_name_headers() -> Iterator[None]:
    """Replaces the fields of `POST /watch` in an InvalidRequest by the headers that they come from."""
    try:
        yield
    except InvalidRequest as error:
        fields = []
        for name, rule in error.fields:
            first, _, rest = name.partition(".")
            header = _HEADER_OF_FIELD.get(first, first)
            fields.append((f"{header}.{rest}" if rest else header, rule))
        raise InvalidRequest(fields, code=error.code) from None


def _read_headers(
    request: web.Request, app: str, others: Callable[[Mapping[str, Any]], Iterable[tuple[str, str]]]
) -> tuple[WatchRequest | None, str | None]:
    """Returns the watch request, if there is one, and the caller's own amux key. Raises InvalidRequest.

    `others` is passed to `WatchRequestBody.read`.
    """
    known = {name.lower() for name in CALLBACK_HEADERS.values()}
    present = {name.lower() for name in request.headers if name.lower().startswith(_CALLBACK_PREFIX)}
    bad = bad_parameters(request)
    bad += [(shown(name), "is not a header of this route") for name in sorted(present - known)[:MAX_FIELD_ERRORS]]
    if not present:
        key = checked_header(request, API_KEY, rules.check_api_key, bad)
        if bad:
            raise InvalidRequest(bad[:MAX_FIELD_ERRORS])
        return None, key
    twice = [name for name, header in _HEADER_OF_FIELD.items() if len(request.headers.getall(header, [])) > 1]
    bad += [(name, GIVEN_TWICE) for name in twice]
    fields = _fields_in_headers(request)
    if "callback_url" not in fields:
        bad.append(("callback_url", "is required when another X-Callback header is given"))
    body = WatchRequestBody.read(fields, others, bad)
    return body.watch_request(app, trace=trace_of(request)), body.api_key


def _fields_in_headers(request: web.Request) -> dict[str, Any]:
    """Returns the unchecked fields of `POST /watch` in a create call's headers.

    Of a repeated header, the first value counts.
    """
    fields: dict[str, Any] = {"task_id": _PLACEHOLDER_TASK_ID}
    for name, header in _HEADER_OF_FIELD.items():
        if (value := request.headers.get(header)) is not None:
            fields[name] = _AS_JSON[name](value) if name in _AS_JSON else value
    return fields


def _amux_key(context: AppContext, own_key: str | None) -> str:
    key = context.proxy.key(own_key)
    if key is None:
        raise InvalidRequest([("api_key", NO_KEY)], code="no_api_key")
    return key


def _json_or_text(text: str) -> Any:
    """Returns a header's JSON value. Text that is not JSON is returned unchanged, and the model then refuses it."""
    try:
        return rules.read_json(text.encode(errors="surrogateescape"))
    except ValueError:
        return text


_AS_JSON: Final[Mapping[str, Callable[[str], Any]]] = {
    "context": _json_or_text,
    "events": lambda text: [name.strip() for name in text.split(",")],
    "timeout_seconds": lambda text: float(text) if DECIMAL.fullmatch(text) else text,
}


def _headers_for_amux(request: web.Request) -> dict[str, str]:
    """Returns the request's headers that are passed to amux. Raises InvalidRequest."""
    found = {name: request.headers[name] for name in _PASSED_HEADERS if name in request.headers}
    for name, value in found.items():
        if not (value.isascii() and value.isprintable()):
            raise InvalidRequest([(name, "must be printable ASCII")])
    return found


async def _read_body(request: web.Request) -> tuple[dict[str, str], bytes | Upload]:
    """Returns the headers and the body for amux: a small body is read now, a larger one is streamed."""
    if media_type_of(request.headers) not in _MEDIA_TYPES:
        raise UnsupportedMediaType(f"send the body as Content-Type: {JSON} or {MULTIPART}")
    check_not_encoded(request)
    headers = _headers_for_amux(request)
    length = request.content_length
    if length is None or length > _MAX_BUFFERED_BODY:
        return headers, Upload(request.content)
    try:
        return headers, await request.content.read()
    except (HttpProcessingError, web.RequestPayloadError):
        raise MalformedBody("the body is incomplete or its chunked encoding is wrong") from None


# --- the call of amux, which costs money --------------------------------------------------------------------------


async def _create_and_watch(context: AppContext, call: _CreateCall) -> tuple[WholeAnswer, dict[str, str]]:
    """Asks amux, and registers a watch on the task that amux created.

    Returns amux's answer, and the header X-Watch-Id or X-Watch-Error. Without a watch request, and for an error of
    amux, there is no such header.
    """
    answer = await context.proxy.create(call.path, call.key, call.headers, call.body)
    if call.watch_request is None or call.target is None or not 200 <= answer.status < 300:
        return answer, {}
    try:
        task_id = rules.check_task_id(created_task(answer.body) or "")
    except ValueError:
        return answer, _not_watched(call, None, "no_task", "amux's answer has no task id that can be watched")
    watch_request = replace(call.watch_request, task_id=task_id, exempt_from_limit=True)
    try:
        return answer, {WATCH_ID: await _register(context, watch_request, call.target)}
    except BridgeError as error:
        return answer, _not_watched(call, task_id, error.code, str(error))


async def _register(context: AppContext, watch_request: WatchRequest, target: Target) -> str:
    """Registers the watch, and retries while the store does not answer. Returns the watch's id.

    If a try failed although the watch was stored, the next try finds that watch, because the options are the same.
    """
    for seconds in (context.drop_in or DropIn()).retry_delays:
        try:
            return (await context.registration.register(watch_request, target)).view.watch.id
        except StoreUnavailable:
            await asyncio.sleep(seconds)
    return (await context.registration.register(watch_request, target)).view.watch.id


def _not_watched(call: _CreateCall, task_id: str | None, code: str, reason: str) -> dict[str, str]:
    """Logs that a created task is not watched. Returns the X-Watch-Error header."""
    url = call.watch_request.callback_url if call.watch_request is not None else ""
    _log.event(
        "created_task_unwatched",
        level=logging.ERROR,
        task_id=task_id,
        app=call.app,
        callback_url=without_query(url),
        code=code,
        reason=reason,
        means=f"the app gets the reason in {WATCH_ERROR} and can register the watch itself",
    )
    value = f"{code}: {reason}".encode("ascii", "replace").decode()
    return {WATCH_ERROR: value[:_MAX_ERROR_HEADER]}

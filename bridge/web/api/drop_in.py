"""Drop-in creation: amux's own routes, and a watch on what they create for who names a callback in a header."""

import asyncio
import json
import logging
from collections.abc import Iterator, Mapping
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
from bridge.web.api.request_models import WatchRequestBody
from bridge.web.api.streaming import CONTENT_POLICY, pass_on, passed, range_of
from bridge.web.auth import Caller
from bridge.web.context import CONTEXT, AppContext, DropIn
from bridge.web.errors import Forbidden, MalformedBody, UnsupportedMediaType
from bridge.web.requests import DECIMAL, query_of, shown

WATCH_ID: Final = "X-Watch-Id"
WATCH_ERROR: Final = "X-Watch-Error"
API_KEY: Final = "X-Amux-Api-Key"
# The header for each option of `POST /watch` that a create call can carry.
CALLBACK_HEADERS: Final[Mapping[str, str]] = {
    "callback_url": "X-Callback-Url",
    "context": "X-Callback-Context",
    "events": "X-Callback-Events",
    "timeout_seconds": "X-Callback-Timeout",
}
_HEADER_OF: Final = {**CALLBACK_HEADERS, "api_key": API_KEY}
_PREFIX: Final = "x-callback-"
_PASSED: Final = (hdrs.CONTENT_TYPE, hdrs.CONTENT_LENGTH, hdrs.ACCEPT, "Idempotency-Key")
_TYPES: Final = frozenset({"application/json", "multipart/form-data"})
_TAKEN_WHOLE: Final = 64 * 1024  # bytes: read first, so that an app that leaves cannot break the call off
_NOT_YET: Final = "task"  # stands for the id that amux will give
_LONGEST_ERROR: Final = 300

_log = get_logger("drop_in")


@dataclass(frozen=True, slots=True)
class _Call:
    """A create call that may be made: all of it was checked."""

    path: str
    app: str
    key: str = field(repr=False)
    headers: Mapping[str, str]
    body: bytes | Upload = field(repr=False)
    wanted: WatchRequest | None
    target: Target | None


async def create(request: web.Request, caller: Caller) -> web.Response:
    """`POST /v1/videos` and `POST /v1/video/generations`. From the moment amux is asked it goes on to its end."""
    services, app = request.app[CONTEXT], _app_of(caller)
    query_of(request)
    with _as_headers():
        wanted, own_key = _read_headers(request)
        key = _key(services, own_key)
        headers, body = await _read_body(request)
        target = None if wanted is None else await services.registration.judge(wanted)
    call = _Call(request.path, app, key, headers, body, wanted, target)
    check = None if wanted is None else services.store.check_room
    answer, watch = await services.proxy.run_to_completion(lambda: _create(services, call), check)
    return passed(answer, {**watch, "Content-Security-Policy": CONTENT_POLICY})


async def read_task(request: web.Request, caller: Caller) -> web.StreamResponse:
    """`GET /v1/videos/{id}` and `GET /v1/video/generations/{id}`."""
    return await _read(request, caller, {}, streamed=False)


async def read_content(request: web.Request, caller: Caller) -> web.StreamResponse:
    """`GET /v1/videos/{id}/content`."""
    return await _read(request, caller, range_of(request), streamed=True)


async def _read(request: web.Request, caller: Caller, part: Mapping[str, str], *, streamed: bool) -> web.StreamResponse:
    services = request.app[CONTEXT]
    _app_of(caller)
    query_of(request)
    with _as_headers():
        key = _key(services, _own_key(request))
    try:
        rules.check_task_id(request.match_info["id"])
    except ValueError:
        raise NotFound("no task of amux's has such an id") from None
    accept = {name: value for name, value in _passed_on(request).items() if name == hdrs.ACCEPT}
    source = await services.proxy.open(request.path, key, {**accept, **part})
    policy = {"Content-Security-Policy": CONTENT_POLICY}
    if streamed and source.status in {200, 206}:
        return await pass_on(request, source, {**forwarded_headers(source.headers), **policy})
    return passed(await read_whole(source, key), policy)


def _app_of(caller: Caller) -> str:
    if caller.app is None:
        raise Forbidden("operators see, cancel and resend; amux's own routes are for apps")
    return caller.app


# --- reading a create call ----------------------------------------------------------------------------------------


@contextmanager
def _as_headers() -> Iterator[None]:
    """Name the headers in place of the fields of `POST /watch`, whose rules these are."""
    try:
        yield
    except InvalidRequest as error:
        fields = []
        for name, rule in error.fields:
            first, _, rest = name.partition(".")
            header = _HEADER_OF.get(first, first)
            fields.append((f"{header}.{rest}" if rest else header, rule))
        raise InvalidRequest(fields, code=error.code) from None


def _read_headers(request: web.Request) -> tuple[WatchRequest | None, str | None]:
    """The watch that is wanted, if any, and the caller's own amux key. Raises InvalidRequest."""
    known = {name.lower() for name in CALLBACK_HEADERS.values()}
    given = {name.lower() for name in request.headers if name.lower().startswith(_PREFIX)}
    if strange := sorted(given - known):
        raise InvalidRequest([(shown(name), "is not a header of this route") for name in strange[:20]])
    own_key = _own_key(request)
    url = _once(request, CALLBACK_HEADERS["callback_url"])
    if url is None:
        if given:
            raise InvalidRequest([("callback_url", "is required beside the other X-Callback headers")])
        return None, own_key
    fields: dict[str, Any] = {"task_id": _NOT_YET, "callback_url": url, "api_key": own_key}
    if (context := _once(request, CALLBACK_HEADERS["context"])) is not None:
        fields["context"] = _json(context)
    if (events := _once(request, CALLBACK_HEADERS["events"])) is not None:
        fields["events"] = [name.strip() for name in events.split(",")]
    if (seconds := _once(request, CALLBACK_HEADERS["timeout_seconds"])) is not None:
        fields["timeout_seconds"] = float(seconds) if DECIMAL.fullmatch(seconds) else seconds
    return WatchRequestBody.read(fields).wanted(), own_key


def _own_key(request: web.Request) -> str | None:
    given = _once(request, API_KEY)
    if given is not None:
        try:
            rules.check_api_key(given)
        except ValueError as error:
            raise InvalidRequest([("api_key", str(error))]) from None
    return given


def _key(services: AppContext, own_key: str | None) -> str:
    key = services.proxy.key(own_key)
    if key is None:
        raise InvalidRequest([("api_key", NO_KEY)], code="no_api_key")
    return key


def _once(request: web.Request, name: str) -> str | None:
    given = request.headers.getall(name, [])
    if len(given) > 1:
        raise InvalidRequest([(name, "must be given once")])
    return given[0] if given else None


def _json(text: str) -> Any:
    """A header's JSON; what cannot be read stays a text, which is no object."""
    try:
        return rules.read_json(text.encode(errors="surrogateescape"))
    except (ValueError, json.JSONDecodeError):
        return text


def _passed_on(request: web.Request) -> dict[str, str]:
    """The request's headers that amux gets."""
    found = {name: request.headers[name] for name in _PASSED if name in request.headers}
    for name, value in found.items():
        if not (value.isascii() and value.isprintable()):
            raise InvalidRequest([(name, "must be printable ASCII")])
    return found


async def _read_body(request: web.Request) -> tuple[dict[str, str], bytes | Upload]:
    """The headers and the body for amux: a small body is read now, any other as amux takes it."""
    kind = request.headers.get(hdrs.CONTENT_TYPE, "").partition(";")[0].strip().lower()
    if kind not in _TYPES:
        raise UnsupportedMediaType("send the body as Content-Type: application/json or multipart/form-data")
    if request.headers.get(hdrs.CONTENT_ENCODING, "identity").lower() != "identity":
        raise UnsupportedMediaType("send the body without a Content-Encoding")
    headers = _passed_on(request)
    length = request.content_length
    if length is None or length > _TAKEN_WHOLE:
        return headers, Upload(request.content)
    try:
        return headers, await request.content.read()
    except (HttpProcessingError, web.RequestPayloadError):
        raise MalformedBody("the body is not what its HTTP headers say") from None


# --- from here on a video is paid for -----------------------------------------------------------------------------


async def _create(services: AppContext, call: _Call) -> tuple[WholeAnswer, dict[str, str]]:
    """Ask amux, and watch what it created; its answer, and a header that says what came of the watch."""
    answer = await services.proxy.create(call.path, call.key, call.headers, call.body)
    if call.wanted is None or call.target is None or not 200 <= answer.status < 300:
        return answer, {}
    try:
        task_id = rules.check_task_id(created_task(answer.body) or "")
    except ValueError:
        return answer, _not_watched(call, None, "no_task", "amux's answer names no task that can be watched")
    wanted = replace(call.wanted, task_id=task_id)
    try:
        return answer, {WATCH_ID: await _watch(services, wanted, call.target, call.app)}
    except BridgeError as error:
        return answer, _not_watched(call, task_id, error.code, str(error))


async def _watch(services: AppContext, wanted: WatchRequest, target: Target, app: str) -> str:
    """Register the watch, and try again where the store does not answer: what was stored after all is found then."""
    pauses = (services.drop_in or DropIn()).pauses
    for pause in pauses:
        try:
            return (await services.registration.register_judged(wanted, target, app)).view.watch.id
        except StoreUnavailable:
            await asyncio.sleep(pause)
    return (await services.registration.register_judged(wanted, target, app)).view.watch.id


def _not_watched(call: _Call, task_id: str | None, code: str, reason: str) -> dict[str, str]:
    url = call.wanted.callback_url if call.wanted is not None else ""
    _log.event(
        "created_unwatched",
        level=logging.ERROR,
        task_id=task_id,
        app=call.app,
        callback_url=without_query(url),
        code=code,
        reason=reason,
        next="the app is told in X-Watch-Error, and may register the task itself",
    )
    told = f"{code}: {reason}".encode("ascii", "replace").decode()
    return {WATCH_ERROR: told[:_LONGEST_ERROR]}

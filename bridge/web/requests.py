"""Reads requests strictly: bodies up to a size limit, JSON, and only known query parameters. Writes JSON responses."""

import re
import socket
import struct
from collections.abc import Callable, Collection, Mapping, Sequence
from enum import StrEnum
from typing import Any, Final, TypeVar

import orjson
from aiohttp import hdrs, web
from aiohttp.http import HttpVersion11
from aiohttp.http_exceptions import HttpProcessingError

from bridge.core.errors import BridgeError, InvalidRequest, NotFound
from bridge.core.ids import EVENT_ID_PATTERN, WATCH_ID_PATTERN
from bridge.core.registration import read_json as json_value
from bridge.core.trace_context import TraceContext, read_trace
from bridge.web.errors import BodyTooLarge, MalformedJson, UnsupportedMediaType

Value = TypeVar("Value")
Choice = TypeVar("Choice", bound=StrEnum)

MAX_BODY_BYTES: Final = 64 * 1024
MAX_BATCH_BYTES: Final = 2 * 1024 * 1024
MAX_FIELD_ERRORS: Final = 20  # in one response: a body of 64 KiB can hold thousands of unknown fields
JSON: Final = "application/json"
GIVEN_TWICE: Final = "must be given only once"
DECIMAL = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,30})?(?:[eE][+-]?[0-9]{1,3})?")

# Server: aiohttp's own value shows the versions of Python and aiohttp.
_SECURITY_HEADERS: Final = {
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
    hdrs.SERVER: "amux-bridge",
}
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: on, for 0 s
_WATCH_ID = re.compile(WATCH_ID_PATTERN)
_DELIVERY_ID = re.compile(EVENT_ID_PATTERN)
_MAX_SHOWN_CHARACTERS = 64  # of an unknown name


def json_answer(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """Returns a JSON response with the security headers: no type sniffing, no caching."""
    all_headers = {hdrs.CONTENT_TYPE: JSON, **_SECURITY_HEADERS}
    if headers is not None:
        all_headers |= headers
    return web.Response(body=orjson.dumps(value), status=status, headers=all_headers)


def secured(response: web.StreamResponse) -> web.StreamResponse:
    """Adds the security headers that every response has, where they are not set yet. Returns the same response."""
    for name, value in _SECURITY_HEADERS.items():
        response.headers.setdefault(name, value)
    return response


def is_disconnected(request: web.Request) -> bool:
    """Returns whether the connection of a request is closed or is being closed."""
    return request.transport is None or request.transport.is_closing()


def abort_connection(request: web.Request) -> None:
    """Aborts the connection of a response that has begun, so that the caller sees that its body is incomplete.

    Without chunks or a length, as for HTTP/1.0, a closed connection is the regular end of a body. Then the connection
    is reset.
    """
    if request.transport is None:
        return
    if request.version < HttpVersion11 and (connection := request.transport.get_extra_info("socket")) is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    request.transport.abort()


# --- bodies -------------------------------------------------------------------------------------------------------


async def read_json(request: web.Request, bad: Sequence[tuple[str, str]] = (), limit: int = MAX_BODY_BYTES) -> Any:
    """Returns the JSON value of a request's body. Raises what `read_body` and `parsed` raise."""
    return parsed(await read_body(request, bad, limit), bad)


async def read_body(request: web.Request, bad: Sequence[tuple[str, str]] = (), limit: int = MAX_BODY_BYTES) -> bytes:
    """Returns the body of a request, which must be JSON.

    Raises UnsupportedMediaType for another content type, BodyTooLarge for more than `limit` bytes (before it reads, if
    Content-Length says so), and MalformedJson if the connection ends early or the chunked encoding is wrong. If other
    parts of the request are `bad`, it raises InvalidRequest with these instead.
    """
    try:
        if media_type_of(request.headers) != JSON:
            raise UnsupportedMediaType(f"send the body as Content-Type: {JSON}")
        check_not_encoded(request)
        if (request.content_length or 0) > limit:
            raise BodyTooLarge(f"the body must be at most {limit:,} bytes")
        chunks = []
        size = 0
        while chunk := await request.content.readany():
            size += len(chunk)
            if size > limit:
                raise BodyTooLarge(f"the body must be at most {limit:,} bytes")
            chunks.append(chunk)
    except (HttpProcessingError, web.RequestPayloadError):
        raise _first_error(bad, MalformedJson("the body is incomplete or its chunked encoding is wrong")) from None
    except BridgeError as error:
        raise _first_error(bad, error) from None
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _first_error(bad: Sequence[tuple[str, str]], error: BridgeError) -> BridgeError:
    """Returns the error of a request whose body is wrong: InvalidRequest if other parts are `bad`, else `error`."""
    return InvalidRequest(list(bad)[:MAX_FIELD_ERRORS]) if bad else error


def media_type_of(headers: Mapping[str, str]) -> str:
    """Returns the media type in Content-Type, in lower case and without parameters; empty without the header."""
    return headers.get(hdrs.CONTENT_TYPE, "").partition(";")[0].strip().lower()


def check_not_encoded(request: web.Request) -> None:
    """Raises UnsupportedMediaType for a compressed body: a small body must not become a large one."""
    if request.headers.get(hdrs.CONTENT_ENCODING, "identity").lower() != "identity":
        raise UnsupportedMediaType("send the body without Content-Encoding")


def parsed(body: bytes, bad: Sequence[tuple[str, str]] = ()) -> Any:
    """Returns the JSON value of a body. Raises MalformedJson, whose message repeats nothing of the body.

    If other parts of the request are `bad`, it raises InvalidRequest with these instead.
    """
    try:
        return json_value(body)
    except orjson.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        malformed = MalformedJson(f"the body is not valid JSON in UTF-8: {error.msg} ({place})")
    except ValueError as error:
        malformed = MalformedJson(f"the JSON of the body cannot be read: {error}")
    raise _first_error(bad, malformed)


# --- headers and parameters ---------------------------------------------------------------------------------------


def checked_header(
    request: web.Request, name: str, check: Callable[[str], str], bad: list[tuple[str, str]]
) -> str | None:
    """Returns a header's value, which `check` has accepted; None without the header.

    `check` raises ValueError with the rule. A header that breaks the rule, or is given twice, is added to `bad`, and
    None is returned.
    """
    values = request.headers.getall(name, ())
    rule = GIVEN_TWICE
    if len(values) < 2:
        try:
            return check(values[0]) if values else None
        except ValueError as error:
            rule = str(error)
    bad.append((name, rule))
    return None


def trace_of(request: web.Request) -> TraceContext | None:
    """Returns the trace context of a request; None if the request has none or a malformed one."""
    headers = request.headers
    if "traceparent" not in headers:
        return None
    return read_trace(headers.getall("traceparent"), headers.getall("tracestate", []))


class Query:
    """A request's query parameters. It collects their errors; `check` raises all of them at once.

    Unknown and repeated parameters are errors from the start. Other errors are found when a parameter is read.
    """

    def __init__(
        self,
        values: Mapping[str, str],
        bad: Mapping[str, str] | None = None,
        lists: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self.values = values
        self.lists = lists or {}
        self.bad = dict(bad or {})

    @classmethod
    def of(cls, request: web.Request, known: Collection[str] = (), repeatable: Collection[str] = ()) -> "Query":
        """Returns the parameters of a request. The values of `repeatable` ones are in `lists`."""
        found: dict[str, str] = {}
        bad: dict[str, str] = {}
        lists: dict[str, list[str]] = {}
        for name, value in request.query.items() if request.query_string else ():
            if name in repeatable:
                lists.setdefault(name, []).append(value)
                continue
            if name not in known:
                bad[shown(name)] = "is not a parameter of this route"
            elif name in found:
                bad[name] = GIVEN_TWICE
            found[name] = value
        return cls(found, bad, lists)

    def without_empty(self) -> "Query":
        """Returns the same parameters without the empty ones. An empty parameter is a filter that is not set."""
        return Query({name: value for name, value in self.values.items() if value}, self.bad)

    def read(self, name: str, parse: Callable[[str], Value]) -> Value | None:
        """Returns the value that `parse` makes of a parameter; None if the parameter is missing or wrong.

        `parse` raises InvalidRequest, or ValueError with the rule. The error is collected for `check`.
        """
        if name not in self.values:
            return None
        try:
            return parse(self.values[name])
        except InvalidRequest as error:
            self.bad |= dict(error.fields)
        except ValueError as error:
            self.bad[name] = str(error)
        return None

    def choice(self, name: str, choices: type[Choice]) -> Choice | None:
        """Returns the member of an enumeration that a parameter names; None if the parameter is missing or wrong."""
        return self.read(name, lambda text: _member(text, choices))

    def choices(self, name: str, choices: type[Choice]) -> frozenset[Choice]:
        """Returns the members of an enumeration that a repeatable parameter names; none if a value is wrong."""
        try:
            return frozenset(_member(text, choices) for text in self.lists.get(name, ()))
        except ValueError as error:
            self.bad[name] = str(error)
            return frozenset()

    def check(self) -> None:
        """Raises InvalidRequest with every parameter that is wrong."""
        if self.bad:
            raise InvalidRequest(list(self.bad.items())[:MAX_FIELD_ERRORS])


def query_of(request: web.Request, known: Collection[str] = ()) -> dict[str, str]:
    """Returns the query parameters. Raises InvalidRequest for parameters that are unknown or given twice."""
    if not request.query_string:
        return {}
    query = Query.of(request, known)
    query.check()
    return dict(query.values)


def bad_parameters(request: web.Request) -> list[tuple[str, str]]:
    """Returns all query parameters of a request, as errors, for a route that accepts no parameter.

    A route with a body reports them together with the errors of the body.
    """
    return list(Query.of(request).bad.items()) if request.query_string else []


def _member(text: str, choices: type[Choice]) -> Choice:
    try:
        return choices(text)
    except ValueError:
        raise ValueError(f"must be one of {', '.join(choices)}") from None


def number_of(text: str, name: str, *, least: float, most: float, whole: bool = False) -> float:
    """Returns a decimal number from `least` to `most`. Raises InvalidRequest, which names the parameter."""
    if DECIMAL.fullmatch(text) and least <= float(text) <= most and not (whole and not text.isdigit()):
        return float(text)
    kind = "a whole number" if whole else "a number"
    raise InvalidRequest([(name, f"must be {kind} from {least:g} to {most:g}")])


def watch_id_of(request: web.Request) -> str:
    """Returns the watch id in the path. Raises NotFound for text that is not a watch id, without asking the store."""
    return _id_of(request, _WATCH_ID, "watch")


def delivery_id_of(request: web.Request) -> str:
    """Returns the delivery id in the path. Raises NotFound for text that is not a delivery id."""
    return _id_of(request, _DELIVERY_ID, "delivery")


def check_watch_id(text: str, name: str) -> str:
    """Returns a watch id from the parameter `name`. Raises InvalidRequest."""
    if not _WATCH_ID.fullmatch(text):
        raise InvalidRequest([(name, "must be a watch id")])
    return text


def check_event_id(text: str) -> str:
    """Returns the id of an event, which is also the id of its delivery. Raises ValueError for any other text."""
    if not _DELIVERY_ID.fullmatch(text):
        raise ValueError("must be an event id")
    return text


def _id_of(request: web.Request, pattern: re.Pattern[str], kind: str) -> str:
    text = request.match_info["id"]
    if not pattern.fullmatch(text):
        raise NotFound(f"there is no such {kind}")
    return text


def shown(text: str) -> str:
    """Returns the first 64 characters of a caller's text, as valid UTF-8, for an error message or a log."""
    return text[:_MAX_SHOWN_CHARACTERS].encode(errors="backslashreplace").decode()

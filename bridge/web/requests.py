"""Reading requests: bodies within a limit, JSON by the letter, queries without strangers."""

import re
from collections.abc import Collection, Mapping
from typing import Any, Final

import orjson
from aiohttp import hdrs, web
from aiohttp.http_exceptions import HttpProcessingError

from bridge.core.errors import InvalidRequest, NotFound
from bridge.core.ids import EVENT_ID_PATTERN, WATCH_ID_PATTERN
from bridge.core.registration import check_idempotency_key, read_json
from bridge.web.errors import BodyTooLarge, MalformedJson, UnsupportedMediaType

MAX_BODY_BYTES: Final = 64 * 1024
MAX_BATCH_BYTES: Final = 2 * 1024 * 1024
JSON: Final = "application/json"

# Server: without the versions of Python and aiohttp that would stand there otherwise.
_SECURITY: Final = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store", hdrs.SERVER: "amux-bridge"}
_WATCH_ID = re.compile(WATCH_ID_PATTERN)
_DELIVERY_ID = re.compile(EVENT_ID_PATTERN)
DECIMAL = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,30})?(?:[eE][+-]?[0-9]{1,3})?")
_MOST_SHOWN = 64  # characters of a name that we don't know


def json_answer(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """A JSON answer that no browser guesses about and no cache keeps."""
    all_headers = (
        {hdrs.CONTENT_TYPE: JSON, **_SECURITY} if headers is None else {hdrs.CONTENT_TYPE: JSON, **_SECURITY, **headers}
    )
    return web.Response(body=orjson.dumps(value), status=status, headers=all_headers)


def secured(response: web.StreamResponse) -> web.StreamResponse:
    """The same answer with the headers that every one of ours has."""
    for name, value in _SECURITY.items():
        response.headers.setdefault(name, value)
    return response


async def read_body(request: web.Request, limit: int = MAX_BODY_BYTES) -> bytes:
    """A JSON request's body as bytes.

    Raises UnsupportedMediaType, BodyTooLarge (by Content-Length before anything is read, else once `limit` is passed)
    or MalformedJson when HTTP itself is broken off or badly chunked.
    """
    media_type = request.headers.get(hdrs.CONTENT_TYPE, "").partition(";")[0].strip().lower()
    if media_type != JSON:
        raise UnsupportedMediaType(f"send the body as Content-Type: {JSON}")
    if request.headers.get(hdrs.CONTENT_ENCODING, "identity").lower() != "identity":
        raise UnsupportedMediaType("send the body without a Content-Encoding")
    if (request.content_length or 0) > limit:
        raise BodyTooLarge(f"a body is at most {limit:,} bytes here")
    chunks = []
    size = 0
    try:
        while chunk := await request.content.readany():
            size += len(chunk)
            if size > limit:
                raise BodyTooLarge(f"a body is at most {limit:,} bytes here")
            chunks.append(chunk)
    except (HttpProcessingError, web.RequestPayloadError):
        raise MalformedJson("the body is not what its HTTP headers say") from None
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def parsed(body: bytes) -> Any:
    """A body's JSON value. Raises MalformedJson, which repeats nothing of it."""
    try:
        return read_json(body)
    except orjson.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise MalformedJson(f"the body is not valid JSON in UTF-8: {error.msg} ({where})") from None
    except ValueError as error:
        raise MalformedJson(f"the body is not JSON that can be read here: {error}") from None


def idempotency_key(request: web.Request) -> str | None:
    """The Idempotency-Key of a request, None without one. Raises InvalidRequest."""
    given = request.headers.getall("Idempotency-Key", [])
    if not given:
        return None
    if len(given) > 1:
        raise InvalidRequest([("Idempotency-Key", "must be given once")])
    try:
        return check_idempotency_key(given[0])
    except ValueError as error:
        raise InvalidRequest([("Idempotency-Key", str(error))]) from None


def query_of(request: web.Request, known: Collection[str] = ()) -> dict[str, str]:
    """The query's parameters, each known and given once. Raises InvalidRequest that names those that are not."""
    if not request.query_string:
        return {}
    found: dict[str, str] = {}
    bad: dict[str, str] = {}
    for name, value in request.query.items():
        if name not in known:
            bad[shown(name)] = "is not a parameter here"
        elif name in found:
            bad[name] = "must be given once"
        found[name] = value
    if bad:
        raise InvalidRequest(list(bad.items())[:20])
    return found


def number_of(text: str, name: str, *, least: float, most: float, whole: bool = False) -> float:
    """A decimal number within bounds. Raises InvalidRequest."""
    if DECIMAL.fullmatch(text) and least <= float(text) <= most and not (whole and not text.isdigit()):
        return float(text)
    kind = "a whole number" if whole else "a number"
    raise InvalidRequest([(name, f"must be {kind} from {least:g} to {most:g}")])


def watch_id_of(request: web.Request) -> str:
    """The watch id in the path. Raises NotFound for what can be none, without asking the store."""
    return _id_of(request, _WATCH_ID, "watch")


def delivery_id_of(request: web.Request) -> str:
    """The delivery id in the path. Raises NotFound for what can be none."""
    return _id_of(request, _DELIVERY_ID, "delivery")


def check_watch_id(text: str, name: str) -> str:
    """A watch id given elsewhere. Raises InvalidRequest."""
    if not _WATCH_ID.fullmatch(text):
        raise InvalidRequest([(name, "is not one that this bridge has given")])
    return text


def _id_of(request: web.Request, pattern: re.Pattern[str], what: str) -> str:
    found = request.match_info["id"]
    if not pattern.fullmatch(found):
        raise NotFound(f"there is no such {what}")
    return found


def shown(text: str) -> str:
    """A stranger's name, short and in UTF-8 whatever it holds."""
    return text[:_MOST_SHOWN].encode(errors="backslashreplace").decode()

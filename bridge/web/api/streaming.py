"""Passes amux's responses on: whole, or as a stream, which ends when amux ends it or the reader disconnects."""

from collections.abc import AsyncIterator, Mapping
from typing import Final

import aiohttp
from aiohttp import hdrs, web
from multidict import CIMultiDict

from bridge.amux.proxy import WholeAnswer, body_of
from bridge.core.ranges import ByteRange, parse_range
from bridge.web.context import CONTEXT
from bridge.web.requests import secured

# Nothing from amux may run as a page of the bridge's origin. A video alone in its browser tab still plays.
CONTENT_HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; img-src 'self'; media-src 'self';"
    " style-src 'unsafe-inline'; sandbox"
}
_MAX_CONDITION = 200  # characters


def requested_range(request: web.Request) -> ByteRange | None:
    """Returns the one range that a request asks for, None when the whole video is to be sent."""
    ranges = request.headers.getall(hdrs.RANGE, [])
    return parse_range(ranges[0]) if len(ranges) == 1 else None


def range_headers(request: web.Request) -> dict[str, str]:
    """Returns the request's Range and If-Range headers for amux; none when the whole video is to be sent."""
    byte_range = requested_range(request)
    conditions = request.headers.getall(hdrs.IF_RANGE, [])
    if byte_range is None or not conditions:
        return {} if byte_range is None else {hdrs.RANGE: str(byte_range)}
    condition = conditions[0]
    # Without a valid condition the range is dropped too: the part could belong to another version of the video.
    valid = (
        len(conditions) == 1 and len(condition) <= _MAX_CONDITION and condition.isascii() and condition.isprintable()
    )
    return {hdrs.RANGE: str(byte_range), hdrs.IF_RANGE: condition} if valid else {}


async def pass_on(
    request: web.Request, source: aiohttp.ClientResponse, headers: Mapping[str, str]
) -> web.StreamResponse:
    """Answers with amux's status, and with amux's body as it arrives. Closes `source`."""
    all_headers = CIMultiDict(headers)
    all_headers[hdrs.ACCEPT_RANGES] = (
        "bytes" if source.status in {206, 416} else "none"
    )  # what amux did, not what it announces
    response = web.StreamResponse(status=source.status, headers=all_headers)
    try:
        return await stream(request, response, body_of(source))
    finally:
        source.close()  # closes the connection too, unless the body was read to its end


async def stream(
    request: web.Request, response: web.StreamResponse, pieces: AsyncIterator[bytes]
) -> web.StreamResponse:
    """Sends a response whose body comes in pieces. Raises what `AmuxProxy.send` raises."""
    secured(response)
    await response.prepare(request)
    if request.method != hdrs.METH_HEAD:
        await request.app[CONTEXT].proxy.send(pieces, response.write)
    return response


def passed(answer: WholeAnswer, extra: Mapping[str, str]) -> web.Response:
    """Returns a whole response of amux, with the headers `extra` added."""
    headers = answer.headers.copy()
    headers.update(extra)
    response = web.Response(status=answer.status, body=answer.body, headers=headers)
    secured(response)
    return response

"""Passing amux's responses on: whole, or streamed until amux ends it or the reader disconnects."""

import logging
import re
from collections.abc import Mapping
from typing import Final

import aiohttp
from aiohttp import hdrs, web
from multidict import CIMultiDict

from bridge.amux.proxy import AnswerInterrupted, ReaderStalled, WholeAnswer
from bridge.telemetry import get_logger
from bridge.web.context import CONTEXT
from bridge.web.requests import secured

# Nothing from amux may run as a page of the bridge's origin. A video alone in its browser tab still plays.
CONTENT_HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; img-src 'self'; media-src 'self';"
    " style-src 'unsafe-inline'; sandbox"
}
# One range only: several are answered as multipart, and any server may ignore a Range header (RFC 9110, 14.2).
_ONE_RANGE = re.compile(r"bytes=(?:[0-9]{1,18}-[0-9]{0,18}|-[0-9]{1,18})")
_MAX_CONDITION = 200  # characters

_log = get_logger("web")


def range_headers(request: web.Request) -> dict[str, str]:
    """Returns the request's Range and If-Range headers for amux; none when the whole video is to be sent."""
    ranges = request.headers.getall(hdrs.RANGE, [])
    if len(ranges) != 1 or not _ONE_RANGE.fullmatch(ranges[0]):
        return {}
    conditions = request.headers.getall(hdrs.IF_RANGE, [])
    if not conditions:
        return {hdrs.RANGE: ranges[0]}
    condition = conditions[0]
    # A condition that cannot be passed on drops the range as well: the part might be of another version of the video.
    valid = (
        len(conditions) == 1 and len(condition) <= _MAX_CONDITION and condition.isascii() and condition.isprintable()
    )
    return {hdrs.RANGE: ranges[0], hdrs.IF_RANGE: condition} if valid else {}


async def pass_on(
    request: web.Request, source: aiohttp.ClientResponse, headers: Mapping[str, str]
) -> web.StreamResponse:
    """Answers with amux's status and body, as they arrive. When amux's body breaks off, the connection is aborted."""
    response = web.StreamResponse(status=source.status, headers=CIMultiDict(headers))
    secured(response)
    try:
        await response.prepare(request)
        if request.method != hdrs.METH_HEAD:
            await request.app[CONTEXT].proxy.forward_body(source, response.write)
    except (AnswerInterrupted, ReaderStalled) as error:
        _log.event("proxied_response_aborted", level=logging.WARNING, reason=str(error), path=request.path)
        # The status is already sent: only an aborted connection can show that the body is incomplete.
        if request.transport is not None:
            request.transport.abort()
    finally:
        source.close()
    return response


def passed(answer: WholeAnswer, extra: Mapping[str, str]) -> web.Response:
    """Returns a whole response of amux with extra headers of ours."""
    headers = answer.headers.copy()
    headers.update(extra)
    response = web.Response(status=answer.status, body=answer.body, headers=headers)
    secured(response)
    return response

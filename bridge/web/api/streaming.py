"""Passing amux's answers on: whole ones, and streams that end with whoever leaves first."""

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

# One range alone: several make a multipart body of other types, and ignoring a Range is every server's right.
_ONE_RANGE = re.compile(r"bytes=(?:[0-9]{1,18}-[0-9]{0,18}|-[0-9]{1,18})")
# Nothing that amux sends may act as a page of the bridge's origin; a video alone in its tab still plays.
CONTENT_POLICY: Final = "default-src 'none'; img-src 'self'; media-src 'self'; style-src 'unsafe-inline'; sandbox"

_log = get_logger("web")


def range_of(request: web.Request) -> dict[str, str]:
    """The request's headers that ask for a part of a video, if they ask for one."""
    asked = request.headers.getall(hdrs.RANGE, [])
    if len(asked) != 1 or not _ONE_RANGE.fullmatch(asked[0]):
        return {}
    conditions = request.headers.getall(hdrs.IF_RANGE, [])
    if not conditions:
        return {hdrs.RANGE: asked[0]}
    one = conditions[0]
    # A condition that cannot be passed on must not be dropped: the part may be of another video.
    good = len(conditions) == 1 and len(one) <= 200 and one.isascii() and one.isprintable()
    return {hdrs.RANGE: asked[0], hdrs.IF_RANGE: one} if good else {}


async def pass_on(
    request: web.Request, source: aiohttp.ClientResponse, headers: Mapping[str, str]
) -> web.StreamResponse:
    """Answer with amux's status and body, as they come. An answer that breaks off breaks ours off as well."""
    answer = web.StreamResponse(status=source.status, headers=CIMultiDict(headers))
    secured(answer)
    try:
        await answer.prepare(request)
        if request.method != hdrs.METH_HEAD:
            await request.app[CONTEXT].proxy.forward_body(source, answer.write)
    except (AnswerInterrupted, ReaderStalled) as error:
        _log.event("relay_broken", level=logging.WARNING, reason=str(error), path=request.path)
        # The end of the connection is the one way left to say that the body is not whole.
        if request.transport is not None:
            request.transport.abort()
    finally:
        source.close()
    return answer


def passed(answer: WholeAnswer, extra: Mapping[str, str]) -> web.Response:
    """A whole answer of amux's, and headers of ours."""
    headers = answer.headers.copy()
    headers.update(extra)
    response = web.Response(status=answer.status, body=answer.body, headers=headers)
    secured(response)
    return response

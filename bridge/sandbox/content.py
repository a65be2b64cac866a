"""Streams a video as amux does: at the reader's speed, for a limited time."""

import asyncio
from collections.abc import Mapping

from aiohttp import web

from bridge.sandbox.counting import Counts
from bridge.sandbox.video import video_pieces, video_size

CONTENT_SECONDS = 60.0
WHOLE, BROKEN_OFF, READER_LEFT = "whole", "broken_off", "reader_left"


async def send_video(
    request: web.Request, headers: Mapping[str, str], size: int | None, seconds: float | None, counts: Counts
) -> web.StreamResponse:
    """Sends a whole video and counts how that ended.

    `size` is as in `video_pieces`. After `seconds` (None: no limit) the connection ends, also in the middle of the
    body, so a slow reader loses the rest.
    """
    response = web.StreamResponse(status=200, headers=headers)
    response.content_length = video_size(size)
    try:
        async with asyncio.timeout(seconds):
            await response.prepare(request)
            for piece in video_pieces(size):
                await response.write(piece)  # waits while the reader's buffers are full
            await response.write_eof()
        counts.add(WHOLE)
    except TimeoutError:
        if request.transport is not None:
            request.transport.abort()  # what the kernel has already accepted still arrives, as with amux
        counts.add(BROKEN_OFF)
    except ConnectionError:
        counts.add(READER_LEFT)
    return response

"""Server-sent events (HTML standard, section 9.2): the response, the framing, heartbeats, and the stream's end."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeAlias

import orjson
from aiohttp import hdrs, web

from bridge.web.requests import secured

EVENT_STREAM: Final = "text/event-stream"
HEARTBEAT_SECONDS: Final = 15.0  # many proxies close a connection that is silent for a minute
LONGEST_SECONDS: Final = 3600.0  # then the client connects again, and its token or session is checked again
RECONNECT_MILLISECONDS: Final = 2000
_HEARTBEAT: Final = b": still here\n\n"


class EventStream:
    """One client's open stream. Its methods raise ConnectionError once the client has disconnected."""

    def __init__(self, response: web.StreamResponse, heartbeat_seconds: float) -> None:
        self._response = response
        self._heartbeat_seconds = heartbeat_seconds
        self._clock = asyncio.get_running_loop().time
        self._written_at = self._clock()

    async def begin(self) -> None:
        """Writes the `retry` field: a client that loses the connection waits 2 s before it connects again."""
        await self._write(b"retry: %d\n\n" % RECONNECT_MILLISECONDS)

    async def send(self, name: str, data: Any, event_id: str | None = None) -> None:
        """Writes an event. `data` is written as JSON, and `event_id`, if it is given, as the field `id`."""
        id_line = "" if event_id is None else f"id: {event_id}\n"
        await self._write(f"event: {name}\n{id_line}data: ".encode() + orjson.dumps(data) + b"\n\n")

    async def keep_alive(self) -> None:
        """Writes a comment if nothing was written for `heartbeat_seconds`."""
        if self._clock() - self._written_at >= self._heartbeat_seconds:
            await self._write(_HEARTBEAT)

    async def _write(self, data: bytes) -> None:
        await self._response.write(data)
        self._written_at = self._clock()


SendEvents: TypeAlias = Callable[[EventStream], Awaitable[None]]


async def stream_events(
    request: web.Request,
    send_events: SendEvents,
    *,
    heartbeat_seconds: float = HEARTBEAT_SECONDS,
    longest_seconds: float = LONGEST_SECONDS,
) -> web.StreamResponse:
    """Answers a request with the events that `send_events` writes. A HEAD request gets only the headers.

    The stream ends when `send_events` returns, or after `longest_seconds`. Raises what `send_events` raises, and
    ConnectionError when the client disconnects.
    """
    # X-Accel-Buffering: nginx would hold events back until its buffer is full.
    response = web.StreamResponse(headers={hdrs.CONTENT_TYPE: EVENT_STREAM, "X-Accel-Buffering": "no"})
    secured(response)
    await response.prepare(request)
    if request.method == hdrs.METH_HEAD:
        return response
    stream = EventStream(response, heartbeat_seconds)
    limit = asyncio.timeout(longest_seconds)
    try:
        async with limit:
            await stream.begin()
            await send_events(stream)
    except TimeoutError:
        if not limit.expired():
            raise
    return response

"""Sends answers, and makes the connection fail if a fault says so."""

import asyncio
import hashlib
import itertools
import socket
import struct

from aiohttp import web

from bridge.sandbox.behaviour import Fault, FaultKind
from bridge.sandbox.faults import REQUEST_ID, Answer, Call, answer_for

_MAX_BODY_BYTES = 64 << 20  # of a create body that are parsed, because no model takes more; the rest is only hashed
_PIECE = b" " * 65536


class Sender:
    """Turns answers into responses. `begin` and `end` are called when the server starts and stops."""

    def __init__(self) -> None:
        self._requests = itertools.count(1)
        self._stopping = asyncio.Event()

    def begin(self) -> None:
        """Prepares for a start. The server can be started again after a stop, also in another event loop."""
        self._stopping = asyncio.Event()

    def end(self) -> None:
        """Ends stalled answers."""
        self._stopping.set()

    def reply(self, answer: Answer) -> web.Response:
        """Returns the response of an answer."""
        headers = self.headers(answer)
        request_id = headers.get("X-Oneapi-Request-Id", "")
        body = answer.body.replace(REQUEST_ID.encode(), request_id.encode())
        return web.Response(status=answer.status, body=body, headers=headers)

    def headers(self, answer: Answer) -> dict[str, str]:
        """Returns the headers of an answer. Each answer of amux itself has a new request id."""
        headers = dict(answer.headers)
        if answer.content_type:
            headers["Content-Type"] = answer.content_type
        if answer.by_amux:
            headers["X-Oneapi-Request-Id"] = f"sandbox{next(self._requests):010d}"
        return headers

    async def send(self, request: web.Request, good: Answer, fault: Fault | None, call: Call) -> web.StreamResponse:
        """Sends the good answer, changed or replaced by the fault."""
        if fault is None:
            return self.reply(good)
        match fault.kind:
            case FaultKind.SLOW:
                await self._wait(fault.seconds)
                return self.reply(good)
            case FaultKind.RESET:
                _reset(request)
                return self.reply(good)  # never sent, but aiohttp requires an answer
            case FaultKind.ENDLESS_BODY | FaultKind.STALLED_BODY | FaultKind.CUT_BODY:
                return await self._send_broken_body(request, good, fault)
            case _:
                return self.reply(answer_for(fault, good, call))

    async def _send_broken_body(self, request: web.Request, good: Answer, fault: Fault) -> web.StreamResponse:
        """Sends a body that ends in the middle, pauses in the middle, or never ends."""
        response = web.StreamResponse(status=good.status, headers=self.headers(good))
        half = len(good.body) // 2
        if fault.kind is not FaultKind.ENDLESS_BODY:
            response.content_length = len(good.body)
        try:
            await response.prepare(request)
            await response.write(good.body[:half])
            if fault.kind is FaultKind.CUT_BODY:
                _reset(request)
                return response
            if fault.kind is FaultKind.STALLED_BODY:
                await self._wait(fault.seconds)
            while fault.kind is FaultKind.ENDLESS_BODY and not self._stopping.is_set():
                await response.write(_PIECE)
                await asyncio.sleep(0)  # a write that does not wait would never let another task run
            await response.write(good.body[half:])
        except ConnectionError:
            pass  # the client closed the connection, as expected
        return response

    async def _wait(self, seconds: float) -> None:
        """Waits for `seconds`, or until the server stops."""
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            pass


async def read_body(request: web.Request) -> tuple[bytes, int, str]:
    """Returns the first 64 MiB of the body, its size and its SHA-256."""
    start, size, digest = bytearray(), 0, hashlib.sha256()
    async for chunk in request.content.iter_any():
        size += len(chunk)
        digest.update(chunk)
        if len(start) < _MAX_BODY_BYTES:
            start += chunk[: _MAX_BODY_BYTES - len(start)]
    return bytes(start), size, digest.hexdigest()


def _reset(request: web.Request) -> None:
    """Ends the connection with a TCP reset. Without SO_LINGER, closing could look like an orderly end."""
    transport = request.transport
    if transport is None:
        return
    if (connection := transport.get_extra_info("socket")) is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()

"""Receivers of callbacks: bare protocols on many ports, which record when the first byte of each callback came."""

import asyncio
import time
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any, cast

from tests.bench.processes import LOADING, Child, serve

_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nok"
_ID = b"webhook-id: "
_LENGTH = b"content-length: "


@dataclass
class Ports:
    """The ports of receivers. `good` receivers answer at once, `hanging` receivers never."""

    good: list[int] = field(default_factory=list)
    hanging: list[int] = field(default_factory=list)

    def urls(self) -> list[str]:
        """Returns a callback URL of each good receiver."""
        return [url_of(port) for port in self.good]


def url_of(port: int) -> str:
    """Returns the callback URL of a receiver."""
    return f"http://127.0.0.1:{port}/hooks/video"


@dataclass
class _Arrivals:
    """The Unix time of each callback's first byte, by its id, and the number of callbacks."""

    at: dict[str, float] = field(default_factory=dict)
    calls: int = 0

    def answer(self, request: Any) -> Any:
        if request == "arrivals":
            return self.at
        if request == "reset":
            self.at, self.calls = {}, 0
        return self.calls


class _Receiver(asyncio.Protocol):
    """One kept connection. A request may come in pieces."""

    def __init__(self, arrivals: _Arrivals) -> None:
        self._arrivals = arrivals
        self._received = b""
        self._since = 0.0
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if not self._received:
            self._since = time.time()
        self._received += data
        head, found, body = self._received.partition(b"\r\n\r\n")
        if not found:
            return
        lowered = head.lower() + b"\r\n"
        if len(body) < int(_value(lowered, _LENGTH)):
            return
        self._received = b""
        self._arrivals.calls += 1
        self._arrivals.at.setdefault(_value(lowered, _ID).decode(), self._since)
        self._transport.write(_ANSWER)


class _Hanging(asyncio.Protocol):
    """Reads everything and never answers."""


def _value(head: bytes, name: bytes) -> bytes:
    at = head.index(name) + len(name)
    return head[at : head.index(b"\r\n", at)]


def serve_receivers(pipe: Connection, good: int, hanging: int) -> None:
    """Runs receivers until the process ends. The ready message is their ports."""
    arrivals = _Arrivals()

    async def start() -> Ports:
        loop = asyncio.get_running_loop()
        ports = Ports()
        for _ in range(good):
            server = await loop.create_server(lambda: _Receiver(arrivals), "127.0.0.1", 0, backlog=1024)
            ports.good.append(server.sockets[0].getsockname()[1])
        for _ in range(hanging):
            server = await loop.create_server(_Hanging, "127.0.0.1", 0, backlog=1024)
            ports.hanging.append(server.sockets[0].getsockname()[1])
        return ports

    serve(pipe, start, arrivals.answer)


def start_receivers(good: int, hanging: int = 0) -> Child:
    """Starts receivers in their own process. Its ready message is their ports."""
    return Child(LOADING, serve_receivers, good, hanging)

"""Receivers of callbacks: bare protocols on many ports, which note when each callback's first byte came."""

import asyncio
import time
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any, cast

from tests.bench.processes import LOADING, Child, answer_for_ever

_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nok"
_ID = b"webhook-id: "
_LENGTH = b"content-length: "


@dataclass
class Ports:
    """Where receivers listen: `good` answer at once, `hanging` never do."""

    good: list[int] = field(default_factory=list)
    hanging: list[int] = field(default_factory=list)

    def urls(self) -> list[str]:
        """A callback URL of each good one."""
        return [url_of(port) for port in self.good]


def url_of(port: int) -> str:
    """A receiver's callback URL."""
    return f"http://127.0.0.1:{port}/hooks/video"


@dataclass
class _Arrivals:
    """Callbacks by their ids: Unix seconds of the first byte."""

    at: dict[str, float] = field(default_factory=dict)
    calls: int = 0

    def answer(self, question: Any) -> Any:
        if question == "arrivals":
            return self.at
        if question == "forget":
            self.at, self.calls = {}, 0
        return self.calls


class _Receiver(asyncio.Protocol):
    """One kept connection; a request may come in pieces."""

    def __init__(self, arrivals: _Arrivals) -> None:
        self._arrivals = arrivals
        self._got = b""
        self._since = 0.0
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if not self._got:
            self._since = time.time()
        self._got += data
        head, found, body = self._got.partition(b"\r\n\r\n")
        if not found:
            return
        lowered = head.lower() + b"\r\n"
        if len(body) < int(_value(lowered, _LENGTH)):
            return
        self._got = b""
        self._arrivals.calls += 1
        self._arrivals.at.setdefault(_value(lowered, _ID).decode(), self._since)
        self._transport.write(_ANSWER)


class _Hanging(asyncio.Protocol):
    """Takes everything and never answers."""


def _value(head: bytes, name: bytes) -> bytes:
    at = head.index(name) + len(name)
    return head[at : head.index(b"\r\n", at)]


def receivers(pipe: Connection, good: int, hanging: int) -> None:
    """Listen until the process is ended; the greeting is the ports."""
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

    answer_for_ever(pipe, start, arrivals.answer)


def receiver(good: int, hanging: int = 0) -> Child:
    """Receivers in a process of their own; its greeting is their ports."""
    return Child(LOADING, receivers, good, hanging)

"""Requests to a simulated bridge: their bytes go to the protocol of the real HTTP server, without a socket."""

import asyncio
from collections.abc import Mapping
from contextvars import Context
from dataclasses import dataclass, field
from typing import Any

import orjson

from tests.simulation.hosts import Host
from tests.simulation.loop import SimulatedLoop

WORLD = Context()  # callbacks in this context belong to no host


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer. `status` is 0 when no answer came. The names of `headers` are in lower case."""

    status: int
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    is_whole: bool = True


@dataclass(frozen=True, slots=True)
class Request:
    """A request. An empty `token` is not sent. `body` is sent as JSON."""

    token: str
    method: str
    path: str
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)


class Listener:
    """A listening socket. It has no descriptor."""

    family = 2

    def __init__(self, port: int) -> None:
        self.port = port

    def getsockname(self) -> tuple[str, int]:
        return "127.0.0.1", self.port

    def close(self) -> None:
        return None


class _Connection(asyncio.Transport):
    """The server's side of a connection. When the server closes it, the caller gets the answer a moment later."""

    def __init__(self, loop: SimulatedLoop, delay: float) -> None:
        super().__init__()
        self._loop = loop
        self._delay = delay
        self._received = bytearray()
        self.protocol: Any = None
        self.closing = False
        self.answered: asyncio.Future[bytes] = loop.create_future()

    def write(self, data: Any) -> None:
        self._received += data

    def close(self) -> None:
        if not self.closing and not self._loop.is_closed():
            self.closing = True
            self._loop.call_external(self._delay, self._arrive, context=WORLD)
            self._loop.call_soon(self.protocol.connection_lost, None)

    def abort(self) -> None:
        self.close()

    def is_closing(self) -> bool:
        return self.closing

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", 50_000) if name == "peername" else default

    def _arrive(self) -> None:
        if not self.answered.done():
            self.answered.set_result(bytes(self._received))


@dataclass(eq=False)
class Caller:
    """Sends requests to one host."""

    loop: SimulatedLoop
    host: Host
    make_protocol: Any
    seconds: float  # the longest wait for an answer that is not held
    delay: float  # seconds that a request is under way, and an answer too

    async def request(self, request: Request, held: float) -> Reply:
        """Send a request and wait for its answer. The bridge may hold the answer for `held` seconds."""
        data = b"" if request.body is None else orjson.dumps(request.body)
        fields = {
            "Host": "127.0.0.1",
            "Connection": "close",
            **({"Authorization": f"Bearer {request.token}"} if request.token else {}),
            "Content-Type": "application/json",
            "Content-Length": len(data),
            **request.headers,
        }
        head = f"{request.method} {request.path} HTTP/1.1\r\n"
        head += "".join(f"{name}: {value}\r\n" for name, value in fields.items()) + "\r\n"
        connection = _Connection(self.loop, self.delay)
        self.host.run(lambda: self.loop.call_external(self.delay, self._begin, connection, head.encode() + data))
        try:
            async with asyncio.timeout(self.seconds + held):
                answer = await connection.answered
        except TimeoutError:
            return Reply(0)
        return _parsed(answer)

    def _begin(self, connection: _Connection, data: bytes) -> None:
        connection.protocol = self.make_protocol()
        connection.protocol.connection_made(connection)
        connection.protocol.data_received(data)


def _parsed(answer: bytes) -> Reply:
    head, _, data = answer.partition(b"\r\n\r\n")
    if not head:
        return Reply(0)
    first, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    is_whole, body = True, data
    if headers.get("transfer-encoding") == "chunked":
        body, is_whole = _joined(data)
    elif "content-length" in headers:
        is_whole = len(data) == int(headers["content-length"])
    is_json = "json" in headers.get("content-type", "")
    return Reply(int(first.split(" ", 2)[1]), orjson.loads(body) if is_json else body, headers, is_whole)


def _joined(data: bytes) -> tuple[bytes, bool]:
    """Return the bytes of a chunked body, and whether its last chunk came."""
    body = bytearray()
    while b"\r\n" in data:
        size, _, data = data.partition(b"\r\n")
        if not int(size, 16):
            return bytes(body), True
        body += data[: int(size, 16)]
        data = data[int(size, 16) + 2 :]
    return bytes(body), False

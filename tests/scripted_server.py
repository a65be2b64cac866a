"""Servers on real sockets that answer with any bytes."""

import asyncio
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field

WriteAnswer = Callable[[asyncio.StreamWriter], Awaitable[None]]


def raw(*parts: bytes, then_close: bool = False) -> WriteAnswer:
    """Answers with exactly these bytes."""

    async def send(writer: asyncio.StreamWriter) -> None:
        for part in parts:
            writer.write(part)
            await writer.drain()
        if then_close:
            writer.close()

    return send


async def reset(writer: asyncio.StreamWriter) -> None:
    """Ends the connection with a TCP reset."""
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def silence(writer: asyncio.StreamWriter) -> None:
    """Sends nothing and keeps the connection open."""


def endless(start: bytes, piece: bytes) -> WriteAnswer:
    """Answers with `start`, then with `piece` again and again until the client leaves."""

    async def send(writer: asyncio.StreamWriter) -> None:
        writer.write(start)
        while not writer.is_closing():
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)  # lets the client run

    return send


@dataclass
class ScriptedServer:
    """A server that gives its `answers` one after another, and then repeats the last one.

    `requests` contains the heads of requests and `bodies` their bodies. `server_names` contains the names that TLS
    clients asked for. `path` is the path of `url`.
    """

    answers: list[WriteAnswer]
    port: int = 0
    path: str = ""
    requests: list[bytes] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    connections: int = 0
    requested: asyncio.Event = field(default_factory=asyncio.Event)
    server_names: list[str] = field(default_factory=list)
    writers: list[asyncio.StreamWriter] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.writers.append(writer)
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                self.requests.append(await reader.readuntil(b"\r\n\r\n"))
                self.bodies.append(await reader.readexactly(int((self.header("Content-Length") or ["0"])[0])))
                self.requested.set()
                await (self.answers.pop(0) if len(self.answers) > 1 else self.answers[0])(writer)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}{self.path}"

    @property
    def targets(self) -> list[str]:
        return [request.decode().split(" ", 2)[1] for request in self.requests]

    def header(self, name: str, request: int = -1) -> list[str]:
        lines = self.requests[request].decode().split("\r\n")[1:]
        return [value for line in lines for key, _, value in [line.partition(": ")] if key.lower() == name.lower()]


StartServer = Callable[..., Awaitable[ScriptedServer]]


@asynccontextmanager
async def scripted_servers(path: str = "", default: Sequence[WriteAnswer] = ()) -> AsyncIterator[StartServer]:
    """Yields a function that starts a server. At the end all servers and connections are closed."""
    async with AsyncExitStack() as stack:

        async def start(
            *answers: WriteAnswer | bytes,
            host: str = "127.0.0.1",
            port: int = 0,
            tls: ssl.SSLContext | None = None,
        ) -> ScriptedServer:
            script = [raw(each) if isinstance(each, bytes) else each for each in answers or default]
            server = ScriptedServer(script, port, path)
            if tls is not None:
                tls.sni_callback = lambda _socket, name, _context: server.server_names.append(str(name))
            listener = await asyncio.start_server(server.serve, host, port, ssl=tls)
            server.port = listener.sockets[0].getsockname()[1]

            async def stop() -> None:
                listener.close()
                for writer in server.writers:
                    writer.transport.abort()
                await asyncio.gather(*(w.wait_closed() for w in server.writers), return_exceptions=True)
                await listener.wait_closed()

            stack.push_async_callback(stop)
            return server

        yield start

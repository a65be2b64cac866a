"""Receivers that answer with given bytes, on real sockets, and senders for them."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from ipaddress import ip_network

from bridge.callback.guard import Guard
from bridge.callback.sender import Sender
from bridge.core.model import Answer, NoAnswer
from bridge.core.targets import TargetPolicy

OPEN = TargetPolicy(allow_networks=(ip_network("127.0.0.1/32"), ip_network("::1/128")))
ALL_LOOPBACK = TargetPolicy(allow_networks=(ip_network("127.0.0.0/8"),))
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
BODY = b'{"id":"evt_1"}'

WriteAnswer = Callable[[asyncio.StreamWriter], Awaitable[None]]


def raw(*parts: bytes, then_close: bool = False) -> WriteAnswer:
    """Answers with exactly these bytes."""

    async def answer(writer: asyncio.StreamWriter) -> None:
        for part in parts:
            writer.write(part)
            await writer.drain()
        if then_close:
            writer.close()

    return answer


async def reset(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


async def silence(writer: asyncio.StreamWriter) -> None:
    """Sends nothing and keeps the connection open."""


@dataclass
class Receiver:
    """A server that answers each request with the next of `answers`, and repeats the last."""

    answers: list[WriteAnswer]
    port: int = 0
    requests: list[bytes] = field(default_factory=list)
    connections: int = 0
    server_names: list[str] = field(default_factory=list)
    writers: list[asyncio.StreamWriter] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.writers.append(writer)
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                self.requests.append(head + await reader.readexactly(len(BODY)))
                await (self.answers.pop(0) if len(self.answers) > 1 else self.answers[0])(writer)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"

    def header(self, name: str, request: int = -1) -> list[str]:
        lines = self.requests[request].decode().split("\r\n\r\n")[0].split("\r\n")[1:]
        return [value for line in lines for key, _, value in [line.partition(": ")] if key.lower() == name.lower()]


StartReceiver = Callable[..., Awaitable[Receiver]]
MakeSender = Callable[..., Sender]


@asynccontextmanager
async def receivers() -> AsyncIterator[StartReceiver]:
    """Yields a function that starts a receiver. At the end all receivers and connections are closed."""
    async with AsyncExitStack() as stack:

        async def start(
            *answers: WriteAnswer, host: str = "127.0.0.1", port: int = 0, tls: ssl.SSLContext | None = None
        ) -> Receiver:
            receiver = Receiver(list(answers), port)
            if tls is not None:
                tls.sni_callback = lambda _socket, name, _context: receiver.server_names.append(str(name))
            server = await asyncio.start_server(receiver.serve, host, receiver.port, ssl=tls)
            receiver.port = server.sockets[0].getsockname()[1]

            async def stop() -> None:
                server.close()
                for writer in receiver.writers:
                    writer.transport.abort()
                await asyncio.gather(*(w.wait_closed() for w in receiver.writers), return_exceptions=True)
                await server.wait_closed()

            stack.push_async_callback(stop)
            return receiver

        yield start


@asynccontextmanager
async def senders() -> AsyncIterator[MakeSender]:
    """Yields a function that makes a sender, whose names resolve by a table. At the end all senders are closed."""
    async with AsyncExitStack() as stack:

        def make(
            names: dict[str, list[list[str]]] | None = None,
            *,
            policy: TargetPolicy = OPEN,
            timeout_seconds: float = 5.0,
            ssl_context: ssl.SSLContext | None = None,
        ) -> Sender:
            async def resolve(host: str, port: int) -> list[str]:
                answers = (names or {}).get(host)
                if answers is None:
                    raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
                if answers == [["hang"]]:
                    await asyncio.Event().wait()
                return answers.pop(0) if len(answers) > 1 else answers[0]

            sender = Sender(
                Guard(policy, resolve),
                user_agent="amux-bridge/test",
                timeout_seconds=timeout_seconds,
                wall_clock=lambda: 1_795_446_245.0,
                ssl_context=ssl_context,
            )
            stack.push_async_callback(sender.close)
            return sender

        yield make


async def post(sender: Sender, url: str, **headers: str) -> Answer:
    return (await sender.send(url, headers, BODY)).answer


def code_of(answer: Answer) -> str:
    assert isinstance(answer, NoAnswer), answer
    assert "?" not in answer.message
    assert "\n" not in answer.message
    return answer.code

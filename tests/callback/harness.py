"""Senders of callbacks to scripted servers."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from ipaddress import ip_network

from bridge.callback.guard import Guard
from bridge.callback.sender import Sender
from bridge.core.model import Answer, NoAnswer
from bridge.core.targets import TargetPolicy

OPEN = TargetPolicy(allow_networks=(ip_network("127.0.0.1/32"), ip_network("::1/128")))
ALL_LOOPBACK = TargetPolicy(allow_networks=(ip_network("127.0.0.0/8"),))
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
BODY = b'{"id":"evt_1"}'
SHORT_SECONDS = 1.0  # for attempts that time out; enough for a busy machine to connect and read a status line
AT_MOST_SECONDS = 10.0  # an attempt that keeps its time limit is shorter, also on a busy machine

MakeSender = Callable[..., Sender]


@asynccontextmanager
async def senders() -> AsyncIterator[MakeSender]:
    """Yields a function that makes a sender, which resolves names from a table. Closes all senders at the end."""
    async with AsyncExitStack() as stack:

        def make(
            names: dict[str, list[list[str]]] | None = None,
            *,
            policy: TargetPolicy = OPEN,
            timeout_seconds: float = 30.0,
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

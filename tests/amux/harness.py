"""Answers of amux as bytes, and clients that send requests to scripted servers."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from bridge.amux import AmuxClient

KEY = "sk-amux-0123456789abcdef"
NOW = 1_795_446_245.0  # Mon, 23 Nov 2026 15:04:05 GMT
RECORD = b'{"task_id":"task_1","status":"running"}'


def answer(body: bytes = RECORD, status: str = "200 OK", **headers: str) -> bytes:
    lines = {"Content-Type": "application/json", "Content-Length": str(len(body))}
    lines |= {name.replace("_", "-"): value for name, value in headers.items()}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"HTTP/1.1 {status}\r\n{head}\r\n".encode() + body


MakeClient = Callable[..., AmuxClient]


@asynccontextmanager
async def clients() -> AsyncIterator[MakeClient]:
    """Yields a function that makes a client. At the end all clients are closed."""
    async with AsyncExitStack() as stack:

        def make(base_url: str, **options: Any) -> AmuxClient:
            options.setdefault("timeout_seconds", 30.0)
            client = AmuxClient(base_url, user_agent="amux-bridge/test", wall_clock=lambda: NOW, **options)
            stack.push_async_callback(client.close)
            return client

        yield make

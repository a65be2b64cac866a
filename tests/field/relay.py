"""A relay in front of a server on loopback. It adds another address or TLS, or makes the server come and go."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


@asynccontextmanager
async def relay(
    to: int, *, host: str = "127.0.0.1", port: int = 0, tls: ssl.SSLContext | None = None
) -> AsyncIterator[int]:
    """Passes connections on to a port of 127.0.0.1, and yields its own port. At the end it aborts all connections."""
    connections: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = asyncio.current_task()
        assert connection is not None
        connections.add(connection)
        writers = [writer]
        try:
            there, back = await asyncio.open_connection("127.0.0.1", to)
            writers.append(back)
            await asyncio.gather(_pass(reader, back), _pass(there, writer))
        except (OSError, asyncio.CancelledError):
            for one in writers:
                one.transport.abort()
        finally:
            connections.discard(connection)

    server = await asyncio.start_server(serve, host, port, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        for listening in server.sockets:
            asyncio.get_running_loop().remove_reader(listening.fileno())
        await _some_turns()  # lets a connection begin that was just accepted, which a closed server would prevent
        server.close()
        for connection in connections:
            connection.cancel()
        await asyncio.gather(*connections)
        await _some_turns()  # lets the aborted transports close
        await server.wait_closed()


async def _some_turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    writer.close()

"""An http(s) proxy that understands CONNECT only, and records the requests."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field


@dataclass
class ConnectProxy:
    """A proxy. `places` maps a requested "name:port" to an address. A request without an entry is not redirected."""

    port: int = 0
    answer: bytes = b"HTTP/1.1 200 Connection established\r\n\r\n"
    places: dict[str, tuple[str, int]] = field(default_factory=dict)
    heads: list[str] = field(default_factory=list)
    _open: set[asyncio.StreamWriter] = field(default_factory=set)

    @property
    def targets(self) -> list[str]:
        """Returns the "name:port" of each CONNECT request."""
        return [head.split(" ")[1] for head in self.heads if head.startswith("CONNECT ")]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        with suppress(OSError, asyncio.IncompleteReadError):
            self.heads.append((await reader.readuntil(b"\r\n\r\n")).decode())
            writer.write(self.answer)
            if b" 200 " not in self.answer[:16]:
                writer.close()
                return
            name, _, port = self.heads[-1].split(" ")[1].rpartition(":")
            place = self.places.get(f"{name}:{port}", (name.strip("[]"), int(port)))
            there_reader, there_writer = await asyncio.open_connection(*place)
            self._open.add(there_writer)
            await asyncio.gather(_pass(reader, there_writer), _pass(there_reader, writer))

    async def close(self) -> None:
        for writer in self._open:
            writer.transport.abort()
        await asyncio.gather(*(writer.wait_closed() for writer in self._open), return_exceptions=True)


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


@asynccontextmanager
async def connect_proxy(tls: ssl.SSLContext | None = None) -> AsyncIterator[ConnectProxy]:
    """Starts a proxy on loopback."""
    proxy = ConnectProxy()
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0, ssl=tls)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        await proxy.close()
        await server.wait_closed()

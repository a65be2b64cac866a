"""Connections through an http(s) proxy. Each is a tunnel that CONNECT opens (RFC 9110, 9.3.6), also for plain http.

aiohttp's own proxy support sends plain http requests to the proxy itself, which would then look the name up again.
"""

import asyncio
import base64
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

MAX_PROXY_HEAD_BYTES = 64 * 1024
_PIPE_BYTES = 64 * 1024


class ProxyFailed(OSError):
    """The proxy did not open a tunnel. The message names the proxy, without a login."""


@dataclass(frozen=True, slots=True)
class Proxy:
    """An http(s) proxy. `login` is "user:password", or None."""

    host: str
    port: int
    https: bool = False
    login: str | None = field(default=None, repr=False)

    @classmethod
    def from_url(cls, url: str) -> "Proxy":
        """Reads a URL such as `http://user:password@host:port`, which the settings have checked."""
        parts = urlsplit(url)
        https = parts.scheme == "https"
        login = f"{unquote(parts.username)}:{unquote(parts.password or '')}" if parts.username else None
        return cls(parts.hostname or "", parts.port or (443 if https else 80), https, login)

    @property
    def name(self) -> str:
        """The proxy's host and port, with an IPv6 address in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def proxy_of(url: str | None) -> Proxy | None:
    """Returns the proxy of a setting; None if the setting is not set."""
    return None if url is None else Proxy.from_url(url)


class _NoLookUp(AbstractResolver):
    """Resolves no name: the proxy does that. aiohttp needs a resolver, so it gets a placeholder address."""

    async def resolve(
        self,
        host: str,
        port: int = 0,
        family: socket.AddressFamily = socket.AF_INET,  # noqa: ARG002
    ) -> list[ResolveResult]:
        return [ResolveResult(hostname=host, host="0.0.0.0", port=port, family=socket.AF_INET, proto=0, flags=0)]  # noqa: S104

    async def close(self) -> None:
        """Does nothing, because nothing is open."""


class ProxyConnector(aiohttp.TCPConnector):
    """Connects to the host of each URL, which may be an address, through a proxy.

    `check` is called with the host and the port before the proxy is asked, and raises OSError to refuse them.
    `proxy_ssl` checks the certificate of an https proxy.
    """

    def __init__(
        self,
        proxy: Proxy,
        *,
        proxy_ssl: ssl.SSLContext | None = None,
        check: Callable[[str, int], None] = lambda _host, _port: None,
        **options: Any,
    ) -> None:
        super().__init__(resolver=_NoLookUp(), **options)
        self._proxy = proxy
        self._proxy_ssl = proxy_ssl
        self._check = check
        self._pipes: set[asyncio.Task[None]] = set()

    async def _wrap_create_connection(  # aiohttp's own method; there is no public way
        self,
        *args: Any,
        addr_infos: Any,
        req: Any,
        timeout: Any,  # noqa: ASYNC109  aiohttp's name
        client_error: Any = None,  # noqa: ARG002
        **options: Any,
    ) -> Any:
        host, port = str(req.url.host), int(req.port)
        try:
            async with asyncio.timeout(timeout.sock_connect):
                self._check(host, port)
                tunnel = await self._open_tunnel(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
                try:
                    return await asyncio.get_running_loop().create_unix_connection(*args, **options, sock=tunnel)
                except BaseException:
                    tunnel.close()
                    raise
        except ssl.CertificateError as error:
            raise aiohttp.ClientConnectorCertificateError(req.connection_key, error) from error
        except ssl.SSLError as error:
            raise aiohttp.ClientConnectorSSLError(req.connection_key, error) from error
        except TimeoutError:
            raise
        except OSError as error:
            raise aiohttp.ClientConnectorError(req.connection_key, error) from error
        finally:
            addr_infos.clear()  # aiohttp would ask the proxy again for each address

    async def _open_tunnel(self, target: str) -> socket.socket:
        """Returns a socket whose other end is `target`. Raises ProxyFailed."""
        try:
            reader, writer = await self._connect()
        except TimeoutError:
            raise
        except OSError as error:
            reason = "TLS failed" if isinstance(error, ssl.SSLError) else (error.strerror or "no connection").lower()
            raise ProxyFailed(f"the proxy {self._proxy.name} cannot be reached: {reason}") from None
        try:
            await self._ask(reader, writer, target)
        except BaseException:
            writer.transport.abort()
            raise
        ours, theirs = socket.socketpair()
        for end in (ours, theirs):
            end.setblocking(False)
        piping = asyncio.create_task(_pipe(theirs, reader, writer))
        self._pipes.add(piping)
        piping.add_done_callback(self._pipes.discard)
        return ours

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if not self._proxy.https:
            return await asyncio.open_connection(self._proxy.host, self._proxy.port, limit=MAX_PROXY_HEAD_BYTES)
        context = self._proxy_ssl or ssl.create_default_context()
        return await asyncio.open_connection(
            self._proxy.host, self._proxy.port, ssl=context, limit=MAX_PROXY_HEAD_BYTES
        )

    async def _ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, target: str) -> None:
        lines = [f"CONNECT {target} HTTP/1.1", f"Host: {target}"]
        if self._proxy.login is not None:
            encoded = base64.b64encode(self._proxy.login.encode()).decode()
            lines.append(f"Proxy-Authorization: Basic {encoded}")
        writer.write("\r\n".join([*lines, "", ""]).encode())
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, OSError):
            raise ProxyFailed(f"the proxy {self._proxy.name} did not answer") from None
        words = head.split(b"\r\n", 1)[0].split(b" ", 2)
        status = words[1].decode("ascii", "replace")[:3] if len(words) > 1 else ""
        if not (status.isdigit() and status.startswith("2")):
            why = " (its login is missing or wrong)" if status == "407" else ""
            raise ProxyFailed(f"the proxy {self._proxy.name} answered {status or 'no HTTP'}{why}")

    async def close(self, **options: Any) -> None:
        """Closes all connections and their tunnels."""
        await super().close(**options)
        for piping in list(self._pipes):
            piping.cancel()
        await asyncio.gather(*self._pipes, return_exceptions=True)


async def _pipe(inner: socket.socket, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Passes bytes between our socket and the proxy, until our side closes or the proxy accepts no more bytes."""
    loop = asyncio.get_running_loop()

    async def receive() -> None:
        with suppress(OSError):
            while data := await reader.read(_PIPE_BYTES):
                await loop.sock_sendall(inner, data)
        with suppress(OSError):
            inner.shutdown(socket.SHUT_WR)  # our side sees the end, and closes

    receiving = asyncio.create_task(receive())
    try:
        with suppress(OSError):
            while data := await loop.sock_recv(inner, _PIPE_BYTES):
                writer.write(data)
                await writer.drain()
    finally:
        receiving.cancel()
        try:
            await asyncio.gather(receiving, return_exceptions=True)
        finally:  # `close` may cancel this task here
            writer.transport.abort()
            inner.close()

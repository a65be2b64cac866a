"""Sends requests over aiohttp's connections and reads answers with aiohttp's parser, but without its client session.

For each exchange, the session makes objects and timers that handle cookies, redirects and the like. Polls and callbacks
need none of these. Without the session a poll takes 20 µs of CPU instead of 60.
"""

import asyncio
from collections.abc import Mapping
from typing import Any, TypeAlias

from aiohttp import ClientError, ClientTimeout
from aiohttp.client_exceptions import (
    ClientConnectionResetError,
    ClientConnectorError,
    ClientOSError,
    ConnectionTimeoutError,
    ServerDisconnectedError,
)
from aiohttp.client_reqrep import ClientRequest
from aiohttp.connector import BaseConnector, Connection
from aiohttp.hdrs import METH_GET
from aiohttp.streams import StreamReader
from multidict import CIMultiDictProxy
from yarl import URL

Origin: TypeAlias = ClientRequest
"""The target of requests. It is a request that is never sent: aiohttp's connectors need one, and read only its URL."""

NO_CONNECT_TIMEOUT = ClientTimeout(total=None, sock_connect=None)
_INTERIM = frozenset(range(100, 200)) - {101}  # after 101 the connection speaks another protocol: it is the last answer


class HttpAnswer:
    """The head of an answer. Its body is read from `content`. Then `release` or `close` must be called."""

    __slots__ = ("_connection", "content", "headers", "status")

    def __init__(
        self, status: int, headers: CIMultiDictProxy[str], content: StreamReader, connection: Connection
    ) -> None:
        self.status = status
        self.headers = headers
        self.content = content
        self._connection = connection

    def release(self) -> None:
        """Keeps the connection for another request, or closes it if the exchange has not ended.

        It has not ended if a part of the body is missing, or if a part of the request was not sent because the server
        answered early.
        """
        if _has_unsent_bytes(self._connection):
            self.close()
        else:
            self._connection.release()

    def close(self) -> None:
        """Closes the connection."""
        _close(self._connection)


class HttpConnections:
    """Sends requests over the connections of `connector`, which its owner closes.

    `parser_limits` are arguments of `ResponseHandler.set_response_params`, such as `max_line_size`. Bodies of answers
    are not decompressed. An exchange has no time limit: the caller cancels it.
    """

    def __init__(self, connector: BaseConnector, **parser_limits: Any) -> None:
        self._connector = connector
        self._parser_limits = parser_limits

    @staticmethod
    def origin(url: URL, server_name: str | None = None) -> Origin:
        """Returns the origin of a URL. `server_name` is the name for TLS, if the URL has an address instead."""
        return ClientRequest(METH_GET, url, loop=asyncio.get_running_loop(), server_hostname=server_name)

    async def send(self, origin: Origin, request: bytes, connect_timeout: ClientTimeout) -> HttpAnswer:
        """Sends the bytes of a request, and returns the answer when its head has arrived.

        Raises what aiohttp's session raises, and HttpProcessingError for an answer that is not HTTP.
        """
        try:
            connection = await self._connector.connect(origin, [], connect_timeout)
        except TimeoutError as error:
            raise ConnectionTimeoutError("no connection within its time limit") from error
        except ClientError:
            raise
        except OSError as error:
            raise ClientOSError(*error.args) from error
        try:
            return await self._exchange(connection, request)
        except BaseException:
            _close(connection)
            raise

    async def send_repeatable(self, origin: Origin, request: bytes) -> HttpAnswer:
        """Does the same as `send`, without a limit for connecting. Raises the same errors.

        If the connection breaks before the answer begins, it sends the request once more: the connection may have been
        a kept one, which the server had closed.
        """
        try:
            return await self.send(origin, request, NO_CONNECT_TIMEOUT)
        except (ClientConnectorError, ConnectionTimeoutError):
            raise
        except (ClientOSError, ServerDisconnectedError, ClientConnectionResetError):
            return await self.send(origin, request, NO_CONNECT_TIMEOUT)

    async def _exchange(self, connection: Connection, request: bytes) -> HttpAnswer:
        protocol, transport = connection.protocol, connection.transport
        if protocol is None or transport is None or transport.is_closing():
            raise ClientConnectionResetError("the connection is closing")
        if protocol.should_close:  # aiohttp's pool does not check this again for a kept connection
            raise ClientConnectionResetError("bytes arrived before the request, so they are not its answer")
        protocol.set_response_params(read_until_eof=True, auto_decompress=False, **self._parser_limits)
        transport.write(request)
        while True:
            message, content = await protocol.read()
            if message.code not in _INTERIM:
                return HttpAnswer(message.code, message.headers, content, connection)


def _has_unsent_bytes(connection: Connection) -> bool:
    transport = connection.transport
    return transport is not None and transport.get_write_buffer_size() > 0


def _close(connection: Connection) -> None:
    """Closes a connection at once. A normal close first sends the rest of a request, and waits until it is read."""
    transport = connection.transport
    if transport is not None and _has_unsent_bytes(connection):
        transport.abort()
    connection.close()


def request_head(method: str, path: str, headers: Mapping[str, str]) -> bytes:
    """Returns the head of a request as bytes. Raises ValueError if a value contains a line break or a NUL."""
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    head = "\r\n".join(lines)
    if head.count("\r") != len(lines) - 1 or head.count("\n") != len(lines) - 1 or "\0" in head:
        raise ValueError("a header contains a character that separates lines")
    return head.encode()

"""Sends one callback: one POST to a checked address, within one time limit, without redirects."""

import asyncio
import math
import socket
import ssl
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any
from urllib.parse import unquote, urljoin, urlsplit

import aiohttp
from aiohappyeyeballs import AddrInfoType
from aiohttp.http_exceptions import HttpProcessingError
from multidict import CIMultiDict
from yarl import URL

from bridge.aio.client_errors import CLIENT_ERRORS, explain_client_error, may_want_client_certificate
from bridge.aio.http_connections import NO_CONNECT_TIMEOUT, HttpAnswer, HttpConnections, Origin, request_head
from bridge.aio.proxy_connector import Proxy, ProxyConnector
from bridge.aio.resources import present_shortage, shortage_in
from bridge.aio.timeouts import Limit, TimeoutSweep
from bridge.callback.guard import Guard, NameUnresolved, RefusedAddressError
from bridge.callback.protocol import EXCHANGE, AnswerProtocol, Exchange
from bridge.core.delivery import OUT_OF_RESOURCES
from bridge.core.errors import InvalidRequest, TargetRefused
from bridge.core.model import Answer, Answered, NoAnswer, RefusedTarget
from bridge.core.retry_after import retry_after_seconds
from bridge.core.targets import Address, Target, bracketed
from bridge.telemetry import redact

MAX_ANSWER_BYTES = 16 * 1024  # of a body that is read so that the connection can be kept; a longer one closes it
KEPT_BODY_BYTES = 4 * 1024  # the attempt log shows this much of a body
KEEP_ALIVE_SECONDS = 60.0
MAX_LOCATION_CHARACTERS = 500
RETRY_AFTER_STATUSES = frozenset({429, 503})

_TARGETS_REMEMBERED = 1024  # an app uses few callback URLs, and each retry uses the same one


@dataclass(frozen=True, slots=True)
class SendResult:
    """The result of one POST, and how long it took, including the look-up and the body."""

    answer: Answer
    duration_seconds: float


class Sender:
    """Sends callbacks. It must be created while the event loop runs, and closed at the end.

    `timeout_seconds` limits one whole attempt: look-up, connection, request, answer and body. `clock` (monotonic
    seconds) measures durations; `wall_clock` (Unix seconds) converts a Retry-After date. Without `ssl_context`, the
    system's certificates are trusted, or those of SSL_CERT_FILE.
    """

    def __init__(  # noqa: PLR0913  tests pass both clocks
        self,
        guard: Guard,
        *,
        user_agent: str,
        timeout_seconds: float = 15.0,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        ssl_context: ssl.SSLContext | None = None,
        has_client_certificate: bool = False,
        proxy: Proxy | None = None,
    ) -> None:
        self._guard = guard
        self._certificate_hint = (
            "perhaps it does not accept the client certificate"
            if has_client_certificate
            else "perhaps it requires a client certificate (BRIDGE_CALLBACK_CLIENT_CERTIFICATE)"
        )
        self._clock = clock
        self._wall_clock = wall_clock
        self._timeouts = TimeoutSweep(timeout_seconds, asyncio.get_running_loop().time)
        self._own_headers = CIMultiDict(
            {
                "Host": "",
                "Content-Type": "application/json",
                "User-Agent": user_agent,
                "Accept-Encoding": "identity",
                "Accept": "*/*",
            }
        )
        self._connectors = [self._connector(ssl_context, proxy, keep=keep) for keep in (True, False)]
        limits = {"read_bufsize": MAX_ANSWER_BYTES // 2}  # aiohttp stops reading from the socket at twice this size
        self._kept, self._closing = (HttpConnections(connector, **limits) for connector in self._connectors)
        self._origin = lru_cache(_TARGETS_REMEMBERED)(_origin)

    async def send(self, target_url: str, headers: Mapping[str, str], body: bytes) -> SendResult:
        """Sends `body` once, with `headers` in addition to Content-Type and User-Agent, within the time limit.

        Failures of the target or of the network are not raised. The answer is one of these:
        - Answered, if the headers arrived, even if the body ends too early. For a 2xx the status line is enough.
        - RefusedTarget, if a rule refuses the URL or its literal address.
        - NoAnswer in all other cases. Its code is from `aio/client_errors.py`, or `name_unresolved`, or
          `target_refused` for a name that resolves to a refused address, or OUT_OF_RESOURCES if the bridge itself could
          not open a connection.
        Messages name the host, never the path or the query.
        """
        started = self._clock()
        answer = await self._answer(target_url, headers, body)
        return SendResult(answer, max(0.0, self._clock() - started))

    async def close(self) -> None:
        """Closes all connections."""
        self._timeouts.close()
        for connector in self._connectors:
            await connector.close()

    async def _answer(self, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        limit = Limit(self._timeouts)
        exchange = Exchange()
        EXCHANGE.set(exchange)
        try:
            target = self._guard.parse(url)
        except (TargetRefused, InvalidRequest) as refused:
            return RefusedTarget(str(refused))
        try:
            with limit:
                exchange.target = target
                addresses = await self._guard.addresses(target)
                response = await self._first_response(target, addresses, headers, body, limit.at)
        except (NameUnresolved, TargetRefused) as error:
            if isinstance(error, NameUnresolved) and (shortage := present_shortage()):
                return NoAnswer(OUT_OF_RESOURCES, shortage)
            code = "target_refused" if isinstance(error, TargetRefused) else error.code
            return NoAnswer(code, str(error))
        except (aiohttp.ClientError, HttpProcessingError, ssl.SSLError, TimeoutError) as error:
            if exchange.status is not None and 200 <= exchange.status < 300:
                return Answered(exchange.status)  # the status line arrived in time, but the headers did not
            return self._no_answer(error, target, exchange)
        answered = await self._read(response, limit.at)
        return _with_location(answered, target, exchange.location, headers.values())

    def _no_answer(self, error: Exception, target: Target, exchange: Exchange) -> NoAnswer:
        if isinstance(error, aiohttp.ClientConnectorError) and isinstance(error.os_error, RefusedAddressError):
            return NoAnswer("target_refused", str(error.os_error))
        cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
        if shortage := shortage_in(cause):
            return NoAnswer(OUT_OF_RESOURCES, shortage)
        code, message = explain_client_error(error, target.host_key, self._timeouts.seconds)
        if target.https and exchange.opened and may_want_client_certificate(error):
            message += "; " + self._certificate_hint
        return NoAnswer(code, message)

    async def _first_response(
        self,
        target: Target,
        addresses: tuple[Address, ...],
        headers: Mapping[str, str],
        body: bytes,
        deadline: float,
    ) -> HttpAnswer:
        """Sends the POST to the first address that accepts a connection.

        The connection to each address except the last may take an equal share of the time that is left.
        """
        *others, last = addresses
        for index, address in enumerate(others):
            seconds_left = deadline - asyncio.get_running_loop().time()
            share = aiohttp.ClientTimeout(
                total=None, sock_connect=max(seconds_left, 0.001) / (len(addresses) - index), ceil_threshold=math.inf
            )
            with suppress(aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):
                return await self._post(target, address, headers, body, share)
        return await self._post(target, last, headers, body, NO_CONNECT_TIMEOUT)

    async def _post(
        self,
        target: Target,
        address: Address,
        headers: Mapping[str, str],
        body: bytes,
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109  it limits the connection only, not this call
    ) -> HttpAnswer:
        """Sends the POST to one checked address. If a kept connection was closed, sends the POST again on a new one.

        If the receiver read the first request before it closed the connection, it gets the event twice. This is
        allowed, because delivery is at-least-once.
        """
        origin = self._origin(target, address)
        all_headers = self._own_headers.copy()
        all_headers["Host"] = target.authority
        all_headers.update(headers)
        all_headers["Content-Length"] = str(len(body))
        head = request_head("POST", origin.url.raw_path_qs, all_headers)
        exchange = EXCHANGE.get()
        exchange.opened, exchange.status = False, None
        try:
            return await self._kept.send(origin, head + body, timeout)
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError, aiohttp.ClientConnectionResetError):
            if exchange.opened or exchange.status is not None:
                raise
        all_headers["Connection"] = "close"
        head = request_head("POST", origin.url.raw_path_qs, all_headers)
        return await self._closing.send(origin, head + body, timeout)

    async def _read(self, response: HttpAnswer, deadline: float) -> Answered:
        """Reads up to 16 KiB of the body. An error in the body ends the reading and does not change the answer."""
        body, complete = _body_so_far(response)
        if not complete:
            body, complete = await _rest_of_body(response, body, deadline)
        if complete:
            response.release()
        else:
            response.close()
        retry_after = None
        if response.status in RETRY_AFTER_STATUSES:
            retry_after = retry_after_seconds(response.headers.get("Retry-After"), self._wall_clock())
        return Answered(response.status, retry_after, body[:KEPT_BODY_BYTES])

    def _connector(
        self, ssl_context: ssl.SSLContext | None, proxy: Proxy | None, *, keep: bool
    ) -> aiohttp.TCPConnector:
        options: dict[str, Any] = {
            "ssl": ssl_context or True,
            "limit": 0,  # the deliverer limits how many attempts run at a time
            "use_dns_cache": False,
            "force_close": not keep,
            "keepalive_timeout": KEEP_ALIVE_SECONDS if keep else None,
        }
        connector = (
            aiohttp.TCPConnector(socket_factory=self._open_socket, **options)
            if proxy is None
            else ProxyConnector(proxy, proxy_ssl=ssl_context, check=self._check_peer, **options)
        )
        make_protocol: Any = partial(AnswerProtocol, loop=asyncio.get_running_loop())
        connector._factory = make_protocol  # noqa: SLF001  there is no public way
        return connector

    def _open_socket(self, addr_info: AddrInfoType) -> socket.socket:
        exchange = EXCHANGE.get()
        exchange.opened = True
        return self._guard.open_socket(addr_info, exchange.target)

    def _check_peer(self, address: str, port: int) -> None:
        exchange = EXCHANGE.get()
        exchange.opened = True
        self._guard.check_peer(address, port, exchange.target)


def _with_location(answered: Answered, target: Target, location: str | None, hidden: Iterable[str]) -> Answered:
    """Returns the answer with the URL of its redirect, without query and user info.

    The URL is left out if it repeats a value in `hidden`.
    """
    if location is None or not 300 <= answered.status < 400:
        return answered
    try:
        parts = urlsplit(urljoin(target.url, location))
        host = parts.netloc.rpartition("@")[2]
    except ValueError:
        return answered
    shown = f"{parts.scheme}://{host}{parts.path}"
    may_show = shown.isprintable() and len(shown) <= MAX_LOCATION_CHARACTERS and not repeats_secret(shown, hidden)
    return replace(answered, location=shown if may_show else None)


def repeats_secret(url: str, hidden: Iterable[str]) -> bool:
    """Returns whether a receiver's URL repeats a secret of the bridge or a value in `hidden`, also percent-encoded."""
    decoded = unquote(url)
    return redact(decoded, list(hidden)) != decoded


def _origin(target: Target, address: Address) -> Origin:
    """Returns the target's URL with the checked address instead of the name.

    aiohttp's pool looks kept connections up by this URL's host and by the server name. So it finds only connections to
    the checked address.
    """
    url = URL(f"{target.scheme}://{bracketed(str(address))}:{target.port}{target.path}", encoded=True)
    return HttpConnections.origin(url, target.host if target.https and target.address is None else None)


def _body_so_far(response: HttpAnswer) -> tuple[bytes, bool]:
    """Returns the part of a body that arrived together with the head, and whether the body is complete.

    Nearly always it is complete, and then no timer is needed.
    """
    content = response.content
    if not content.is_eof() or content.exception() is not None:
        return b"", False
    body = content.read_nowait(MAX_ANSWER_BYTES + 1)
    return body, content.at_eof() and len(body) <= MAX_ANSWER_BYTES


async def _rest_of_body(response: HttpAnswer, start: bytes, deadline: float) -> tuple[bytes, bool]:
    """Returns at most 16 KiB and one byte of the body, and whether that is all of it."""
    body = bytearray(start)
    try:
        async with asyncio.timeout_at(deadline):
            while len(body) <= MAX_ANSWER_BYTES:
                chunk = await response.content.read(MAX_ANSWER_BYTES + 1 - len(body))
                if not chunk:
                    return bytes(body), True
                body += chunk
        return bytes(body), False
    except CLIENT_ERRORS:
        return bytes(body), False  # the part that has arrived is kept
    except BaseException:
        response.close()
        raise

"""One guarded POST: by one clock, to a judged address, with a capped answer and no redirects."""

import asyncio
import math
import os
import socket
import ssl
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import aiohttp
from aiohappyeyeballs import AddrInfoType
from aiohttp.client_proto import ResponseHandler
from aiohttp.http_exceptions import HttpProcessingError
from yarl import URL

from bridge.aio.timeouts import TimeoutSweep
from bridge.callback.guard import Guard, NameUnresolved, RefusedAddressError
from bridge.core.errors import InvalidRequest, TargetRefused
from bridge.core.model import Answer, Answered, NoAnswer, RefusedTarget
from bridge.core.retry_after import retry_after_seconds
from bridge.core.targets import Address, Target, bracketed

MAX_ANSWER_BYTES = 16 * 1024  # read at most, to keep the connection; beyond it the connection is dropped
KEPT_BODY_BYTES = 4 * 1024  # what an attempt's log shows
MAX_UNTIL_ANSWERED_BYTES = 64 * 1024  # of 1xx answers and heads: reading a flood of them would hold up all others
KEEP_ALIVE_SECONDS = 60.0
RETRY_AFTER_STATUSES = frozenset({429, 503})

_ALL_THE_CLOCK = aiohttp.ClientTimeout(total=None, sock_connect=None)  # our own clock is around it all

# Whether the request at hand opened a connection of its own. aiohttp opens it in the task that asks, and a trace,
# which would tell as well, costs a fifth of the whole request.
_opened: ContextVar[bool] = ContextVar("_opened")


@dataclass(frozen=True, slots=True)
class SendResult:
    """What came of one POST, and how long it took, look-up and body included."""

    answer: Answer
    duration_seconds: float


class Sender:
    """Sends callbacks. Make it on the running loop, and close it.

    `timeout_seconds` is one attempt's wall clock: look-up, connection, request, answer and body. `clock` measures
    durations (monotonic seconds), `wall_clock` turns a Retry-After date into seconds. Without `ssl_context` the
    system's certificates count, or those of SSL_CERT_FILE.
    """

    def __init__(  # noqa: PLR0913 - two clocks, to be given in tests
        self,
        guard: Guard,
        *,
        user_agent: str,
        timeout_seconds: float = 15.0,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self._guard = guard
        self._clock = clock
        self._wall_clock = wall_clock
        self._limits = TimeoutSweep(timeout_seconds, asyncio.get_running_loop().time)
        self._kept = _session(self._open_socket, user_agent, ssl_context, keep=True)
        self._single = _session(self._open_socket, user_agent, ssl_context, keep=False)

    async def send(self, target_url: str, headers: Mapping[str, str], body: bytes) -> SendResult:
        """POST `body` to a URL once, with `headers` beside Content-Type and User-Agent; never longer than the clock.

        Raises nothing for what the target does: Answered once its headers came, whatever the body then does; Refused
        when a rule or a literal address refuses the URL; Unanswered with the code `timeout`, `connection_failed`,
        `connection_lost`, `tls_failed`, `bad_answer`, `name_unresolved` or `target_refused` (a name that leads to a
        refused address). Messages name the host, never the path or the query.
        """
        started = self._clock()
        answer = await self._answer(target_url, headers, body)
        return SendResult(answer, max(0.0, self._clock() - started))

    async def close(self) -> None:
        """Close every connection."""
        self._limits.close()
        await self._kept.close()
        await self._single.close()

    async def _answer(self, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        limit = self._limits.limit()
        try:
            target = self._guard.parse(url)
        except (TargetRefused, InvalidRequest) as refused:
            return RefusedTarget(str(refused))
        try:
            with limit:
                addresses = await self._guard.addresses(target)
                response = await self._first_response(target, addresses, headers, body, limit.at)
        except (NameUnresolved, TargetRefused) as error:
            code = "target_refused" if isinstance(error, TargetRefused) else error.code
            return NoAnswer(code, str(error))
        except (aiohttp.ClientError, HttpProcessingError, ssl.SSLError) as error:
            return _unanswered(error, target)
        except TimeoutError:
            return NoAnswer("timeout", f"{target.host_key} did not answer within {self._limits.seconds:g} s")
        return await self._read(response, limit.at)

    async def _first_response(
        self,
        target: Target,
        addresses: tuple[Address, ...],
        headers: Mapping[str, str],
        body: bytes,
        deadline: float,
    ) -> aiohttp.ClientResponse:
        """POST to the first address that can be connected to; each but the last has its share of the time left."""
        *others, last = addresses
        for index, address in enumerate(others):
            left = deadline - asyncio.get_running_loop().time()
            share = aiohttp.ClientTimeout(
                total=None, sock_connect=max(left, 0.001) / (len(addresses) - index), ceil_threshold=math.inf
            )
            with suppress(aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):
                return await self._post(target, address, headers, body, share)
        return await self._post(target, last, headers, body, _ALL_THE_CLOCK)

    async def _post(
        self,
        target: Target,
        address: Address,
        headers: Mapping[str, str],
        body: bytes,
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 - not the call's own: the connection's share of the clock
    ) -> aiohttp.ClientResponse:
        """POST to one judged address; once more, on a connection of its own, if a kept one turns out dead.

        That may send twice what a receiver took before it hung up: at-least-once allows it.
        """
        url = _url(target, address)
        # The pool's key is this URL's host and the server name: a kept connection leads to the judged address.
        server_name = target.host if target.https and target.address is None else None
        post = partial(
            aiohttp.ClientSession.post,
            url=url,
            data=body,
            headers={"Host": target.authority, **headers},
            allow_redirects=False,
            server_hostname=server_name,
            timeout=timeout,
        )
        _opened.set(False)
        try:
            return await post(self._kept)
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError, aiohttp.ClientConnectionResetError):
            if _opened.get():
                raise
        return await post(self._single)

    async def _read(self, response: aiohttp.ClientResponse, deadline: float) -> Answered:
        """Read what the cap allows; the answer stands whatever the body does, so its troubles end the reading only."""
        body, whole = _come_already(response)
        if not whole:
            body, whole = await _rest(response, body, deadline)
        if whole:
            response.release()
        else:
            response.close()
        retry_after = None
        if response.status in RETRY_AFTER_STATUSES:
            retry_after = retry_after_seconds(response.headers.get("Retry-After"), self._wall_clock())
        return Answered(response.status, retry_after, body[:KEPT_BODY_BYTES])

    def _open_socket(self, addr_info: AddrInfoType) -> socket.socket:
        _opened.set(True)
        return self._guard.open_socket(addr_info)


@lru_cache(maxsize=1024)  # pure; an app's callbacks go to few URLs, and each retry to the same
def _url(target: Target, address: Address) -> URL:
    """What to ask for, by the judged address instead of the name."""
    return URL(f"{target.scheme}://{bracketed(str(address))}:{target.port}{target.path}", encoded=True)


def _come_already(response: aiohttp.ClientResponse) -> tuple[bytes, bool]:
    """What came of a body with its head, and whether it is the whole of it: nearly always, and no clock is needed."""
    content = response.content
    if not content.is_eof() or content.exception() is not None:
        return b"", False
    body = content.read_nowait(MAX_ANSWER_BYTES + 1)
    return body, content.at_eof() and len(body) <= MAX_ANSWER_BYTES


async def _rest(response: aiohttp.ClientResponse, begun: bytes, deadline: float) -> tuple[bytes, bool]:
    """The body as far as the cap allows, and whether it ended there."""
    body = bytearray(begun)
    try:
        async with asyncio.timeout_at(deadline):
            while len(body) <= MAX_ANSWER_BYTES:
                chunk = await response.content.read(MAX_ANSWER_BYTES + 1 - len(body))
                if not chunk:
                    return bytes(body), True
                body += chunk
        return bytes(body), False
    except (TimeoutError, OSError, aiohttp.ClientError, HttpProcessingError):
        return bytes(body), False  # what came counts
    except BaseException:
        response.close()
        raise


class _HeadFirst(ResponseHandler):
    """Feeds aiohttp's parser an answer's head before its body: of one feed that fails it keeps nothing.

    So a 2xx stays one whose malformed chunks came in the same segment as its head. What comes before the answer's own
    head is limited: aiohttp takes 1xx answers without end, and reads them without letting anything else run.
    """

    _answered = False
    _before = 0

    def set_response_params(self, **given: Any) -> None:
        """Begin an answer."""
        self._answered, self._before = False, 0
        super().set_response_params(**given)

    def feed_data(self, data: Any, size: int = 0) -> None:
        """Note whether a message is the answer or one of those before it."""
        self._answered = self._answered or data[0].code >= 200
        super().feed_data(data, size)

    def data_received(self, data: bytes) -> None:
        """Pass on what came, one head at a time until there is an answer."""
        start = 0
        while start < len(data) and not self._answered:
            end = data.find(b"\r\n\r\n", start) + 4
            end = end if end >= 4 else len(data)
            self._before += end - start
            if self._before > MAX_UNTIL_ANSWERED_BYTES:
                self._give_up()
                return
            super().data_received(data[start:end])
            start = end
        if start < len(data) or not data:
            super().data_received(data[start:])

    def _give_up(self) -> None:
        if self.transport is not None:
            self.transport.abort()
        self.set_exception(HttpProcessingError(message="no answer within 64 KiB"))


def _session(
    open_socket: Callable[[AddrInfoType], socket.socket],
    user_agent: str,
    ssl_context: ssl.SSLContext | None,
    *,
    keep: bool,
) -> aiohttp.ClientSession:
    connector = aiohttp.TCPConnector(
        ssl=ssl_context or True,
        limit=0,  # how many at a time is the deliverer's to say
        use_dns_cache=False,
        socket_factory=open_socket,
        force_close=not keep,
        keepalive_timeout=KEEP_ALIVE_SECONDS if keep else None,
    )
    handler: type[ResponseHandler] = _HeadFirst
    connector._factory = partial(handler, loop=asyncio.get_running_loop())  # noqa: SLF001 - there is no public way
    return aiohttp.ClientSession(
        connector=connector,
        headers={"Content-Type": "application/json", "User-Agent": user_agent, "Accept-Encoding": "identity"},
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        trust_env=False,
        timeout=_ALL_THE_CLOCK,
        read_bufsize=MAX_ANSWER_BYTES // 2,  # aiohttp stops reading from the socket at twice this
    )


def _unanswered(error: Exception, target: Target) -> NoAnswer:
    """Give an error of aiohttp's its code and a sentence of our own: its texts repeat URLs and Python's classes."""
    host = target.host_key
    match error:
        case aiohttp.ClientConnectorError() if isinstance(error.os_error, RefusedAddressError):
            code, message = "target_refused", str(error.os_error)
        case aiohttp.ClientConnectorCertificateError():
            code, message = "tls_failed", f"the certificate of {host} is not valid: {_why(error.certificate_error)}"
        case aiohttp.ClientConnectorSSLError() | ssl.SSLError():
            code, message = "tls_failed", f"TLS with {host} failed: {_why(error)}"
        case aiohttp.ClientConnectorError():
            code, message = "connection_failed", f"no connection to {host}: {_why(error.os_error)}"
        case aiohttp.ConnectionTimeoutError():
            code, message = "connection_failed", f"no connection to {host}: it took too long"
        case aiohttp.ClientConnectionError():
            code, message = "connection_lost", f"{host} closed the connection without an answer"
        case _:
            code, message = "bad_answer", f"{host} did not answer with valid HTTP"
    return NoAnswer(code, message)


def _why(error: Exception) -> str:
    """Name an error's cause without addresses, files or line numbers."""
    match error:
        case ssl.SSLCertVerificationError():
            return error.verify_message
        case aiohttp.ClientConnectorError():
            return _why(error.os_error)
        case ssl.SSLError():
            return (error.reason or "protocol error").lower().replace("_", " ")
        case OSError(errno=int(number)) if number > 0:
            return os.strerror(number).lower()
        case _:
            return "it was closed"

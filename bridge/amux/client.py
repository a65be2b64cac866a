"""One question to amux: limits, the key, and whatever comes back as an observation."""

import logging
import os
import re
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any
from urllib.parse import quote, unquote

import aiohttp
from aiohttp.hdrs import (
    ACCEPT,
    ACCEPT_ENCODING,
    AUTHORIZATION,
    CONTENT_ENCODING,
    CONTENT_TYPE,
    METH_GET,
    RETRY_AFTER,
    USER_AGENT,
)
from aiohttp.http_exceptions import HttpProcessingError
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from bridge.aio.timeouts import TimeoutSweep
from bridge.amux.record import LONGEST_CODE, LONGEST_MESSAGE, LONGEST_WORD
from bridge.amux.wire import observe
from bridge.core.errors import BridgeError
from bridge.core.model import KeyRefused, Observation, PollRejected, Problem, TaskRecord, TaskStatus, TransientError
from bridge.core.retry_after import retry_after_seconds
from bridge.telemetry import get_logger, redact
from bridge.telemetry.redaction import SHORTEST_SECRET

MAX_BODY_BYTES = 1 << 20  # a record is some kilobytes; amux passes on what vendors say, and that has no bound
KEEP_ALIVE_SECONDS = 30.0  # twice the longest poll interval, and half of what proxies usually keep
IDLE_SECONDS = 75.0  # amux gives its vendors 60 s
_KEPT_KEYS = 1024

_NO_CLOCK = aiohttp.ClientTimeout(total=None, sock_connect=None)  # our own limit is around it all
_PLAIN_ID = re.compile(r"(?=[.]*[^.])[A-Za-z0-9._:-]+")  # as the bridge takes them: not only dots
_REQUEST_ID = "X-Oneapi-Request-Id"  # what amux's operators find a request by; no other server gives it
_log = get_logger("amux")


class AmuxUnavailable(BridgeError):
    """amux gave no answer; the message says why, without the key or a URL."""

    code = "amux_unavailable"


class AmuxClient:
    """Asks amux. Make it on the running loop, and close it.

    `base_url` has no `/v1` at its end; ValueError when it is no absolute URL. `timeout_seconds` is one poll's,
    connection and body included, by `clock` (monotonic seconds); `wall_clock` (Unix seconds) turns a Retry-After date
    into seconds. How many polls run at a time is the caller's to say. Without `ssl_context` the system's certificates
    count, or those of SSL_CERT_FILE.
    """

    def __init__(  # noqa: PLR0913 - two clocks, to be given in tests
        self,
        base_url: str,
        *,
        user_agent: str,
        timeout_seconds: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        given = URL(base_url)
        self._origin = given.origin()
        self._host = self._origin.host_port_subcomponent or ""
        self._base_url = f"{self._origin}{given.raw_path.rstrip('/')}"
        self._tasks_path = f"{given.raw_path.rstrip('/')}/v1/video/generations/"
        self._wall_clock = wall_clock
        self._limits = TimeoutSweep(timeout_seconds, clock)
        self._headers = lru_cache(_KEPT_KEYS)(_poll_headers)  # its own, so that keys are forgotten with the client
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=ssl_context or True, limit=0, keepalive_timeout=KEEP_ALIVE_SECONDS),
            headers={USER_AGENT: user_agent, ACCEPT_ENCODING: "identity"},
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
            timeout=_NO_CLOCK,
        )

    async def poll(self, task_id: str, key: str) -> Observation:
        """What amux says of a task, asked once with a key. Raises nothing for what amux or the way to it does.

        Trouble of the connection has the code `timeout`, `connection_failed`, `connection_lost`, `tls_failed` or
        `bad_answer`; of the body `body_too_large` or `compressed_body`; other codes are `wire`'s. aiohttp asks once
        more by itself when a connection breaks before the answer begins.
        """
        headers = self._headers(key)
        if headers is None:
            return KeyRefused("the key holds characters that cannot be sent")
        # A third of what a URL read from text costs: tasks are many, and yarl remembers 128 texts.
        url = self._origin.with_path(self._tasks_path + _in_path(task_id), encoded=True)
        try:
            with self._limits.limit():
                response = await self._session.request(METH_GET, url, headers=headers, allow_redirects=False)
                body = await _body(response)
        except (aiohttp.ClientError, HttpProcessingError, OSError, ValueError) as error:
            return _trouble(error, self._host, self._limits.seconds)
        observation = self._observed(response, body, task_id)
        if type(observation) is not TaskRecord:
            self._log_refusal(observation, response, task_id)
        elif _has_no_text(observation):
            return observation  # still running, as nearly always
        return _without_key(observation, key)

    async def open(  # noqa: PLR0913 - a request has these parts
        self,
        method: str,
        path: str,
        *,
        key: str,
        headers: Mapping[str, str],
        data: Any = None,
        idle_seconds: float = IDLE_SECONDS,
    ) -> aiohttp.ClientResponse:
        """An answer of amux's as it comes, body unread and undecompressed, redirects not followed; close it.

        `path` begins with a slash and is percent-encoded; `data` is whatever aiohttp sends, such as an asynchronous
        iterator. The connection is given `timeout_seconds`, the answer `idle_seconds` between any two pieces; sending
        has no limit. Raises AmuxUnavailable when no answer begins; reading the body raises aiohttp's ClientError.
        """
        own = self._headers(key)
        if own is None:
            raise AmuxUnavailable("the key holds characters that cannot be sent")
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=self._limits.seconds, sock_read=idle_seconds)
        try:
            return await self._session.request(
                method,
                URL(self._base_url + path, encoded=True),
                headers={**headers, AUTHORIZATION: own[AUTHORIZATION]},
                data=data,
                allow_redirects=False,
                timeout=timeout,
            )
        except (aiohttp.ClientError, HttpProcessingError, OSError) as error:
            raise AmuxUnavailable(_trouble(error, self._host, idle_seconds).message) from None

    async def close(self) -> None:
        """Close every connection, and forget the keys."""
        self._limits.close()
        self._headers.cache_clear()
        await self._session.close()

    def _observed(self, response: aiohttp.ClientResponse, body: bytes | None, task_id: str) -> Observation:
        """What a whole answer says; `body` is None when it was too long.

        Of a refusal whose body cannot be read, the status still counts.
        """
        status, headers = response.status, response.headers
        trouble = _unreadable(headers, body)
        if trouble is not None and status < 300:
            return trouble
        return observe(
            status,
            headers.get(CONTENT_TYPE, ""),
            b"" if trouble or body is None else body,
            task_id=task_id,
            base_url=self._base_url,
            retry_after=retry_after_seconds(headers.get(RETRY_AFTER), self._wall_clock()) if status == 429 else None,
        )

    def _log_refusal(self, observation: Observation, response: aiohttp.ClientResponse, task_id: str) -> None:
        _log.event(
            "amux_told_nothing",
            level=logging.DEBUG,
            task_id=task_id,
            kind=type(observation).__name__,
            status=response.status,
            request_id=response.headers.get(_REQUEST_ID),  # null: probably something in between answered
        )


def _poll_headers(key: str) -> CIMultiDict[str] | None:
    """A poll's own headers; None for a key that no header can carry."""
    if not (key and key.isascii() and key.isprintable()):
        return None
    return CIMultiDict({ACCEPT: "application/json", AUTHORIZATION: f"Bearer {key}"})


def _in_path(task_id: str) -> str:
    """A task id as one segment of a path, which it cannot leave, not even by dots alone."""
    if _PLAIN_ID.fullmatch(task_id):
        return task_id
    return quote(task_id, safe="", errors="replace").replace(".", "%2E")


async def _body(response: aiohttp.ClientResponse) -> bytes | None:
    """The body as it came; None, and the connection dropped, when it is longer than the cap."""
    content = response.content
    try:
        body = await content.readany()
        if content.at_eof() and len(body) <= MAX_BODY_BYTES:
            return body  # one read is enough for nearly every record
        pieces = bytearray(body)
        while len(pieces) <= MAX_BODY_BYTES:
            if content.at_eof():
                return bytes(pieces)
            pieces += await content.readany()
    except BaseException:
        response.close()
        raise
    response.close()
    return None


def _unreadable(headers: CIMultiDictProxy[str], body: bytes | None) -> TransientError | None:
    """Why a body is not looked at, if so. Nothing was to be compressed, and what is may be a bomb."""
    if headers.get(CONTENT_ENCODING, "identity").strip().lower() not in ("identity", ""):
        return TransientError("compressed_body", "amux answered compressed, though asked not to")
    if body is None:
        return TransientError("body_too_large", f"amux answered with more than {MAX_BODY_BYTES >> 20} MiB")
    return None


def _has_no_text(seen: TaskRecord) -> bool:
    """Whether no text of amux's is in it, which might repeat the key."""
    return seen.error is None and seen.url is None and seen.format is None and seen.word in (None, "unknown")


def _without_key(observation: Observation, key: str) -> Observation:
    """The observation with the key taken out of every text of amux's; a URL or a format that holds it is none."""
    match observation:
        case TaskRecord(status=TaskStatus.COMPLETED, url=url, format=container):
            return replace(observation, url=_if_without(key, url), format=_if_without(key, container))
        case TaskRecord(error=Problem(code=code, message=message)):
            code = _redacted(code, key, LONGEST_CODE) if isinstance(code, str) else code
            return replace(observation, error=Problem(code, _redacted(message, key) if message else None))
        case TaskRecord(word=word):
            return replace(observation, word=_redacted(word, key, LONGEST_WORD) if word else word)
        case PollRejected(code=code, message=message):
            return PollRejected(_redacted(code, key, LONGEST_CODE), _redacted(message, key))
        case _:
            return replace(observation, message=_redacted(observation.message, key))


def _redacted(text: str, key: str, longest: int = LONGEST_MESSAGE) -> str:
    """The text without the key, in lower case too, for so are words and codes."""
    cleaned = redact(text, (key, key.lower()))
    if len(text) < longest:
        return cleaned
    # It was cut, perhaps within a key, of which the first part would stay. Three: each character percent-encoded.
    return cleaned[: -3 * len(key)]


def _if_without(key: str, text: str | None) -> str | None:
    """The text, or None where the key is in it: a URL with a redacted part would lead nowhere."""
    if text is None or len(key) < SHORTEST_SECRET:
        return text
    return None if key in text or key in unquote(text) else text


def _trouble(error: Exception, host: str, seconds: float) -> TransientError:
    """Give an error of aiohttp's its code and a sentence of our own: its texts repeat URLs and Python's classes."""
    match error:
        case aiohttp.ClientConnectorCertificateError():
            code, message = "tls_failed", f"the certificate of {host} is not valid"
        case aiohttp.ClientConnectorSSLError() | ssl.SSLError():
            code, message = "tls_failed", f"TLS with {host} failed"
        case aiohttp.ClientConnectorDNSError():
            code, message = "connection_failed", f"no connection to {host}: the name could not be resolved"
        case aiohttp.ClientConnectorError():
            code, message = "connection_failed", f"no connection to {host}: {_why(error.os_error)}"
        case aiohttp.ConnectionTimeoutError():
            code, message = "connection_failed", f"no connection to {host}: it took too long"
        case TimeoutError():
            code, message = "timeout", f"{host} did not answer within {seconds:g} s"
        case aiohttp.ClientPayloadError():
            code, message = "connection_lost", f"the answer of {host} broke off"
        case aiohttp.ClientConnectionError() | OSError():
            code, message = "connection_lost", f"{host} closed the connection without an answer"
        case _:
            code, message = "bad_answer", f"{host} did not answer with valid HTTP"
    return TransientError(code, message)


def _why(error: OSError) -> str:
    """Name an error's cause without addresses."""
    return os.strerror(error.errno).lower() if error.errno and error.errno > 0 else "it was closed"

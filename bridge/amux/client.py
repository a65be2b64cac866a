"""Sends requests to amux: polls, which return an observation, and requests whose answer is passed on."""

import logging
import re
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any
from urllib.parse import quote

import aiohttp
import orjson
from aiohttp.hdrs import (
    ACCEPT,
    ACCEPT_ENCODING,
    AUTHORIZATION,
    CONTENT_ENCODING,
    CONTENT_LENGTH,
    CONTENT_TYPE,
    HOST,
    METH_GET,
    METH_POST,
    RETRY_AFTER,
    USER_AGENT,
)
from multidict import CIMultiDictProxy
from yarl import URL

from bridge.aio.client_errors import CLIENT_ERRORS, explain_client_error
from bridge.aio.http_connections import NO_CONNECT_TIMEOUT, HttpAnswer, HttpConnections, request_head
from bridge.aio.proxy_connector import Proxy, ProxyConnector
from bridge.aio.timeouts import Limit, TimeoutSweep
from bridge.amux.batch_wire import PATH as BATCH_PATH
from bridge.amux.batch_wire import Asked, observe_batch
from bridge.amux.inflate import TooLarge, inflate
from bridge.amux.key_removal import KeyRemoval
from bridge.amux.wire import observe
from bridge.core.batch_lane import BatchAnswer, BatchFailed, BatchObservation, BatchTooLarge, BatchUnchanged
from bridge.core.errors import BridgeError
from bridge.core.model import KeyRefused, Observation, TaskRecord, TransientError
from bridge.core.retry_after import retry_after_seconds
from bridge.telemetry import get_logger

MAX_BODY_BYTES = 1 << 20  # a record is a few kilobytes, but amux passes on vendors' texts, which have no limit
MAX_HEADER_BYTES = 65 << 10  # one line: a value of 64 KiB and its name. aiohttp's 8 KiB are too few for some proxies
MAX_BATCH_BYTES = 16 << 20  # 500 records of 32 KB
KEEP_ALIVE_SECONDS = 30.0  # twice the longest poll interval, and half of the usual limit of proxies
IDLE_SECONDS = 75.0  # amux waits up to 60 s for its vendors
_CACHED_KEYS = 1024

_PLAIN_ID = re.compile(r"(?=[.]*[^.])[A-Za-z0-9._:-]+")  # every id that the bridge registers: not only dots
_REQUEST_ID = "X-Oneapi-Request-Id"  # amux's operators find a request by it; no other server sends it
_TOO_LARGE = "body_too_large"
_log = get_logger("amux")


class AmuxUnavailable(BridgeError):
    """amux gave no answer. The message says why, without the key or a URL."""

    code = "amux_unavailable"


class AmuxClient:
    """Sends requests to one amux server. It must be created while the event loop runs, and closed at the end.

    `base_url` has no `/v1` at its end; raises ValueError if it is not an absolute URL. `timeout_seconds` limits one
    poll, including the connection and the body, by `clock` (monotonic, in seconds). `wall_clock` (Unix seconds)
    converts a Retry-After date. The caller limits how many polls run at a time. Without `ssl_context`, the system's
    certificates are trusted, or those of SSL_CERT_FILE.
    """

    def __init__(  # noqa: PLR0913  tests pass both clocks
        self,
        base_url: str,
        *,
        user_agent: str,
        timeout_seconds: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        ssl_context: ssl.SSLContext | None = None,
        proxy: Proxy | None = None,
    ) -> None:
        url = URL(base_url)
        path = url.raw_path.rstrip("/")
        self._host = url.origin().host_port_subcomponent or ""
        self._base_url = f"{url.origin()}{path}"
        self._get_task = f"GET {path}/v1/video/generations/".encode()
        self._batch_path = f"{path}{BATCH_PATH}"
        always: dict[str, str] = {USER_AGENT: user_agent, ACCEPT_ENCODING: "identity"}
        self._own_headers: dict[str, str] = {HOST: self._host} | always
        self._wall_clock = wall_clock
        self._timeouts = TimeoutSweep(timeout_seconds, clock)
        self._poll_headers = lru_cache(_CACHED_KEYS)(self._make_poll_headers)  # `close` removes the keys
        self._key_removal = lru_cache(_CACHED_KEYS)(KeyRemoval)
        options: dict[str, Any] = {"ssl": ssl_context or True, "limit": 0, "keepalive_timeout": KEEP_ALIVE_SECONDS}
        limits: dict[str, Any] = {"max_line_size": MAX_HEADER_BYTES, "max_field_size": MAX_HEADER_BYTES}
        connector = aiohttp.TCPConnector(**options) if proxy is None else ProxyConnector(proxy, **options)
        self._connections = HttpConnections(connector, **limits)
        self._origin = self._connections.origin(url.origin())
        self._session = aiohttp.ClientSession(  # for what is passed on; it closes the connector
            connector=connector,
            headers=always,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
            timeout=NO_CONNECT_TIMEOUT,
            **limits,
        )

    async def poll(self, task_id: str, key: str) -> Observation:
        """Asks once, with `key`, for the status of a task and returns the observation.

        A failure of amux or of the network is not raised: it is a TransientError. Its code is from
        `aio/client_errors.py` for the connection, `body_too_large` or `compressed_body` for the body, or from
        `wire.py`. If a kept connection breaks before the answer begins, the request is sent once more.
        """
        headers = self._poll_headers(key)
        if headers is None:
            return KeyRefused("the key contains characters that cannot be sent")
        request = self._get_task + _in_path(task_id).encode() + headers
        try:
            with Limit(self._timeouts):
                response = await self._connections.send_repeatable(self._origin, request)
                body = await _body(response)
        except (*CLIENT_ERRORS, ValueError) as error:
            return TransientError(*explain_client_error(error, self._host, self._timeouts.seconds))
        observation = self._observe(response, body, task_id)
        if type(observation) is not TaskRecord:
            self._log_failure(observation, response, task_id)
        return self._key_removal(key).observation(observation)

    async def read_many(self, task_ids: Sequence[str], key: str, digest: int | None = None) -> BatchObservation:
        """Asks once, with `key`, for the records of one or more tasks, and returns the observation.

        With the `digest` of the last answer about the same tasks, an answer that is the same is not decoded again.

        A failure of amux or of the network is not raised: it is a BatchFailed. If a kept connection breaks before the
        answer begins, the request is sent once more, because it changes nothing at amux.
        """
        if not _can_be_sent(key):
            return BatchFailed("key", "the key contains characters that cannot be sent")
        request = self._batch_request(orjson.dumps({"ids": task_ids}), key)
        try:
            with Limit(self._timeouts):
                response = await self._connections.send_repeatable(self._origin, request)
                body = await _body(response, MAX_BATCH_BYTES)
        except (*CLIENT_ERRORS, ValueError) as error:
            return BatchFailed(*explain_client_error(error, self._host, self._timeouts.seconds))
        observation = self._observe_batch(response, body, task_ids, key, digest)
        if isinstance(observation, BatchAnswer | BatchUnchanged):
            return observation
        _log.event(
            "batch_without_records",
            level=logging.DEBUG,
            kind=type(observation).__name__,
            status=response.status,
            request_id=response.headers.get(_REQUEST_ID),
            tasks=len(task_ids),
        )
        return observation

    async def open(  # noqa: PLR0913  the parts of a request
        self,
        method: str,
        path: str,
        *,
        key: str,
        headers: Mapping[str, str],
        data: Any = None,
        idle_seconds: float = IDLE_SECONDS,
    ) -> aiohttp.ClientResponse:
        """Sends a request and returns the answer with its body unread, not decompressed. The caller closes it.

        `path` begins with a slash and is percent-encoded. `data` is anything that aiohttp can send, such as an
        asynchronous iterator. Redirects are not followed. The client's `timeout_seconds` limits the connection, and
        `idle_seconds` each wait for more bytes of the answer. Sending has no time limit. Raises AmuxUnavailable if no
        answer begins. Reading the body can raise aiohttp's ClientError.
        """
        if not _can_be_sent(key):
            raise AmuxUnavailable("the key contains characters that cannot be sent")
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=self._timeouts.seconds, sock_read=idle_seconds)
        try:
            return await self._session.request(
                method,
                URL(self._base_url + path, encoded=True),
                headers={**headers, AUTHORIZATION: f"Bearer {key}"},
                data=data,
                allow_redirects=False,
                timeout=timeout,
            )
        except CLIENT_ERRORS as error:
            _code, message = explain_client_error(error, self._host, idle_seconds)
            raise AmuxUnavailable(message) from None

    async def close(self) -> None:
        """Closes all connections and removes the keys from memory."""
        self._timeouts.close()
        self._poll_headers.cache_clear()
        self._key_removal.cache_clear()
        await self._session.close()

    def _make_poll_headers(self, key: str) -> bytes | None:
        """Returns the part of a poll after the task's id, or None if the key cannot be sent in a header."""
        if not _can_be_sent(key):
            return None
        return request_head(METH_GET, "", self._own_headers | _key_headers(key)).removeprefix(b"GET ")

    def _batch_request(self, data: bytes, key: str) -> bytes:
        headers = self._own_headers | _key_headers(key)
        headers |= {CONTENT_TYPE: "application/json", CONTENT_LENGTH: str(len(data))}
        return request_head(METH_POST, self._batch_path, headers) + data

    def _observe_batch(
        self, response: HttpAnswer, body: bytes | None, task_ids: Sequence[str], key: str, digest: int | None
    ) -> BatchObservation:
        """Returns the observation of a whole answer. `body` is None if it was too long."""
        status, headers = response.status, response.headers
        plain = _plain_body(headers, body, MAX_BATCH_BYTES)
        if isinstance(plain, TransientError):
            if status < 300:
                is_long = plain.code == _TOO_LARGE
                return BatchTooLarge(MAX_BATCH_BYTES) if is_long else BatchFailed(plain.code, plain.message)
            plain = b""
        retry_after = (
            retry_after_seconds(headers.get(RETRY_AFTER), self._wall_clock()) if status in (429, 503) else None
        )
        return observe_batch(
            status,
            headers.get(CONTENT_TYPE, ""),
            plain,
            Asked(frozenset(task_ids), self._base_url, self._key_removal(key), digest),
            retry_after,
        )

    def _observe(self, response: HttpAnswer, body: bytes | None, task_id: str) -> Observation:
        """Returns the observation of a whole answer. `body` is None if it was too long.

        If the body of an error answer cannot be read, its status still counts.
        """
        status, headers = response.status, response.headers
        plain = _plain_body(headers, body)
        if isinstance(plain, TransientError):
            if status < 300:
                return plain
            plain = b""
        return observe(
            status,
            headers.get(CONTENT_TYPE, ""),
            plain,
            task_id=task_id,
            base_url=self._base_url,
            retry_after=retry_after_seconds(headers.get(RETRY_AFTER), self._wall_clock()) if status == 429 else None,
        )

    def _log_failure(self, observation: Observation, response: HttpAnswer, task_id: str) -> None:
        _log.event(
            "poll_without_record",
            level=logging.DEBUG,
            task_id=task_id,
            kind=type(observation).__name__,
            status=response.status,
            request_id=response.headers.get(_REQUEST_ID),  # null: a proxy or another server probably answered
        )


def _can_be_sent(key: str) -> bool:
    """Whether a key can be sent in a header."""
    return bool(key) and key.isascii() and key.isprintable()


def _key_headers(key: str) -> dict[str, str]:
    return {ACCEPT: "application/json", AUTHORIZATION: f"Bearer {key}"}


def _in_path(task_id: str) -> str:
    """Returns a task id as exactly one segment of a URL path, even if it consists of dots."""
    if _PLAIN_ID.fullmatch(task_id):
        return task_id
    return quote(task_id, safe="", errors="replace").replace(".", "%2E")


async def _body(response: HttpAnswer, limit: int = MAX_BODY_BYTES) -> bytes | None:
    """Returns the unchanged body, or None if it is too long. Then the connection is closed."""
    content = response.content
    try:
        pieces, size = list[bytes](), 0
        while size <= limit:
            if content.at_eof():
                response.release()
                return b"".join(pieces)
            pieces.append(await content.readany())
            size += len(pieces[-1])
    except BaseException:
        response.close()
        raise
    response.close()
    return None


def _plain_body(
    headers: CIMultiDictProxy[str], body: bytes | None, limit: int = MAX_BODY_BYTES
) -> bytes | TransientError:
    """Returns the decompressed body, or the error if it cannot be read."""
    if body is None:
        return _too_large(limit)
    coding = ",".join(headers.getall(CONTENT_ENCODING, ()))
    if not coding:
        return body
    try:
        return inflate(body, coding, limit)
    except TooLarge:
        return _too_large(limit)
    except ValueError as error:
        message = f"amux answered with a compressed body, which was not asked for and cannot be read: {error}"
        return TransientError("compressed_body", message)


def _too_large(limit: int) -> TransientError:
    return TransientError(_TOO_LARGE, f"amux answered with more than {limit >> 20} MiB")

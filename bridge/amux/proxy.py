"""The proxy between apps and amux. It forwards bytes in pieces, only as fast as the other side reads them."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import aiohttp
from aiohttp import hdrs
from multidict import CIMultiDict, CIMultiDictProxy

from bridge.aio.client_errors import CLIENT_ERRORS
from bridge.aio.completion import Operations
from bridge.amux import AmuxClient, AmuxUnavailable
from bridge.amux.inflate import inflate
from bridge.core.errors import BridgeError
from bridge.core.headers import HOP_BY_HOP
from bridge.telemetry import get_logger
from bridge.telemetry.redaction import MARK, SHORTEST_SECRET

Result = TypeVar("Result")

MAX_ANSWER_BYTES: Final = 4 << 20  # for answers that are read completely: to a create call, a status or an error
IDLE_SECONDS: Final = 75.0  # between two pieces of an answer; amux waits up to 60 s for its vendors
UPLOAD_IDLE_SECONDS: Final = 75.0  # an app that stops in the middle of a body occupies a connection to amux
CREATE_IDLE_SECONDS: Final = 300.0  # long: a timeout of a create call may leave a paid video without a watch
STALLED_READER_SECONDS: Final = 600.0  # for apps: a browser reads nothing while its player is paused, often minutes

# Headers that apply to the bridge's whole origin, or that only the bridge itself may set.
_RESERVED_HEADERS: Final = frozenset(
    {
        "accept-ranges",  # amux passes on its vendors' "bytes", but ignores Range
        "alt-svc",
        "clear-site-data",
        "content-security-policy",
        "content-security-policy-report-only",
        "nel",
        "public-key-pins",
        "refresh",
        "report-to",
        "reporting-endpoints",
        "service-worker-allowed",
        "set-cookie",
        "set-cookie2",
        "strict-transport-security",
        "x-content-type-options",
        "x-watch-error",
        "x-watch-id",
    }
)

_log = get_logger("proxy")


class AnswerInterrupted(BridgeError):
    """amux's answer ended too early, after its beginning was forwarded."""

    code = "amux_unavailable"


class ReaderStalled(BridgeError):
    """The app read nothing of its answer for too long."""

    code = "reader_stalled"


class UploadInterrupted(BridgeError):
    """An app's request body ended too early, so that amux got no complete request."""

    code = "malformed_body"


class Upload:
    """The body of an app's request, read as fast as amux accepts it. `interrupted` is true if it ended too early."""

    def __init__(self, source: aiohttp.StreamReader, idle_seconds: float = UPLOAD_IDLE_SECONDS) -> None:
        self._source = source
        self._idle_seconds = idle_seconds
        self.interrupted = False

    async def pieces(self) -> AsyncIterator[bytes]:
        """Yields the body piece by piece. Raises an error of reading, so that amux gets an incomplete request."""
        while piece := await self._next():
            yield piece

    async def _next(self) -> bytes:
        try:
            async with asyncio.timeout(self._idle_seconds):
                return await self._source.readany()
        except Exception:
            self.interrupted = True
            raise


@dataclass(frozen=True, slots=True)
class WholeAnswer:
    """A complete answer of amux. `headers` are the ones that may be forwarded."""

    status: int
    headers: CIMultiDict[str]
    body: bytes = field(repr=False)


class AmuxProxy:
    """Sends requests of apps to amux. `configured_key` is the amux key of the settings, None without one."""

    def __init__(
        self,
        client: AmuxClient,
        *,
        configured_key: str | None,
        idle_seconds: float = IDLE_SECONDS,
        create_idle_seconds: float = CREATE_IDLE_SECONDS,
        stalled_reader_seconds: float = STALLED_READER_SECONDS,
    ) -> None:
        self._client = client
        self._configured_key = configured_key
        self._idle_seconds = idle_seconds
        self._create_idle_seconds = create_idle_seconds
        self._stalled_reader_seconds = stalled_reader_seconds
        self._operations = Operations(_log)
        self._reserved = 0

    def key(self, own_key: str | None) -> str | None:
        """Returns the key for a request to amux: the caller's own key, else the configured one, else None."""
        return own_key or self._configured_key

    async def open(self, path: str, key: str, headers: Mapping[str, str]) -> aiohttp.ClientResponse:
        """Sends a GET and returns the answer with its body unread; the caller closes it.

        Raises AmuxUnavailable, also for a redirect.
        """
        answer = await self._client.open(hdrs.METH_GET, path, key=key, headers=headers, idle_seconds=self._idle_seconds)
        return _no_redirect(answer)

    async def create(self, path: str, key: str, headers: Mapping[str, str], body: "bytes | Upload") -> WholeAnswer:
        """Forwards a create call and reads amux's answer. Raises UploadInterrupted or AmuxUnavailable."""
        data = body if isinstance(body, bytes) else body.pieces()
        try:
            answer = await self._client.open(
                hdrs.METH_POST, path, key=key, headers=headers, data=data, idle_seconds=self._create_idle_seconds
            )
        except AmuxUnavailable:
            if not isinstance(body, bytes) and body.interrupted:
                raise UploadInterrupted("the body ended too early, and nothing was created") from None
            raise
        return await read_whole(_no_redirect(answer), key)

    async def send(self, pieces: AsyncIterator[bytes], write: Callable[[bytes], Awaitable[None]]) -> None:
        """Writes pieces to an app. `write` waits while the app is slow.

        Raises ReaderStalled, and what `pieces` and `write` raise.
        """
        async for piece in pieces:
            try:
                async with asyncio.timeout(self._stalled_reader_seconds):
                    await write(piece)
            except TimeoutError:
                raise ReaderStalled("the app read nothing of its answer for too long") from None

    # --- calls that run to completion -----------------------------------------------------------------------------

    async def run_to_completion(
        self, call: Callable[[], Coroutine[Any, Any, Result]], check: Callable[[int], Awaitable[None]] | None = None
    ) -> Result:
        """Awaits `check`, then runs `call` to its end, even if the caller is cancelled meanwhile.

        `check` gets the number of checked calls that run, including this one. Each of them will need room for a watch
        that the store does not have yet. If `check` raises, the call does not start, and the error is raised.
        """
        if check is None:
            return await self._operations.run(call())
        self._reserved += 1
        try:
            await check(self._reserved)
        except BaseException:
            self._reserved -= 1
            raise
        task = self._operations.start(call())
        task.add_done_callback(self._release_place)
        return await self._operations.wait(task)

    async def finish(self, seconds: float) -> None:
        """Waits up to `seconds` for the running calls, at a stop. Then cancels the others and logs their number."""
        if count := await self._operations.finish(seconds):
            means = "the stop did not wait longer for these calls: amux may have created tasks that have no watch"
            _log.event("create_calls_cancelled", level=logging.ERROR, count=count, means=means)

    def _release_place(self, _: object) -> None:
        self._reserved -= 1


async def read_whole(source: aiohttp.ClientResponse, key: str) -> WholeAnswer:
    """Reads an answer with its body, up to 4 MiB, and removes the key from both. Raises AmuxUnavailable.

    A body that amux compressed without being asked is decompressed, because the bridge looks for the key and for the id
    of a new task in it. If that fails, the body is not decompressed, because the video may be paid for.
    """
    pieces = bytearray()
    try:
        while piece := await next_piece(source):
            pieces += piece
            if len(pieces) > MAX_ANSWER_BYTES:
                raise AmuxUnavailable(f"amux answered with more than {MAX_ANSWER_BYTES >> 20} MiB")
    except AnswerInterrupted as error:
        raise AmuxUnavailable(str(error)) from None
    finally:
        source.close()
    body = bytes(pieces)
    headers = forwarded_headers(source.headers)
    with suppress(ValueError):
        body = inflate(body, ",".join(headers.getall(hdrs.CONTENT_ENCODING, ())), MAX_ANSWER_BYTES)
        headers.popall(hdrs.CONTENT_ENCODING, None)
    if len(key) >= SHORTEST_SECRET:
        body = body.replace(key.encode(), MARK.encode())
        headers = CIMultiDict((name, value) for name, value in headers.items() if key not in value)
    headers.popall(hdrs.CONTENT_LENGTH, None)
    return WholeAnswer(source.status, headers, body)


def forwarded_headers(headers: CIMultiDictProxy[str]) -> CIMultiDict[str]:
    """Returns the headers of an answer that an app may get.

    These are removed: hop-by-hop headers, cookies, headers that apply to the bridge's whole origin, and values that
    cannot be sent again, such as bytes that are not UTF-8.
    """
    of_connection = ",".join(headers.getall(hdrs.CONNECTION, []))
    left_out = HOP_BY_HOP | _RESERVED_HEADERS | {name.strip().lower() for name in of_connection.split(",")}
    rest = [(name, value) for name, value in headers.items() if name.lower() not in left_out and value.isprintable()]
    return CIMultiDict((name, value) for name, value in rest if not name.lower().startswith("access-control-"))


def _no_redirect(answer: aiohttp.ClientResponse) -> aiohttp.ClientResponse:
    if 300 <= answer.status < 400:
        answer.close()
        raise AmuxUnavailable(f"amux answered {answer.status}, and redirects are not followed: is the base URL right?")
    return answer


async def body_of(source: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """Yields the body of an answer piece by piece. Raises AnswerInterrupted."""
    while piece := await next_piece(source):
        yield piece


async def next_piece(source: aiohttp.ClientResponse) -> bytes:
    """Returns the next piece of a body, b"" at its end. Raises AnswerInterrupted."""
    try:
        return await source.content.readany()
    except TimeoutError:
        raise AnswerInterrupted("amux stopped sending its answer") from None
    except CLIENT_ERRORS:
        raise AnswerInterrupted("amux's answer ended too early") from None

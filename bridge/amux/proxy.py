"""The relay: passes bytes between apps and amux, a piece at a time, so that neither side outruns the other."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import aiohttp
from aiohttp import hdrs
from aiohttp.http_exceptions import HttpProcessingError
from multidict import CIMultiDict, CIMultiDictProxy

from bridge.aio.completion import Operations
from bridge.amux import AmuxClient, AmuxUnavailable
from bridge.core.errors import BridgeError
from bridge.telemetry import get_logger
from bridge.telemetry.redaction import MARK, SHORTEST_SECRET

Result = TypeVar("Result")

MAX_ANSWER_BYTES: Final = 4 << 20  # of what is read whole: a create call's answer, a status, an error
IDLE_SECONDS: Final = 75.0  # between two pieces; amux gives its vendors 60 s
UPLOAD_IDLE_SECONDS: Final = 75.0  # an app that stops in the middle of a body holds a connection of amux's
CREATE_IDLE_SECONDS: Final = 300.0  # a create call that is given up early is a paid video that nobody knows of
# Towards the app: a browser whose player is paused reads nothing, and may for minutes.
STALLED_READER_SECONDS: Final = 600.0

# RFC 9110, 7.6.1, and their older kin.
_HOP_BY_HOP: Final = frozenset(
    {
        "connection",
        "http2-settings",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
# What would speak for the bridge's whole origin, or of watches, and is not amux's to say.
_NOT_AMUX_S: Final = frozenset(
    {
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


class BrokenOff(BridgeError):
    """amux's answer ended too early, after its beginning was passed on."""

    code = "amux_unavailable"


class ReaderStalled(BridgeError):
    """The app took nothing of its answer for too long."""

    code = "reader_stalled"


class UploadBroken(BridgeError):
    """An app's body that broke off, so that amux had no whole request."""

    code = "malformed_body"


class Upload:
    """A request's body on its way to amux, taken as amux takes it. `broken`: it did not come to its end."""

    def __init__(self, source: aiohttp.StreamReader, idle_seconds: float = UPLOAD_IDLE_SECONDS) -> None:
        self._source = source
        self._idle_seconds = idle_seconds
        self.broken = False

    async def pieces(self) -> AsyncIterator[bytes]:
        """The body, piece by piece; raises what breaks it, so that amux does not take what came for the whole."""
        while piece := await self._next():
            yield piece

    async def _next(self) -> bytes:
        try:
            async with asyncio.timeout(self._idle_seconds):
                return await self._source.readany()
        except Exception:
            self.broken = True
            raise


@dataclass(frozen=True, slots=True)
class WholeAnswer:
    """An answer of amux's, read; `headers` are those that may be passed on."""

    status: int
    headers: CIMultiDict[str]
    body: bytes = field(repr=False)


class AmuxProxy:
    """Asks amux on behalf of apps. `configured_key` gives the amux key of the settings, None when there is none."""

    def __init__(
        self,
        client: AmuxClient,
        *,
        configured_key: Callable[[], str | None],
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
        self._places = 0

    def key(self, own: str | None) -> str | None:
        """The key to ask amux with: the caller's own, else the configured one; None without either."""
        return own or self._configured_key()

    async def open(self, path: str, key: str, headers: Mapping[str, str]) -> aiohttp.ClientResponse:
        """The answer to a GET, its body unread; close it. Raises AmuxUnavailable, for a redirect as well."""
        found = await self._client.open(hdrs.METH_GET, path, key=key, headers=headers, idle_seconds=self._idle_seconds)
        return _no_redirect(found)

    async def create(self, path: str, key: str, headers: Mapping[str, str], body: "bytes | Upload") -> WholeAnswer:
        """Pass a create call on, and read amux's answer. Raises UploadBroken or AmuxUnavailable."""
        data = body if isinstance(body, bytes) else body.pieces()
        try:
            found = await self._client.open(
                hdrs.METH_POST, path, key=key, headers=headers, data=data, idle_seconds=self._create_idle_seconds
            )
        except AmuxUnavailable:
            if not isinstance(body, bytes) and body.broken:
                raise UploadBroken("the body ended too early, and nothing was created") from None
            raise
        return await whole(_no_redirect(found), key)

    async def pass_on(self, source: aiohttp.ClientResponse, write: Callable[[bytes], Awaitable[None]]) -> int:
        """Pass an answer's body on, piece by piece; how many bytes. `write` waits while the app is slower.

        Raises BrokenOff, ReaderStalled, or what `write` raises. Closes the answer, whatever comes.
        """
        passed = 0
        try:
            while piece := await _next(source):
                try:
                    async with asyncio.timeout(self._stalled_reader_seconds):
                        await write(piece)
                except TimeoutError:
                    raise ReaderStalled("the app took nothing of its answer for too long") from None
                passed += len(piece)
        finally:
            source.close()  # ends the connection, unless the body has ended before
        return passed

    # --- calls that must not be left in the middle ----------------------------------------------------------------

    async def to_its_end(
        self, work: Callable[[], Coroutine[Any, Any, Result]], check: Callable[[int], Awaitable[None]] | None = None
    ) -> Result:
        """Check, and then do some work to its end, even if who asked for it leaves.

        `check` is given how many checked works are under way, this one included: each holds a place that the store
        does not know of yet. What it raises is raised, and the work is not begun.
        """
        if check is None:
            return await self._operations.run(work())
        self._places += 1
        try:
            await check(self._places)
        except BaseException:
            self._places -= 1
            raise
        task = self._operations.start(work())
        task.add_done_callback(self._free_place)
        return await self._operations.wait(task)

    async def finish(self, seconds: float) -> None:
        """Let what is under way come to its end; what takes longer is given up, and told. For a stop."""
        if count := await self._operations.finish(seconds):
            _log.event("creates_given_up", level=logging.ERROR, count=count, means="their tasks may be unwatched")

    def _free_place(self, _: object) -> None:
        self._places -= 1


async def whole(source: aiohttp.ClientResponse, key: str) -> WholeAnswer:
    """An answer with its body, up to 4 MiB of it, and without the key where amux repeats it. Raises AmuxUnavailable."""
    pieces = bytearray()
    try:
        while piece := await _next(source):
            pieces += piece
            if len(pieces) > MAX_ANSWER_BYTES:
                raise AmuxUnavailable(f"amux answered with more than {MAX_ANSWER_BYTES >> 20} MiB")
    except BrokenOff as error:
        raise AmuxUnavailable(str(error)) from None
    finally:
        source.close()
    body = bytes(pieces)
    headers = passed_headers(source.headers)
    if len(key) >= SHORTEST_SECRET:
        body = body.replace(key.encode(), MARK.encode())
        headers = CIMultiDict((name, value) for name, value in headers.items() if key not in value)
    headers.popall(hdrs.CONTENT_LENGTH, None)
    return WholeAnswer(source.status, headers, body)


def passed_headers(headers: CIMultiDictProxy[str]) -> CIMultiDict[str]:
    """An answer's headers, without those of its connection, cookies, and those that speak for the bridge's origin.

    Values that could not be written again are left out as well: bytes that are no UTF-8.
    """
    named = ",".join(headers.getall(hdrs.CONNECTION, []))
    left = _HOP_BY_HOP | _NOT_AMUX_S | {name.strip().lower() for name in named.split(",")}
    passed = [(name, value) for name, value in headers.items() if name.lower() not in left and value.isprintable()]
    return CIMultiDict((name, value) for name, value in passed if not name.lower().startswith("access-control-"))


def _no_redirect(found: aiohttp.ClientResponse) -> aiohttp.ClientResponse:
    if 300 <= found.status < 400:
        found.close()
        raise AmuxUnavailable(f"amux answered {found.status}, and redirects are not followed: is the base URL right?")
    return found


async def _next(source: aiohttp.ClientResponse) -> bytes:
    """The next piece of a body, empty at its end. Raises BrokenOff."""
    try:
        return await source.content.readany()
    except TimeoutError:
        raise BrokenOff("amux's answer stalled") from None
    except (aiohttp.ClientError, HttpProcessingError, OSError):
        raise BrokenOff("amux's answer broke off") from None

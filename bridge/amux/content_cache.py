"""The content cache: reads each video from amux once, at full speed, into a file. Any number of readers share it.

amux ends an answer after 60 s, also for a slow reader. A reader of a file may take any time.
"""

import asyncio
import hashlib
import logging
import os
import re
from collections.abc import Awaitable, Callable, Collection
from dataclasses import replace
from functools import partial
from typing import Final

import aiohttp
from aiohttp import hdrs

from bridge.aio.system import SYSTEM, System
from bridge.amux.content_files import ContentFiles, Reservation
from bridge.amux.content_folder import ContentFolder, ContentHead
from bridge.amux.content_read import THREADS, ContentInterrupted, ContentRead, ContentReader, FileThreads
from bridge.amux.proxy import AnswerInterrupted, next_piece
from bridge.core.cache_room import Disk
from bridge.core.errors import BridgeError
from bridge.telemetry import get_logger

OpenSource = Callable[[], Awaitable[aiohttp.ClientResponse]]

STEP_BYTES: Final = 16 << 20  # between two checks of the disk's free space while a file grows
STOP_SECONDS: Final = 3.0  # for a disk that does not answer; the next start removes incomplete files
_VIDEO_TYPE = re.compile(r"(?:video|audio|image)/.+|(?:application|binary)/octet-stream|application/mp4|")
_STRONG_TAG = re.compile(r'"[\x21\x23-\x7e]{1,200}"')
_MAX_KEPT_HEADER: Final = 200  # characters

_log = get_logger("content_cache")


class _Opening:
    """A requested video. When amux has answered, it has a `read`, or a `source` to pass on, or an `error`."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()  # `read`, `source` or `error` is set
        self.read: ContentRead | None = None
        self.source: aiohttp.ClientResponse | None = None
        self.error: BridgeError | None = None
        self.users = 0  # readers, and requests that wait for the answer
        self.reservation = Reservation()
        self.task: asyncio.Task[None] | None = None

    @property
    def is_unused_and_endless(self) -> bool:
        """Whether the request has no users and may never end by itself.

        A read with a known length continues without users: players open a video, leave, and later read parts of it.
        """
        if self.users:
            return False
        return not self.begun.is_set() or (self.read is not None and self.read.head.length is None)

    def take_source(self) -> aiohttp.ClientResponse | None:
        """Returns the answer to pass on. Only the first caller gets it."""
        source, self.source = self.source, None
        return source


class ContentCache:
    """Files of videos, up to `limit` bytes in all.

    `disk` replaces `ContentFolder.disk`, for tests.
    """

    def __init__(
        self,
        folder: ContentFolder,
        *,
        limit: int,
        disk: Callable[[], Disk] | None = None,
        system: System = SYSTEM,
    ) -> None:
        self._folder = folder
        self._system = system
        self._threads = FileThreads(system.threads(THREADS, "bridge-content"))
        self._files = ContentFiles(folder, self._threads, limit=limit, system=system, disk=disk)
        self._reads: dict[str, _Opening] = {}  # those that a new reader can join, by watch id
        self._running: set[_Opening] = set()
        self._closing = False

    @property
    def usable(self) -> bool:
        """Whether there is a folder for files."""
        return self._files.ready and not self._closing

    @property
    def bytes_used(self) -> int:
        """The size of all files in bytes. Of a file that is being written, the final size counts if it is known."""
        return self._files.bytes_used

    async def start(self) -> None:
        """Finds the files of an earlier run. Never raises: if the folder cannot be used, videos are passed through."""
        await self._files.start()

    async def sweep(self, existing: Callable[[Collection[str]], Awaitable[Collection[str]]]) -> None:
        """Removes the files of watches that no longer exist, and files for which there is no more room.

        `existing` gets watch ids and returns those that exist. Raises what `existing` raises.
        """
        if not self._closing:
            await self._files.sweep(existing)

    async def open(self, watch_id: str, open_source: OpenSource) -> ContentReader | aiohttp.ClientResponse:
        """Returns a reader of the video, or amux's answer to pass on if there is no room for a file.

        `open_source` asks amux for the whole video. Only one read of a video into a file runs at a time. Raises what
        `open_source` raises. The caller closes what it gets.
        """
        reader = await self._files.open(watch_id)
        if reader is not None:
            return reader
        if not self.usable:
            return await open_source()
        opening = self._reads.get(watch_id)
        found = opening is not None
        if opening is None:
            opening = self._begin(watch_id, open_source)
        opening.users += 1
        try:
            await opening.begun.wait()
            read, source = opening.read, opening.take_source()
            if opening.error is not None and read is None:
                raise opening.error  # noqa: TRY301  the request is over, as for any other error
        except BaseException:
            self._leave(watch_id, opening)
            raise
        if read is not None:
            leave = partial(self._leave, watch_id, opening)
            return ContentReader(read.head, read.part.fd, self._threads, found=found, read=read, on_close=leave)
        self._leave(watch_id, opening)
        return source if source is not None else await open_source()

    async def close(self) -> None:
        """Ends all reads of amux, and removes incomplete files."""
        self._closing = True
        tasks = [each.task for each in self._running if each.task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=STOP_SECONDS)
        await self._threads.close(STOP_SECONDS)
        self._folder.close()

    # --- reads of amux --------------------------------------------------------------------------------------------

    def _begin(self, watch_id: str, open_source: OpenSource) -> _Opening:
        opening = _Opening()
        self._reads[watch_id] = opening
        self._running.add(opening)
        opening.task = asyncio.create_task(self._run(watch_id, opening, open_source), name="content-read")
        return opening

    def _leave(self, watch_id: str, opening: _Opening) -> None:
        """Counts a reader or a waiting request that has left. After the last one, closes what no reader needs."""
        opening.users -= 1
        if opening.users:
            return
        if (source := opening.take_source()) is not None:
            source.close()
        if opening not in self._running:
            self._close_file(opening)
        elif opening.is_unused_and_endless and opening.task is not None:
            self._forget(watch_id, opening)
            opening.task.cancel()

    def _forget(self, watch_id: str, opening: _Opening) -> None:
        """Removes the read from those that can be joined: the next request for this video begins a new read."""
        if self._reads.get(watch_id) is opening:
            del self._reads[watch_id]

    def _close_file(self, opening: _Opening) -> None:
        if opening.read is not None:
            self._threads.start(partial(os.close, opening.read.part.fd))

    async def _run(self, watch_id: str, opening: _Opening, open_source: OpenSource) -> None:
        """Reads a video from amux into a file. Readers see every error."""
        try:
            source = await open_source()
            try:
                opening.read = await self._start_file(watch_id, opening, source)
                if opening.read is None:
                    opening.source = source
                    return
                opening.begun.set()
                await self._fill(watch_id, opening, opening.read, source)
            finally:
                if opening.source is None:
                    source.close()
        except BridgeError as error:
            opening.error = error
        except asyncio.CancelledError:
            opening.error = ContentInterrupted("the bridge ended its read of amux")
            raise
        except Exception as error:  # noqa: BLE001  a bug: readers see a broken read, the log the traceback
            _log.event(
                "content_read_failed",
                level=logging.ERROR,
                trace=error,
                watch_id=watch_id,
                means="an unexpected error in the bridge; the readers of this video get an incomplete body or an error",
            )
            opening.error = BridgeError()
        finally:
            self._ended(watch_id, opening)

    def _ended(self, watch_id: str, opening: _Opening) -> None:
        self._forget(watch_id, opening)
        self._running.discard(opening)
        self._files.release(opening.reservation)
        opening.begun.set()
        if opening.read is not None and not opening.read.ended:
            opening.read.end(opening.error or ContentInterrupted("the bridge ended its read of amux"))
        if not opening.users:
            self._close_file(opening)

    async def _start_file(self, watch_id: str, opening: _Opening, source: aiohttp.ClientResponse) -> ContentRead | None:
        """Returns a read with a new file, or None for an answer that is to be passed on."""
        if not _can_be_kept(source):
            return None
        head = _head_of(watch_id, source, self._system.token_hex(16))
        if not await self._files.reserve(opening.reservation, STEP_BYTES if head.length is None else head.length):
            return None
        part = await self._files.create(watch_id, head)
        return None if part is None else ContentRead(head, part)

    async def _fill(self, watch_id: str, opening: _Opening, read: ContentRead, source: aiohttp.ClientResponse) -> None:
        is_kept = False
        try:
            if await self._copy(watch_id, opening, read, source):
                is_kept = await self._files.keep(watch_id, read.part, read.head, opening.reservation)
        except AnswerInterrupted as error:
            means = "readers that wait for more of this video get an incomplete body"
            _log.event("content_read_interrupted", watch_id=watch_id, reason=str(error), bytes=read.size, means=means)
            raise
        finally:
            if not is_kept:
                self._threads.start(read.part.remove)

    async def _copy(self, watch_id: str, opening: _Opening, read: ContentRead, source: aiohttp.ClientResponse) -> bool:
        """Reads amux's answer to its end. Returns whether all of it is in the file. Raises AnswerInterrupted."""
        position = 0
        while piece := await next_piece(source):
            if not read.in_memory and not await self._append(opening, read, piece):
                self._forget(watch_id, opening)
                read.stop_growing()
            if read.in_memory:
                if not opening.users:
                    return False
                await read.send_to_readers(position, piece)
            position += len(piece)
        if read.head.length not in {None, position}:
            raise AnswerInterrupted("amux's answer does not have the length that it announced")
        read.head = replace(read.head, length=position)
        read.end()  # readers need not wait until the file is on the disk
        return not read.in_memory and position > 0

    async def _append(self, opening: _Opening, read: ContentRead, piece: bytes) -> bool:
        """Adds bytes to the file. Returns False if there is no room for them."""
        size, held = read.size + len(piece), opening.reservation.held
        if size // STEP_BYTES != read.size // STEP_BYTES or size > held:
            more = 0 if size <= held else max(STEP_BYTES, size - held)
            if not await self._files.reserve(opening.reservation, more):
                return False
        try:
            await read.append(piece, self._threads)
        except OSError as error:
            self._files.report_unused("a file cannot be written", error)
            return False
        opening.reservation.written = read.size
        return True


def _can_be_kept(source: aiohttp.ClientResponse) -> bool:
    """Whether an answer is a whole video.

    An error page with the status 200 must not be kept. A body that ends with the connection may end too early.
    """
    headers = source.headers
    media_type = headers.get(hdrs.CONTENT_TYPE, "").partition(";")[0].strip().lower()
    is_framed = source.content_length is not None or "chunked" in headers.get(hdrs.TRANSFER_ENCODING, "").lower()
    is_plain = headers.get(hdrs.CONTENT_ENCODING, "identity").strip().lower() in {"", "identity"}
    has_body = source.status == 200 and source.content_length != 0
    return has_body and is_framed and is_plain and _VIDEO_TYPE.fullmatch(media_type) is not None


def _head_of(watch_id: str, source: aiohttp.ClientResponse, new_tag: str) -> ContentHead:
    """Returns the head of a new file.

    The entity tag is made from amux's tag if that is strong, so that all replicas have the same. Else it is `new_tag`.
    """
    headers, length = source.headers, source.content_length
    their_tag = headers.get(hdrs.ETAG, "")
    if _STRONG_TAG.fullmatch(their_tag) and length is not None:
        tag = hashlib.sha256(f"{watch_id}\n{length}\n{their_tag}".encode()).hexdigest()[:32]
    else:
        tag = new_tag
    media_type = _kept(headers.get(hdrs.CONTENT_TYPE)) or ""
    return ContentHead(f'"{tag}"', length, media_type, _kept(headers.get(hdrs.LAST_MODIFIED)))


def _kept(value: str | None) -> str | None:
    return value if value is not None and value.isprintable() and len(value) <= _MAX_KEPT_HEADER else None

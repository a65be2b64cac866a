"""The complete files of the content cache, and the room that it has on its disk."""

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from bridge.aio.system import System
from bridge.amux.content_folder import ContentFolder, ContentHead, PartFile
from bridge.amux.content_read import ContentReader, FileThreads
from bridge.core.cache_room import CachedFile, Demand, Disk, files_to_remove
from bridge.telemetry import get_logger
from bridge.telemetry.outage_log import OutageLog

_log = get_logger("content_cache")


@dataclass(slots=True)
class _StoredFile:
    size: int
    used_at: float
    readers: int = 0


@dataclass(slots=True, eq=False)
class Reservation:
    """The bytes of the limit that are reserved for a file that is being written, and how many of them are written."""

    held: int = 0
    written: int = 0


class ContentFiles:
    """The complete files. Together with the reservations they have at most `limit` bytes.

    `disk` replaces `ContentFolder.disk`, for tests.
    """

    def __init__(
        self,
        folder: ContentFolder,
        threads: FileThreads,
        *,
        limit: int,
        system: System,
        disk: Callable[[], Disk] | None = None,
    ) -> None:
        self._folder = folder
        self._threads = threads
        self._limit = limit
        self._clock, self._monotonic = system.wall, system.monotonic
        self._disk = disk or folder.disk
        self._files: dict[str, _StoredFile] = {}
        self._reservations: set[Reservation] = set()
        self._keeping: set[asyncio.Future[None]] = set()  # complete files that are being made durable
        self.ready = False
        self._outage = OutageLog(
            _log,
            "content_cache_unused",
            "content_cache_used",
            means="videos are passed through from amux, which ends answers after 60 s: slow readers get only a part",
            repeat_seconds=600.0,
            repeat_on_new_reason=True,
        )

    @property
    def bytes_used(self) -> int:
        """The size of all files in bytes, with the reservations for files that are being written."""
        return sum(file.size for file in self._files.values()) + self._held

    async def start(self) -> None:
        """Finds the files of an earlier run. `ready` is then true if the folder can be used. Raises nothing."""
        try:
            found = await self._threads.run(self._folder.prepare)
        except OSError as error:
            self.report_unused("the folder cannot be used", error)
            return
        self._files = {file.watch_id: _StoredFile(file.size, file.used_at) for file in found}
        self.ready = True
        self._used()
        await self._shrink()

    async def sweep(self, existing: Callable[[Collection[str]], Awaitable[Collection[str]]]) -> None:
        """Removes the files of watches that no longer exist, and files for which there is no more room.

        `existing` gets watch ids and returns those that exist. If the folder could not be used, it is tried again.
        """
        if not self.ready:
            await self.start()
        if asked := sorted(self._files):
            known = set(await existing(asked))
            await self._remove([watch_id for watch_id in asked if watch_id not in known])
        await self._shrink()

    async def open(self, watch_id: str) -> ContentReader | None:
        """Returns a reader of a complete file, which the caller closes. None if there is no such file."""
        stored = self._files.get(watch_id)
        if stored is None:
            return None
        stored.readers += 1  # before the wait, so that the file counts as being read
        try:
            opening = partial(self._folder.open, watch_id)
            fd, head = await self._threads.run(opening, lambda opened: os.close(opened[0]))
        except BaseException as error:
            stored.readers -= 1
            if not isinstance(error, OSError):
                raise
            means = "the file of this video is removed, and the video is read from amux again"
            _log.event(
                "content_file_lost", level=logging.WARNING, watch_id=watch_id, reason=_reason(error), means=means
            )
            await self._remove([watch_id])
            return None

        def close() -> None:
            stored.readers -= 1
            stored.used_at = self._clock()
            self._threads.start(partial(os.close, fd))  # the last close of a removed file frees its blocks

        stored.used_at = self._clock()
        return ContentReader(head, fd, self._threads, found=True, on_close=close)

    async def create(self, watch_id: str, head: ContentHead) -> PartFile | None:
        """Returns a new file to write a video into, or None if it cannot be created."""
        try:
            part = await self._threads.run(partial(self._folder.create, watch_id, head), PartFile.discard)
        except OSError as error:
            self.report_unused("a file cannot be made", error)
            return None
        self._used()
        return part

    async def keep(self, watch_id: str, part: PartFile, head: ContentHead, reservation: Reservation) -> bool:
        """Keeps a file that is completely written, and ends its reservation. Returns whether this succeeded."""
        ended = asyncio.get_running_loop().create_future()
        self._keeping.add(ended)
        try:
            await self._threads.run(partial(part.complete, head))
            self.release(reservation)
            self._files[watch_id] = _StoredFile(head.length or 0, self._clock())
        except OSError as error:
            self.report_unused("a file cannot be written", error)
            return False
        finally:
            self._keeping.discard(ended)
            ended.set_result(None)
        return True

    # --- room -----------------------------------------------------------------------------------------------------

    async def reserve(self, reservation: Reservation, more: int) -> bool:
        """Adds `more` bytes to a reservation, and removes files to make room. With 0 it only checks the disk again.

        Returns False if the bytes do not fit; then no file is removed. Waits for files that are being made durable,
        because these files can be removed soon.
        """
        while True:
            disk = await self._disk_now()
            if disk is None:
                return False
            unwritten = sum(max(0, each.held - each.written) for each in self._reservations)
            chosen = files_to_remove(self._listed(), Demand(more, self._held, unwritten, self._limit), disk)
            if chosen is not None:
                break
            if more > self._limit:  # the video is too large: this is not a problem of the cache
                return False
            if not self._keeping:
                self.report_unused(_why_no_room(unwritten + more, disk))
                return False
            await asyncio.wait(self._keeping, return_when=asyncio.FIRST_COMPLETED)
        self._reservations.add(reservation)
        reservation.held += more
        await self._remove(chosen)
        return True

    def release(self, reservation: Reservation) -> None:
        """Ends a reservation."""
        self._reservations.discard(reservation)

    def report_unused(self, reason: str, error: OSError | None = None) -> None:
        """Logs why videos are passed through, as an outage of the cache."""
        text = reason if error is None else f"{reason}: {_reason(error)}"
        self._outage.failed(text, self._monotonic(), level=logging.WARNING, folder=str(self._folder.path))

    @property
    def _held(self) -> int:
        return sum(each.held for each in self._reservations)

    async def _shrink(self) -> None:
        """Removes files until the limit and the disk's reserve are kept, the least recently used ones first."""
        disk = await self._disk_now() if self.ready else None
        if disk is None:
            return
        files = self._listed()
        chosen = files_to_remove(files, Demand(0, self._held, 0, self._limit), disk)
        await self._remove([file.name for file in files if not file.in_use] if chosen is None else chosen)

    async def _remove(self, watch_ids: Collection[str]) -> None:
        for watch_id in [each for each in watch_ids if self._files.pop(each, None) is not None]:
            with suppress(OSError):  # a file that cannot be removed is found again at the next start
                await self._threads.run(partial(self._folder.remove, watch_id))

    async def _disk_now(self) -> Disk | None:
        try:
            return await self._threads.run(self._disk)
        except OSError as error:
            self.report_unused("the folder cannot be used", error)
            return None

    def _listed(self) -> list[CachedFile]:
        return [CachedFile(name, file.size, file.used_at, file.readers > 0) for name, file in self._files.items()]

    def _used(self) -> None:
        self._outage.recovered(folder=str(self._folder.path))


def _why_no_room(wanted: int, disk: Disk) -> str:
    if wanted > disk.usable:
        return "less than 10 % or 256 MiB of the disk would stay free"
    return "BRIDGE_CONTENT_CACHE_BYTES is used up by videos that are being read from amux"


def _reason(error: OSError) -> str:
    return error.strerror or str(error)

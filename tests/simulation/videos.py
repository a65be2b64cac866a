"""amux's videos, and the folders in which bridges keep them."""

import asyncio
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any

import aiohttp
from multidict import CIMultiDict, CIMultiDictProxy

from bridge.amux.content_folder import ContentFolder, ContentHead, FoundFile, PartFile
from bridge.core.cache_room import Disk
from tests.simulation.loop import SimulatedLoop

PIECE = 300  # bytes
LARGE_DISK = Disk(1 << 40, 1 << 41)
FULL_DISK = Disk(0, 1 << 41)


def video_of(task_id: str) -> bytes:
    """Return the video of a task. Each task has its own, and no part of a video occurs twice."""
    size = 200 + 130 * (sum(task_id.encode()) % 13)
    return " ".join(f"{task_id}:{number}" for number in range(size)).encode()[:size]


@dataclass(eq=False)
class Videos:
    """amux's content route. `failed_at` is when it last failed, or broke off an answer."""

    loop: SimulatedLoop
    random: Random
    breaking_share: float = 0.0
    failed_at: float = 0.0
    on_read: Callable[[str, str], None] = lambda _task, _key: None

    async def answer(self, task_id: str, key: str, refusal: Any) -> Any:
        """Answer a request for a video. While amux is in trouble, `refusal` is its answer."""
        await self._wait(0.01 + 0.3 * self.random.random() ** 2)
        if refusal is not None:
            self.failed()
            return refusal
        self.on_read(task_id, key)
        breaks = self.random.random() < self.breaking_share
        return VideoResponse(self, video_of(task_id), is_chunked=self.random.random() < 0.3, breaks=breaks)

    def failed(self) -> None:
        """Note that a request has failed."""
        self.failed_at = self.loop.time()

    async def _wait(self, seconds: float) -> None:
        passed = self.loop.create_future()
        self.loop.call_external(seconds, _pass, passed)
        await passed

    async def piece(self) -> None:
        """Wait until a piece of a video has come, which sometimes takes long."""
        await self._wait(0.002 if self.random.random() < 0.7 else 2.0 * self.random.random())


class VideoResponse:
    """An aiohttp response to a request for a video, with what the bridge uses of it."""

    def __init__(self, videos: Videos, video: bytes, *, is_chunked: bool, breaks: bool) -> None:
        self.status = 200
        self.content_length = None if is_chunked else len(video)
        length = {"Transfer-Encoding": "chunked"} if is_chunked else {"Content-Length": str(len(video))}
        self.headers = CIMultiDictProxy(CIMultiDict({"Content-Type": "video/mp4", **length}))
        self.content = self
        self._videos = videos
        self._left = video[: len(video) // 2] if breaks else video
        self._breaks = breaks

    async def readany(self) -> bytes:
        """Return the next piece, or b"" at the end."""
        await self._videos.piece()
        piece, self._left = self._left[:PIECE], self._left[PIECE:]
        if not piece and self._breaks:
            self._videos.failed()
            raise aiohttp.ClientPayloadError("the answer ended too early")
        return piece

    def close(self) -> None:
        """Do nothing: there is no connection."""


@dataclass(eq=False)
class Drive:
    """The disk of a replica. Its files stay when a process ends."""

    path: Path
    is_full: bool = False
    folders: list["SimulatedFolder"] = field(default_factory=list)

    def folder(self, now: Callable[[], float], name: str) -> ContentFolder:
        """Return the folder that a process asks for."""
        made = SimulatedFolder(self, now, name)
        self.folders.append(made)
        return made

    def process_ended(self) -> None:
        """Close all files that the process had open, as its end does."""
        for folder in self.folders:
            folder.let_go()
        self.folders.clear()

    def complete(self) -> dict[str, bytes]:
        """Return the complete files by their names, without their headers."""
        names = [path for path in self.path.glob("*/wat_*") if not path.name.endswith(".part")]
        return {path.name: path.read_bytes()[4096:] for path in names}


class SimulatedFolder(ContentFolder):
    """A real folder on a disk whose size does not depend on the machine."""

    def __init__(self, drive: Drive, now: Callable[[], float], name: str) -> None:
        super().__init__(drive.path, name)
        self._drive = drive
        self._now = now
        self._opened: list[tuple[int, int]] = []  # descriptors, and the inodes of their files when opened

    def prepare(self) -> list[FoundFile]:
        found = sorted(super().prepare(), key=lambda file: file.watch_id)
        return [replace(file, used_at=self._now()) for file in found]  # the file system uses the real clock

    def disk(self) -> Disk:
        return FULL_DISK if self._drive.is_full else LARGE_DISK

    def create(self, watch_id: str, head: ContentHead) -> PartFile:
        if self._drive.is_full:
            raise OSError(28, "No space left on device")
        made = super().create(watch_id, head)
        self._note(made.fd)
        return made

    def open(self, watch_id: str) -> tuple[int, ContentHead]:
        fd, head = super().open(watch_id)
        self._note(fd)
        return fd, head

    def _note(self, fd: int) -> None:
        self._opened.append((fd, os.fstat(fd).st_ino))

    def let_go(self) -> None:
        """Close what is still open. A descriptor that belongs to another file by now stays open."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
        for fd, inode in self._opened:
            with suppress(OSError):
                if os.fstat(fd).st_ino == inode:
                    os.close(fd)


def _pass(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)

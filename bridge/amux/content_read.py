"""One read of a video from amux into a file, at full speed, and its readers, which read the file while it grows."""

import asyncio
import contextlib
import errno
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Final, TypeVar

from bridge.aio.threads import Runner, Stopped
from bridge.amux.content_folder import ContentHead, PartFile, read_piece
from bridge.core.errors import BridgeError

Result = TypeVar("Result")

PIECE_BYTES: Final = 256 * 1024  # the most that a reader has in memory: one read from a file
THREADS: Final = 4  # for all files: a slow disk delays videos, and nothing else


class ContentInterrupted(BridgeError):
    """The video cannot be sent to its end."""

    code = "amux_unavailable"


class FileThreads:
    """Runs all work on files in the threads of `runner`, so that a slow disk never blocks the event loop."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner

    async def run(self, function: Callable[[], Result], discard: Callable[[Result], object] | None = None) -> Result:
        """Calls a function in a thread and returns its result. Raises OSError during a stop.

        A caller that is cancelled still waits for the function's end, and `discard` then gets the result. Without this
        wait, a descriptor could be closed and its number reused while the function uses it.
        """
        try:
            running = self._runner.submit(function)
        except Stopped:
            raise OSError(errno.ESHUTDOWN, "the bridge is stopping") from None
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            while not running.done():
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.wait([running])
            if running.exception() is None and discard is not None:
                discard(running.result())
            raise

    def start(self, function: Callable[[], object]) -> None:
        """Calls a function in a thread without waiting, or directly during a stop. The function must not raise."""
        try:
            self._runner.submit(function)
        except Stopped:
            function()

    async def close(self, seconds: float) -> None:
        """Waits until every function that was started has ended, at most `seconds`: a disk may not answer."""
        await self._runner.close(seconds)


class _Signal:
    """A signal without memory: `fire` wakes only the callers that wait at that moment."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def fire(self) -> None:
        self._event.set()
        self._event = asyncio.Event()

    async def wait(self) -> None:
        await self._event.wait()


class ContentRead:
    """A video that is being read from amux, or was just read.

    `size` bytes are in the file. When the file cannot grow any more (`in_memory`), each further piece stays in memory
    until all readers have it. A slow reader then slows the read of amux down, as without a file, but no reader loses
    bytes.
    """

    def __init__(self, head: ContentHead, part: PartFile) -> None:
        self.head = head
        self.part = part
        self.size = 0
        self.in_memory = False
        self.ended = False
        self.error: BridgeError | None = None
        self.readers: set[ContentReader] = set()
        self._piece = b""
        self._piece_start = 0
        self._grew = _Signal()
        self._was_read = _Signal()

    async def append(self, piece: bytes, threads: FileThreads) -> None:
        """Adds bytes to the file. If it raises OSError, nothing was added."""
        await threads.run(lambda: self.part.write(self.size, piece))
        self.size += len(piece)
        self._grew.fire()

    async def send_to_readers(self, position: int, piece: bytes) -> None:
        """Passes bytes that are not in the file to all readers. Returns when every reader has these bytes."""
        self._piece_start, self._piece = position, piece
        self._grew.fire()
        while any(reader.position < position + len(piece) for reader in self.readers):
            await self._was_read.wait()
        self._piece = b""

    def stop_growing(self) -> None:
        """Keeps later pieces in memory. Readers that wait for the length get the whole video instead."""
        self.in_memory = True
        self._grew.fire()

    def end(self, error: BridgeError | None = None) -> None:
        """Ends the read: there are no more bytes. Readers that wait get `error`, if there is one."""
        self.ended, self.error = True, error
        self._grew.fire()

    def progressed(self) -> None:
        """Wakes `send_to_readers` after a reader has read more bytes or has left."""
        self._was_read.fire()

    async def next_piece(self, position: int, most: int, fd: int, threads: FileThreads) -> bytes:
        """Returns at most `most` bytes at a position as soon as there are any, b"" at the end of the video.

        Raises the error that ended the read.
        """
        while True:
            if position < self.size:
                count = min(most, self.size - position)
                return await threads.run(partial(read_piece, fd, position, count))
            start = position - self._piece_start
            if 0 <= start < len(self._piece):
                return self._piece[start : start + most]
            if self.error is not None:
                raise self.error
            if self.ended and position < (self.head.length or 0):
                raise ContentInterrupted("the reader was too slow: the bytes that it needs next are not kept")
            if self.ended:
                return b""
            await self._grew.wait()

    async def wait_until(self, is_true: Callable[[], bool]) -> None:
        """Waits until a condition is true, the read has ended or the file cannot grow. Raises the read's error."""
        while not (is_true() or self.ended or self.in_memory):
            await self._grew.wait()
        if self.error is not None:
            raise self.error


class ContentReader:
    """One reader's access to a video, which may still grow. The caller must close it.

    `found` is false if a new read of amux began for this reader. `on_close` closes the descriptor.
    """

    def __init__(  # noqa: PLR0913  its parts
        self,
        head: ContentHead,
        fd: int,
        threads: FileThreads,
        *,
        found: bool,
        read: ContentRead | None = None,
        on_close: Callable[[], None],
    ) -> None:
        self.found = found
        self.position = 0
        self._head = head
        self._fd = fd
        self._threads = threads
        self._read = read
        self._on_close = on_close
        self._closed = False
        if read is not None:
            read.readers.add(self)

    @property
    def head(self) -> ContentHead:
        """The video's head as it is known now."""
        return self._head if self._read is None else self._read.head

    @property
    def length(self) -> int | None:
        """The video's length, None while it is not known."""
        return self.head.length

    async def wait_for_bytes(self, size: int) -> bool:
        """Waits until there are `size` bytes or the length is known. Returns False if the file stops growing before.

        Raises the error that ended the read of amux.
        """
        read = self._read
        if read is None:
            return True
        await read.wait_until(lambda: read.size >= size or self.length is not None)
        return read.size >= size or self.length is not None

    async def wait_for_length(self) -> bool:
        """Waits until the length is known. Returns False if the file stops growing before. Raises the read's error."""
        if self._read is not None:
            await self._read.wait_until(lambda: self.length is not None)
        return self.length is not None

    async def pieces(self, start: int, stop: int | None) -> AsyncIterator[bytes]:
        """Yields the bytes from `start` to `stop` (None: to the end) as soon as they are available.

        Raises the error that ended the read of amux, and ContentInterrupted when the file cannot be read.
        """
        self.position = start
        while stop is None or self.position < stop:
            most = PIECE_BYTES if stop is None else min(PIECE_BYTES, stop - self.position)
            piece = await self._next(most)
            if not piece:
                if stop is None and self._read is not None:
                    return
                raise ContentInterrupted("the file in the content cache is shorter than the video")
            yield piece
            self.position += len(piece)
            if self._read is not None:
                self._read.progressed()

    def close(self) -> None:
        """Ends the reader and closes its descriptor. Can be called again."""
        if self._closed:
            return
        self._closed = True
        if self._read is not None:
            self._read.readers.discard(self)
            self._read.progressed()
        self._on_close()

    async def _next(self, most: int) -> bytes:
        try:
            if self._read is not None:
                return await self._read.next_piece(self.position, most, self._fd, self._threads)
            return await self._threads.run(lambda: read_piece(self._fd, self.position, most))
        except OSError as error:
            raise ContentInterrupted(f"the content cache cannot be read: {error.strerror}") from None

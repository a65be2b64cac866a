"""The content cache alone: cancelled callers, errors, descriptors, and disks that are slow or full."""

import asyncio
import os
import resource
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest

from bridge.aio.threads import Threads
from bridge.amux import AmuxUnavailable
from bridge.amux.content_cache import ContentCache, OpenSource
from bridge.amux.content_folder import ContentFolder
from bridge.amux.content_read import ContentReader, FileThreads
from bridge.core.cache_room import Disk
from bridge.core.errors import BridgeError
from tests.web.content_harness import MIB, SMALL, Amux, serving, until, video

WATCH = "wat_" + "1" * 26
ROOMY, FULL = Disk(90 << 30, 100 << 30), Disk(0, 100 << 30)


@dataclass
class Cached:
    """A cache, and an amux that it reads from. `answers` are the responses that the cache has opened."""

    cache: ContentCache
    amux: Amux
    session: aiohttp.ClientSession
    answers: list[aiohttp.ClientResponse] = field(default_factory=list)

    async def source(self) -> aiohttp.ClientResponse:
        self.answers.append(await self.session.get(self.amux.server.url))
        return self.answers[-1]

    async def open(
        self, watch_id: str = WATCH, source: OpenSource | None = None
    ) -> ContentReader | aiohttp.ClientResponse:
        return await self.cache.open(watch_id, source or self.source)

    async def reader(self, watch_id: str = WATCH) -> ContentReader:
        opened = await self.open(watch_id)
        assert isinstance(opened, ContentReader)
        return opened


@asynccontextmanager
async def cached(
    folder: Path, amux: Amux | None = None, *, limit: int = 1 << 30, disk: Callable[[], Disk] = lambda: ROOMY
) -> AsyncIterator[Cached]:
    cache = ContentCache(ContentFolder(folder / "content", "own"), limit=limit, disk=disk)
    await cache.start()
    async with serving(amux or Amux(SMALL)) as served, aiohttp.ClientSession() as session:
        yield Cached(cache, served, session)
        await cache.close()


async def all_of(reader: ContentReader) -> bytes:
    got = b"".join([piece async for piece in reader.pieces(0, reader.length)])
    reader.close()
    return got


def files(folder: Path) -> list[Path]:
    return [path for path in (folder / "content").rglob("*") if path.is_file() and path.name != "lock"]


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


# --- callers that leave, and errors -------------------------------------------------------------------------------


async def test_an_open_request_to_amux_ends_when_nobody_waits_for_it_any_more(tmp_path: Path) -> None:
    asked, ended = asyncio.Event(), asyncio.Event()

    async def never() -> aiohttp.ClientResponse:
        asked.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        raise AssertionError

    async with cached(tmp_path) as it:
        callers = [asyncio.create_task(it.open(source=never)) for _ in range(2)]
        await asked.wait()
        callers[0].cancel()
        await asyncio.gather(callers[0], return_exceptions=True)
        assert not ended.is_set()
        callers[1].cancel()
        await ended.wait()
        assert await all_of(await it.reader()) == SMALL  # the next caller begins a new read


async def test_an_error_of_amux_is_every_waiting_caller_s_and_the_next_caller_asks_again(tmp_path: Path) -> None:
    asked = 0

    async def fails() -> aiohttp.ClientResponse:
        nonlocal asked
        asked += 1
        await asyncio.sleep(0)
        raise AmuxUnavailable("amux answered 500")

    async with cached(tmp_path) as it:
        results = await asyncio.gather(*(it.open(source=fails) for _ in range(3)), return_exceptions=True)
        assert [type(result) for result in results] == [AmuxUnavailable] * 3
        assert asked == 1
        assert await all_of(await it.reader()) == SMALL


async def test_a_fault_of_our_own_is_logged_and_no_caller_waits_for_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken() -> aiohttp.ClientResponse:
        raise RuntimeError("a fault")

    async with cached(tmp_path) as it:
        with pytest.raises(BridgeError):
            await it.open(source=broken)
        assert [record.message for record in caplog.records] == ["content_read_failed"]
        assert it.cache.bytes_used == 0


async def test_an_answer_that_nobody_takes_is_closed(tmp_path: Path) -> None:
    looking, look = threading.Event(), threading.Event()

    def slow() -> Disk:
        looking.set()
        look.wait(20)
        return FULL

    look.set()
    async with cached(tmp_path, disk=slow) as it:
        look.clear()
        looking.clear()
        caller = asyncio.create_task(it.open())
        await until(looking.is_set)
        caller.cancel()
        look.set()
        await asyncio.gather(caller, return_exceptions=True)
        await until(lambda: it.answers[0].closed)
        answer = await it.open()  # there is no room: the answer is passed on, and the caller closes it
        assert isinstance(answer, aiohttp.ClientResponse)
        assert await answer.read() == SMALL


async def test_a_stop_ends_reads_and_their_readers(tmp_path: Path) -> None:
    async with cached(tmp_path, Amux(video(2 * MIB), gates=[MIB])) as it:
        reader = await it.reader()
        pieces = reader.pieces(0, reader.length)
        assert await anext(pieces)
        await it.cache.close()
        with pytest.raises(BridgeError):
            async for _ in pieces:
                pass
        reader.close()
        assert files(tmp_path) == []


async def test_no_descriptor_stays_open(tmp_path: Path) -> None:
    body = video(MIB)
    async with cached(tmp_path, Amux(body), limit=3 * MIB) as it:
        await all_of(await it.reader())
        before = descriptors()
        watches = ["wat_" + str(number) * 26 for number in range(2, 8)]
        for watch_id in watches:
            readers = await asyncio.gather(*(it.reader(watch_id) for _ in range(4)))
            readers[0].close()
            readers[0].close()
            cancelled = asyncio.create_task(it.open(watches[0]))
            await asyncio.sleep(0)
            cancelled.cancel()
            await asyncio.gather(cancelled, return_exceptions=True)
            assert [await all_of(reader) for reader in readers[1:]] == [body] * 3
        await until(lambda: descriptors() <= before)


# --- disks --------------------------------------------------------------------------------------------------------


async def test_a_disk_that_does_not_answer_does_not_block_the_event_loop(tmp_path: Path) -> None:
    answers = threading.Event()
    answers.set()

    def hanging() -> Disk:
        answers.wait(20)
        return ROOMY

    async with cached(tmp_path, disk=hanging) as it:
        answers.clear()
        caller = asyncio.create_task(it.reader())
        await until(lambda: it.answers)
        for _ in range(100):
            await asyncio.sleep(0)  # the loop is not blocked
        assert not caller.done()
        answers.set()
        assert await all_of(await caller) == SMALL


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Makes the kernel refuse writes beyond a size while the block runs, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("with_length", [True, False])
async def test_a_write_that_the_kernel_refuses_loses_no_reader(tmp_path: Path, *, with_length: bool) -> None:
    body = video(6 * MIB)
    async with cached(tmp_path, Amux(body, gates=[MIB], with_length=with_length)) as it:
        readers = [await it.reader(), await it.reader()]
        with largest_file(2 * MIB):
            it.amux.open_gate()
            assert await asyncio.gather(*map(all_of, readers)) == [body, body]
        await until(lambda: not files(tmp_path))
        assert it.cache.bytes_used == 0


async def test_reads_reserve_their_room_in_advance(tmp_path: Path) -> None:
    body = video(2 * MIB)
    async with cached(tmp_path, Amux(body, gates=[MIB]), limit=3 * MIB) as it:
        reader = await it.reader()
        assert it.cache.bytes_used == 2 * MIB
        answer = await it.open("wat_" + "2" * 26)  # there is no room for both files
        assert isinstance(answer, aiohttp.ClientResponse)
        answer.close()
        it.amux.open_gate()
        assert await all_of(reader) == body
        await until(lambda: [path.name for path in files(tmp_path)] == [WATCH])
        assert it.cache.bytes_used == 2 * MIB


async def test_a_file_that_waits_for_the_disk_makes_room_as_soon_as_it_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits, real_fsync = threading.Event(), os.fsync

    def slow_fsync(fd: int) -> None:
        waits.wait(20)
        real_fsync(fd)

    monkeypatch.setattr(os, "fsync", slow_fsync)
    async with cached(tmp_path, limit=1500) as it:
        assert await all_of(await it.reader()) == SMALL  # readers do not wait for the disk
        second = asyncio.create_task(it.reader("wat_" + "2" * 26))
        await until(lambda: len(it.answers) == 2)
        for _ in range(100):
            await asyncio.sleep(0)
        assert not second.done()
        waits.set()
        assert await all_of(await second) == SMALL
        await until(lambda: [path.name for path in files(tmp_path)] == ["wat_" + "2" * 26])


async def test_a_sweep_gives_the_disk_back_what_it_needs(tmp_path: Path) -> None:
    disk = ROOMY
    async with cached(tmp_path, disk=lambda: disk) as it:
        await all_of(await it.reader())
        await until(lambda: it.cache.bytes_used > 0 and [path.name for path in files(tmp_path)] == [WATCH])

        async def existing(ids: object) -> set[str]:
            return {WATCH}

        await it.cache.sweep(existing)
        assert len(files(tmp_path)) == 1
        disk = FULL
        await it.cache.sweep(existing)
        assert files(tmp_path) == []


async def test_a_cancelled_caller_waits_for_the_thread_that_uses_its_descriptor() -> None:
    threads, discarded = FileThreads(Threads(1, "content")), list[int]()
    begun, go_on = threading.Event(), threading.Event()

    def work() -> int:
        begun.set()
        go_on.wait(20)
        return 7

    caller = asyncio.create_task(threads.run(work, discarded.append))
    await until(begun.is_set)
    for _ in range(2):
        caller.cancel()
        await asyncio.sleep(0)
    assert not caller.done()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert discarded == [7]
    await threads.close(20)

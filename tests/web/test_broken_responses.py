"""An error after a response has begun: the caller sees an incomplete body and no second response; the log has why."""

import asyncio
import gc
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from bridge.amux import proxy
from bridge.amux.content_read import PIECE_BYTES, ContentReader
from bridge.core.errors import StoreUnavailable
from bridge.store.records import TaskView
from bridge.web.context import StreamTimes
from tests.waiting import SAFETY_SECONDS
from tests.web.content_harness import completed, opened, until, video
from tests.web.drop_in_harness import DROP_IN
from tests.web.harness import APP, Bridge, running_bridge
from tests.web.raw_client import raw_get
from tests.web.upstream import upstream

VIDEO = video(1 << 20)
BUGS = [RuntimeError("a bug"), TimeoutError("of something else"), ConnectionRefusedError("by another server")]
ERRORS = [*BUGS, StoreUnavailable("the database is gone")]
Stream = Callable[[Bridge, pytest.MonkeyPatch, Exception], Any]


async def amux(_: web.Request) -> web.Response:
    return web.Response(body=VIDEO, content_type="video/mp4")


@pytest.fixture(autouse=True)
async def nothing_unretrieved() -> AsyncIterator[None]:
    """Fails a test that leaves an error which asyncio reports."""
    reported: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    yield
    gc.collect()
    assert reported == []


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Returns the bridge's own warnings. amux's stand-in logs a lost connection as an error."""
    found = [record for record in caplog.records if record.levelno >= logging.WARNING]
    return [record.message for record in found if record.name.startswith("bridge")]


def fail_after_one_piece(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    pieces: Iterator[bytes] = iter([VIDEO[:1000]])

    async def breaks_off(_: aiohttp.ClientResponse) -> bytes:
        for piece in pieces:
            return piece
        raise error

    monkeypatch.setattr(proxy, "next_piece", breaks_off)


async def passed_on(bridge: Bridge, monkeypatch: pytest.MonkeyPatch, error: Exception) -> tuple[str, bytes]:
    path = await completed(bridge)
    fail_after_one_piece(monkeypatch, error)
    return path, VIDEO[:1000]


async def drop_in(_: Bridge, monkeypatch: pytest.MonkeyPatch, error: Exception) -> tuple[str, bytes]:
    fail_after_one_piece(monkeypatch, error)
    return "/v1/videos/task_1/content", VIDEO[:1000]


async def from_the_cache(bridge: Bridge, monkeypatch: pytest.MonkeyPatch, error: Exception) -> tuple[str, bytes]:
    path = await completed(bridge)
    assert (await bridge.get(path)).body == VIDEO
    read = ContentReader._next

    async def breaks_off(reader: ContentReader, most: int) -> bytes:
        if reader.position:
            raise error
        return await read(reader, most)

    monkeypatch.setattr(ContentReader, "_next", breaks_off)
    return path, VIDEO[:PIECE_BYTES]


async def events(bridge: Bridge, monkeypatch: pytest.MonkeyPatch, error: Exception) -> tuple[str, bytes]:
    watch = await bridge.watch()
    answers: Iterator[None] = iter([None, None])

    def live(_: str) -> TaskView | None:
        for answer in answers:
            return answer
        raise error

    monkeypatch.setattr(bridge.poller, "live", live)
    return f"/watch/{watch['id']}/events", b"event: snapshot\n"


@asynccontextmanager
async def serving(folder: Path, stream: Stream) -> AsyncIterator[Bridge]:
    async with (
        upstream(amux) as server,
        running_bridge(
            folder,
            amux_url=server.url,
            drop_in=DROP_IN,
            times=StreamTimes(check_seconds=0.01),
            cache_bytes=1 << 30 if stream is from_the_cache else 0,
        ) as bridge,
    ):
        yield bridge


STREAMS = pytest.mark.parametrize(
    "stream", [passed_on, drop_in, from_the_cache, events], ids=lambda made: made.__name__
)


@STREAMS
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
async def test_an_error_in_the_middle_of_a_response_breaks_it_off(
    tmp_path: Path,
    stream: Stream,
    error: Exception,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with serving(tmp_path, stream) as bridge:
        path, beginning = await stream(bridge, monkeypatch, error)
        caplog.set_level(logging.WARNING)
        answer = await raw_get(bridge.port, path, APP)
        answer.check_incomplete(beginning if stream is events else beginning[:1000])
        with pytest.raises(aiohttp.ClientPayloadError):
            await bridge.get(path)
        assert (await bridge.get("/healthz")).status == 200
    expected = ("request_failed", "ERROR") if error in BUGS else ("response_aborted", "WARNING")
    assert {(record.message, record.levelname) for record in caplog.records} == {expected}
    assert "incomplete body" in caplog.records[0].__dict__["bridge_fields"]["means"]


@STREAMS
async def test_a_response_of_http_1_0_that_breaks_off_ends_with_a_reset(
    tmp_path: Path, stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """nginx speaks HTTP/1.0 to its upstreams by default. A closed connection would be the end of a whole body."""
    async with serving(tmp_path, stream) as bridge:
        path, _ = await stream(bridge, monkeypatch, RuntimeError("a bug"))
        assert (await raw_get(bridge.port, path, APP, version="1.0")).reset


@pytest.mark.parametrize("cache_bytes", [0, 1 << 30])
async def test_a_caller_that_leaves_in_the_middle_of_a_video_is_no_error(
    tmp_path: Path, cache_bytes: int, caplog: pytest.LogCaptureFixture
) -> None:
    async def endless(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"Content-Type": "video/mp4"})
        await answer.prepare(request)
        for _ in range(64):  # more than all socket buffers together
            await answer.write(VIDEO)
        await asyncio.Event().wait()
        return answer

    async with (
        upstream(endless) as server,
        running_bridge(tmp_path, amux_url=server.url, cache_bytes=cache_bytes) as bridge,
    ):
        path = await completed(bridge)
        async with asyncio.timeout(SAFETY_SECONDS):
            async with opened(bridge, path) as answer:
                await answer.content.readexactly(4 << 20)
                answer.close()
            await server.disconnected.wait()
    assert warnings(caplog) == []


async def test_a_caller_that_leaves_a_stream_of_events_is_no_error(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with running_bridge(tmp_path, times=StreamTimes(check_seconds=0.001, heartbeat_seconds=0.0)) as bridge:
        watch = await bridge.watch()
        for _ in range(10):
            async with opened(bridge, f"/watch/{watch['id']}/events") as answer:
                await answer.content.readline()
                answer.close()
        await until(lambda: not bridge.context.change_notifier._listeners)
    assert warnings(caplog) == []

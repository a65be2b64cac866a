"""Reading a video's bytes through the bridge."""

import asyncio
import logging
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from bridge.core.cache_room import Disk
from bridge.core.links import content_link
from bridge.sandbox import Behaviour, Sandbox
from bridge.sandbox.behaviour import Fault, FaultKind
from bridge.sandbox.video import MP4
from tests.waiting import SAFETY_SECONDS
from tests.web.harness import APP, OPERATOR, OTHER, Bridge, running_bridge
from tests.web.upstream import Upstream, upstream

NO_TOKEN = {"Authorization": ""}
VIDEO = {"Content-Type": "video/mp4"}


@pytest.fixture
async def bridge(tmp_path: Path, sandbox: Sandbox) -> AsyncIterator[Bridge]:
    """A bridge whose amux is the stand-in."""
    async with running_bridge(tmp_path, amux_url=await sandbox.start()) as running:
        yield running


async def video_path(bridge: Bridge, task_id: str = "task_1", **fields: Any) -> str:
    """Registers a watch and settles it as completed. Returns the path of its video."""
    watch = await bridge.watch(task_id=task_id, **fields)
    await bridge.settle(watch["id"])
    return f"/watch/{watch['id']}/content"


def completed_task(sandbox: Sandbox, **behaviour: Any) -> str:
    """Creates a task that is completed at once. Returns its id."""
    return sandbox.create_task(Behaviour(queue_seconds=0, run_seconds=0, **behaviour))


def link(bridge: Bridge, path: str, expires: int | None = None) -> str:
    """Returns the signed link to a watch's video, which expires in a minute or at `expires` (Unix seconds)."""
    until = int(bridge.store.now()) + 60 if expires is None else expires
    return content_link("", path.split("/")[2], until, bridge.context.link_key)


async def test_a_video_is_sent_with_its_type_and_a_sandboxing_policy(bridge: Bridge, sandbox: Sandbox) -> None:
    task = completed_task(sandbox)
    path = await video_path(bridge, task)
    answer = await bridge.get(path)
    assert (answer.status, answer.body) == (200, MP4)
    headers = answer.headers
    assert (headers["Content-Type"], headers["Content-Length"]) == ("video/mp4", str(len(MP4)))
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert "sandbox" in headers["Content-Security-Policy"]
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert headers["Content-Disposition"] == f'inline; filename="{task}.mp4"'
    assert "X-Oneapi-Request-Id" not in headers
    head = await bridge.ask("HEAD", path)
    assert (head.status, head.headers["Content-Length"], head.body) == (200, str(len(MP4)), b"")


async def test_a_signed_link_works_without_a_token_until_it_expires(bridge: Bridge, sandbox: Sandbox) -> None:
    path = await video_path(bridge, completed_task(sandbox))
    good = link(bridge, path)
    assert (await bridge.get(good, headers=NO_TOKEN)).body == MP4
    cross = {**NO_TOKEN, "Sec-Fetch-Site": "cross-site", "Origin": "https://shop.example"}
    assert (await bridge.get(good, headers=cross)).status == 200
    other = await video_path(bridge, completed_task(sandbox))
    for bad in (
        link(bridge, path, int(bridge.store.now()) - 1),
        good.replace("expires=1", "expires=2"),
        good[:-1] + ("A" if good[-1] != "A" else "B"),
        good.partition("&")[0],
        other + "?" + good.partition("?")[2],
        f"{path}?expires=&signature=",
        f"{path}?expires=%C3%A9&signature=%FF",
    ):
        answer = await bridge.session.get(f"http://127.0.0.1:{bridge.port}{bad}")
        assert answer.status == 403, bad
        assert (await answer.json())["code"] == "forbidden"
    # A token works together with an expired link.
    assert (await bridge.get(link(bridge, path, 1))).status == 200


async def test_only_the_watch_s_app_and_operators_can_read_the_video(bridge: Bridge, sandbox: Sandbox) -> None:
    path = await video_path(bridge, completed_task(sandbox))
    (await bridge.get(path, headers=NO_TOKEN)).problem(401, "unauthorized")
    (await bridge.get(path, headers=OTHER)).problem(404, "not_found")
    assert (await bridge.get(path, headers=OPERATOR)).status == 200
    assert (await bridge.get(f"{path}?x=1")).fields() == {"x"}
    (await bridge.get("/watch/wat_x/content")).problem(404, "not_found")
    gone = link(bridge, "/watch/wat_00000000000000000000000000/content")
    (await bridge.get(gone, headers=NO_TOKEN)).problem(404, "not_found")


async def test_a_bridge_without_tokens_refuses_an_invalid_link_too(tmp_path: Path, sandbox: Sandbox) -> None:
    async with running_bridge(tmp_path, tokens={}, operators={}, amux_url=await sandbox.start()) as bridge:
        path = await video_path(bridge, completed_task(sandbox))
        for asked, status in ((path, 200), (link(bridge, path), 200), (link(bridge, path, 1), 403)):
            async with bridge.session.get(f"http://127.0.0.1:{bridge.port}{asked}") as answer:
                assert answer.status == status


async def test_a_watch_that_is_not_completed_has_no_video(bridge: Bridge, sandbox: Sandbox) -> None:
    watch = await bridge.watch(task_id=completed_task(sandbox))
    path = f"/watch/{watch['id']}/content"
    (await bridge.get(path)).problem(409, "watch_not_completed")
    await bridge.ask("DELETE", f"/watch/{watch['id']}")
    (await bridge.get(path)).problem(409, "watch_not_completed")
    (await bridge.get(link(bridge, path), headers=NO_TOKEN)).problem(409, "watch_not_completed")


async def test_the_video_is_read_with_the_watch_s_own_key(bridge: Bridge, sandbox: Sandbox) -> None:
    sandbox.keys = frozenset({"sk-own"})
    task = completed_task(sandbox)
    own, configured = await video_path(bridge, task, api_key="sk-own"), await video_path(bridge, task)
    assert (await bridge.get(own)).status == 200
    problem = (await bridge.get(configured)).problem(502, "amux_unavailable")
    assert "401" in problem["detail"]
    assert "sk-" not in problem["detail"]


async def test_a_bridge_without_a_key_any_more_says_so(tmp_path: Path, sandbox: Sandbox) -> None:
    async with running_bridge(tmp_path, api_key="sk-configured") as before:
        path = await video_path(before, "task_1")
    async with running_bridge(tmp_path, api_key=None) as bridge:
        assert "no amux key" in (await bridge.get(path)).problem(502, "amux_unavailable")["detail"]


@pytest.mark.parametrize("kind", ["rejected", "server_error", "redirect", "bad_gateway_html", "rate_limited", "reset"])
async def test_every_error_of_amux_is_amux_unavailable(bridge: Bridge, sandbox: Sandbox, kind: str) -> None:
    path = await video_path(bridge, completed_task(sandbox, content_fault=Fault(FaultKind(kind), times=None)))
    (await bridge.get(path)).problem(502, "amux_unavailable")
    assert sandbox.unknown_paths == {}


async def test_an_unreachable_amux_is_amux_unavailable(tmp_path: Path) -> None:
    async with running_bridge(tmp_path) as bridge:
        path = await video_path(bridge)
        (await bridge.get(path)).problem(502, "amux_unavailable")


# --- a scripted amux ----------------------------------------------------------------------------------------------


async def read_video_from(handler: Any, tmp_path: Path, **headers: str) -> tuple[Any, Upstream]:
    async with upstream(handler) as amux, running_bridge(tmp_path, amux_url=amux.url) as bridge:
        return await bridge.get(await video_path(bridge), headers=headers), amux


@pytest.mark.parametrize(
    ("amux_type", "media_type", "disposition"),
    [
        ("video/webm", "video/webm", 'inline; filename="task_1.webm"'),
        ('Video/MP4; codecs="avc1"', "video/mp4", 'inline; filename="task_1.mp4"'),
        ("audio/mpeg", "audio/mpeg", 'inline; filename="task_1.mp3"'),
        ("image/png", "image/png", 'inline; filename="task_1.png"'),
        ("image/svg+xml", "application/octet-stream", 'attachment; filename="task_1"'),
        ("text/html", "application/octet-stream", 'attachment; filename="task_1"'),
        ("application/pdf", "application/octet-stream", 'attachment; filename="task_1"'),
        ("video/", "application/octet-stream", 'attachment; filename="task_1"'),
    ],
)
async def test_only_media_types_keep_their_type(
    tmp_path: Path, amux_type: str, media_type: str, disposition: str
) -> None:
    async def handler(_: web.Request) -> web.Response:
        headers = {"Content-Type": amux_type, "Set-Cookie": "a=b", "Access-Control-Allow-Origin": "*", "X-Other": "x"}
        return web.Response(body=b"bytes", headers=headers)

    answer, _ = await read_video_from(handler, tmp_path)
    headers = answer.headers
    assert (headers["Content-Type"], headers["Content-Disposition"], answer.body) == (media_type, disposition, b"bytes")
    assert not {"Set-Cookie", "Access-Control-Allow-Origin", "X-Other"} & set(headers)


async def test_without_a_cache_a_range_is_passed_to_amux(tmp_path: Path) -> None:
    async def handler(request: web.Request) -> web.Response:
        if "Range" not in request.headers:
            return web.Response(body=b"0123456789", headers=VIDEO)
        part = {**VIDEO, "Content-Range": "bytes 2-4/10", "Accept-Ranges": "bytes", "ETag": '"v1"'}
        return web.Response(status=206, body=b"234", headers=part)

    async with upstream(handler) as amux, running_bridge(tmp_path, amux_url=amux.url, cache_bytes=0) as bridge:
        path = await video_path(bridge)
        answer = await bridge.get(path, headers={"Range": "bytes=2-4", "If-Range": '"v1"'})
        assert (answer.status, answer.body, answer.headers["Content-Range"]) == (206, b"234", "bytes 2-4/10")
        assert (answer.headers["ETag"], answer.headers["Accept-Ranges"]) == ('"v1"', "bytes")
        assert amux.requests[0].headers["If-Range"] == '"v1"'
        assert "Cookie" not in amux.requests[0].headers
        for invalid in ("bytes=0-1,4-5", "lines=1-2", "bytes=", "bytes=-", "é"):
            answer = await bridge.get(path, headers={"Range": invalid})
            assert (answer.status, answer.body) == (200, b"0123456789")


async def test_a_range_outside_the_video_is_416(tmp_path: Path) -> None:
    async def handler(_: web.Request) -> web.Response:
        return web.Response(status=416, headers={"Content-Range": "bytes */10", "Content-Type": "text/html"})

    answer, _ = await read_video_from(handler, tmp_path, Range="bytes=50-")
    assert (answer.status, answer.headers["Content-Range"]) == (416, "bytes */10")
    assert answer.headers["Content-Type"] == "application/octet-stream"


async def test_a_reader_that_disconnects_ends_the_request_to_amux(tmp_path: Path) -> None:
    async def endless(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse(headers=VIDEO)
        await answer.prepare(request)
        while True:
            await answer.write(b"x" * 65_536)

    async with upstream(endless) as amux, running_bridge(tmp_path, amux_url=amux.url) as bridge:
        path = await video_path(bridge)
        async with bridge.session.get(f"http://127.0.0.1:{bridge.port}{path}", headers=APP) as answer:
            await answer.content.readexactly(1 << 20)
            answer.close()
        async with asyncio.timeout(SAFETY_SECONDS):
            await amux.disconnected.wait()


@pytest.mark.parametrize("length", [None, "1000"])
async def test_a_video_that_breaks_off_ends_the_connection(
    tmp_path: Path, length: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse(headers=VIDEO | ({} if length is None else {"Content-Length": length}))
        await answer.prepare(request)
        await answer.write(b"half")
        assert request.transport is not None
        request.transport.abort()
        return answer

    with caplog.at_level(logging.WARNING), pytest.raises(aiohttp.ClientError):
        await read_video_from(broken, tmp_path)
    assert [record.message for record in caplog.records] == ["response_aborted"]


async def test_a_video_that_stalls_ends_the_connection(tmp_path: Path) -> None:
    async def stalling(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse(headers=VIDEO)
        await answer.prepare(request)
        await answer.write(b"half")
        await asyncio.Event().wait()
        return answer

    async with upstream(stalling) as amux, running_bridge(tmp_path, amux_url=amux.url, idle_seconds=0.2) as bridge:
        path = await video_path(bridge)
        with pytest.raises(aiohttp.ClientError):
            await bridge.get(path)
        async with asyncio.timeout(SAFETY_SECONDS):
            await amux.disconnected.wait()


async def test_a_reader_that_reads_nothing_is_disconnected(tmp_path: Path) -> None:
    async def large(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse(headers=VIDEO)
        await answer.prepare(request)
        while True:
            await answer.write(b"x" * 65_536)

    async with upstream(large) as amux, running_bridge(tmp_path, amux_url=amux.url, idle_seconds=0.3) as bridge:
        path = await video_path(bridge)
        reader, writer = await asyncio.open_connection("127.0.0.1", bridge.port, limit=1024)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer app-token\r\n\r\n".encode())
        await reader.readuntil(b"\r\n\r\n")
        async with asyncio.timeout(SAFETY_SECONDS):
            await amux.disconnected.wait()
        writer.transport.abort()


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.long
@pytest.mark.parametrize(("cache_bytes", "accepted"), [(0, "none"), (1 << 30, "bytes")])
async def test_a_gigabyte_needs_less_than_20_mib_of_memory(tmp_path: Path, cache_bytes: int, accepted: str) -> None:
    """The limit covers amux, the bridge and the reader, because all of them run in this process."""
    size, piece = 1 << 30, b"x" * (1 << 18)

    async def large(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse(headers=VIDEO)
        answer.content_length = size
        await answer.prepare(request)
        for _ in range(size // len(piece)):
            await answer.write(piece)
        return answer

    disk = Disk(90 << 30, 100 << 30)
    async with (
        upstream(large) as amux,
        running_bridge(tmp_path, amux_url=amux.url, cache_bytes=cache_bytes, disk=lambda: disk) as bridge,
    ):
        path = await video_path(bridge)
        before, most, got = resident(), 0, 0
        async with bridge.session.get(f"http://127.0.0.1:{bridge.port}{path}", headers=APP) as answer:
            assert answer.headers["Accept-Ranges"] == accepted
            async for chunk in answer.content.iter_any():
                got += len(chunk)
                if got // (8 << 20) != (got - len(chunk)) // (8 << 20):
                    most = max(most, resident())
    assert got == size
    assert most - before < 20 << 20, f"{(most - before) >> 20} MiB"

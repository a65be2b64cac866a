"""Range requests, preconditions and HEAD on videos in the content cache."""

import asyncio
from pathlib import Path

import pytest

from tests.waiting import SAFETY_SECONDS
from tests.web.content_harness import MIB, SMALL, Amux, completed, files, kept, opened, serving, video
from tests.web.harness import running_bridge


@pytest.mark.parametrize(
    ("wanted", "start", "stop"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=10-19", 10, 20),
        ("bytes=990-", 990, 1000),
        ("bytes=-5", 995, 1000),
        ("bytes=990-5000", 990, 1000),
        ("bytes=-5000", 0, 1000),
        ("bytes=0-", 0, 1000),
    ],
)
async def test_a_range_is_served_from_the_file(tmp_path: Path, wanted: str, start: int, stop: int) -> None:
    async with serving(Amux(SMALL)) as amux, running_bridge(tmp_path, amux_url=amux.server.url) as bridge:
        path = await completed(bridge)
        for _ in range(2):  # first while the video is read from amux, then from the complete file
            answer = await bridge.get(path, headers={"Range": wanted})
            assert (answer.status, answer.body) == (206, SMALL[start:stop])
            assert answer.headers["Content-Range"] == f"bytes {start}-{stop - 1}/1000"
            assert answer.headers["Content-Length"] == str(stop - start)
            assert (answer.headers["Accept-Ranges"], answer.headers["Content-Type"]) == ("bytes", "video/mp4")
            await kept(tmp_path)
        assert amux.reads == 1


async def test_a_range_outside_of_the_video_is_416_and_a_malformed_one_is_ignored(tmp_path: Path) -> None:
    async with serving(Amux(SMALL)) as amux, running_bridge(tmp_path, amux_url=amux.server.url) as bridge:
        path = await completed(bridge)
        for outside in ("bytes=1000-", "bytes=5000-6000", "bytes=-0"):
            answer = await bridge.get(path, headers={"Range": outside})
            answer.problem(416, "range_not_satisfiable")
            assert answer.headers["Content-Range"] == "bytes */1000"
        for ignored in ("bytes=5-4", "bytes=0-1,4-5", "lines=0-1", "bytes=x"):
            answer = await bridge.get(path, headers={"Range": ignored})
            assert (answer.status, answer.body) == (200, SMALL)


async def test_a_range_that_is_complete_is_served_while_the_video_grows(tmp_path: Path) -> None:
    body = video(2 * MIB)
    async with serving(Amux(body, gates=[MIB])) as amux, running_bridge(tmp_path, amux_url=amux.server.url) as bridge:
        path = await completed(bridge)
        answer = await bridge.get(path, headers={"Range": "bytes=100-199"})
        assert (answer.status, answer.body) == (206, body[100:200])
        later = [
            asyncio.create_task(bridge.get(path, headers={"Range": wanted}))
            for wanted in (f"bytes={MIB}-{MIB + 9}", "bytes=-7", f"bytes={MIB - 5}-")
        ]
        assert (await bridge.get(path, headers={"Range": "bytes=0-9"})).body == body[:10]
        assert not amux.finished.is_set()
        assert not any(task.done() for task in later)
        amux.open_gate()
        answers = await asyncio.gather(*later)
        assert [answer.body for answer in answers] == [body[MIB : MIB + 10], body[-7:], body[MIB - 5 :]]
        assert amux.reads == 1


async def test_ranges_of_a_video_of_unknown_length_wait_for_what_they_need(tmp_path: Path) -> None:
    body = video(2 * MIB)
    amux = Amux(body, gates=[MIB], with_length=False)
    async with serving(amux), running_bridge(tmp_path, amux_url=amux.server.url) as bridge:
        path = await completed(bridge)
        async with opened(bridge, path, Range="bytes=0-") as whole:
            assert whole.status == 200  # the answer begins at once, before the length is known
            assert await whole.content.readexactly(10) == body[:10]
            answer = await bridge.get(path, headers={"Range": "bytes=100-199"})
            assert (answer.status, answer.body) == (206, body[100:200])
            assert answer.headers["Content-Range"] == "bytes 100-199/*"
            asked = ("bytes=-7", f"bytes={MIB - 5}-", f"bytes={MIB}-{MIB + 9}", f"bytes={3 * MIB}-", "bytes=5-9999999")
            later = [asyncio.create_task(bridge.get(path, headers={"Range": wanted})) for wanted in asked]
            assert (await bridge.get(path, headers={"Range": "bytes=0-9"})).body == body[:10]
            assert not any(task.done() for task in later)
            amux.open_gate()
            answers = await asyncio.gather(*later)
            assert [answer.status for answer in answers] == [206, 206, 206, 416, 206]
            assert answers[0].headers["Content-Range"] == f"bytes {2 * MIB - 7}-{2 * MIB - 1}/{2 * MIB}"
            assert answers[4].body == body[5:]
        assert amux.reads == 1


async def test_a_range_that_waits_for_a_read_that_breaks_is_amux_unavailable(tmp_path: Path) -> None:
    amux = Amux(video(2 * MIB), gates=[MIB], breaks_at=MIB + 1, with_length=False)
    async with serving(amux), running_bridge(tmp_path, amux_url=amux.server.url) as bridge:
        path = await completed(bridge)
        waiting = asyncio.create_task(bridge.get(path, headers={"Range": "bytes=-7"}))
        async with asyncio.timeout(SAFETY_SECONDS):
            await amux.server.requested.wait()
        amux.open_gate()
        (await waiting).problem(502, "amux_unavailable")


async def test_if_range_with_another_version_gets_the_whole_video(tmp_path: Path) -> None:
    async with serving(Amux(SMALL)) as amux, running_bridge(tmp_path, amux_url=amux.server.url) as bridge:
        path = await completed(bridge)
        tag = (await bridge.get(path)).headers["ETag"]
        assert tag.startswith('"')
        for condition, status in (
            (tag, 206),
            ('"other"', 200),
            ("W/" + tag, 200),
            ("Sat, 28 Nov 2026 10:00:00 GMT", 200),
        ):
            answer = await bridge.get(path, headers={"Range": "bytes=0-9", "If-Range": condition})
            assert (answer.status, answer.headers["ETag"]) == (status, tag)
            assert answer.body == (SMALL[:10] if status == 206 else SMALL)


async def test_preconditions_are_honoured(tmp_path: Path) -> None:
    async with serving(Amux(SMALL)) as amux, running_bridge(tmp_path, amux_url=amux.server.url) as bridge:
        path = await completed(bridge)
        tag = (await bridge.get(path)).headers["ETag"]
        fresh = await bridge.get(path, headers={"If-None-Match": tag})
        assert (fresh.status, fresh.body, fresh.headers["ETag"]) == (304, b"", tag)
        (await bridge.get(path, headers={"If-Match": '"other"'})).problem(412, "precondition_failed")
        assert (await bridge.get(path, headers={"If-Match": tag, "If-None-Match": '"other"'})).body == SMALL


async def test_a_head_request_has_the_headers_of_the_video_that_is_read_next(tmp_path: Path) -> None:
    headers = {"Last-Modified": "Sat, 28 Nov 2026 10:00:00 GMT"}
    async with (
        serving(Amux(SMALL, headers=headers)) as amux,
        running_bridge(tmp_path, amux_url=amux.server.url) as bridge,
    ):
        path = await completed(bridge)
        head = await bridge.ask("HEAD", path, headers={"Range": "bytes=0-9"})
        assert (head.status, head.body, head.headers["Content-Length"]) == (200, b"", "1000")
        get = await bridge.get(path)
        for name in ("ETag", "Accept-Ranges", "Last-Modified", "Content-Type", "Content-Disposition"):
            assert get.headers[name] == head.headers[name]
        assert get.headers["Last-Modified"] == headers["Last-Modified"]
        assert amux.reads == 1


async def test_bridges_with_their_own_files_have_the_entity_tag_that_amux_s_gives(tmp_path: Path) -> None:
    tags = set()
    path = ""
    for cleared in range(2):
        async with (
            serving(Amux(SMALL, headers={"ETag": '"v1"'})) as amux,
            running_bridge(tmp_path, amux_url=amux.server.url) as bridge,
        ):
            path = path or await completed(bridge)
            tags.add((await bridge.get(path)).headers["ETag"])
            await kept(tmp_path)
            [file] = files(tmp_path)
            file.unlink()
            assert amux.reads == 1, cleared
    assert len(tags) == 1
    assert tags != {'"v1"'}

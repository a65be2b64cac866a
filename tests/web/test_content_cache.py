"""Reading videos through the content cache: slow readers, many readers, breaks, no room, and the files."""

import asyncio
import logging
from pathlib import Path

import aiohttp
import pytest

from bridge.core.cache_room import Disk
from tests.waiting import SAFETY_SECONDS
from tests.web.content_harness import MIB, SMALL, Amux, completed, count, files, kept, opened, serving, until, video
from tests.web.harness import running_bridge

# --- readers at their own speed -----------------------------------------------------------------------------------


async def test_a_reader_that_is_slower_than_amux_s_time_limit_gets_the_whole_video(tmp_path: Path) -> None:
    body = video(24 * MIB)  # larger than all socket buffers together
    async with (
        serving(Amux(body, limit_seconds=10.0)) as amux,
        running_bridge(tmp_path, amux_url=amux.server.url) as bridge,
        opened(bridge, await completed(bridge)) as response,
    ):
        first = await response.content.readexactly(100)
        async with asyncio.timeout(SAFETY_SECONDS):
            await amux.finished.wait()  # although the reader has read only 100 bytes
        assert first + await response.read() == body


async def test_without_a_file_a_slow_reader_makes_amux_break_the_video_off(tmp_path: Path) -> None:
    async with (
        serving(Amux(video(24 * MIB), limit_seconds=0.5)) as amux,
        running_bridge(tmp_path, amux_url=amux.server.url, cache_bytes=0) as bridge,
        opened(bridge, await completed(bridge)) as response,
    ):
        await response.content.readexactly(100)
        async with asyncio.timeout(SAFETY_SECONDS):
            await amux.broke_off.wait()
        with pytest.raises(aiohttp.ClientError):
            await response.read()


async def test_many_readers_at_different_speeds_share_one_read_of_amux(tmp_path: Path) -> None:
    body = video(6 * MIB)
    async with (
        serving(Amux(body, gates=[1 * MIB, 4 * MIB])) as amux,
        running_bridge(tmp_path, amux_url=amux.server.url) as bridge,
    ):
        path = await completed(bridge)

        async def read(piece: int) -> bytes:
            async with opened(bridge, path) as response:
                got = bytearray()
                while chunk := await response.content.read(piece):
                    got += chunk
                return bytes(got)

        readers = [asyncio.create_task(read(piece)) for piece in (1 << 12, 1 << 16, 1 << 20, 1 << 20)]
        async with opened(bridge, path) as slow:
            first = await slow.content.readexactly(MIB)  # while amux waits at its gate
            assert not amux.finished.is_set()
            late = asyncio.create_task(read(1 << 18))
            amux.open_gate()
            await until(lambda: amux._gate.is_set() is False)
            amux.open_gate()
            assert first + await slow.read() == body
        assert all(got == body for got in await asyncio.gather(*readers, late))
        assert amux.reads == 1
        assert (await bridge.get(path)).body == body
        assert amux.reads == 1
        assert (count(bridge, "miss"), count(bridge, "passed_through")) == (1, 0)
        assert count(bridge, "hit") == 6


async def test_first_reads_at_the_same_time_make_one_read_of_amux(tmp_path: Path) -> None:
    async with serving(Amux(SMALL)) as amux, running_bridge(tmp_path, amux_url=amux.server.url) as bridge:
        path = await completed(bridge)
        answers = await asyncio.gather(*(bridge.get(path) for _ in range(20)))
        assert {answer.body for answer in answers} == {SMALL}
        assert len({answer.headers["ETag"] for answer in answers}) == 1
        assert amux.reads == 1


async def test_a_reader_that_leaves_disturbs_nobody_and_the_video_is_kept(tmp_path: Path) -> None:
    body = video(4 * MIB)
    async with serving(Amux(body, gates=[MIB])) as amux, running_bridge(tmp_path, amux_url=amux.server.url) as bridge:
        path = await completed(bridge)
        async with opened(bridge, path) as stays:
            async with opened(bridge, path) as leaves:
                await leaves.content.readexactly(100)
                leaves.close()
            amux.open_gate()
            assert await stays.read() == body
        await kept(tmp_path)

    async with serving(Amux(body, gates=[MIB])) as amux, running_bridge(tmp_path, amux_url=amux.server.url) as bridge:
        path = await completed(bridge, "task_2")
        async with opened(bridge, path) as alone:
            await alone.content.readexactly(100)
            alone.close()
        amux.open_gate()
        async with asyncio.timeout(SAFETY_SECONDS):
            await amux.finished.wait()
        assert (await bridge.get(path)).body == body
        assert amux.reads == 1


# --- breaks -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("with_length", [True, False])
async def test_a_video_that_breaks_off_is_seen_by_every_reader_and_not_kept(
    tmp_path: Path, *, with_length: bool
) -> None:
    body = video(2 * MIB)
    amux = Amux(body, gates=[MIB], breaks_at=MIB + 100, with_length=with_length)
    async with serving(amux), running_bridge(tmp_path, amux_url=amux.server.url) as bridge:
        path = await completed(bridge)
        async with opened(bridge, path) as one, opened(bridge, path) as other:
            for reader in (one, other):
                assert await reader.content.readexactly(MIB - 100) == body[: MIB - 100]
            amux.open_gate()
            for reader in (one, other):
                with pytest.raises(aiohttp.ClientError):
                    await reader.read()
        await until(lambda: not files(tmp_path))
        amux.breaks_at, amux.gates = None, []
        assert (await bridge.get(path)).body == body  # the next reader starts a new read of amux
        assert amux.reads == 2


async def test_a_length_that_does_not_match_is_a_break(tmp_path: Path) -> None:
    amux = Amux(SMALL, breaks_at=999)
    async with serving(amux), running_bridge(tmp_path, amux_url=amux.server.url) as bridge:
        path = await completed(bridge)
        with pytest.raises(aiohttp.ClientError):
            await bridge.get(path)
        await until(lambda: not files(tmp_path))
        assert bridge.context.content_cache is not None
        assert bridge.context.content_cache.bytes_used == 0


# --- no room for a file -------------------------------------------------------------------------------------------


async def test_without_a_cache_a_video_is_passed_through_and_says_so(tmp_path: Path) -> None:
    async with (
        serving(Amux(SMALL)) as amux,
        running_bridge(tmp_path, amux_url=amux.server.url, cache_bytes=0) as bridge,
    ):
        path = await completed(bridge)
        for _ in range(2):
            answer = await bridge.get(path, headers={"Range": "bytes=0-9"})  # amux ignores the header
            assert (answer.status, answer.body, answer.headers["Accept-Ranges"]) == (200, SMALL, "none")
        assert amux.reads == 2
        assert count(bridge, "passed_through") == 2
    assert not (tmp_path / "content").exists()


async def test_a_video_that_is_larger_than_the_cache_is_passed_through(tmp_path: Path) -> None:
    body = video(3 * MIB)
    async with (
        serving(Amux(body)) as amux,
        running_bridge(tmp_path, amux_url=amux.server.url, cache_bytes=2 * MIB) as bridge,
    ):
        path = await completed(bridge)
        answers = await asyncio.gather(bridge.get(path), bridge.get(path))
        assert {(answer.body == body, answer.headers["Accept-Ranges"]) for answer in answers} == {(True, "none")}
        assert amux.reads == 2
        assert files(tmp_path) == []


async def test_a_full_disk_passes_videos_through_and_is_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    disk = Disk(free=10 << 30, total=100 << 30)
    async with (
        serving(Amux(SMALL)) as amux,
        running_bridge(tmp_path, amux_url=amux.server.url, disk=lambda: disk) as bridge,
    ):
        path = await completed(bridge)
        for _ in range(3):
            answer = await bridge.get(path)
            assert (answer.body, answer.headers["Accept-Ranges"]) == (SMALL, "none")
        disk = Disk(free=11 << 30, total=100 << 30)
        assert (await bridge.get(path)).headers["Accept-Ranges"] == "bytes"
    events = [record.message for record in caplog.records if record.name == "bridge.content_cache"]
    assert events == ["content_cache_unused", "content_cache_used"]


@pytest.mark.parametrize("with_length", [True, False])
async def test_a_disk_that_becomes_full_during_a_read_loses_no_reader(tmp_path: Path, *, with_length: bool) -> None:
    body = video(40 * MIB)
    disk = Disk(free=90 << 30, total=100 << 30)
    amux = Amux(body, gates=[MIB], with_length=with_length)
    async with serving(amux), running_bridge(tmp_path, amux_url=amux.server.url, disk=lambda: disk) as bridge:
        path = await completed(bridge)
        async with opened(bridge, path) as one, opened(bridge, path) as other:
            assert await one.content.readexactly(100) + await other.content.readexactly(100) == body[:100] * 2
            disk = Disk(free=0, total=100 << 30)
            suffix = asyncio.create_task(bridge.get(path, headers={"Range": "bytes=-7"}))
            amux.open_gate()
            rest = asyncio.gather(one.read(), other.read())
            assert all(got == body[100:] for got in await rest)
            answer = await suffix
            assert answer.body in {body[-7:], body}  # the whole video, if its end was not known yet
        await until(lambda: not files(tmp_path))
        amux.gates.clear()
        assert (await bridge.get(path)).headers["Accept-Ranges"] == "none"


async def test_a_folder_that_cannot_be_written_passes_videos_through(tmp_path: Path) -> None:
    (tmp_path / "content").write_text("not a folder")
    async with serving(Amux(SMALL)) as amux, running_bridge(tmp_path, amux_url=amux.server.url) as bridge:
        answer = await bridge.get(await completed(bridge))
        assert (answer.body, answer.headers["Accept-Ranges"]) == (SMALL, "none")
        (tmp_path / "content").unlink()
        assert bridge.context.content_cache is not None
        await bridge.context.content_cache.sweep(bridge.store.existing)  # the sweep tries the folder again
        assert (await bridge.get(await completed(bridge, "task_2"))).headers["Accept-Ranges"] == "bytes"


@pytest.mark.parametrize(
    "headers",
    [{"Content-Type": "text/html"}, {"Content-Type": "application/json"}, {"Content-Encoding": "gzip"}],
    ids=str,
)
async def test_an_answer_that_is_no_plain_video_is_not_kept(tmp_path: Path, headers: dict[str, str]) -> None:
    async with (
        serving(Amux(SMALL, headers=headers)) as amux,
        running_bridge(tmp_path, amux_url=amux.server.url) as bridge,
    ):
        path = await completed(bridge)
        async with aiohttp.ClientSession(auto_decompress=False) as session:
            bridge.session, _ = session, bridge.session
            for _ in range(2):
                assert (await bridge.get(path)).headers["Accept-Ranges"] == "none"
        assert amux.reads == 2
        assert files(tmp_path) == []


# --- files --------------------------------------------------------------------------------------------------------


async def test_files_have_private_modes_and_names_that_are_watch_ids(tmp_path: Path) -> None:
    async with serving(Amux(SMALL)) as amux, running_bridge(tmp_path, amux_url=amux.server.url) as bridge:
        path = await completed(bridge)
        await bridge.get(path)
        await kept(tmp_path)
        [file] = files(tmp_path)
        assert file.name == path.split("/")[2]
        for entry in (tmp_path / "content", *(tmp_path / "content").rglob("*")):
            assert entry.stat().st_mode & 0o777 == (0o700 if entry.is_dir() else 0o600), entry


async def test_the_least_recently_used_video_goes_first_and_can_be_read_to_its_end(tmp_path: Path) -> None:
    body = video(8 * MIB)
    async with (
        serving(Amux(body)) as amux,
        running_bridge(tmp_path, amux_url=amux.server.url, cache_bytes=20 * MIB) as bridge,
    ):
        first, second, third = [await completed(bridge, f"task_{number}") for number in range(3)]
        for path in (first, second):
            await bridge.get(path)
        await until(lambda: len(files(tmp_path)) == 2 and all(file.suffix == "" for file in files(tmp_path)))
        async with opened(bridge, second) as read, opened(bridge, first) as also_read:
            start = await read.content.readexactly(100)
            also_start = await also_read.content.readexactly(100)
            await bridge.get(third)
            await until(lambda: {file.name for file in files(tmp_path)} == {p.split("/")[2] for p in (first, third)})
            assert start + await read.read() == body
            assert also_start + await also_read.read() == body
        assert amux.reads == 3
        await bridge.get(first)
        assert amux.reads == 3
        await bridge.get(second)
        assert amux.reads == 4


async def test_a_restart_finds_complete_files_and_removes_everything_else(tmp_path: Path) -> None:
    async with serving(Amux(SMALL)) as amux:
        async with running_bridge(tmp_path, amux_url=amux.server.url) as before:
            path = await completed(before)
            tag = (await before.get(path)).headers["ETag"]
            await kept(tmp_path)
        [file] = files(tmp_path)
        whole = file.read_bytes()
        unknown = file.with_name("wat_" + "0" * 26)
        for name, content in (
            (f"{file.name}.7.part", whole),
            ("wat_" + "1" * 26, whole[:-1]),
            ("wat_" + "2" * 26, b"{}"),
            ("wat_" + "3" * 26, b""),
            (unknown.name, whole),
            ("notes.txt", b"x"),
        ):
            file.with_name(name).write_bytes(content)
        file.with_name("wat_" + "4" * 26).symlink_to("/etc/passwd")
        async with running_bridge(tmp_path, amux_url=amux.server.url) as bridge:
            assert {each.name for each in files(tmp_path)} == {file.name, unknown.name}
            assert bridge.context.content_cache is not None
            await bridge.context.content_cache.sweep(bridge.store.existing)
            assert [each.name for each in files(tmp_path)] == [file.name]  # no watch has the id of the other file
            answer = await bridge.get(path, headers={"Range": "bytes=5-9", "If-Range": tag})
            assert (answer.status, answer.body, answer.headers["ETag"]) == (206, SMALL[5:10], tag)
            assert amux.reads == 1


async def test_the_file_goes_with_its_watch(tmp_path: Path) -> None:
    async with serving(Amux(SMALL)) as amux, running_bridge(tmp_path, amux_url=amux.server.url) as bridge:
        watch = await bridge.watch()
        await bridge.dead(watch["id"])
        path = f"/watch/{watch['id']}/content"
        await bridge.get(path)
        await kept(tmp_path)
        await bridge.store.delete_ended_before(bridge.store.now() + 10, 10)
        (await bridge.get(path)).problem(404, "not_found")
        assert bridge.context.content_cache is not None
        await bridge.context.content_cache.sweep(bridge.store.existing)
        assert files(tmp_path) == []
        assert bridge.context.content_cache.bytes_used == 0


async def test_a_file_that_was_deleted_by_hand_is_read_again(tmp_path: Path) -> None:
    async with serving(Amux(SMALL)) as amux, running_bridge(tmp_path, amux_url=amux.server.url) as bridge:
        path = await completed(bridge)
        await bridge.get(path)
        await kept(tmp_path)
        files(tmp_path)[0].unlink()
        async with asyncio.timeout(SAFETY_SECONDS):
            while amux.reads == 1:  # a request may still join the first read while it ends
                assert (await bridge.get(path)).body == SMALL
        assert amux.reads == 2


async def test_a_stop_during_a_read_leaves_no_file(tmp_path: Path) -> None:
    async with serving(Amux(video(2 * MIB), gates=[MIB])) as amux:
        async with (
            running_bridge(tmp_path, amux_url=amux.server.url) as bridge,
            opened(bridge, await completed(bridge)) as response,
        ):
            await response.content.readexactly(100)
        assert files(tmp_path) == []

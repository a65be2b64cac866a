"""The content route: the whole file at its reader's speed, for a limited time."""

import asyncio
import hashlib
import os
from dataclasses import replace
from pathlib import Path

import pytest

from bridge.sandbox import Behaviour, BehaviourError
from bridge.sandbox.behaviour import parse
from bridge.sandbox.video import MIN_VIDEO_BYTES, MP4, video_pieces
from tests.sandbox.harness import DONE, KEY, Amux

MIB = 1 << 20


def sha256(size: int) -> str:
    digest = hashlib.sha256()
    for piece in video_pieces(size):
        digest.update(piece)
    return digest.hexdigest()


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


async def read_fast(amux: Amux, path: str) -> tuple[int, str]:
    """Reads a body as fast as possible and returns its size and SHA-256."""
    size, digest = 0, hashlib.sha256()
    async with amux.client.get(amux.url + path) as answer:
        async for chunk in answer.content.iter_any():
            size += len(chunk)
            digest.update(chunk)
    return size, digest.hexdigest()


def test_a_large_file_has_mp4s_boxes_and_its_exact_size() -> None:
    for size in (MIN_VIDEO_BYTES, MIN_VIDEO_BYTES + 1, 300_000, 3 * MIB + 1):
        pieces = b"".join(video_pieces(size))
        assert len(pieces) == size
        assert pieces[4:8] == b"ftyp"
        box = pieces.index(b"mdat") - 4
        assert int.from_bytes(pieces[box : box + 4]) == size - box
    assert b"".join(video_pieces(None)) == MP4


@pytest.mark.parametrize("size", [1, (1 << 30) + 1])
def test_a_file_has_at_least_its_boxes_and_at_most_a_gibibyte(size: int) -> None:
    with pytest.raises(BehaviourError, match="sandbox.content_bytes"):
        parse({"content_bytes": size})


async def test_a_fast_reader_gets_the_whole_file_whatever_the_range_says(amux: Amux) -> None:
    task_id = amux.sandbox.create_task(replace(DONE, content_bytes=32 * MIB))
    path = f"/v1/videos/{task_id}/content?variant=video"
    assert await read_fast(amux, path) == (32 * MIB, sha256(32 * MIB))
    status, headers, body = await amux.get(path, headers={"Range": "bytes=5-9"})
    assert (status, headers["Content-Length"], len(body)) == (200, str(32 * MIB), 32 * MIB)
    assert (headers["Accept-Ranges"], headers["Content-Type"]) == ("bytes", "video/mp4")
    assert amux.sandbox.contents == {"whole": 2}


async def test_a_slow_reader_loses_the_end(amux: Amux) -> None:
    amux.sandbox.content_seconds = 0.2
    task_id = amux.sandbox.create_task(replace(DONE, content_bytes=64 * MIB))
    host, port = amux.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port), limit=65536)
    key = KEY["Authorization"]
    writer.write(f"GET /v1/videos/{task_id}/content HTTP/1.1\r\nHost: a\r\nAuthorization: {key}\r\n\r\n".encode())
    head = await reader.readuntil(b"\r\n\r\n")
    assert f"Content-Length: {64 * MIB}".encode() in head
    await amux.sandbox.contents.reached("broken_off")
    received = 0
    while chunk := await reader.read(MIB):
        received += len(chunk)
    assert 0 < received < 32 * MIB  # what was already in the buffers
    writer.close()


async def test_the_vendors_storage_has_no_limit_and_needs_no_key(amux: Amux) -> None:
    amux.sandbox.content_seconds = 0
    task_id = amux.sandbox.create_task(replace(DONE, content_bytes=2 * MIB))
    assert await read_fast(amux, f"/files/{task_id}.mp4") == (2 * MIB, sha256(2 * MIB))


async def test_a_reader_that_leaves_ends_the_sending(amux: Amux) -> None:
    task_id = amux.sandbox.create_task(replace(DONE, content_bytes=256 * MIB))
    async with amux.client.get(f"{amux.url}/v1/videos/{task_id}/content") as answer:
        await answer.content.readexactly(MIB)
        answer.close()
    await amux.sandbox.contents.reached("reader_left")


@pytest.mark.long
async def test_a_gibibyte_takes_no_memory(amux: Amux) -> None:
    task_id = amux.sandbox.create_task(Behaviour(0, 0, content_bytes=1 << 30))
    await read_fast(amux, f"/v1/videos/{amux.sandbox.create_task(replace(DONE, content_bytes=MIB))}/content")
    before = resident_bytes()
    size, _ = await read_fast(amux, f"/v1/videos/{task_id}/content")
    assert size == 1 << 30
    assert resident_bytes() - before < 20 * MIB

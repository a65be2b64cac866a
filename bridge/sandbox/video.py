"""The video files that the stand-in serves: a small one that every tool recognises as MP4, and large ones."""

import random
import struct
from collections.abc import Iterator
from functools import cache

MAX_VIDEO_BYTES = 1 << 30
_PIECE_BYTES = 1 << 18
# A prime, so that a part that is moved by a round number of bytes has other bytes.
_NOISE_BYTES = 1_048_573


def _box(name: bytes, content: bytes) -> bytes:
    """Returns one box of ISO 14496-12: its size, its name, its content."""
    return struct.pack(">I4s", 8 + len(content), name) + content


def _movie_header() -> bytes:
    """Returns `mvhd`, version 0: 5 s at 1,000 units a second, normal speed and volume, no rotation."""
    matrix = struct.pack(">9I", 0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)
    return _box(
        b"mvhd", struct.pack(">5IIH10x", 0, 0, 0, 1000, 5000, 0x10000, 0x100) + matrix + struct.pack(">24xI", 1)
    )


_START = _box(b"ftyp", b"isom" + struct.pack(">I", 512) + b"isomiso2mp41") + _box(b"moov", _movie_header())
MIN_VIDEO_BYTES = len(_START) + 8

MP4 = _START + _box(b"mdat", bytes(range(256)) * 16)
"""A file of a few kilobytes without a picture."""


@cache
def _noise() -> bytes:
    return random.Random(0).randbytes(_NOISE_BYTES)  # noqa: S311  the same bytes in each run


def video_size(size: int | None) -> int:
    """Returns the size of a file in bytes. For None it is the size of `MP4`."""
    return len(MP4) if size is None else size


def video_pieces(size: int | None) -> Iterator[bytes]:
    """Yields a file of `size` bytes in pieces of up to 256 KiB. The whole file is never in memory.

    For None the file is `MP4`. Any other file has the same boxes as `MP4`, with random bytes in the last box.
    """
    if size is None:
        yield MP4
        return
    start = _START + struct.pack(">I4s", size - len(_START), b"mdat")
    yield start
    noise, left, at = memoryview(_noise()), size - len(start), 0
    while left > 0:
        piece = noise[at : at + min(left, _PIECE_BYTES)]
        yield bytes(piece)
        left -= len(piece)
        at = (at + len(piece)) % _NOISE_BYTES

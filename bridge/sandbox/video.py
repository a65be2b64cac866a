"""A file of a few kilobytes that every tool recognises as MP4. It holds no picture."""

import struct


def _box(name: bytes, content: bytes) -> bytes:
    """Returns one box of ISO 14496-12: its size, its name, its content."""
    return struct.pack(">I4s", 8 + len(content), name) + content


def _movie_header() -> bytes:
    """Returns `mvhd`, version 0: 5 s at 1,000 units a second, normal speed and volume, no rotation."""
    matrix = struct.pack(">9I", 0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)
    return _box(
        b"mvhd", struct.pack(">5IIH10x", 0, 0, 0, 1000, 5000, 0x10000, 0x100) + matrix + struct.pack(">24xI", 1)
    )


MP4 = b"".join(
    [
        _box(b"ftyp", b"isom" + struct.pack(">I", 512) + b"isomiso2mp41"),
        _box(b"moov", _movie_header()),
        _box(b"mdat", bytes(range(256)) * 16),
    ]
)

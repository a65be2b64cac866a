"""Compressed bodies: every coding that is read, and everything that is not."""

import gzip
import zlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.amux.inflate import TooLarge, inflate

TEXT = b'{"task_id":"task_1","status":"running"}'


def gzipped(body: bytes) -> bytes:
    """Compresses without a timestamp, so that the tests' names stay the same."""
    return gzip.compress(body, mtime=0)


def raw_deflate(body: bytes) -> bytes:
    stream = zlib.compressobj(wbits=-15)
    return stream.compress(body) + stream.flush()


@pytest.mark.parametrize(
    ("body", "coding"),
    [
        (TEXT, ""),
        (TEXT, "identity"),
        (gzipped(TEXT), "gzip"),
        (gzipped(TEXT), " GZIP "),
        (gzipped(TEXT), "x-gzip"),
        (gzipped(TEXT), "identity, gzip"),
        (gzipped(TEXT[:9]) + gzipped(TEXT[9:]), "gzip"),
        (gzipped(TEXT) + b"\0\0", "gzip"),
        (zlib.compress(TEXT), "deflate"),
        (raw_deflate(TEXT), "deflate"),
    ],
)
def test_gzip_and_deflate_are_inflated(body: bytes, coding: str) -> None:
    assert inflate(body, coding, 1000) == TEXT


@pytest.mark.parametrize(
    ("body", "coding"),
    [
        (TEXT, "gzip"),
        (TEXT, "deflate"),
        (b"", "gzip"),
        (gzipped(TEXT)[:-9], "gzip"),
        (gzipped(TEXT)[:-1] + b"x", "gzip"),
        (gzipped(TEXT) + gzipped(TEXT)[:5], "gzip"),
        (gzipped(gzipped(TEXT)), "gzip, gzip"),
        (TEXT, "br"),
        (TEXT, "zstd"),
        (TEXT, "aws-chunked"),
    ],
)
def test_what_cannot_be_inflated_is_refused(body: bytes, coding: str) -> None:
    with pytest.raises(ValueError, match="coding|early") as raised:
        inflate(body, coding, 1000)
    assert not isinstance(raised.value, TooLarge)


@pytest.mark.parametrize("compress", [gzipped, zlib.compress, raw_deflate])
def test_a_body_may_have_exactly_the_limit(compress: Callable[[bytes], bytes]) -> None:
    coding = "gzip" if compress is gzipped else "deflate"
    assert inflate(compress(b"x" * 5000), coding, 5000) == b"x" * 5000
    with pytest.raises(TooLarge):
        inflate(compress(b"x" * 5001), coding, 5000)


def test_the_limit_counts_for_all_streams_together() -> None:
    body = gzipped(b"x" * 600) * 2
    with pytest.raises(TooLarge):
        inflate(body, "gzip", 1000)


@given(st.binary(), st.sampled_from(["gzip", "deflate", "identity", "br", ""]), st.integers(1, 50))
def test_any_bytes_are_read_or_refused(body: bytes, coding: str, limit: int) -> None:
    try:
        inflated = inflate(body, coding, limit)
    except ValueError:
        return
    assert len(inflated) <= limit or coding in ("identity", "")

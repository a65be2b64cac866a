"""Decompresses bodies, up to a limit. Pure.

The client asks for uncompressed answers, but some proxies compress them nevertheless.
"""

import zlib

_WINDOW = 15  # zlib's largest window, as every server uses
_GZIP = 16 + _WINDOW
# Some servers send "deflate" as RFC 9110 defines it, with zlib's header, others send it without one.
_CODINGS = {"gzip": (_GZIP,), "x-gzip": (_GZIP,), "deflate": (_WINDOW, -_WINDOW)}
_GZIP_MAGIC = b"\x1f\x8b"


class TooLarge(ValueError):
    """The inflated body is larger than the limit."""


def inflate(body: bytes, content_encoding: str, limit: int) -> bytes:
    """Returns a body without its Content-Encoding: gzip, deflate or none.

    Raises TooLarge above `limit` bytes, before more bytes are decompressed. Raises ValueError for any other coding, for
    several codings, and for a body that does not have its coding or ends too early.
    """
    codings = [word for word in content_encoding.lower().replace(" ", "").split(",") if word not in ("", "identity")]
    if not codings:
        return body
    if len(codings) > 1 or codings[0] not in _CODINGS:
        raise ValueError("the body has an unknown coding")
    error: zlib.error | None = None
    for window in _CODINGS[codings[0]]:
        try:
            return _inflated(body, window, limit)
        except zlib.error as failed:
            error = failed
    raise ValueError("the body does not have the announced coding") from error


def _inflated(body: bytes, window: int, limit: int) -> bytes:
    """Decompresses one stream, or several gzip streams in a row. Bytes after them are ignored, as by curl."""
    inflated = b""
    while True:
        stream = zlib.decompressobj(window)
        inflated += stream.decompress(body, limit + 1 - len(inflated))
        if len(inflated) > limit:
            raise TooLarge("the body is larger than the limit")
        if not stream.eof:
            raise ValueError("the body ends too early")
        body = stream.unused_data
        if window != _GZIP or not body.startswith(_GZIP_MAGIC):
            return inflated

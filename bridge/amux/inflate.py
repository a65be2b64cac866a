"""Inflates compressed bodies, up to a limit. Pure.

The client asks for uncompressed answers, but some proxies compress all the same.
"""

import zlib

_WINDOW = 15  # zlib's largest window, as every server uses
_GZIP = 16 + _WINDOW
_CODINGS = {"gzip": (_GZIP,), "x-gzip": (_GZIP,), "deflate": (_WINDOW, -_WINDOW)}  # deflate: RFC 9110, and raw as sent
_GZIP_MAGIC = b"\x1f\x8b"


class TooLarge(ValueError):
    """The inflated body is larger than the limit."""


def inflate(body: bytes, content_encoding: str, limit: int) -> bytes:
    """Returns a body without its Content-Encoding: gzip, deflate or none.

    Raises TooLarge above `limit` bytes, before more than that is inflated, and ValueError for any other coding, for
    several, and for a body that is not of its coding or ends too early.
    """
    codings = [word for word in content_encoding.lower().replace(" ", "").split(",") if word not in ("", "identity")]
    if not codings:
        return body
    if len(codings) > 1 or codings[0] not in _CODINGS:
        raise ValueError("an unknown coding")
    error: zlib.error | None = None
    for window in _CODINGS[codings[0]]:
        try:
            return _inflated(body, window, limit)
        except zlib.error as failed:
            error = failed
    raise ValueError("not of its coding") from error


def _inflated(body: bytes, window: int, limit: int) -> bytes:
    """Inflates one stream, or several of gzip in a row. Bytes after the last one are ignored, as by curl."""
    inflated = b""
    while True:
        stream = zlib.decompressobj(window)
        inflated += stream.decompress(body, limit + 1 - len(inflated))
        if len(inflated) > limit:
            raise TooLarge("larger than the limit")
        if not stream.eof:
            raise ValueError("it ends too early")
        body = stream.unused_data
        if window != _GZIP or not body.startswith(_GZIP_MAGIC):
            return inflated

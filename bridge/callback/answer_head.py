"""Reads the head of a receiver's answer, as leniently as curl does, and rewrites it for aiohttp's parser.

aiohttp refuses answers that many servers send: header lines over 8 KiB, more than 128 of them, or two Content-Length
headers. Its parser gets a head with only what the bridge uses: the status, how the body ends, Connection and
Retry-After.
"""

import re
from dataclasses import dataclass

MAX_HEAD_BYTES = 256 * 1024
MAX_BYTES_BEFORE_ANSWER = 64 * 1024  # of 1xx answers: reading many more would delay all other work
_STATUS_LINE = re.compile(rb"HTTP/([0-9](?:\.[0-9])?)[ \t]+([0-9]{3})(?=[^0-9])", re.IGNORECASE)
_LONGEST_STATUS_PART = 64  # bytes until the status: `HTTP/1.1 200 `, perhaps with more spaces
_END = re.compile(rb"\r?\n\r?\n")
_SWITCHING_PROTOCOLS = 101
_PRINTABLE = re.compile(rb"[ -~]{1,200}")


class NotHttp(Exception):
    """The bytes are not an answer of HTTP/1."""


@dataclass(frozen=True, slots=True)
class Head:
    """The head of an answer: `rewritten` is for aiohttp's parser, `rest` the bytes after it."""

    status: int
    rewritten: bytes
    rest: bytes
    location: str | None = None


class HeadReader:
    """Collects one answer's head. `status` is set when the status line of the final answer has arrived."""

    def __init__(self) -> None:
        self.status: int | None = None
        self._data = bytearray()
        self._searched = 0  # bytes of `_data` without the end of a head
        self._before_answer = 0

    def feed(self, data: bytes) -> Head | None:
        """Adds bytes. Returns the head when it is complete or too long, else None. Raises NotHttp.

        The 1xx answers before the final answer are dropped.
        """
        self._data += data
        while True:
            if self.status is None and not self._read_status():
                return None
            end = _END.search(self._data, self._searched)
            if end is None:
                self._searched = max(0, len(self._data) - 3)
                if self.status is not None and len(self._data) > MAX_HEAD_BYTES:
                    # The status counts, even if the rest cannot be read. The connection is not used again.
                    return Head(self.status, _rewritten(self.status, [b"Content-Length: 0", b"Connection: close"]), b"")
                self._check_flood(len(self._data))
                return None
            if self.status is not None:
                return self._finish(self.status, end.end())
            self._before_answer += end.end()
            self._check_flood(0)
            del self._data[: end.end()]
            self._searched = 0

    def _read_status(self) -> bool:
        """Reads the status line. Returns False until it has arrived. A 1xx does not set `status`."""
        start = len(self._data) - len(self._data.lstrip(b"\r\n"))
        del self._data[:start]
        match = _STATUS_LINE.match(self._data)
        if match is None:
            is_start = b"HTTP/".startswith(bytes(self._data[:5]).upper()[: len(self._data)])
            if not is_start or b"\n" in self._data or len(self._data) > _LONGEST_STATUS_PART:
                raise NotHttp
            return False
        status = int(match[2])
        if status < 100 or status == _SWITCHING_PROTOCOLS:
            raise NotHttp
        if status >= 200:
            self.status = status
        return True

    def _check_flood(self, unfinished: int) -> None:
        if self.status is None and self._before_answer + unfinished > MAX_BYTES_BEFORE_ANSWER:
            raise NotHttp

    def _finish(self, status: int, end: int) -> Head:
        version, headers = _parse(bytes(self._data[:end]))
        location = headers.get(b"location", [b""])[0].decode("utf-8", "replace") or None
        return Head(status, _rewritten(status, _kept(version, headers)), bytes(self._data[end:]), location)


def _parse(head: bytes) -> tuple[bytes, dict[bytes, list[bytes]]]:
    """Returns the version and each header's values. Lines that are not headers are skipped."""
    first, *lines = head.split(b"\n")
    match = _STATUS_LINE.match(first + b"\n")
    found: dict[bytes, list[bytes]] = {}
    for line in lines:
        name, colon, value = line.partition(b":")
        if colon and name[:1] not in {b" ", b"\t"}:
            found.setdefault(name.strip().lower(), []).append(value.strip())
    return b"" if match is None else match[1], found


def _kept(version: bytes, headers: dict[bytes, list[bytes]]) -> list[bytes]:
    """Returns the header lines for aiohttp's parser. If the end of the body is unclear, the connection is closed."""
    kept = []
    tokens = {token.strip().lower() for value in headers.get(b"connection", []) for token in value.split(b",")}
    close = b"close" in tokens or (version in {b"1.0", b"0.9"} and b"keep-alive" not in tokens)
    codings = b",".join(headers.get(b"transfer-encoding", [])).lower()
    lengths = {part.strip() for value in headers.get(b"content-length", []) for part in value.split(b",")}
    if codings:
        if codings.rpartition(b",")[2].strip() == b"chunked":
            kept.append(b"Transfer-Encoding: chunked")
        else:
            close = True
        close = close or bool(lengths)  # RFC 9112, 6.3: such a message may be an attack
    elif len(lengths) == 1 and (length := lengths.pop()).isdigit() and len(length) <= 18:
        kept.append(b"Content-Length: " + length)
    elif lengths or headers.get(b"content-length"):
        close = True
    if close:
        kept.append(b"Connection: close")
    retry_after = headers.get(b"retry-after", [b""])[0]
    if _PRINTABLE.fullmatch(retry_after):
        kept.append(b"Retry-After: " + retry_after)
    return kept


def _rewritten(status: int, lines: list[bytes]) -> bytes:
    return b"\r\n".join([b"HTTP/1.1 %d -" % status, *lines, b"", b""])

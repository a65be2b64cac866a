"""Range requests and preconditions of HTTP (RFC 9110, sections 13 and 14), for a body whose length may be unknown."""

import re
from dataclasses import dataclass
from typing import Final

MAX_HEADER_CHARACTERS: Final = 200  # a longer Range header is ignored, which RFC 9110, 14.2 always allows
_INT_RANGE = re.compile(r"([0-9]{1,30})-([0-9]{0,30})")
_SUFFIX_RANGE = re.compile(r"-([0-9]{1,30})")
_ENTITY_TAG = re.compile(r'(?:W/)?"[\x21\x23-\x7e\x80-\xff]*"')


@dataclass(frozen=True, slots=True)
class ByteRange:
    """One range of bytes as it was requested.

    `first` is None for a suffix range, whose `last` is then the number of bytes. `last` is None for a range up to the
    end of the body.
    """

    first: int | None
    last: int | None

    def __str__(self) -> str:
        """Returns the value of a Range header."""
        return f"bytes={'' if self.first is None else self.first}-{'' if self.last is None else self.last}"

    def resolved(self, length: int) -> "Part | None":
        """Returns the part of a body of `length` bytes, or None if the range is outside of it (416)."""
        if self.first is None:
            count = min(self.last or 0, length)
            return Part(length - count, length) if count else None
        if self.first >= length:
            return None
        return Part(self.first, length if self.last is None else min(self.last + 1, length))


@dataclass(frozen=True, slots=True)
class Part:
    """The bytes from `start` up to but not including `stop`."""

    start: int
    stop: int


def parse_range(header: str) -> ByteRange | None:
    """Returns the range of a Range header, or None if the header must be ignored.

    These are ignored: units other than bytes, malformed ranges, and several ranges, which need a multipart answer.
    """
    unit, _, ranges = header.partition("=")
    if unit.strip().lower() != "bytes" or len(header) > MAX_HEADER_CHARACTERS:
        return None
    wanted = [text for text in (part.strip(" \t") for part in ranges.split(",")) if text]  # empty elements are allowed
    if len(wanted) != 1:
        return None
    if match := _INT_RANGE.fullmatch(wanted[0]):
        first, last = int(match[1]), int(match[2]) if match[2] else None
        return None if last is not None and last < first else ByteRange(first, last)
    match = _SUFFIX_RANGE.fullmatch(wanted[0])
    return ByteRange(None, int(match[1])) if match else None


def range_still_applies(if_range: str | None, entity_tag: str) -> bool:
    """Whether a request's If-Range allows the range. `entity_tag` is the body's, and strong.

    The comparison is the strong one. A date never matches: it is a weak validator (RFC 9110, 13.1.5).
    """
    return if_range is None or if_range.strip() == entity_tag


def is_unmodified(if_none_match: str | None, entity_tag: str) -> bool:
    """Whether If-None-Match names this body, so that the answer is 304. The comparison is the weak one."""
    return if_none_match is not None and _names(if_none_match.replace("W/", ""), entity_tag)


def is_other_version(if_match: str | None, entity_tag: str) -> bool:
    """Whether If-Match names only other bodies, so that the answer is 412. The comparison is the strong one."""
    return if_match is not None and not _names(if_match, entity_tag)


def _names(tags: str, entity_tag: str) -> bool:
    return tags.strip() == "*" or entity_tag in _ENTITY_TAG.findall(tags)

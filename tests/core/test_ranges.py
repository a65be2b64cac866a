"""Range requests and preconditions, as RFC 9110 defines them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.core.ranges import (
    MAX_HEADER_CHARACTERS,
    ByteRange,
    Part,
    is_other_version,
    is_unmodified,
    parse_range,
    range_still_applies,
)

TAG = '"a1"'


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("bytes=0-4", ByteRange(0, 4)),
        ("bytes=4-4", ByteRange(4, 4)),
        ("bytes=7-", ByteRange(7, None)),
        ("bytes=-5", ByteRange(None, 5)),
        ("bytes=-0", ByteRange(None, 0)),
        ("Bytes=0-4", ByteRange(0, 4)),
        ("bytes= 0-4 ", ByteRange(0, 4)),
        ("bytes=,0-4,", ByteRange(0, 4)),
        ("bytes=0-99999999999999999999", ByteRange(0, 99999999999999999999)),
        ("bytes=0-4".ljust(MAX_HEADER_CHARACTERS), ByteRange(0, 4)),
    ],
)
def test_one_range_is_parsed(header: str, expected: ByteRange) -> None:
    assert parse_range(header) == expected


@pytest.mark.parametrize(
    "header",
    [
        "",
        "bytes",
        "bytes=",
        "bytes=-",
        "bytes=5-4",
        "bytes=0-1,4-5",
        "lines=1-2",
        "bytes=a-b",
        "bytes=1 - 2",
        "bytes=0x1-",
        "bytes=\u0661-\u0662",
        "bytes=0-" + "9" * 300,
        "0-4",
        "=0-4",
        "bytes=bytes=0-4",
        "bytes=X0-4",
        "bytes=\n0-4",
        "bytes=0-4".ljust(MAX_HEADER_CHARACTERS + 1),
    ],
)
def test_every_other_range_header_is_ignored(header: str) -> None:
    assert parse_range(header) is None


@pytest.mark.parametrize("header", ["bytes=0-4", "bytes=7-", "bytes=-5"])
def test_a_range_is_written_as_it_is_read(header: str) -> None:
    assert str(parse_range(header)) == header


@pytest.mark.parametrize(
    ("header", "length", "part"),
    [
        ("bytes=0-4", 10, Part(0, 5)),
        ("bytes=0-", 10, Part(0, 10)),
        ("bytes=8-40", 10, Part(8, 10)),
        ("bytes=9-", 10, Part(9, 10)),
        ("bytes=10-", 10, None),
        ("bytes=10-12", 10, None),
        ("bytes=-3", 10, Part(7, 10)),
        ("bytes=-30", 10, Part(0, 10)),
        ("bytes=-0", 10, None),
        ("bytes=0-", 0, None),
    ],
)
def test_a_range_is_resolved_by_the_length(header: str, length: int, part: Part | None) -> None:
    parsed = parse_range(header)
    assert parsed is not None
    assert parsed.resolved(length) == part


@given(st.integers(0, 50), st.none() | st.integers(0, 50), st.integers(1, 40))
def test_a_part_never_leaves_the_body(first: int, more: int | None, length: int) -> None:
    wanted = ByteRange(first, None if more is None else first + more)
    assert parse_range(str(wanted)) == wanted
    part = wanted.resolved(length)
    assert (part is None) == (first >= length)
    if part is not None:
        assert (
            bytes(range(length))[part.start : part.stop]
            == bytes(range(length))[first:][: None if more is None else more + 1]
        )


@pytest.mark.parametrize(
    ("if_range", "applies"),
    [
        (None, True),
        (TAG, True),
        ('"other"', False),
        ("W/" + TAG, False),
        ("Sat, 28 Nov 2026 10:00:00 GMT", False),
        ("", False),
        ("*", False),
    ],
)
def test_a_range_applies_only_to_the_version_that_if_range_names(if_range: str | None, *, applies: bool) -> None:
    assert range_still_applies(if_range, TAG) is applies


@pytest.mark.parametrize(
    ("value", "unmodified", "other_version"),
    [
        (None, False, False),
        (TAG, True, False),
        (f'"b", {TAG}', True, False),
        ("*", True, False),
        (f"W/{TAG}", True, True),
        ('"b"', False, True),
        ("a1", False, True),
        ('"a1', False, True),
    ],
)
def test_preconditions_compare_entity_tags(value: str | None, *, unmodified: bool, other_version: bool) -> None:
    assert is_unmodified(value, TAG) is unmodified
    assert is_other_version(value, TAG) is other_version

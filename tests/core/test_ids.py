"""Ids: their order, their forms, and that they depend on their inputs only."""

import re
import time
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.core.ids import EVENT_ID_PATTERN, TASK_ID_PATTERN, WATCH_ID_PATTERN, WatchIds, event_id, watch_id_text
from bridge.core.ids import random_event_id as make_ping_id
from bridge.core.model import EventType


def watch_ids() -> WatchIds:
    return WatchIds(Random().getrandbits)


@given(st.lists(st.integers(0, 2**128 - 1), min_size=2, max_size=9))
def test_watch_ids_sort_as_their_numbers(values: list[int]) -> None:
    texts = [watch_id_text(value) for value in sorted(values)]
    assert texts == sorted(texts)
    assert {len(text) for text in texts} == {26}
    assert len(set(texts)) == len(set(values))


def test_watch_ids_increase_within_a_millisecond_and_when_the_clock_is_set_back() -> None:
    ids = watch_ids()
    now = time.time()
    made = [ids.next(moment) for moment in (now, now, now, now - 600, now - 600, now + 0.002, now + 600)]
    assert made == sorted(made)
    assert len(set(made)) == 7
    assert watch_ids().next(now) < watch_ids().next(now + 0.001)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0" * 26),
        (31, "0" * 25 + "z"),
        (32, "0" * 24 + "10"),
        (2**128 - 1, "7" + "z" * 25),
        (int("0123456789abcdefghjkmnpqrstvwxyz".index("k")) << 120, "0k" + "0" * 24),
    ],
)
def test_a_watch_id_is_crockfords_base32_in_lower_case(value: int, text: str) -> None:
    assert watch_id_text(value) == text


def test_a_watch_id_holds_the_milliseconds_and_80_random_bits() -> None:
    asked: list[int] = []

    def random_bits(count: int) -> int:
        asked.append(count)
        return 5

    ids = WatchIds(random_bits)
    now = 1_795_446_245.123
    first = int(now * 1000) << 80 | 5
    assert ids.next(now) == "wat_" + watch_id_text(first)
    assert asked == [80]
    assert ids.next(now) == "wat_" + watch_id_text(first + 6)  # the last id plus 1 plus a random step
    assert asked == [80, 80, 40]
    assert ids.next(now - 1) == "wat_" + watch_id_text(first + 12)
    later = now + 0.01
    assert ids.next(later) == "wat_" + watch_id_text(int(later * 1000) << 80 | 5)


def test_the_first_watch_id_of_time_zero_is_above_zero() -> None:
    assert WatchIds(lambda _: 0).next(0.0) == "wat_" + watch_id_text(1)


@pytest.mark.parametrize(
    ("event_type", "suffix"),
    [
        (EventType.COMPLETED, "c"),
        (EventType.FAILED, "f"),
        (EventType.TIMED_OUT, "t"),
        (EventType.UNAVAILABLE, "u"),
        (EventType.QUEUED, "q"),
        (EventType.IN_PROGRESS, "p"),
    ],
)
def test_an_event_id_is_the_watch_id_and_a_letter_for_the_type(event_type: EventType, suffix: str) -> None:
    assert event_id("wat_01ka", event_type) == f"evt_01ka{suffix}"


def test_ids_of_two_watches_and_all_types_differ() -> None:
    ids = {event_id(watch, kind) for watch in ("wat_1", "wat_2") for kind in EventType}
    assert len(ids) == 2 * len(EventType)
    assert all(name.startswith("evt_") and name.isascii() and "." not in name for name in ids)


def test_event_ids_sort_in_the_order_of_their_watches() -> None:
    watches = ["wat_01ka", "wat_01kb", "wat_01kc"]
    ids = [event_id(watch, kind) for watch in watches for kind in (EventType.TIMED_OUT, EventType.COMPLETED)]
    assert sorted(ids) == [name for pair in zip(ids[1::2], ids[::2], strict=True) for name in pair]


def test_a_ping_id_is_base32_of_20_random_bytes_in_lower_case() -> None:
    assert make_ping_id(bytes(range(20))) == "evt_aaaqeayeaudaocajbifqydiob4ibceqt"


@given(st.integers(0, 2**128 - 1), st.sampled_from(EventType), st.binary(min_size=20, max_size=20))
def test_the_patterns_match_the_ids_that_are_made(value: int, event_type: EventType, random_bytes: bytes) -> None:
    watch_id = "wat_" + watch_id_text(value)
    assert re.fullmatch(WATCH_ID_PATTERN, watch_id)
    assert re.fullmatch(EVENT_ID_PATTERN, event_id(watch_id, event_type))
    assert re.fullmatch(EVENT_ID_PATTERN, make_ping_id(random_bytes))


@pytest.mark.parametrize("letter", "iluoA-")
def test_the_patterns_refuse_letters_that_no_id_holds(letter: str) -> None:
    assert not re.fullmatch(WATCH_ID_PATTERN, "wat_" + "0" * 25 + letter)
    assert not re.fullmatch(EVENT_ID_PATTERN, "evt_" + "0" * 25 + letter + "c")


@pytest.mark.parametrize("text", ["", "a" * 192, "a/b", "a b", "é"])
def test_the_pattern_of_task_ids_refuses_other_characters_and_lengths(text: str) -> None:
    assert not re.fullmatch(TASK_ID_PATTERN, text)
    assert re.fullmatch(TASK_ID_PATTERN, "aZ09._:-" + "x" * 183)

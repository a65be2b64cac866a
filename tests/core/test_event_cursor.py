"""Cursors of the event feed: a written cursor is read back, and no other text is a cursor."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.core.event_cursor import Position, cursor_of, is_expired, next_number, position_of

NUMBERS = st.integers(0, 2**63 - 1)


@given(NUMBERS, NUMBERS)
def test_a_position_is_read_back_from_its_cursor(number: int, removal: int) -> None:
    position = Position(number, removal)
    assert position_of(cursor_of(position)) == position


@given(NUMBERS, st.data())
def test_a_cursor_with_another_character_or_length_is_refused(number: int, data: st.DataObject) -> None:
    cursor = cursor_of(Position(number, number))
    place = data.draw(st.integers(0, len(cursor) - 1))
    character = data.draw(
        st.sampled_from("0123456789abcdefghijklmnopqrstuvwxyzA_- \n\u0661").filter(lambda one: one != cursor[place])
    )
    for wrong in (cursor[:place] + character + cursor[place + 1 :], cursor[:place], cursor + character):
        with pytest.raises(ValueError, match="must be a next_cursor of this route"):
            position_of(wrong)


@pytest.mark.parametrize("number", [2**63, 2**65 - 1])
def test_a_number_that_no_database_can_store_is_refused(number: int) -> None:
    with pytest.raises(ValueError, match="must be a next_cursor"):
        position_of(cursor_of(Position(number)))


@given(NUMBERS, st.floats(0, 9e9))
def test_numbers_grow_and_are_never_behind_the_clock(last: int, now: float) -> None:
    assert next_number(last, now) > last
    assert next_number(last, now) == max(last + 1, int(now * 1_000_000))


@pytest.mark.parametrize(
    ("removed", "last", "now", "state"),
    [
        (0, 50, 0.0, "good"),
        (50, 50, 0.0, "good"),
        (51, 60, 0.0, "expired"),
        (0, 49, 0.0, "expired"),  # the database and the clock were set back
        (0, 49, 0.00005, "good"),  # the database was set back: new events come after the position
    ],
)
def test_a_position_expires_when_something_after_it_is_gone(removed: int, last: int, now: float, state: str) -> None:
    assert is_expired(Position(50), removed, last, now) is (state == "expired")


def test_a_position_is_ahead_of_the_clock_by_the_microsecond() -> None:
    now = 1_795_000_000.0
    assert not is_expired(Position(int(now * 1_000_000)), 0, 0, now)
    assert is_expired(Position(int(now * 1_000_000) + 1), 0, 0, now)


def test_the_refusal_of_a_cursor_says_what_it_must_be() -> None:
    with pytest.raises(ValueError, match="^must be a next_cursor of this route$"):
        position_of("cursor_x")

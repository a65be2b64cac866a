"""Attempts in groups, and what changed between two answers."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.core.model import Attempt, Problem
from bridge.web.dashboard.attempts import SHOWN_DIFFERENCE, Change, changes, numbered, runs

REFUSED = Problem("connection_failed", "connection refused")


def answered(status: int, body: str | None = "") -> Attempt:
    return Attempt(0.0, 0.1, status, None, body)


def test_attempts_with_the_same_result_are_one_group() -> None:
    attempts = [
        answered(500, "a"),
        answered(500, "b"),
        Attempt(0.0, 0.1, None, REFUSED, None),
        answered(500),
        answered(200),
    ]
    groups = runs(numbered(attempts, 3))
    assert [[one.number for one in group] for group in groups] == [[3, 4], [5], [6], [7]]
    assert runs(numbered([], 1)) == []


def test_a_request_to_send_again_ends_a_group() -> None:
    attempts = [Attempt(float(at), 0.1, 500, None, "") for at in (10, 20, 30)]
    groups = runs(numbered(attempts, 1), [25.0, 99.0])
    assert [[one.number for one in group] for group in groups] == [[1, 2], [3]]


def test_only_what_differs_is_a_change() -> None:
    assert changes(answered(500, "same"), answered(500, "same")) == []
    assert changes(answered(500), answered(503)) == [Change("result", "answered 500", "answered 503")]
    assert changes(Attempt(0.0, 0.1, None, REFUSED, None), answered(200)) == [
        Change("result", "no answer: connection refused", "answered 200")
    ]


@pytest.mark.parametrize(
    ("old", "new", "shown"),
    [
        ("id 1", "id 2", ("id 1", "id 2")),
        ("", "down", ("", "down")),
        ("aaa", "aa", ("aaa", "aa")),
        (f"{'x' * 90}1{'y' * 90}", f"{'x' * 90}23{'y' * 90}", None),
    ],
)
def test_an_answer_shows_the_part_that_differs(old: str, new: str, shown: tuple[str, str] | None) -> None:
    [change] = changes(answered(500, old), answered(500, new))
    around = (f"…{'x' * 24}1{'y' * 24}…", f"…{'x' * 24}23{'y' * 24}…")
    assert (change.before, change.after) == (shown or around)


@given(st.text(max_size=2000), st.text(max_size=2000))
def test_answers_that_differ_always_have_a_change_of_a_bounded_length(old: str, new: str) -> None:
    found = changes(answered(500, old), answered(500, new))
    assert (found == []) is (old == new)
    for change in found:
        assert change.before != change.after or min(len(change.before), len(change.after)) > SHOWN_DIFFERENCE
        assert max(len(change.before), len(change.after)) <= SHOWN_DIFFERENCE + 30


def test_the_longest_log_of_a_watch_is_compared_in_little_time() -> None:
    attempts = [answered(500, f"{'x' * 2000}{number}{'y' * 2000}") for number in range(200)]
    began = time.process_time()
    assert all(one.changes for one in numbered(attempts, 1)[1:])
    assert time.process_time() - began < 0.5  # usually 0.01 s

"""What an answer means for a delivery and for its host, as a table and over random rounds."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.core.delivery import (
    FAILURES_UNTIL_PROBING,
    Dead,
    Delivered,
    RetryAt,
    Verdict,
    after_retry_asked,
    attempts_at_a_time,
    host_failures_after,
    on_answer,
    problem_of,
)
from bridge.core.model import Answer, Answered, NoAnswer, Problem, RefusedTarget
from bridge.core.schedule import LONGEST_RETRY_AFTER, RetryPolicy

POLICY = RetryPolicy()
NOW = 1_000.0
LOST = NoAnswer("timeout", "no answer")


def verdict(answer: Answer, attempts: int = 1) -> Verdict:
    return on_answer(answer, attempts, NOW, POLICY, 0.0)


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_any_2xx_is_success(status: int) -> None:
    assert verdict(Answered(status)) == Delivered()


def test_410_and_a_refused_target_end_it_at_once() -> None:
    assert verdict(Answered(410)) == Dead(Problem("gone", "the receiver answered 410 Gone"))
    assert verdict(RefusedTarget("127.0.0.1 is loopback")) == Dead(Problem("callback_refused", "127.0.0.1 is loopback"))


def test_what_failed_while_a_retry_was_asked_for_is_due_now() -> None:
    trouble = Problem("http_500", "the receiver answered 500")
    assert after_retry_asked(Delivered(), NOW) == Delivered()
    assert after_retry_asked(Dead(trouble), NOW) == RetryAt(NOW, trouble)
    assert after_retry_asked(RetryAt(NOW + 86_400, trouble), NOW) == RetryAt(NOW, trouble)


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        *((Answered(status), f"http_{status}") for status in (100, 199, 300, 301, 307, 400, 401, 404, 409, 411, 500)),
        (LOST, "timeout"),
        (NoAnswer("target_refused", "the name resolves badly"), "target_refused"),
    ],
)
def test_anything_else_is_tried_again(answer: Answer, code: str) -> None:
    found = verdict(answer)
    assert isinstance(found, RetryAt)
    assert (found.at, found.error.code) == (NOW + 5, code)
    assert found.error == problem_of(answer)


def test_the_whole_schedule_then_dead() -> None:
    delays = []
    for attempts in range(1, 10):
        found = verdict(LOST, attempts)
        assert isinstance(found, RetryAt)
        delays.append(found.at - NOW)
    assert delays == [5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400]
    assert verdict(LOST, 10) == Dead(problem_of(LOST))


@pytest.mark.parametrize(
    ("retry_after", "delay"), [(None, 5), (0.0, 5), (4.0, 5), (6.0, 6), (1e9, LONGEST_RETRY_AFTER)]
)
def test_retry_after_can_only_delay_and_at_most_a_day(retry_after: float | None, delay: float) -> None:
    found = verdict(Answered(503, retry_after))
    assert isinstance(found, RetryAt)
    assert found.at == NOW + delay


ANSWERS = st.one_of(
    st.builds(Answered, st.integers(100, 599), st.floats(0, 1e12) | st.none()),
    st.builds(NoAnswer, st.text(), st.text()),
    st.builds(RefusedTarget, st.text()),
)


@given(ANSWERS, st.integers(1, 12), st.floats(0, 1e10), st.floats(0, 1, exclude_max=True))
def test_a_retry_is_never_before_its_time(answer: Answer, attempts: int, now: float, jitter: float) -> None:
    found = on_answer(answer, attempts, now, POLICY, jitter)
    delay = POLICY.delay_after(attempts)
    if isinstance(found, RetryAt):
        assert delay is not None
        assert found.at >= now + delay
    elif isinstance(found, Delivered):
        assert isinstance(answer, Answered)
        assert 200 <= answer.status < 300


@given(st.lists(ANSWERS, min_size=1, max_size=30))
def test_a_round_ends_whatever_the_answers(answers: list[Answer]) -> None:
    for attempts, answer in enumerate(answers, 1):
        found = on_answer(answer, attempts, NOW, POLICY, 0.5)
        if not isinstance(found, RetryAt):
            return
        assert attempts < 10


@pytest.mark.parametrize(
    ("answer", "before", "after"),
    [
        (LOST, 0, 1),
        (LOST, 5, 6),
        *((Answered(status), 2, 3) for status in (429, 502, 503, 504)),
        *((Answered(status), 9, 0) for status in (200, 302, 400, 410, 500, 501)),
        (RefusedTarget("r"), 2, 2),
        (RefusedTarget("r"), 0, 0),
    ],
)
def test_what_an_answer_says_of_its_host(answer: Answer, before: int, after: int) -> None:
    assert host_failures_after(answer, before) == after


def test_a_host_that_failed_three_times_is_asked_by_one_attempt_at_a_time() -> None:
    assert [attempts_at_a_time(failures, 8) for failures in range(5)] == [8, 8, 8, 1, 1]
    assert FAILURES_UNTIL_PROBING == 3

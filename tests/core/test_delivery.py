"""What an answer means for a delivery and for its host: tables, and random rounds of attempts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.core.delivery import (
    OUT_OF_RESOURCES,
    Dead,
    Delivered,
    RetryAt,
    Verdict,
    after_retry_request,
    host_failures_after,
    is_attempt,
    on_answer,
    problem_of,
)
from bridge.core.model import Answer, Answered, NoAnswer, Problem, RefusedTarget
from bridge.core.schedule import RetryPolicy

POLICY = RetryPolicy()
NOW = 1_000.0
TIMED_OUT = NoAnswer("timeout", "no answer")


def verdict(answer: Answer, attempts: int = 1) -> Verdict:
    return on_answer(answer, attempts, NOW, POLICY, 0.0)


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_any_2xx_is_success(status: int) -> None:
    assert verdict(Answered(status)) == Delivered()


def test_410_and_a_refused_target_end_a_delivery_at_once() -> None:
    assert verdict(Answered(410)) == Dead(Problem("gone", "the receiver answered 410 Gone"))
    assert verdict(RefusedTarget("127.0.0.1 is loopback")) == Dead(Problem("callback_refused", "127.0.0.1 is loopback"))


def test_a_delivery_that_failed_while_a_retry_was_requested_is_due_now() -> None:
    error = Problem("http_500", "the receiver answered 500")
    assert after_retry_request(Delivered(), NOW) == RetryAt(NOW, None)
    assert after_retry_request(Dead(error), NOW) == RetryAt(NOW, error)
    assert after_retry_request(RetryAt(NOW + 86_400, error), NOW) == RetryAt(NOW, error)


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        *((Answered(status), f"http_{status}") for status in (100, 199, 300, 301, 307, 400, 401, 404, 409, 411, 500)),
        (TIMED_OUT, "timeout"),
        (NoAnswer("target_refused", "the name resolves badly"), "target_refused"),
    ],
)
def test_any_other_answer_is_tried_again(answer: Answer, code: str) -> None:
    found = verdict(answer)
    assert isinstance(found, RetryAt)
    assert found == RetryAt(NOW + 5, problem_of(answer))
    assert problem_of(answer).code == code


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (Answered(500), Problem("http_500", "the receiver answered 500")),
        (Answered(400), Problem("http_400", "the receiver answered 400")),
        (Answered(300), Problem("http_300", "the receiver answered 300; redirects are not followed")),
        (Answered(399), Problem("http_399", "the receiver answered 399; redirects are not followed")),
        (
            Answered(308, location="https://example.com/b"),
            Problem(
                "http_308",
                "the receiver answered 308, a redirect to https://example.com/b; "
                "redirects are not followed, so register that URL",
            ),
        ),
        (TIMED_OUT, Problem("timeout", "no answer")),
        (RefusedTarget("127.0.0.1 is loopback"), Problem("callback_refused", "127.0.0.1 is loopback")),
    ],
)
def test_each_answer_has_its_problem(answer: Answer, problem: Problem) -> None:
    assert problem_of(answer) == problem


def test_what_fails_for_a_shortage_inside_the_bridge_is_no_attempt() -> None:
    assert not is_attempt(NoAnswer(OUT_OF_RESOURCES, "too many open files"))
    answers: tuple[Answer, ...] = (TIMED_OUT, Answered(200), Answered(500), RefusedTarget("r"))
    assert all(is_attempt(answer) for answer in answers)


@pytest.mark.parametrize("answer", [Answered(503), Answered(503, 0.0), TIMED_OUT])
def test_a_delay_below_a_second_is_kept(answer: Answer) -> None:
    policy = RetryPolicy((0.5,))
    assert on_answer(answer, 1, NOW, policy, 0.0) == RetryAt(NOW + 0.5, problem_of(answer))


def test_a_delivery_is_dead_after_the_whole_schedule() -> None:
    delays = []
    for attempts in range(1, 10):
        found = verdict(TIMED_OUT, attempts)
        assert isinstance(found, RetryAt)
        delays.append(found.at - NOW)
    assert delays == [5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400]
    assert verdict(TIMED_OUT, 10) == Dead(problem_of(TIMED_OUT))


@pytest.mark.parametrize(
    ("retry_after", "delay"), [(None, 5), (0.0, 5), (4.0, 5), (6.0, 6), (86_399.0, 86_399), (1e9, 86_400)]
)
def test_retry_after_only_delays_and_by_at_most_a_day(retry_after: float | None, delay: float) -> None:
    found = verdict(Answered(503, retry_after))
    assert isinstance(found, RetryAt)
    assert found.at == NOW + delay


ANSWERS = st.one_of(
    st.builds(Answered, st.integers(100, 599), st.floats(0, 1e12) | st.none()),
    st.builds(NoAnswer, st.text(), st.text()),
    st.builds(RefusedTarget, st.text()),
)


@given(ANSWERS, st.integers(1, 12), st.floats(0, 1e10), st.floats(0, 1, exclude_max=True))
def test_a_retry_is_never_early(answer: Answer, attempts: int, now: float, jitter: float) -> None:
    found = on_answer(answer, attempts, now, POLICY, jitter)
    delay = POLICY.delay_after(attempts)
    if isinstance(found, RetryAt):
        assert delay is not None
        assert found.at >= now + delay
    elif isinstance(found, Delivered):
        assert isinstance(answer, Answered)
        assert 200 <= answer.status < 300


@given(st.lists(ANSWERS, min_size=1, max_size=30))
def test_a_round_always_ends(answers: list[Answer]) -> None:
    for attempts, answer in enumerate(answers, 1):
        found = on_answer(answer, attempts, NOW, POLICY, 0.5)
        if not isinstance(found, RetryAt):
            return
        assert attempts < 10


@pytest.mark.parametrize(
    ("answer", "before", "after"),
    [
        (TIMED_OUT, 0, 1),
        (TIMED_OUT, 5, 6),
        *((Answered(status), 2, 3) for status in (429, 502, 503, 504)),
        *((Answered(status), 9, 0) for status in (200, 302, 400, 410, 500, 501)),
        (RefusedTarget("r"), 2, 2),
        (RefusedTarget("r"), 0, 0),
    ],
)
def test_an_answer_counts_as_a_failure_of_its_host_or_clears_the_count(answer: Answer, before: int, after: int) -> None:
    assert host_failures_after(answer, before) == after

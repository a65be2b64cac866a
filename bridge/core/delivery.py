"""What an answer means for a pending delivery, and for the host that gave it."""

from dataclasses import dataclass
from typing import TypeAlias

from bridge.core.model import Answer, Answered, NoAnswer, Problem, RefusedTarget
from bridge.core.schedule import LONGEST_RETRY_AFTER, RetryPolicy, stretched

GONE = 410
HOST_TROUBLE = frozenset({429, 502, 503, 504})  # answers that speak of the host, not of this callback
FAILURES_UNTIL_PROBING = 3


@dataclass(frozen=True, slots=True)
class Delivered:
    """The receiver took it."""


@dataclass(frozen=True, slots=True)
class RetryAt:
    """Still pending; due again at `at`."""

    at: float
    error: Problem


@dataclass(frozen=True, slots=True)
class Dead:
    """Given up: kept, shown, counted, sent again on request."""

    error: Problem


Verdict: TypeAlias = Delivered | RetryAt | Dead


def after_retry_asked(verdict: Verdict, now: float) -> Verdict:
    """What a verdict comes to when a retry was asked for while its attempt was under way: a failure is due now."""
    return verdict if isinstance(verdict, Delivered) else RetryAt(now, verdict.error)


def on_answer(answer: Answer, attempts: int, now: float, policy: RetryPolicy, jitter: float) -> Verdict:
    """Decide what the answer to the `attempts`-th attempt of a round (1 is the first) means for its delivery."""
    match answer:
        case Answered(status=status) if 200 <= status < 300:
            return Delivered()
        case Answered(status=status) if status == GONE:
            return Dead(Problem("gone", "the receiver answered 410 Gone"))
        case RefusedTarget(reason=reason):
            return Dead(Problem("callback_refused", reason))
    error = problem_of(answer)
    delay = policy.delay_after(attempts)
    if delay is None:
        return Dead(error)
    asked = min(answer.retry_after or 0.0, LONGEST_RETRY_AFTER) if isinstance(answer, Answered) else 0.0
    return RetryAt(now + max(stretched(delay, jitter), asked), error)


def problem_of(answer: Answer) -> Problem:
    """The error of an answer that is no success, as an attempt's log tells it."""
    match answer:
        case Answered(status=status):
            return Problem(f"http_{status}", f"the receiver answered {status}")
        case NoAnswer(code=code, message=message):
            return Problem(code, message)
        case RefusedTarget(reason=reason):
            return Problem("callback_refused", reason)


def host_failures_after(answer: Answer, failures: int) -> int:
    """How often in a row a host has now failed; any answer that is not trouble of the host's own clears it.

    A target that a rule refuses says nothing about the host.
    """
    match answer:
        case RefusedTarget():
            return failures
        case Answered(status=status) if status not in HOST_TROUBLE:
            return 0
    return failures + 1


def attempts_at_a_time(failures: int, limit: int) -> int:
    """How many attempts a host may have under way: `limit`, or one while it fails (a probe)."""
    return 1 if failures >= FAILURES_UNTIL_PROBING else limit

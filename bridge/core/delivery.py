"""What the answer to one attempt means for its delivery and for the receiver's host."""

from dataclasses import dataclass
from typing import TypeAlias

from bridge.core.model import Answer, Answered, NoAnswer, Problem, RefusedTarget
from bridge.core.schedule import LONGEST_RETRY_AFTER, RetryPolicy, with_jitter

GONE = 410
OUT_OF_RESOURCES = "out_of_resources"  # the bridge itself lacks file descriptors or memory for a connection
HOST_FAILURE_STATUSES = frozenset({429, 502, 503, 504})  # these concern the host, not only this one callback
FAILURES_UNTIL_PROBING = 3


@dataclass(frozen=True, slots=True)
class Delivered:
    """The receiver accepted the event."""


@dataclass(frozen=True, slots=True)
class RetryAt:
    """The delivery is still pending. The next attempt is due at `at` (Unix seconds).

    `error` is None when the attempt succeeded, and another one was requested meanwhile.
    """

    at: float
    error: Problem | None


@dataclass(frozen=True, slots=True)
class Dead:
    """The delivery is given up. It is kept, shown and counted, and it can be sent again on request."""

    error: Problem


Verdict: TypeAlias = Delivered | RetryAt | Dead


def after_retry_request(verdict: Verdict, now: float) -> Verdict:
    """Returns the verdict of an attempt during which a retry was requested: the delivery is due again now.

    This holds for every answer. The attempt may have reached the receiver before the request, so it is not the retry.
    """
    return RetryAt(now, None if isinstance(verdict, Delivered) else verdict.error)


def on_answer(answer: Answer, attempts: int, now: float, policy: RetryPolicy, jitter: float) -> Verdict:
    """Decides what an answer means for its delivery.

    `attempts` is the number of this attempt in its round of the schedule (1 is the first), `now` is in Unix seconds
    and `jitter` is a random number in [0, 1).
    """
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
    retry_after = min(answer.retry_after or 0.0, LONGEST_RETRY_AFTER) if isinstance(answer, Answered) else 0.0
    return RetryAt(now + max(with_jitter(delay, jitter), retry_after), error)


def is_attempt(answer: Answer) -> bool:
    """Whether an answer counts as an attempt. A failure because of a shortage inside the bridge does not count."""
    return not (isinstance(answer, NoAnswer) and answer.code == OUT_OF_RESOURCES)


def problem_of(answer: Answer) -> Problem:
    """Returns the error of an answer that is not a success, as it is stored with the attempt."""
    match answer:
        case Answered(status=status, location=str(location)):
            rule = "redirects are not followed, so register that URL"
            return Problem(f"http_{status}", f"the receiver answered {status}, a redirect to {location}; {rule}")
        case Answered(status=status) if 300 <= status < 400:
            return Problem(f"http_{status}", f"the receiver answered {status}; redirects are not followed")
        case Answered(status=status):
            return Problem(f"http_{status}", f"the receiver answered {status}")
        case NoAnswer(code=code, message=message):
            return Problem(code, message)
        case RefusedTarget(reason=reason):
            return Problem("callback_refused", reason)


def host_failures_after(answer: Answer, failures: int) -> int:
    """Returns how often in a row a host has failed, after `failures` earlier failures and this answer.

    No answer and the statuses 429, 502, 503 and 504 are failures of the host; every other answer sets the count to 0.
    Nothing was sent to a target that a rule refuses, so the count does not change.
    """
    match answer:
        case RefusedTarget():
            return failures
        case Answered(status=status) if status not in HOST_FAILURE_STATUSES:
            return 0
    return failures + 1

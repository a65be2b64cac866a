"""How amux treats an amux key: what the answers to polls mean for the credential of their tasks.

Moments are seconds of any one clock.
"""

from dataclasses import dataclass, replace
from enum import StrEnum
from math import inf

from bridge.core.model import KeyRefused, Observation, Problem, Throttled, TransientError
from bridge.core.schedule import PollPolicy
from bridge.core.watch import problem_in

ALWAYS_THROTTLED_AFTER = 3  # 429s in a row; one or two are normal near amux's limit
MIN_THROTTLE_SECONDS = 1.0  # with "Retry-After: 0", a probe would follow each answer at once


class CredentialState(StrEnum):
    """How amux treats a key. PAUSED: it refuses the key. THROTTLED: it answered 429. The values go to the dashboard."""

    GOOD = "good"
    PAUSED = "paused"
    THROTTLED = "throttled"


class CredentialChange(StrEnum):
    """What an answer changed about a credential. The values are parts of log event names."""

    NONE = "unchanged"
    PAUSED = "paused"
    THROTTLED = "throttled"
    RESUMED = "resumed"


@dataclass(frozen=True, slots=True)
class CredentialHealth:
    """What the answers to polls have shown about a key.

    `since` is when the state began and `message` what amux answered, both None for a good key. `resumes_at` is when a
    probe asks amux again. `refusals` and `throttles` (429s) are counted in a row. `resumed_at` is when the key last
    became good again.
    """

    state: CredentialState = CredentialState.GOOD
    since: float | None = None
    resumes_at: float = -inf
    message: str | None = None
    refusals: int = 0
    throttles: int = 0
    resumed_at: float = -inf

    @property
    def blocked(self) -> bool:
        """Whether only probes are polled with the key."""
        return self.state is not CredentialState.GOOD

    @property
    def problem(self) -> Problem | None:
        """Why tasks with the key are not polled, as the error of a poll; None for a good key."""
        if not self.blocked:
            return None
        message = self.message or ""
        return problem_in(KeyRefused(message) if self.state is CredentialState.PAUSED else Throttled(message))


def health_after_answer(
    health: CredentialHealth, observation: Observation, now: float, policy: PollPolicy
) -> CredentialHealth:
    """Returns what is known about a key after an answer. While the key is blocked, the answer is that of a probe.

    Whatever amux says about the task (a record, not found, forbidden, rejected), it has accepted the key.
    """
    match observation:
        case KeyRefused(message=message):
            return _paused(health, message, now, policy)
        case Throttled(message=message, retry_after=retry_after):
            return _throttled(health, message, retry_after, now, policy)
        case TransientError():  # it says nothing about the key: ask again after the same pause
            return replace(health, resumes_at=now + _same_pause(health, policy)) if health.blocked else health
        case _:
            return CredentialHealth(throttles=health.throttles, resumed_at=now) if health.blocked else health


def change_between(before: CredentialState, after: CredentialState) -> CredentialChange:
    """Returns what an answer changed."""
    if before is after:
        return CredentialChange.NONE
    return CredentialChange.RESUMED if after is CredentialState.GOOD else CredentialChange(after.value)


def is_always_throttled(health: CredentialHealth, *, accepted: bool) -> bool:
    """Whether all polls with a key seem to get 429.

    `accepted`: amux has sent a record with this key since the start. Before that, one 429 is enough. After it, three in
    a row are needed.
    """
    if health.state is not CredentialState.THROTTLED:
        return False
    return not accepted or health.throttles >= ALWAYS_THROTTLED_AFTER


def _paused(health: CredentialHealth, message: str, now: float, policy: PollPolicy) -> CredentialHealth:
    refusals = health.refusals + 1
    return replace(
        health,
        state=CredentialState.PAUSED,
        since=health.since if health.state is CredentialState.PAUSED else now,
        resumes_at=now + policy.pause_after(refusals),
        message=message,
        refusals=refusals,
    )


def _throttled(
    health: CredentialHealth, message: str, retry_after: float | None, now: float, policy: PollPolicy
) -> CredentialHealth:
    # A 429 soon after the last throttling counts as the next one in a row. So polls become rarer as long as amux's
    # limit is below the rate that the bridge needs.
    in_a_row = health.blocked or now - health.resumed_at < policy.max_interval
    throttles = health.throttles + 1 if in_a_row else 1
    pause = policy.throttle_after(retry_after, throttles)
    resumes_at = now + max(pause, min(MIN_THROTTLE_SECONDS, policy.interval))
    known = replace(health, resumes_at=resumes_at, message=message, throttles=throttles)
    if health.blocked:  # a paused credential stays paused: amux may send a 429 before it checks the key
        return known
    return replace(known, state=CredentialState.THROTTLED, since=now)


def _same_pause(health: CredentialHealth, policy: PollPolicy) -> float:
    if health.state is CredentialState.PAUSED:
        return policy.pause_after(max(health.refusals, 1))
    return policy.throttle_after(None, health.throttles)

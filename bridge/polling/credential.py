"""An amux key as the poller knows it: good, paused while amux refuses it, slowed after a 429.

While a credential rests its tasks are held, and one of them is the probe that asks again. Moments are those of the
monotonic clock.
"""

from dataclasses import dataclass
from enum import StrEnum
from math import inf

from bridge.core.model import KeyRefused, Observation, SlowDown, Trouble
from bridge.core.schedule import PollPolicy
from bridge.polling.tasks import PolledTask

SHORTEST_REST = 1.0  # seconds; "Retry-After: 0" for ever would have a probe follow its answer at once


class Standing(StrEnum):
    """How amux takes a key."""

    GOOD = "good"
    PAUSED = "paused"
    SLOWED = "slowed"


class Verdict(StrEnum):
    """What an answer changed about a credential."""

    SAME = "same"
    PAUSED = "paused"
    SLOWED = "slowed"
    RESUMED = "resumed"


@dataclass(frozen=True, slots=True)
class CredentialState:
    """A credential as operators see it. `name` is a fingerprint, never the key; times are Unix seconds.

    `resumes_at` is when amux is asked again, null for a good one.
    """

    name: str
    state: Standing
    since: float | None
    resumes_at: float | None
    message: str | None


class Credential:
    """One key and the tasks that wait for it. `key` is None for the configured one, which is looked up at each poll."""

    __slots__ = (
        "configured",
        "held",
        "key",
        "message",
        "name",
        "probe",
        "refusals",
        "refused_key",
        "resting",
        "resumed_at",
        "resumes_at",
        "since",
        "slowdowns",
        "standing",
        "tasks",
    )

    def __init__(self, name: str, key: str | None, *, configured: bool = False) -> None:
        self.name = name
        self.key = key
        self.configured = configured
        self.standing = Standing.GOOD
        self.resting = False  # whether only the probe may be polled; asked three times a poll, so no property
        self.since: float | None = None
        self.resumes_at = -inf
        self.message: str | None = None
        self.refusals = 0
        self.slowdowns = 0
        self.resumed_at = -inf
        self.refused_key: str | None = None
        self.held: dict[PolledTask, None] = {}  # in the order they came; leaving is O(1)
        self.probe: PolledTask | None = None
        self.tasks = 0

    def judge(self, task: PolledTask, observation: Observation, now: float, policy: PollPolicy) -> Verdict:
        """Decide what an answer to a poll of `task` means for its credential.

        While it rests only the probe's answer counts: all others began before, and say what is known. Whatever amux
        says of the task (a record, not found, forbidden, rejected) it says to a key that it took.
        """
        if self.resting and task is not self.probe:
            return Verdict.SAME
        match observation:
            case KeyRefused(message=message):
                return self._refused(message, now, policy)
            case SlowDown(message=message, retry_after=retry_after):
                return self._slowed(message, retry_after, now, policy)
            case Trouble():
                if self.resting:  # it says nothing of the key: ask again after the same rest
                    self.resumes_at = now + self._same_rest(policy)
                return Verdict.SAME
            case _:
                return self._good(now) if self.resting else Verdict.SAME

    def _refused(self, message: str, now: float, policy: PollPolicy) -> Verdict:
        known = self.standing is Standing.PAUSED
        self.refusals += 1
        self.resumes_at = now + policy.pause_after(self.refusals)
        self.message = message
        if known:
            return Verdict.SAME
        self._stand(Standing.PAUSED, now)
        return Verdict.PAUSED

    def _slowed(self, message: str, retry_after: float | None, now: float, policy: PollPolicy) -> Verdict:
        # A 429 soon after the last rest belongs to the same row: a limit below our need makes polls ever rarer.
        again = self.resting or now - self.resumed_at < policy.max_interval
        self.slowdowns = self.slowdowns + 1 if again else 1
        rest = policy.slowdown(retry_after, self.slowdowns)
        self.resumes_at = now + max(rest, min(SHORTEST_REST, policy.interval))
        self.message = message
        if self.resting:  # a paused one stays paused: a 429 may come before the key was looked at
            return Verdict.SAME
        self._stand(Standing.SLOWED, now)
        return Verdict.SLOWED

    def _same_rest(self, policy: PollPolicy) -> float:
        if self.standing is Standing.PAUSED:
            return policy.pause_after(max(self.refusals, 1))
        return policy.slowdown(None, self.slowdowns)

    def _good(self, now: float) -> Verdict:
        self._stand(Standing.GOOD, None)
        self.message = None
        self.refusals, self.resumes_at, self.resumed_at = 0, -inf, now
        self.refused_key = None
        return Verdict.RESUMED

    def _stand(self, standing: Standing, since: float | None) -> None:
        self.standing, self.since = standing, since
        self.resting = standing is not Standing.GOOD

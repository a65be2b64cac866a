"""When to poll a task next, and when to send a delivery again.

The current time and random numbers are passed in: each `jitter` is a random number in [0, 1). Delays and times are in
seconds.
"""

from dataclasses import dataclass
from math import inf

from bridge.core.model import Observation, TaskRecord, TaskStatus, TransientError
from bridge.core.watch import TERMINAL

JITTER_SHARE = 0.1  # a delay grows by up to a tenth and never shrinks: load is spread, and no promise is broken
LONGEST_RETRY_AFTER = 86_400.0  # a receiver may delay an attempt by up to a day
LONGEST_THROTTLE = 300.0  # a Retry-After of amux may throttle a credential for up to five minutes
LONGEST_PAUSE = 60.0  # a refused key is tried again once a minute, or after the longest poll interval if that is longer
# 2^32 intervals are longer than any maximum. Without a cap, a float overflows at 2^1024.
_MAX_DOUBLINGS = 32
_MAX_POLL_BACKOFFS = 200  # 1.2^200 is longer than any maximum; a float overflows at 1.2^3,900
_MAX_ESTIMATED_POLLS = 50  # with a backoff of 1 the delay never reaches its maximum


@dataclass(frozen=True, slots=True)
class PollPolicy:
    """How often a task is polled, in seconds."""

    first_delay: float = 5.0
    interval: float = 5.0
    max_interval: float = 15.0
    backoff: float = 1.2

    def delay_after(self, polls: int, jitter: float) -> float:
        """Returns the delay until the next poll of a task that was polled `polls` times and still runs."""
        if polls == 0:
            return with_jitter(self.first_delay, jitter)
        grown = self.interval * self.backoff ** min(polls - 1, _MAX_POLL_BACKOFFS)
        return with_jitter(min(grown, self.max_interval), jitter)

    def delay_after_failure(self, failures: int, jitter: float) -> float:
        """Returns the delay until the next poll after `failures` transient errors in a row (at least 1)."""
        return with_jitter(min(_doubled(self.interval, failures), self.max_interval), jitter)

    def pause_after(self, refusals: int) -> float:
        """Returns how long a credential is paused after `refusals` refusals of its key in a row (at least 1)."""
        return min(_doubled(self.max_interval, refusals), max(self.max_interval, LONGEST_PAUSE))

    def throttle_after(self, retry_after: float | None, throttles: int) -> float:
        """Returns how long a credential is throttled after `throttles` answers of 429 in a row (1 or more).

        `retry_after` is what amux asked for in the last answer; more than five minutes count as five minutes.
        """
        if retry_after is not None:
            return min(max(retry_after, 0.0), LONGEST_THROTTLE)
        return min(_doubled(self.interval, throttles), LONGEST_PAUSE)


def delay_after_poll(  # noqa: PLR0913  each of them can change the delay
    policy: PollPolicy,
    observation: Observation,
    status: TaskStatus,
    *,
    learned: float,
    polls: int,
    failures: int,
    unconfirmed: bool,
    probe: bool,
    jitter: float,
) -> float:
    """Returns the delay until the next poll of a task that stays open after a poll.

    `status` is the task's status after the observation, and `unconfirmed` whether its failure awaits confirmation.
    `learned` is the delay by the schedule of the task's class. `polls` is the number of polls that counts for the
    backoff of the fixed schedule. `failures` is the number of polls in a row without a record, including this one.
    `probe` is whether the key was paused or throttled during the poll.
    """
    if unconfirmed:
        delay = policy.interval  # the earliest poll that can confirm the failure
    elif type(observation) is TaskRecord and status not in TERMINAL and not probe:
        return learned
    else:  # learning never makes these polls sooner
        delay = max(learned, policy.delay_after(polls, jitter))
    if type(observation) is TransientError:
        # A failure never makes the next poll sooner: 100,000 tasks with long intervals would be polled all at once.
        return max(delay, policy.delay_after_failure(failures, jitter))
    return delay


class PollEstimate:
    """Estimates how often a task was polled, for the backoff, from what its row says."""

    def __init__(self, policy: PollPolicy) -> None:
        self._policy = policy
        polls, seconds = self._counted(1, inf)
        # After so many polls, which take `_growing_seconds`, delays do not grow any more. If they grow for more than
        # `_MAX_ESTIMATED_POLLS` polls, `_growing_seconds` is infinity: then the polls of each task are counted.
        self._longest_after = polls
        self._growing_seconds = seconds if polls <= _MAX_ESTIMATED_POLLS else inf

    def after(self, polls: int, ago: float) -> int:
        """Returns the estimate for a task whose row was written `ago` s ago, after `polls` polls.

        It is 0 for a task without polls, else at least `polls` + 2. After a restart, tasks of one age are polled in
        waves. The highest wave is twice the mean of the first minute if delays begin at 5 s, and 1.7 times if they
        begin at 7 s: the two extra polls make the first delay longer.
        """
        if polls == 0:
            return 0
        # Counting takes 3 µs, and most of a million rows were written long before a restart.
        counted = self._longest_after if ago >= self._growing_seconds else self._counted(polls, ago)[0]
        return max(counted, polls + 2)

    def _counted(self, polls: int, ago: float) -> tuple[int, float]:
        """Returns the polls until the delay is the longest, or until `ago` s have passed, and the seconds they took."""
        counted, seconds = polls, 0.0
        while seconds < ago and (delay := self._policy.delay_after(counted, 0.0)) < self._policy.max_interval:
            seconds += max(delay, 0.1)
            counted += 1
            if counted > polls + _MAX_ESTIMATED_POLLS:
                break
        return counted, seconds


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """The delays between the attempts of one delivery, in seconds. After the last one the delivery is dead."""

    delays: tuple[float, ...] = (5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400)

    def delay_after(self, attempts: int) -> float | None:
        """Returns the delay after the `attempts`-th attempt of a round (1 is the first), or None after the last."""
        return self.delays[attempts - 1] if 0 < attempts <= len(self.delays) else None


def with_jitter(delay: float, jitter: float) -> float:
    """Returns `delay` or up to a tenth more: never earlier than promised."""
    return delay * (1 + JITTER_SHARE * jitter)


def _doubled(delay: float, count: int) -> float:
    """Returns `delay` after the first time, twice that after the second, and so on."""
    return delay * 2.0 ** min(count - 1, _MAX_DOUBLINGS)

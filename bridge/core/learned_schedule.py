"""When to poll a task, learned from how long tasks of its class took.

Theory
------
Let f be the density of the duration of tasks of one class, S(t) the share that still runs at age t, and h = f / S the
hazard. A schedule is described by its density n(t): polls for each second at age t. A task that ends at age t waits
1 / (2 n(t)) seconds for the next poll on average, and a schedule costs the integral of n(t) S(t) polls for each task.
Minimising the mean wait for a given number of polls (Lagrange) gives n(t) proportional to the square root of h(t)
(J. B. Keller, "Optimum checking schedules for systems subject to random failure", Management Science 21(3), 1974), and
the smallest mean wait is (integral of sqrt(f(t) S(t)))^2 / (2 N) for N polls.

How the bridge uses the theory
------------------------------
`History` counts the ends of a class in logarithmic bins. An end lies somewhere between two polls, so its weight is
spread over the bins between them. Each new end takes a little weight from the older ones, so that a class
that changes is learned again. `LearnedSchedule` estimates the hazard of each bin as occurrences divided by exposure,
with a weak prior that the class has no memory (a constant hazard). Its density is the square root of the hazard, scaled
so that the expected number of polls is that of the fixed schedule. It is cut at two bounds: polls are never closer than
a quarter of the poll interval, and never further apart than the maximum interval. The next poll comes where the
integral of the density has grown by one since the last poll.

Three rules keep the schedule safe when the history is wrong: with fewer than `MIN_ENDS` ends the fixed schedule
applies; a task that has used `MAX_EXTRA_POLLS` polls more than the fixed schedule would have used is polled at the
maximum interval; and polls that the class has used beyond the fixed schedule (`History.extra_polls`) are saved by its
next tasks.

All ages and delays are seconds. All functions are pure.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, pairwise
from math import isfinite, sqrt
from operator import mul

from bridge.core.schedule import JITTER_SHARE, PollPolicy, with_jitter

BINS = 46
EDGE_RATIO = 1.28  # the last bin begins at 6,500 s; narrower bins gained nothing in tests/bench/moments.py
# Seconds: the first bin is (0, 0.126]. The bins below 4 s serve settings with poll intervals of less than a second.
FIRST_EDGE = 4.0 / EDGE_RATIO**14
EDGES: tuple[float, ...] = (0.0, *(FIRST_EDGE * EDGE_RATIO**step for step in range(BINS - 1)))
"""The lower edges of the bins. The last bin has no upper edge."""
WIDTHS = (*(upper - lower for lower, upper in pairwise(EDGES)), EDGES[-1] * (EDGE_RATIO - 1))
MIDDLES = tuple(lower + width / 2 for lower, width in zip(EDGES, WIDTHS, strict=True))

MIN_ENDS = 20  # with fewer ends the fixed schedule applies
MEMORY_ENDS = 150.0  # the sum of a class's weights after very many ends
PRIOR_ENDS = 0.2  # for each bin: a bin without an end is still polled after 20 ends, and rarely after 150 ends
SMOOTHING = 0.6  # the share of a bin's weight that goes to its neighbours; it becomes smaller with the number of ends
MAX_EXTRA_POLLS = 4  # more than the fixed schedule has used at the same age
REPAY_ENDS = 20.0  # polls beyond the fixed schedule are saved again within about 20 ends
MARGIN_POLLS = 0.2  # the possible error of the fixed schedule's expected polls, for each task
MARGIN_SHARE = 0.04  # the same as a share of these polls, for tasks with few polls
MAX_SAVED_POLLS = 1.0  # earlier saved polls that one task may use

_MEAN_STRETCH = 1 + JITTER_SHARE / 2
_SCALING_STEPS = 24  # of a bisection: three digits are enough
_MOST_STEPS = 200  # a backoff of 1.0 never reaches its maximum


@dataclass(frozen=True, slots=True)
class History:
    """How long tasks of one class took: a decaying histogram.

    `weights` has a number for each bin of `EDGES`; `ends` counts all ends ever seen; `extra_polls` is how many polls
    more than the fixed schedule these tasks have used. It is negative, down to -`REPAY_ENDS`, when they used fewer.
    `polls` is the sum of the polls of these tasks, and decays as `weights` does.
    """

    weights: tuple[float, ...] = (0.0,) * BINS
    ends: int = 0
    extra_polls: float = 0.0
    polls: float = 0.0

    @property
    def mean_polls(self) -> float | None:
        """The mean number of polls that such a task took; None without an end."""
        total = sum(self.weights)
        return self.polls / total if total > 0 else None


def with_end(  # noqa: PLR0913, PLR0917  what is known about one task
    history: History,
    after: float,
    until: float,
    polls: int | None,
    policy: PollPolicy,
    polled_from: float = 0.0,
    poll_seconds: float = 0.0,
) -> History:
    """Returns the history with one more task, which ended at an age above `after` and at most `until`.

    `after` is the age at the last poll that saw it running. If amux gives the time of the end, both are that age.
    `polled_from` is the age at which the task was registered here. `polls` is how often the task was polled, None if
    some polls were not counted. `poll_seconds` is how long a poll took: the fixed schedule's delays begin at the
    answers, so slow polls are fewer. Raises ValueError for an age that is not a finite number, or when `until` is less
    than `after`.
    """
    after, until = max(after, 0.0), max(until, 0.0)
    if not (isfinite(after) and isfinite(until)) or until < after:
        raise ValueError(f"a task cannot end between {after} and {until} s")
    fade = 1 - 1 / MEMORY_ENDS
    weights = [weight * fade for weight in history.weights]
    first, last = _bin_of(after), _bin_of(until)
    if first == last:
        weights[first] += 1.0
    else:
        span = until - after
        for number in range(first, last + 1):
            upper = EDGES[number + 1] if number + 1 < BINS else until
            weights[number] += (min(upper, until) - max(EDGES[number], after)) / span
    fixed, watched = fixed_schedule(policy), (after + until) / 2 - polled_from
    expected = fixed.polls(watched)
    expected = fixed.polls(watched - expected * min(poll_seconds, policy.interval))
    if polls is None:
        counted, extra = history.mean_polls or expected, history.extra_polls
    else:
        # A task that ends before its first poll takes one poll on any schedule, so no poll can be saved.
        margin = min(MARGIN_POLLS, MARGIN_SHARE * (expected - 1.0))
        counted, extra = float(polls), history.extra_polls + polls - expected + margin
    return History(tuple(weights), history.ends + 1, max(-REPAY_ENDS, extra), history.polls * fade + counted)


def merged(one: History, other: History) -> History:
    """Returns the history of the tasks of two classes together."""
    weights = [a + b for a, b in zip(one.weights, other.weights, strict=True)]
    total = sum(weights)
    scale = min(1.0, MEMORY_ENDS / total) if total else 1.0
    extra = max(-REPAY_ENDS, one.extra_polls + other.extra_polls)
    polls = (one.polls + other.polls) * scale
    return History(tuple(weight * scale for weight in weights), one.ends + other.ends, extra, polls)


def quantile(history: History, share: float) -> float | None:
    """Returns the age by which `share` of the tasks have ended, interpolated within a bin; None without an end."""
    total = sum(history.weights)
    if total <= 0:
        return None
    passed = 0.0
    for number, weight in enumerate(history.weights):
        if weight > 0 and passed + weight >= share * total:
            return EDGES[number] + WIDTHS[number] * (share * total - passed) / weight
        passed += weight
    return EDGES[-1] + WIDTHS[-1]


class FixedSchedule:
    """The fixed schedule without its jitter, as a function of a task's age."""

    __slots__ = ("_ages", "_longest")

    def __init__(self, policy: PollPolicy) -> None:
        ages = [policy.first_delay * _MEAN_STRETCH]
        while len(ages) < _MOST_STEPS and policy.delay_after(len(ages), 0.0) < policy.max_interval:
            ages.append(ages[-1] + policy.delay_after(len(ages), 0.5))
        self._ages = ages
        self._longest = max(policy.max_interval, policy.interval) * _MEAN_STRETCH

    def polls(self, until: float) -> float:
        """Returns how many polls it takes on average to see the end of a task that ends at age `until`."""
        last = self._ages[-1]
        if until <= last:
            return bisect_left(self._ages, until) + 1.0
        return len(self._ages) + (until - last) / self._longest + 0.5

    def wait(self, until: float) -> float:
        """Returns the mean wait for the next poll of a task that ends near age `until`: half the interval there."""
        number = bisect_left(self._ages, until)
        if number >= len(self._ages):
            return self._longest / 2
        return (self._ages[number] - (self._ages[number - 1] if number else 0.0)) / 2

    def mean_wait(self, history: History) -> float:
        """Returns the mean wait of such tasks. `history` must have at least one end."""
        waits = sum(weight * self.wait(age) for weight, age in zip(history.weights, MIDDLES, strict=True))
        return waits / sum(history.weights)


@lru_cache(maxsize=8)
def fixed_schedule(policy: PollPolicy) -> FixedSchedule:
    """Returns the fixed schedule of a policy. It is cached: making it takes 10 µs, and each end of a task needs it."""
    return FixedSchedule(policy)


class LearnedSchedule:
    """A schedule made from a history. It does not change: make another one when the history has changed enough.

    Making a schedule takes about 0.3 ms, computing a delay less than 1 µs. Raises ValueError for a history without an
    end.
    """

    __slots__ = ("_densities", "_fixed", "_longest", "_policy", "_shortest", "_sums")

    def __init__(self, history: History, policy: PollPolicy) -> None:
        if sum(history.weights) <= 0:
            raise ValueError("a history without an end gives no schedule")
        self._policy = policy
        self._fixed = fixed_schedule(policy)
        self._longest = max(policy.max_interval, policy.interval / 4)
        self._shortest = policy.interval / 4
        self._densities = self._scaled(history)
        self._sums: list[float] = list(accumulate(map(mul, WIDTHS[:-1], self._densities), initial=0.0))

    def delay_after(self, age: float, polls: int, jitter: float) -> float:
        """Returns the seconds until the next poll of a running task, by its age (seconds) and its number of polls."""
        if polls > self._fixed.polls(age) + MAX_EXTRA_POLLS:
            return with_jitter(self._longest, jitter)
        # All in one function, without calls of smaller ones, because this runs once a poll.
        age, sums, densities = max(age, 0.0), self._sums, self._densities
        number = bisect_right(EDGES, age) - 1
        total = sums[number] + (age - EDGES[number]) * densities[number] + 1.0
        number = bisect_right(sums, total) - 1
        delay = EDGES[number] + (total - sums[number]) / densities[number] - age
        earliest = self._shortest if polls else self._policy.first_delay
        if delay < earliest:
            delay = earliest
        elif delay > self._longest:
            delay = max(self._longest, earliest)
        return with_jitter(delay, jitter)

    def mean_wait(self, history: History) -> float:
        """Returns the mean time from the end of such tasks to the poll that sees it."""
        total = sum(history.weights)
        waits = (weight / density for weight, density in zip(history.weights, self._densities, strict=True))
        return sum(waits) * _MEAN_STRETCH / (2 * total)

    def _scaled(self, history: History) -> list[float]:
        """Returns the density of each bin, scaled so that the expected polls are at most the fixed schedule's."""
        roots = [sqrt(rate) for rate in hazards(history)]
        total = sum(history.weights)
        shares = [weight / total for weight in history.weights]
        fixed = sum(share * self._fixed.polls(age) for share, age in zip(shares, MIDDLES, strict=True) if share)
        repay = history.extra_polls / REPAY_ENDS
        budget = max(fixed - max(repay, -MAX_SAVED_POLLS), 1.0) * _MEAN_STRETCH
        least, most = 0.0, 1.0 / (self._shortest * min(root for root in roots))
        for _ in range(_SCALING_STEPS):
            scale = (least + most) / 2
            if self._expected(self._cut(roots, scale), shares) > budget:
                most = scale
            else:
                least = scale
        return self._cut(roots, least)

    def _cut(self, roots: Sequence[float], scale: float) -> list[float]:
        most, least = 1 / self._shortest, 1 / self._longest
        return [min(max(root * scale, least), most) for root in roots]

    def _expected(self, densities: Sequence[float], shares: Sequence[float]) -> float:
        """Returns the polls for a task: the first one, then the integral of the density times the survival."""
        polls, survival = 1.0, 1.0
        for number, (lower, upper) in enumerate(pairwise(EDGES)):
            width = max(0.0, upper - max(lower, self._policy.first_delay))
            polls += densities[number] * width * (survival - shares[number] / 2)
            survival -= shares[number]
        return polls + densities[-1] * WIDTHS[-1] * survival / 2


def hazards(history: History) -> list[float]:
    """Returns the ends for each second at risk, by bin. `history` must have at least one end.

    This is occurrence divided by exposure, with `PRIOR_ENDS` more ends in each bin at the mean rate of the class. Each
    bin is smoothed with its neighbours, because an end near an edge could as well be in the next bin.
    """
    weights = history.weights
    share = SMOOTHING / (1 + sum(weights) / (2 * MIN_ENDS))
    smooth = [
        share * (weights[max(number - 1, 0)] + weights[min(number + 1, BINS - 1)]) / 2 + (1 - share) * weight
        for number, weight in enumerate(weights)
    ]
    later = sum(smooth)
    exposures = []
    for weight, width in zip(smooth, WIDTHS, strict=True):
        later -= weight
        exposures.append(width * max(later + weight / 2, 0.0))
    mean_rate = sum(smooth) / max(sum(exposures), 1e-9)
    return [
        (weight + PRIOR_ENDS) / (exposure + PRIOR_ENDS / mean_rate)
        for weight, exposure in zip(smooth, exposures, strict=True)
    ]


def _bin_of(age: float) -> int:
    return bisect_right(EDGES, age) - 1

"""How late polls see the end of a task: with the fixed schedule, with the learned one, and at best.

    python tests/bench moments            # with the other benchmarks' rows
    python tests/bench/moments.py         # the whole table: mean, p95, p99 and polls

The time is virtual, so nothing waits. The bound is the smallest mean wait that is possible with as many polls as the
fixed schedule uses, without the schedule's limits (see `bridge/core/learned_schedule.py`).
"""

import sys
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import pairwise
from math import ceil, exp, sqrt
from pathlib import Path
from random import Random

if not __package__:
    sys.path[0] = str(Path(__file__).parents[2])

from bridge.core.learned_schedule import MIN_ENDS, History, LearnedSchedule, with_end
from bridge.core.schedule import PollPolicy
from tests.bench.harness import Bench
from tests.bench.table import Row

POLICY = PollPolicy()
TASKS = 4_000
TRAININGS = 20  # histories differ, so the figures are over this number of histories
BOUND_SAMPLES = 100_000
SHIFT_AT, SHIFT_UNTIL, START_EVERY = 1_800.0, 7_200.0, 10.0  # seconds of a run whose tasks change at SHIFT_AT

Draw = Callable[[Random, float], float]
"""Returns a task's duration in seconds, from a source of randomness and the time of its start."""


def lognormal(median: float, sigma: float) -> Draw:
    return lambda random, _: median * exp(random.gauss(0.0, sigma))


def _mixture(random: Random, now: float) -> float:
    return lognormal(*random.choice(((40, 0.25), (120, 0.25), (400, 0.3))))(random, now)


def _quantised(random: Random, now: float) -> float:
    """Returns the time until amux's row shows the end: amux looks every 55 s."""
    return 55.0 * ceil((now + lognormal(90, 0.25)(random, now)) / 55.0) - now


def _shifting(random: Random, now: float) -> float:
    return lognormal(90 if now < SHIFT_AT else 180, 0.25)(random, now)


def _much_longer(random: Random, now: float) -> float:
    return lognormal(90, 0.25)(random, now) + (0 if now < SHIFT_AT else 1_800)


STATIONARY: dict[str, Draw] = {
    "lognormal, sigma 0.25": lognormal(90, 0.25),
    "lognormal, sigma 0.5": lognormal(90, 0.5),
    "lognormal, sigma 0.9": lognormal(90, 0.9),
    "three models": _mixture,
    "exponential": lambda random, _: random.expovariate(1 / 90),
    "uniform, 30 to 200 s": lambda random, _: random.uniform(30, 200),
    "amux's sweep": lambda random, _: _quantised(random, random.uniform(0, 55)),
}
SHIFTING: dict[str, Draw] = {"90 s, later 180 s": _shifting, "half an hour more": _much_longer}
CLOSE = {"lognormal, sigma 0.25", "lognormal, sigma 0.5"}
MOST_OF_BOUND = 1.7


@dataclass(frozen=True)
class Figures:
    """The result of a schedule: the waits in seconds, and the polls of a task."""

    mean: float
    p95: float
    p99: float
    polls: float


def figures(seen: Sequence[tuple[int, float]]) -> Figures:
    """Returns the figures of tasks. `seen` has the polls and the wait of each."""
    waits = sorted(wait for _, wait in seen)
    count = len(seen)
    return Figures(
        sum(waits) / count, waits[int(0.95 * count)], waits[int(0.99 * count)], sum(polls for polls, _ in seen) / count
    )


def polled(end: float, schedule: LearnedSchedule | None, random: Random) -> tuple[int, float, float]:
    """Polls one task until its end is seen. Returns the number of polls, and the ages at the last two of them."""
    polls, before, age = 0, 0.0, 0.0
    while polls == 0 or age < end:
        jitter, before = random.random(), age
        age += POLICY.delay_after(polls, jitter) if schedule is None else schedule.delay_after(age, polls, jitter)
        polls += 1
    return polls, before, age


def trained(draw: Draw, ends: int, random: Random) -> LearnedSchedule | None:
    """Returns the learned schedule after `ends` ends, or None while the fixed one still applies."""
    history, schedule = History(), None
    for _ in range(ends):
        polls, before, age = polled(draw(random, 0.0), schedule, random)
        history = with_end(history, before, age, polls, POLICY)
        schedule = LearnedSchedule(history, POLICY) if history.ends >= MIN_ENDS else None
    return schedule


def stationary(draw: Draw, ends: int | None) -> Figures:
    """Returns the figures of the fixed schedule (`ends` is None), or of the one learned from `ends` ends."""
    seen: list[tuple[int, float]] = []
    for training in range(TRAININGS):
        random = Random(training)
        schedule = None if ends is None else trained(draw, ends, random)
        random = Random(1_000 + training)  # the same tasks for every schedule
        for end in [draw(random, 0.0) for _ in range(TASKS // TRAININGS)]:
            polls, _, age = polled(end, schedule, random)
            seen.append((polls, age - end))
    return figures(seen)


def run_over_time(draw: Draw, *, learn: bool) -> Figures:
    """Returns the figures of a run in which tasks start one after the other. With `learn` the schedule learns."""
    random = Random(7)
    starts = [START_EVERY * number for number in range(int(SHIFT_UNTIL / START_EVERY))]
    ends = [draw(random, start) for start in starts]
    due = [(start, number, 0, 0.0) for number, start in enumerate(starts)]
    history, schedule = History(), None
    seen: list[tuple[int, float]] = []
    while due:
        now, number, polls, before = heappop(due)
        age = now - starts[number]
        if polls and age >= ends[number]:
            seen.append((polls, age - ends[number]))
            history = with_end(history, before, age, polls, POLICY)
            schedule = LearnedSchedule(history, POLICY) if learn and history.ends >= MIN_ENDS else None
            continue
        jitter = random.random()
        delay = POLICY.delay_after(polls, jitter) if schedule is None else schedule.delay_after(age, polls, jitter)
        heappush(due, (now + delay, number, polls + 1, age))
    return figures(seen)


def bound(draw: Draw, polls: float) -> float:
    """Returns the smallest mean wait with `polls` polls for each task, computed from the distribution itself."""
    random = Random(11)
    ends = sorted(draw(random, 0.0) for _ in range(BOUND_SAMPLES))
    lowest, ratio, total = ends[0], ends[-1] / ends[0], 0.0
    edges = [lowest * ratio ** (step / 150) for step in range(151)]
    for lower, upper in pairwise(edges):
        first, last = bisect_left(ends, lower), bisect_left(ends, upper)
        density = (last - first) / BOUND_SAMPLES / (upper - lower)
        total += sqrt(density * (1 - (first + last) / 2 / BOUND_SAMPLES)) * (upper - lower)
    return total * total / (2 * polls)


def run(bench: Bench) -> Iterator[Row]:
    """Yields the rows that have a target."""
    del bench  # this takes 20 s at every size
    for name, draw in STATIONARY.items():
        fixed, early, late = stationary(draw, None), stationary(draw, 20), stationary(draw, 200)
        least = bound(draw, fixed.polls)
        yield from _rows(f"{name}, after 20 ends", early, fixed)
        yield from _rows(f"{name}, after 200 ends", late, fixed)
        if name in CLOSE:
            what = f"{name}, after 20 ends: mean wait beside the bound"
            yield Row("moments", what, f"{early.mean:.2f} s", f"{least:.2f} s", early.mean / least, MOST_OF_BOUND)
    for name, draw in SHIFTING.items():
        yield from _rows(f"{name}, a whole run", run_over_time(draw, learn=True), run_over_time(draw, learn=False))


def _rows(what: str, learned: Figures, fixed: Figures) -> Iterator[Row]:
    longest = POLICY.max_interval * 1.1
    yield Row(
        "moments", f"{what}: mean wait", f"{learned.mean:.2f} s", f"{fixed.mean:.2f} s", learned.mean / fixed.mean, 1
    )
    yield Row("moments", f"{what}: polls", f"{learned.polls:.2f}", f"{fixed.polls:.2f}", learned.polls / fixed.polls, 1)
    yield Row("moments", f"{what}: p99 wait", f"{learned.p99:.1f} s", f"{fixed.p99:.1f} s", learned.p99 / longest, 1)


def main() -> None:
    """Prints the whole table."""
    print(f"{'':24}{'schedule':>16}{'mean':>8}{'p95':>8}{'p99':>8}{'polls':>8}{'of bound':>10}")
    for name, draw in STATIONARY.items():
        fixed = stationary(draw, None)
        least = bound(draw, fixed.polls)
        for label, ends in (("fixed", None), ("after 0 ends", 0), ("after 20 ends", 20), ("after 200 ends", 200)):
            found = stationary(draw, ends)
            print(_line(name if ends is None else "", label, found) + f"{found.mean / least:10.2f}")
        print(f"{'':24}{'bound':>16}{least:8.2f}{'':8}{'':8}{fixed.polls:8.2f}{1:10.2f}")
    for name, draw in SHIFTING.items():
        print(_line(name, "fixed", run_over_time(draw, learn=False)))
        print(_line("", "learned", run_over_time(draw, learn=True)))


def _line(name: str, label: str, found: Figures) -> str:
    return f"{name:24}{label:>16}{found.mean:8.2f}{found.p95:8.2f}{found.p99:8.2f}{found.polls:8.2f}"


if __name__ == "__main__":
    main()

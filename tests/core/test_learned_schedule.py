"""The learned schedule: properties for any history, and tables for classes of known shape."""

from dataclasses import replace
from math import exp, isfinite, log
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.core.learned_schedule import (
    BINS,
    EDGES,
    MAX_EXTRA_POLLS,
    MEMORY_ENDS,
    FixedSchedule,
    History,
    LearnedSchedule,
    hazards,
    merged,
    quantile,
    with_end,
)
from bridge.core.schedule import PollPolicy

POLICY = PollPolicy()
FIXED = FixedSchedule(POLICY)
WEIGHTS = st.lists(st.floats(0, 100), min_size=BINS, max_size=BINS).filter(lambda weights: sum(weights) > 0.01)
HISTORIES = st.builds(
    lambda weights, extra: History(tuple(weights), ends=50, extra_polls=extra), WEIGHTS, st.floats(-20, 1_000)
)
AGES = st.floats(0, 100_000)
JITTER = st.floats(0, 1, exclude_max=True)
POLICIES = st.builds(
    PollPolicy,
    first_delay=st.floats(0.05, 60),
    interval=st.floats(0.05, 60),
    max_interval=st.floats(0.05, 600),
    backoff=st.floats(1, 4),
)


def polls_until(end: float, schedule: LearnedSchedule | None, jitter: float = 0.5) -> list[float]:
    """Returns the ages at which a task that ends at age `end` is polled. Without `schedule` the fixed one applies."""
    ages = [0.0]
    while ages[-1] < end or len(ages) == 1:
        polls = len(ages) - 1
        delay = POLICY.delay_after(polls, jitter) if schedule is None else schedule.delay_after(ages[-1], polls, jitter)
        ages.append(ages[-1] + delay)
    return ages[1:]


def learned(ends: list[float], policy: PollPolicy = POLICY) -> History:
    history = History()
    for end in ends:
        ages = [0.0, *polls_until(end, None)]
        history = with_end(history, ages[-2], ages[-1], len(ages) - 1, policy)
    return history


def lognormal(count: int, median: float, sigma: float, seed: int = 1) -> list[float]:
    random = Random(seed)
    return [exp(random.gauss(log(median), sigma)) for _ in range(count)]


@given(HISTORIES, AGES, st.integers(0, 10_000), JITTER, POLICIES)
def test_a_delay_is_finite_and_within_the_bounds(
    history: History, age: float, polls: int, jitter: float, policy: PollPolicy
) -> None:
    delay = LearnedSchedule(history, policy).delay_after(age, polls, jitter)
    longest = max(policy.max_interval, policy.interval / 4)
    if polls == 0:
        longest = max(longest, policy.first_delay)
    assert isfinite(delay)
    assert policy.interval / 4 <= delay * (1 + 1e-9)
    assert delay <= longest * 1.1 * (1 + 1e-9)
    if polls == 0:
        assert delay >= policy.first_delay * (1 - 1e-9) or age > 0


@given(HISTORIES, AGES, st.integers(0, 50), JITTER)
def test_the_same_arguments_give_the_same_delay(history: History, age: float, polls: int, jitter: float) -> None:
    one, other = LearnedSchedule(history, POLICY), LearnedSchedule(replace(history), POLICY)
    assert one.delay_after(age, polls, jitter) == other.delay_after(age, polls, jitter)


@given(HISTORIES, st.integers(0, BINS - 1), st.floats(0.1, 50))
def test_more_ends_in_a_bin_raise_its_hazard(history: History, number: int, more: float) -> None:
    weights = list(history.weights)
    weights[number] += more
    before, after = hazards(history)[number], hazards(replace(history, weights=tuple(weights)))[number]
    # With more ends there is less smoothing, so a bin between two fuller bins may get less from them than before.
    assert after >= before * 0.5
    assert isfinite(after)


def test_an_isolated_peak_is_polled_the_more_densely_the_more_ends_it_has() -> None:
    shortest = []
    for ends in (1.0, 5.0, 20.0, 100.0):
        weights = [0.5] * BINS
        weights[26] = ends
        shortest.append(LearnedSchedule(History(tuple(weights), ends=50), POLICY).delay_after(EDGES[26] + 1, 3, 0.0))
    assert shortest == sorted(shortest, reverse=True)
    assert shortest[0] > shortest[-1]


@given(HISTORIES, AGES, st.integers(0, 1_000))
def test_an_end_adds_one_to_the_weights_and_the_old_ones_fade(history: History, age: float, polls: int) -> None:
    after = with_end(history, age / 2, age, polls, POLICY)
    assert sum(after.weights) == pytest.approx(sum(history.weights) * (1 - 1 / MEMORY_ENDS) + 1)
    assert all(weight >= 0 for weight in after.weights)
    assert after.ends == history.ends + 1
    assert after.extra_polls >= -20


@pytest.mark.parametrize(("after", "until"), [(float("nan"), 5.0), (1.0, float("inf")), (9.0, 8.0)])
def test_an_age_that_is_no_interval_is_refused(after: float, until: float) -> None:
    with pytest.raises(ValueError, match="cannot end between"):
        with_end(History(), after, until, 3, POLICY)


def test_a_history_without_an_end_gives_no_schedule() -> None:
    with pytest.raises(ValueError, match="without an end"):
        LearnedSchedule(History(), POLICY)


def test_an_end_between_two_polls_is_spread_over_the_bins_of_this_interval() -> None:
    weights = with_end(History(), 2.0, 6.0, 2, POLICY).weights
    first = EDGES.index(4.0)
    assert sum(weights[:first]) == pytest.approx(0.5)
    assert sum(weights[first : first + 2]) == pytest.approx(0.5)
    assert sum(weights[first + 2 :]) == 0


@given(HISTORIES, HISTORIES)
def test_two_replicas_histories_add_up_and_keep_the_memory_bounded(one: History, other: History) -> None:
    both = merged(one, other)
    assert both.ends == one.ends + other.ends
    assert sum(both.weights) <= MEMORY_ENDS * (1 + 1e-9)
    assert merged(one, other) == merged(other, one)


def test_quantiles_of_a_class_are_near_its_own() -> None:
    history = learned(lognormal(150, 90, 0.25))
    middle, late = quantile(history, 0.5), quantile(history, 0.9)
    assert middle == pytest.approx(90, rel=0.15)
    assert late == pytest.approx(90 * exp(0.25 * 1.28), rel=0.15)
    assert quantile(History(), 0.5) is None


@pytest.mark.parametrize("sigma", [0.25, 0.5])
def test_after_twenty_ends_the_wait_is_much_shorter_for_no_more_polls(sigma: float) -> None:
    schedule = LearnedSchedule(learned(lognormal(20, 90, sigma)), POLICY)
    waits: dict[bool, float] = {}
    polls: dict[bool, int] = {}
    ends = lognormal(2_000, 90, sigma, seed=2)
    for fixed in (True, False):
        ages = [polls_until(end, None if fixed else schedule) for end in ends]
        waits[fixed] = sum(each[-1] - end for each, end in zip(ages, ends, strict=True)) / len(ends)
        polls[fixed] = sum(map(len, ages))
    assert waits[False] < 0.75 * waits[True]
    assert polls[False] <= polls[True]


def test_a_class_without_memory_is_polled_evenly_and_gains_and_loses_nothing() -> None:
    random = Random(3)
    schedule = LearnedSchedule(learned([random.expovariate(1 / 90) for _ in range(2_000)]), POLICY)
    delays = [schedule.delay_after(age, 3, 0.0) for age in range(10, 200, 10)]
    assert max(delays) < 2 * min(delays)


def test_a_task_that_takes_far_longer_than_its_class_is_not_polled_more_than_the_fixed_schedule_would() -> None:
    schedule = LearnedSchedule(learned(lognormal(100, 40, 0.2)), POLICY)
    assert len(polls_until(3_600, schedule)) <= FIXED.polls(3_600) + MAX_EXTRA_POLLS + 2


def test_polls_beyond_the_fixed_schedule_are_saved_again() -> None:
    history = learned(lognormal(100, 90, 0.25))
    thrifty = LearnedSchedule(replace(history, extra_polls=60.0), POLICY)
    usual = LearnedSchedule(replace(history, extra_polls=0.0), POLICY)
    assert len(polls_until(110, thrifty)) < len(polls_until(110, usual))


@pytest.mark.parametrize("until", [1.0, 5.0, 17.0, 40.0, 90.0, 300.0, 3_000.0])
def test_the_fixed_schedule_is_counted_as_it_is(until: float) -> None:
    real = sum(len(polls_until(until + shift / 10, None)) for shift in range(-5, 6)) / 11
    assert FIXED.polls(until) == pytest.approx(real, abs=0.6)


def test_the_mean_wait_that_is_shown_is_the_one_that_happens() -> None:
    history = learned(lognormal(150, 90, 0.25))
    schedule = LearnedSchedule(history, POLICY)
    ends = lognormal(3_000, 90, 0.25, seed=4)
    real = sum(polls_until(end, schedule, (number % 10) / 10)[-1] - end for number, end in enumerate(ends)) / len(ends)
    assert schedule.mean_wait(history) == pytest.approx(real, rel=0.25)
    assert FIXED.wait(90) == pytest.approx(15.75 / 2, rel=0.01)


@pytest.mark.parametrize("median", [1.0, 3.0, 4.0])
def test_tasks_that_end_before_the_first_poll_are_polled_no_later_than_by_the_fixed_schedule(median: float) -> None:
    history = learned(lognormal(150, median, 0.1))
    assert history.extra_polls < 20
    assert LearnedSchedule(history, POLICY).delay_after(0.0, 0, 0.0) <= POLICY.first_delay * 1.2


def test_the_polls_of_a_task_that_was_registered_late_are_compared_with_a_fixed_schedule_from_then_on() -> None:
    early = with_end(History(), 95.0, 100.0, 2, POLICY)
    late = with_end(History(), 95.0, 100.0, 2, POLICY, polled_from=90.0)
    assert early.extra_polls < -5
    assert late.extra_polls == pytest.approx(2 - FIXED.polls(7.5) + 0.04)


def test_slow_answers_leave_fewer_polls_because_the_fixed_schedule_would_make_fewer() -> None:
    quick = with_end(History(), 85.0, 95.0, 10, POLICY)
    slow = with_end(History(), 85.0, 95.0, 10, POLICY, poll_seconds=2.0)
    assert slow.extra_polls > quick.extra_polls + 0.5


def test_a_task_whose_polls_were_not_all_counted_changes_neither_the_balance_nor_the_mean() -> None:
    history = learned(lognormal(30, 90, 0.25))
    after = with_end(history, 85.0, 90.0, None, POLICY)
    assert after.extra_polls == history.extra_polls
    assert after.mean_polls == pytest.approx(history.mean_polls)
    assert History().mean_polls is None


def test_the_mean_polls_and_the_mean_wait_of_the_fixed_schedule_are_those_that_happened() -> None:
    ends = lognormal(100, 90, 0.25)
    ages = [polls_until(end, None) for end in ends]
    history = learned(ends)
    assert history.mean_polls == pytest.approx(sum(map(len, ages)) / 100, rel=0.1)
    assert FIXED.mean_wait(history) == pytest.approx(15.75 / 2, rel=0.1)

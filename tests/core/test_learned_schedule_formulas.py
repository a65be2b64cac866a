"""The formulas of the learned schedule, compared with the same formulas in a second, slower form."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.core.learned_schedule import (
    BINS,
    EDGES,
    MEMORY_ENDS,
    MIDDLES,
    WIDTHS,
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
WEIGHTS = st.lists(st.floats(0, 100), min_size=BINS, max_size=BINS).filter(lambda weights: sum(weights) > 0.01)


def history(weights: dict[int, float], extra_polls: float = 0.0) -> History:
    """Returns a history with ends in the bins of these numbers."""
    return History(tuple(weights.get(number, 0.0) for number in range(BINS)), 50, extra_polls)


def bin_of(age: float) -> int:
    return max(number for number, edge in enumerate(EDGES) if edge <= age)


def reference_hazards(weights: list[float]) -> list[float]:
    mixed = 0.6 / (1 + sum(weights) / 40)
    padded = [weights[0], *weights, weights[-1]]
    smooth = [
        mixed * (padded[number] + padded[number + 2]) / 2 + (1 - mixed) * padded[number + 1] for number in range(BINS)
    ]
    at_risk = [sum(smooth[number + 1 :]) + smooth[number] / 2 for number in range(BINS)]
    exposures = [width * share for width, share in zip(WIDTHS, at_risk, strict=True)]
    mean = sum(smooth) / sum(exposures)
    return [(weight + 0.2) / (exposure + 0.2 / mean) for weight, exposure in zip(smooth, exposures, strict=True)]


@given(WEIGHTS)
def test_a_hazard_is_ends_divided_by_exposure(weights: list[float]) -> None:
    assert hazards(History(tuple(weights), 50)) == pytest.approx(reference_hazards(weights), rel=1e-6)


def test_the_hazards_of_ends_in_the_first_and_in_the_last_bin_are_exact() -> None:
    for number in (0, 1, BINS - 2, BINS - 1):
        weights = [0.0] * BINS
        weights[number] = 0.5
        assert hazards(history({number: 0.5})) == pytest.approx(reference_hazards(weights), rel=1e-9)


def expected_polls(schedule: LearnedSchedule, known: History, policy: PollPolicy) -> float:
    """Returns 1 plus the integral of the density times the share of tasks that still run. Ends are even in a bin."""
    total = sum(known.weights)
    polls, survival = 1.0, 1.0
    for density, lower, width, weight in zip(schedule._densities, EDGES, WIDTHS, known.weights, strict=True):
        steps = 50
        for step in range(steps):
            age = lower + width * (step + 0.5) / steps
            share = survival - weight / total * (step + 0.5) / steps
            polls += density * share * width / steps * (age > policy.first_delay)
        survival -= weight / total
    return polls


POLICIES = (
    PollPolicy(first_delay=EDGES[15]),
    PollPolicy(first_delay=EDGES[15], interval=1, max_interval=60),
    PollPolicy(first_delay=EDGES[25], interval=60, max_interval=600),
)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(
    ("extra", "more"), [(0.0, 0.0), (20.0, -1.0), (-10.0, 0.5), (-20.0, 1.0), (-40.0, 1.0)], ids=str
)
def test_the_expected_polls_are_those_of_the_fixed_schedule_and_what_may_be_used_again(
    policy: PollPolicy, extra: float, more: float
) -> None:
    known = history({29: 20.0, 30: 50.0, 31: 50.0, 32: 20.0, BINS - 1: 2.0}, extra)
    fixed = FixedSchedule(policy)
    mean = sum(weight * fixed.polls(age) for weight, age in zip(known.weights, MIDDLES, strict=True)) / 142
    schedule = LearnedSchedule(known, policy)
    assert expected_polls(schedule, known, policy) == pytest.approx((mean + more) * 1.05, rel=0.001)


def test_a_class_that_has_used_far_too_many_polls_is_polled_at_the_longest_interval() -> None:
    known = history({16: 100.0}, extra_polls=1_000.0)
    schedule = LearnedSchedule(known, POLICY)
    assert {schedule.delay_after(age, 1, 0.0) for age in (5.0, 20.0, 90.0, 4_000.0)} == {15.0}


def next_poll(schedule: LearnedSchedule, age: float) -> float:
    """Returns the age at which the integral of the density has grown by one."""
    left = 1.0
    for density, (lower, upper) in zip(schedule._densities, pairwise([*EDGES, float("inf")]), strict=True):
        start = max(age, lower)
        if start < upper:
            if left <= density * (upper - start):
                return start + left / density
            left -= density * (upper - start)
    raise AssertionError("the last bin has no end")


@pytest.mark.parametrize("age", [0.0, 0.05, 0.3, 0.9, 1.0, 2.5, 7.0, 30.0, 6_500.0, 50_000.0])
def test_the_next_poll_comes_when_the_integral_of_the_density_has_grown_by_one(age: float) -> None:
    policy = PollPolicy(first_delay=0.01, interval=0.1, max_interval=1e9, backoff=1.5)
    schedule = LearnedSchedule(history({bin_of(0.4): 5.0, bin_of(2.0): 40.0, bin_of(60.0): 5.0}), policy)
    expected = max(next_poll(schedule, age) - age, policy.interval / 4)
    assert schedule.delay_after(age, 1, 0.0) == pytest.approx(expected)
    assert schedule.delay_after(age, 1, 1.0) == pytest.approx(expected * 1.1)


def test_a_delay_is_never_shorter_than_a_quarter_of_the_interval_and_the_density_never_above_it() -> None:
    schedule = LearnedSchedule(history({bin_of(10.0): 10_000.0}, extra_polls=-20.0), POLICY)
    assert min(schedule.delay_after(age / 10, 1, 0.0) for age in range(60, 130)) == 1.25
    assert max(schedule._densities) == 1 / 1.25
    assert min(LearnedSchedule(history({20: 50.0, 40: 5.0}), POLICY)._densities) == 1 / 15


def test_a_longest_interval_below_a_quarter_of_the_interval_means_that_quarter() -> None:
    schedule = LearnedSchedule(history({20: 5.0}), PollPolicy(interval=40, max_interval=1))
    assert {schedule.delay_after(age, polls, 0.0) for age in (0.5, 10.0, 90.0) for polls in (1, 10_000)} == {10.0}


def test_a_task_may_use_four_polls_more_than_the_fixed_schedule_and_then_waits_longest() -> None:
    schedule = LearnedSchedule(history({bin_of(9.0): 1_000.0}), POLICY)
    most = int(FixedSchedule(POLICY).polls(9.0)) + 4
    assert schedule.delay_after(9.0, most, 0.0) < 5
    assert schedule.delay_after(9.0, most + 1, 0.0) == 15.0


def test_half_an_end_gives_a_schedule_and_none_gives_an_error() -> None:
    assert LearnedSchedule(history({20: 0.5}), POLICY).delay_after(0.0, 0, 0.0) >= 5.0
    with pytest.raises(ValueError, match="^a history without an end gives no schedule$"):
        LearnedSchedule(History(), POLICY)


def test_the_mean_wait_is_half_the_mean_distance_of_two_polls() -> None:
    known = history({25: 3.0, 30: 1.0})
    schedule = LearnedSchedule(known, POLICY)
    expected = (3 / schedule._densities[25] + 1 / schedule._densities[30]) / 4 / 2 * 1.05
    assert schedule.mean_wait(known) == pytest.approx(expected)


# --- the fixed schedule -----------------------------------------------------------------------------------------------


def fixed_ages(policy: PollPolicy) -> list[float]:
    """Returns the ages of the polls until the interval is the longest, with the mean jitter."""
    ages = [policy.first_delay * 1.05]
    delay = policy.interval
    while delay < policy.max_interval and len(ages) < 200:
        ages.append(ages[-1] + delay * 1.05)
        delay *= policy.backoff
    return ages


@pytest.mark.parametrize(
    "policy",
    [
        POLICY,
        PollPolicy(interval=15),  # the first interval is the longest already
        PollPolicy(interval=14.5, backoff=1),  # with jitter the interval is longer than `max_interval`
        PollPolicy(first_delay=1, interval=1, max_interval=5, backoff=1),  # the interval never reaches `max_interval`
    ],
)
def test_the_fixed_schedule_counts_its_polls(policy: PollPolicy) -> None:
    fixed, ages = FixedSchedule(policy), fixed_ages(policy)
    for number, age in enumerate(ages):
        assert fixed.polls(age) == number + 1
    for number, age in enumerate(ages[:-1]):
        assert fixed.polls(age + 1e-6) == number + 2
        assert fixed.wait(age + 1e-6) == pytest.approx((ages[number + 1] - age) / 2)
    assert fixed.wait(ages[0] / 2) == pytest.approx(ages[0] / 2)
    longest = policy.max_interval * 1.05
    assert fixed.polls(ages[-1] + 4 * longest) == pytest.approx(len(ages) + 4.5)
    assert fixed.wait(ages[-1] + longest) == pytest.approx(longest / 2)


# --- histories --------------------------------------------------------------------------------------------------------


def test_two_small_histories_add_up() -> None:
    one, other = (
        History((2.0, *[0.0] * (BINS - 1)), 2, 3.0, 8.0),
        History((1.0, 4.0, *[0.0] * (BINS - 2)), 5, -1.0, 20.0),
    )
    assert merged(one, other) == History((3.0, 4.0, *[0.0] * (BINS - 2)), 7, 2.0, 28.0)
    assert merged(History(), History(polls=3.0)) == History(polls=3.0)
    assert merged(History(extra_polls=-15.0), History(extra_polls=-15.0)).extra_polls == -20.0


def test_two_large_histories_are_scaled_to_the_memory_and_their_polls_with_them() -> None:
    large = History((100.0, *[0.0] * (BINS - 1)), 100, 0.0, 600.0)
    assert merged(large, large) == History((150.0, *[0.0] * (BINS - 1)), 200, 0.0, 900.0)


@pytest.mark.parametrize(("share", "number", "part"), [(0.0, 10, 0.0), (0.5, 10, 1.0), (0.75, 20, 0.5), (1.0, 20, 1.0)])
@pytest.mark.parametrize("weight", [0.25, 1.0, 7.0])
def test_a_quantile_is_interpolated_within_its_bin(share: float, number: int, part: float, weight: float) -> None:
    found = quantile(history({10: weight, 20: weight}), share)
    assert found == pytest.approx(EDGES[number] + WIDTHS[number] * part)


def test_a_quantile_that_rounding_puts_above_all_ends_is_the_end_of_the_last_bin() -> None:
    assert quantile(history({10: 1.0}), 1 + 1e-9) == EDGES[-1] + WIDTHS[-1]


def test_an_end_was_polled_from_its_registration_with_quick_polls_unless_something_else_is_said() -> None:
    assert with_end(History(), 95.0, 100.0, 2, POLICY) == with_end(History(), 95.0, 100.0, 2, POLICY, 0.0, 0.0)


def test_an_end_within_the_first_second_stays_in_its_bins() -> None:
    weights = with_end(History(), -1.0, 0.1, 1, POLICY).weights
    assert weights == (1.0, *[0.0] * (BINS - 1))


def test_the_first_poll_is_never_before_the_first_delay() -> None:
    schedule = LearnedSchedule(history({bin_of(2.0): 10_000.0}), POLICY)
    assert schedule.delay_after(0.0, 1, 0.0) < POLICY.first_delay
    assert schedule.delay_after(0.0, 0, 0.0) == POLICY.first_delay


def test_an_end_at_a_known_age_counts_once_and_earlier_ends_fade() -> None:
    once = with_end(History(), 60.0, 60.0, 9, POLICY)
    assert once.weights[bin_of(60.0)] == 1.0
    twice = with_end(once, 600.0, 600.0, 40, POLICY)
    assert twice.weights[bin_of(600.0)] == 1.0
    assert twice.weights[bin_of(60.0)] == pytest.approx(1 - 1 / MEMORY_ENDS)
    assert sum(twice.weights) == pytest.approx(2 - 1 / MEMORY_ENDS)


def test_an_end_between_two_ages_is_shared_by_their_bins_also_by_the_last_one() -> None:
    found = with_end(History(), EDGES[-1] - 10.0, EDGES[-1] + 30.0, 9, POLICY)
    assert found.weights[-2:] == pytest.approx((0.25, 0.75))
    assert sum(found.weights[:-2]) == 0.0

"""How many attempts a receiver may have at a time, and how many deliveries may wait for it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.core.fairness import POOLS, SlotPolicy, attempts_at_a_time, waiting_share
from bridge.core.receivers import ReceiverHealth

HEALTHY, UNKNOWN = ReceiverHealth.HEALTHY, ReceiverHealth.UNKNOWN
DOUBTFUL, FAILING = ReceiverHealth.DOUBTFUL, ReceiverHealth.FAILING


@pytest.mark.parametrize(
    ("concurrency", "per_host", "busy", "most"),
    [
        # The last two columns are by health (healthy, unknown, doubtful, failing): taken slots, and most attempts.
        (128, 8, (0, 0, 0, 0), [8, 8, 8, 1]),
        (128, 8, (100, 0, 0, 0), [4, 1, 1, 1]),
        (128, 8, (120, 0, 0, 0), [1, 1, 1, 1]),
        (128, 8, (128, 0, 0, 0), [0, 0, 0, 0]),
        (128, 8, (0, 70, 0, 0), [8, 1, 1, 1]),
        (128, 8, (0, 112, 0, 0), [2, 0, 0, 0]),
        (128, 8, (0, 0, 96, 0), [4, 1, 0, 0]),
        (128, 8, (0, 0, 0, 64), [8, 1, 1, 0]),
        (16, 16, (0, 0, 0, 0), [16, 16, 16, 1]),
        (1, 1, (0, 0, 0, 0), [1, 1, 1, 1]),
        (1, 1, (1, 0, 0, 0), [0, 0, 0, 0]),
    ],
)
def test_the_fuller_the_slots_the_fewer_attempts_a_receiver_may_have(
    concurrency: int, per_host: int, busy: tuple[int, int, int, int], most: list[int]
) -> None:
    assert SlotPolicy(concurrency, per_host).max_attempts(busy) == most


@given(st.integers(1, 200), st.integers(1, 20), st.tuples(*[st.integers(0, 60)] * 4))
def test_no_receiver_gets_a_slot_that_is_taken_or_more_than_its_limit(
    concurrency: int, per_host: int, busy: tuple[int, int, int, int]
) -> None:
    policy = SlotPolicy(concurrency, per_host)
    most = policy.max_attempts(busy)
    assert all(0 <= count <= limit for count, limit in zip(most, policy.limits, strict=True))
    if sum(busy) >= concurrency:
        assert most == [0, 0, 0, 0]


def test_the_healths_are_ordered_from_the_best_to_the_worst() -> None:
    assert list(POOLS.items()) == [(HEALTHY, 0), (UNKNOWN, 1), (DOUBTFUL, 2), (FAILING, 3)]
    assert set(POOLS) == set(ReceiverHealth)


@pytest.mark.parametrize(("health", "most"), [(HEALTHY, 8), (UNKNOWN, 8), (DOUBTFUL, 8), (FAILING, 1)])
def test_only_a_failing_receiver_gets_one_attempt_at_a_time(health: ReceiverHealth, most: int) -> None:
    assert attempts_at_a_time(health, 8) == most
    assert SlotPolicy(128, 8).limits[POOLS[health]] == most


@pytest.mark.parametrize(
    ("health", "average_seconds", "most"),
    [
        (FAILING, 0.1, 0),
        (DOUBTFUL, 0.1, 8),
        (UNKNOWN, 0.0, 64),
        (HEALTHY, 0.0, 256),
        (HEALTHY, 0.1, 256),
        (HEALTHY, 1.0, 40),
        (HEALTHY, 15.0, 2),
        (HEALTHY, 100.0, 1),
    ],
)
def test_as_many_deliveries_wait_as_a_receiver_gets_in_five_seconds(
    health: ReceiverHealth, average_seconds: float, most: int
) -> None:
    assert SlotPolicy(128, 8).max_waiting(health, average_seconds) == most


@pytest.mark.parametrize(("free", "share"), [(0, 0), (1, 1), (4, 1), (5, 2), (2_000, 500)])
def test_no_receiver_takes_more_than_a_quarter_of_the_room_that_is_left(free: int, share: int) -> None:
    assert waiting_share(free) == share

"""How answers change the health of an amux key: pauses, throttles, and what a good answer resets."""

from math import inf

import pytest

from bridge.core.credential import (
    CredentialChange,
    CredentialHealth,
    CredentialState,
    change_between,
    health_after_answer,
    is_always_throttled,
)
from bridge.core.model import (
    KeyRefused,
    Observation,
    PollRejected,
    TaskForbidden,
    TaskNotFound,
    TaskRecord,
    TaskStatus,
    Throttled,
    TransientError,
)
from bridge.core.schedule import PollPolicy
from bridge.core.watch import problem_in

GOOD, PAUSED, THROTTLED = CredentialState.GOOD, CredentialState.PAUSED, CredentialState.THROTTLED
POLICY = PollPolicy()
NEW = CredentialHealth()
RUNNING = TaskRecord(TaskStatus.IN_PROGRESS)
TIMEOUT = TransientError("timeout", "t")


def after(*answers: tuple[float, Observation]) -> CredentialHealth:
    """Returns the health of a new key after answers at these times."""
    health = NEW
    for now, observation in answers:
        health = health_after_answer(health, observation, now, POLICY)
    return health


@pytest.mark.parametrize(
    ("answers", "health"),
    [
        ([(100.0, KeyRefused("no"))], CredentialHealth(PAUSED, 100.0, 115.0, "no", refusals=1)),
        (
            [(100.0, KeyRefused("no")), (115.0, KeyRefused("still no"))],
            CredentialHealth(PAUSED, 100.0, 145.0, "still no", refusals=2),
        ),
        (
            [(100.0, KeyRefused("no")), (115.0, KeyRefused("no")), (145.0, TIMEOUT)],
            CredentialHealth(PAUSED, 100.0, 175.0, "no", refusals=2),
        ),
        ([(100.0, KeyRefused("no")), (115.0, RUNNING)], CredentialHealth(resumed_at=115.0)),
        ([(100.0, Throttled("slowly"))], CredentialHealth(THROTTLED, 100.0, 105.0, "slowly", throttles=1)),
        (
            [(100.0, Throttled("slowly")), (105.0, Throttled("slower"))],
            CredentialHealth(THROTTLED, 100.0, 115.0, "slower", throttles=2),
        ),
        (
            [(100.0, Throttled("slowly")), (105.0, Throttled("slower")), (115.0, TIMEOUT)],
            CredentialHealth(THROTTLED, 100.0, 125.0, "slower", throttles=2),
        ),
        ([(100.0, Throttled("slowly")), (105.0, RUNNING)], CredentialHealth(throttles=1, resumed_at=105.0)),
        ([(100.0, Throttled("slowly", 7.0))], CredentialHealth(THROTTLED, 100.0, 107.0, "slowly", throttles=1)),
        ([(100.0, Throttled("slowly", 0.0))], CredentialHealth(THROTTLED, 100.0, 101.0, "slowly", throttles=1)),
        (
            [(100.0, Throttled("slowly")), (105.0, KeyRefused("no"))],
            CredentialHealth(PAUSED, 105.0, 120.0, "no", refusals=1, throttles=1),
        ),
        (
            [(100.0, KeyRefused("no")), (115.0, Throttled("slowly", 7.0))],
            CredentialHealth(PAUSED, 100.0, 122.0, "slowly", refusals=1, throttles=1),
        ),
    ],
)
def test_an_answer_pauses_throttles_or_resumes_a_key(
    answers: list[tuple[float, Observation]], health: CredentialHealth
) -> None:
    assert after(*answers) == health
    assert health.blocked is (health.state is not GOOD)


@pytest.mark.parametrize("answer", [RUNNING, TaskNotFound("?"), TaskForbidden("?"), PollRejected("c", "?")])
@pytest.mark.parametrize("trouble", [KeyRefused("no"), Throttled("slowly")])
def test_whatever_amux_says_about_the_task_shows_that_it_accepts_the_key(
    answer: Observation, trouble: Observation
) -> None:
    assert after((0.0, answer)) is NEW
    assert after((0.0, trouble), (20.0, answer)).state is GOOD


def test_a_transient_error_says_nothing_about_a_good_key() -> None:
    assert after((0.0, TIMEOUT)) is NEW


def test_a_pause_of_a_key_without_a_counted_refusal_is_repeated_as_the_first_one() -> None:
    health = CredentialHealth(PAUSED, 0.0, 15.0, "no")
    assert health_after_answer(health, TIMEOUT, 10.0, POLICY).resumes_at == 25.0


@pytest.mark.parametrize(("pause", "throttles"), [(14.999, 2), (15.0, 1), (1000.0, 1)])
def test_a_429_is_the_next_in_a_row_within_one_longest_interval(pause: float, throttles: int) -> None:
    health = after((100.0, Throttled("slowly")), (105.0, RUNNING), (105.0 + pause, Throttled("slowly")))
    assert health.throttles == throttles


def test_a_throttle_is_shorter_than_a_second_only_where_the_interval_is() -> None:
    fast = PollPolicy(interval=0.1)
    assert health_after_answer(NEW, Throttled("slowly", 0.0), 50.0, fast).resumes_at == 50.1


@pytest.mark.parametrize("answer", [KeyRefused("no"), Throttled("slowly"), RUNNING])
def test_the_problem_of_a_key_is_that_of_the_answer_that_blocks_it(answer: Observation) -> None:
    assert after((50.0, answer)).problem == problem_in(answer)


def test_a_new_key_is_good() -> None:
    assert (NEW.state, NEW.blocked, NEW.since, NEW.message) == (GOOD, False, None, None)
    assert (NEW.resumes_at, NEW.refusals, NEW.throttles, NEW.resumed_at) == (-inf, 0, 0, -inf)


@pytest.mark.parametrize(
    ("before", "after_it", "change"),
    [
        (GOOD, GOOD, CredentialChange.NONE),
        (GOOD, PAUSED, CredentialChange.PAUSED),
        (GOOD, THROTTLED, CredentialChange.THROTTLED),
        (THROTTLED, PAUSED, CredentialChange.PAUSED),
        (PAUSED, PAUSED, CredentialChange.NONE),
        (THROTTLED, THROTTLED, CredentialChange.NONE),
        (PAUSED, GOOD, CredentialChange.RESUMED),
        (THROTTLED, GOOD, CredentialChange.RESUMED),
    ],
)
def test_a_change_is_named_after_the_new_state(
    before: CredentialState, after_it: CredentialState, change: CredentialChange
) -> None:
    assert change_between(before, after_it) is change


@pytest.mark.parametrize(
    ("state", "throttles", "accepted", "always"),
    [
        (THROTTLED, 1, False, True),
        (THROTTLED, 2, True, False),
        (THROTTLED, 3, True, True),
        (GOOD, 3, False, False),
        (PAUSED, 3, False, False),
    ],
)
def test_all_polls_get_429_from_the_first_one_or_after_three_in_a_row(
    state: CredentialState, throttles: int, *, accepted: bool, always: bool
) -> None:
    assert is_always_throttled(CredentialHealth(state, throttles=throttles), accepted=accepted) is always

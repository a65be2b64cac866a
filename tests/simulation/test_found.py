"""Bugs of the bridge that the simulation has found, each with a short plan that showed it."""

from dataclasses import replace

import pytest

from tests.simulation.amux import Course, End, Route
from tests.simulation.plan import TERMINAL_EVENTS, Action, HoldUp, Plan
from tests.simulation.runner import folder, run_plan

pytestmark = pytest.mark.usefixtures("real_store_limits")  # as in `python -m tests.simulation`

CALM = Plan(
    seed=1,
    replicas=1,
    shared=False,
    span=30.0,
    stall_share=0.0,
    stall_seconds=0.0,
    route=Route.MISSING,
    retries="1,2",
    wall_error=0.0,
    amux_slow=0.0,
    courses=(Course("task_0", live=False, begins_at=1_000.0, ends_at=1_000.0, end=End.NEVER),),
    actions=(),
)


def failure_of(plan: Plan, *actions: Action) -> str | None:
    with folder() as place:
        return run_plan(replace(plan, actions=actions), place).failure


def register(at: float, seconds: float) -> Action:
    return Action(at, "register", ("task_0", "https://good-1.example/hook", TERMINAL_EVENTS, seconds, "sk-one"))


def test_the_video_of_a_watch_that_retention_deletes_meanwhile_is_not_asked_for_with_another_key() -> None:
    """The bridge found the watch, but its key was deleted already. So the bridge used its own key."""
    course = Course("task_0", live=False, begins_at=1_000.0, ends_at=1_000.0, end=End.COMPLETED, key="sk-two")
    watch = Action(1_001.0, "register", ("task_0", "https://good-1.example/hook", TERMINAL_EVENTS, 40.0, "sk-two"))
    slow = Action(1_011.0, "database", ("slow", 3.0))
    reads = [Action(1_011.2 + 0.1 * number, "content", (0.99, "app", "")) for number in range(6)]
    for seed in (5, 7, 9):
        plan = replace(CALM, seed=seed, courses=(course,), retention=4.0)
        assert failure_of(plan, watch, slow, *reads) is None


def test_a_settlement_that_the_store_answers_late_wakes_who_waits_and_sends_its_callback() -> None:
    """The request waited for its whole time, and the callback for the end of its claim."""
    course = Course("task_0", live=False, begins_at=1_000.0, ends_at=1_000.0, end=End.COMPLETED)
    late = Action(1_001.4, "hold_up", (0, "settle", HoldUp.HANG, "after", 6.0))
    wait = Action(1_001.5, "wait", (0.0, 30.0))
    assert failure_of(replace(CALM, courses=(course,)), register(1_001.0, 60.0), late, wait) is None


def test_a_clock_that_is_set_back_while_the_store_does_not_answer_delays_no_deadline() -> None:
    """The only try to correct the times in the store failed, and the watch was active an hour too long."""
    refusing, set_back = Action(1_002.0, "database", ("refusing", 6.0)), Action(1_003.0, "clock", (0, -3600.0))
    assert failure_of(CALM, register(1_001.0, 20.0), refusing, set_back) is None


def test_a_clock_that_is_set_forward_and_back_while_the_process_is_frozen_delays_no_delivery() -> None:
    """The claim of a settlement was written while the clock was ahead. After the freeze no clock step was visible."""
    course = Course("task_0", live=False, begins_at=1_000.0, ends_at=1_002.0, end=End.COMPLETED)
    actions = (
        Action(1_001.5, "hold_up", (0, "settle", HoldUp.FREEZE, "after", 12.0)),
        Action(1_002.05, "clock", (0, 3600.0)),  # between the settlement and the next check of the clocks
        Action(1_008.0, "clock", (0, -3600.0)),
    )
    assert failure_of(replace(CALM, courses=(course,)), register(1_001.0, 40.0), *actions) is None


def test_a_task_that_was_closed_without_an_answer_is_not_polled_any_more() -> None:
    """The answer to the cancellation was lost, and so was that to the adoption that found the task closed."""
    unknown, cancel = Action(1_004.0, "database", ("unknown", 3.0)), Action(1_004.5, "cancel", (0.0,))
    for seed in (3, 4, 6):
        assert failure_of(replace(CALM, seed=seed, shared=True), register(1_001.0, 60.0), unknown, cancel) is None


def test_a_status_event_that_is_superseded_and_resent_during_its_attempt_is_sent_again() -> None:
    """The end of the watch removed the claim. The new claim was taken for that of the attempt that still ran."""
    course = Course("task_0", live=False, begins_at=1_000.0, ends_at=1_003.5, end=End.COMPLETED)
    plan = replace(CALM, retries="none", courses=(course,))
    events = (*TERMINAL_EVENTS, "video.in_progress")
    watch = Action(1_001.0, "register", ("task_0", "https://hanging-1.example/hook", events, 20.0, "sk-one"))
    assert failure_of(plan, watch, Action(1_004.9, "resend", (0.99,))) is None


def test_a_status_that_is_first_seen_when_another_watch_times_out_is_sent() -> None:
    """The settlement wrote the task's new status, so that no later poll saw a change."""
    course = Course("task_0", live=False, begins_at=1_004.0, ends_at=1_000.0, end=End.NEVER)
    events = (*TERMINAL_EVENTS, "video.in_progress")
    other = Action(1_001.1, "register", ("task_0", "https://good-2.example/hook", events, 25.0, "sk-one"))
    assert failure_of(replace(CALM, courses=(course,)), register(1_001.0, 3.0), other) is None


def test_a_cancelled_task_that_amux_does_not_know_is_not_polled_after_a_slow_answer() -> None:
    """The store was slow to answer whether the task had closed. It was asked again only after a record of amux."""
    course = Course("task_0", live=False, begins_at=1_000.0, ends_at=1_000.0, end=End.UNKNOWN)
    slow, cancel = Action(1_004.0, "database", ("slow", 8.0)), Action(1_004.5, "cancel", (0.0,))
    for seed in (0, 5, 12):
        plan = replace(CALM, seed=seed, courses=(course,))
        assert failure_of(plan, register(1_001.0, 70.0), slow, cancel) is None


def test_an_attempt_whose_record_is_written_without_an_answer_counts_once() -> None:
    """The attempt was written again under the next claim, so the schedule was one attempt shorter."""
    course = Course("task_0", live=False, begins_at=1_000.0, ends_at=1_000.0, end=End.COMPLETED)
    dead = Action(1_001.0, "register", ("task_0", "https://dead-1.example/hook", TERMINAL_EVENTS, 20.0, "sk-one"))
    for seed in (6, 46, 49):
        plan = replace(CALM, seed=seed, shared=True, courses=(course,))
        assert failure_of(plan, dead, Action(1_002.2, "database", ("unknown", 3.0))) is None


def test_a_task_that_has_closed_before_its_late_registration_is_noticed_is_not_polled() -> None:
    course = Course("task_0", live=False, begins_at=1_000.0, ends_at=1_000.0, end=End.REJECTED)
    late = [
        Action(at, "register", ("task_0", f"https://good-{number}.example/hook", TERMINAL_EVENTS, 40.0, "sk-one"))
        for number, at in ((2, 1_003.2), (3, 1_004.2))
    ]
    hanging = Action(1_003.0, "database", ("hanging", 4.0))
    for seed in (45, 49, 56):
        plan = replace(CALM, seed=seed, courses=(course,))
        assert failure_of(plan, register(1_001.0, 40.0), hanging, *late) is None


def test_a_process_that_is_frozen_while_it_starts_sends_nothing_after_its_lease() -> None:
    """The process counted its lease from the end of its start. The database counted it from the insert of its row."""
    crash, freeze = Action(1_001.642, "crash", (0, 0.1)), Action(1_001.743, "freeze", (0, 7.0))
    away = Action(1_009.669, "restart", (1, 3.0))
    plan = replace(CALM, replicas=2, shared=True, courses=())
    assert failure_of(plan, crash, freeze, register(1_007.535, 3.0), away) is None


def test_an_attempt_that_is_recorded_after_the_clock_was_set_back_keeps_its_retry_delay() -> None:
    """The next attempt was an hour late: its due time was from before the clock was set back."""
    course = Course("task_0", live=False, begins_at=1_000.0, ends_at=1_000.0, end=End.COMPLETED)
    dead = Action(1_001.0, "register", ("task_0", "https://dead-1.example/hook", TERMINAL_EVENTS, 60.0, "sk-one"))
    failing, set_back = Action(1_001.2, "database", ("failing", 8.0)), Action(1_004.4, "clock", (0, -3600.0))
    for seed in range(1, 7):
        assert failure_of(replace(CALM, seed=seed, courses=(course,)), dead, failing, set_back) is None


def test_a_clock_that_is_set_back_while_the_process_starts_delays_no_deadline() -> None:
    """The clock was set after the correction of the times, but before the scheduler began to compare the clocks."""
    for moment in range(12):
        set_back = Action(1_004.09 + 0.0015 * moment, "clock", (0, -3600.0))
        restart = Action(1_003.0, "restart", (0, 1.0))
        assert failure_of(CALM, register(1_001.0, 20.0), restart, set_back) is None

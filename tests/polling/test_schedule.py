"""Which task is polled next: the task that is due for the longest time. After a pause, polls are spread evenly."""

import asyncio
from collections import Counter

import pytest

from bridge.core.schedule import PollEstimate, PollPolicy
from bridge.polling.schedule import TOGETHER, TOGETHER_SECONDS, TOGETHER_SHARE
from bridge.polling.state import Phase
from tests.polling.schedule_harness import POLICY, REFUSED, ScheduleHarness
from tests.waiting import SAFETY_SECONDS


@pytest.fixture(autouse=True)
async def _in_a_loop() -> None:
    """Timers need an event loop."""


async def test_the_task_that_is_due_for_longest_comes_first() -> None:
    harness = ScheduleHarness()
    first, second, third = tasks = harness.tasks(3)
    for task, due in zip(tasks, (4003.0, 4001.0, 4002.0), strict=True):
        harness.schedule.schedule_at(task, due)
    assert harness.take_all() == [second, third, first]
    assert {task.phase for task in tasks} == {Phase.POLLING}


async def test_a_task_that_is_not_due_is_not_returned() -> None:
    harness = ScheduleHarness()
    [task] = harness.tasks(1)
    harness.schedule.schedule_at(task, harness.now + 1)
    assert harness.take_all() == []
    harness.now += 1
    assert harness.take_all() == [task]


async def test_a_task_that_is_put_again_or_removed_is_returned_for_its_last_entry_only() -> None:
    harness = ScheduleHarness()
    moved, removed = harness.tasks(2)
    harness.schedule.schedule_single(moved, harness.now)
    harness.schedule.schedule_single(moved, harness.now + 5)
    harness.schedule.schedule_single(removed, harness.now)
    harness.schedule.remove(removed, Phase.DROPPED)
    assert harness.take_all() == []
    harness.now += 5
    assert harness.take_all() == [moved]


async def test_a_task_that_is_put_twice_is_returned_once() -> None:
    harness = ScheduleHarness()
    [task] = harness.tasks(1)
    harness.schedule.schedule_single(task, harness.now + 5)
    harness.schedule.schedule_single(task, harness.now)
    assert harness.take_all() == [task]
    harness.now += 5
    assert harness.take_all() == []


async def test_a_removed_task_is_not_returned() -> None:
    harness = ScheduleHarness()
    [task] = harness.tasks(1)
    harness.schedule.schedule_single(task, harness.now)
    harness.schedule.remove(task, Phase.DROPPED)
    assert harness.take_all() == []


@pytest.mark.parametrize("polls", [0, 1, 4, 60])
@pytest.mark.parametrize("policy", [POLICY, PollPolicy(first_delay=0, interval=2, max_interval=2, backoff=1)])
async def test_after_a_restart_no_second_has_more_than_twice_the_mean(polls: int, policy: PollPolicy) -> None:
    harness = ScheduleHarness(policy=policy)
    harness.schedule.schedule_evenly(harness.tasks(1000, PollEstimate(policy).after(polls, ago=0.0)))
    seconds = harness.run(60)
    assert max(seconds.values()) <= 2 * sum(seconds.values()) / 60
    assert sum(seconds.values()) >= 1000 * 60 / (policy.max_interval * 1.1)


@pytest.mark.parametrize(("steps", "interval"), [(0, 5.0), (2, 6.0), (60, 15.0)])
async def test_tasks_that_are_scheduled_evenly_are_due_within_one_interval_without_jitter(
    steps: int, interval: float
) -> None:
    harness = ScheduleHarness()
    tasks = harness.tasks(1000, steps)
    harness.schedule.schedule_evenly(tasks)
    delays = [task.due - harness.now for task in tasks]
    assert 0 <= min(delays) < 0.01
    assert interval * 0.998 < max(delays) <= interval


async def test_adopted_tasks_are_polled_within_four_seconds_but_not_at_once() -> None:
    harness = ScheduleHarness()
    tasks = harness.tasks(100, polls=60)
    for task in tasks:
        harness.schedule.schedule_soon(task)
    delays = [task.due - harness.now for task in tasks]
    assert 0 <= min(delays) < 0.1
    assert 3.9 < max(delays) <= 4.0
    quick = ScheduleHarness(policy=PollPolicy(interval=1, max_interval=1))
    [task] = quick.tasks(1, polls=1)
    quick.schedule.schedule_soon(task)
    assert 0 <= task.due - quick.now <= 1.0


async def test_the_timer_is_set_for_the_next_due_task() -> None:
    harness = ScheduleHarness()
    later, sooner, last = harness.tasks(3)
    harness.schedule.schedule_at(later, harness.now + 20)
    assert harness.timer_seconds() == pytest.approx(20, abs=0.5)
    harness.schedule.schedule_single(sooner, harness.now + 10)
    harness.schedule.schedule_at(last, harness.now + 30)
    assert harness.timer_seconds() == pytest.approx(10, abs=0.5)
    harness.now += 10
    harness.schedule._timer_fired()
    assert harness.woken.is_set()
    assert harness.take_all() == [sooner]
    assert harness.timer_seconds() == pytest.approx(10, abs=0.5)


async def test_the_timer_wakes_the_workers_no_sooner_than_in_two_milliseconds() -> None:
    harness = ScheduleHarness()
    [task] = harness.tasks(1)
    harness.schedule.schedule_at(task, harness.now)
    seconds = harness.timer_seconds()
    assert seconds is not None
    assert 0 < seconds <= 0.0021
    async with asyncio.timeout(SAFETY_SECONDS):
        await harness.woken.wait()


def begun_by_timers(harness: ScheduleHarness, polls: int) -> list[int]:
    """Fires timers until `polls` polls have begun. Returns how many polls each timer began."""
    begun: list[int] = []
    while sum(begun) < polls:
        harness.now = max(harness.schedule._timer_at, harness.now + 0.002)
        harness.schedule._timer_fired()
        begun.append(len(harness.take_all()))
    return begun


async def test_polls_that_are_due_soon_after_a_timer_begin_together() -> None:
    harness = ScheduleHarness()
    first, second = harness.tasks(2)
    harness.schedule._timer_fired()
    for task, due in ((first, 0.01), (second, 0.19)):
        harness.schedule.schedule_at(task, harness.now + due)
    assert harness.schedule._timer_at == harness.now + TOGETHER_SECONDS
    harness.now += TOGETHER_SECONDS
    harness.schedule._timer_fired()
    assert harness.take_all() == [first, second]


async def test_polls_wait_for_a_timer_for_a_fifth_of_a_short_interval_at_most() -> None:
    harness = ScheduleHarness(policy=PollPolicy(first_delay=0.1, interval=0.1, max_interval=0.1))
    [task] = harness.tasks(1)
    harness.schedule._timer_fired()
    harness.schedule.schedule_at(task, harness.now + 0.001)
    assert harness.schedule._timer_at == harness.now + TOGETHER_SHARE * 0.1


async def test_a_poll_that_waits_for_the_timer_needs_no_tick() -> None:
    """While polls are due, a tick runs every 50 ms, and each tick costs as much as a poll."""
    harness = ScheduleHarness()
    [task] = harness.tasks(1)
    harness.schedule._timer_fired()
    harness.schedule.schedule_at(task, harness.now + 0.01)
    assert harness.take_all() == []
    harness.now += 0.02
    assert not harness.schedule.is_due()
    harness.now += TOGETHER_SECONDS  # the timer is late
    assert harness.schedule.is_due()
    assert harness.take_all() == [task]


async def test_a_timer_of_many_polls_begins_some_of_them() -> None:
    """The first timer does not know yet how many polls come. Later timers begin about `TOGETHER` polls each."""
    harness = ScheduleHarness()
    polls_a_second = 20 * TOGETHER
    tasks = harness.tasks(2 * polls_a_second)
    harness.schedule._timer_fired()
    harness.take_all()
    for number, task in enumerate(tasks):
        harness.schedule.schedule_at(task, harness.now + number / polls_a_second)
    begun = begun_by_timers(harness, len(tasks))
    assert begun[0] == pytest.approx(TOGETHER_SECONDS * polls_a_second, abs=2)
    assert all(abs(polls - TOGETHER) <= 2 for polls in begun[2:-1])


@pytest.mark.parametrize(("begun", "waited", "gap"), [(100, 0.05, TOGETHER * 0.05 / 100), (0, 1.0, TOGETHER_SECONDS)])
async def test_the_next_timer_is_as_near_as_the_last_polls_were_many(begun: int, waited: float, gap: float) -> None:
    harness = ScheduleHarness()
    harness.schedule._timer_fired()
    *many, next_one = harness.tasks(begun + 1)
    for task in many:
        harness.schedule.schedule_at(task, harness.now)
    harness.now += waited
    harness.schedule._timer_fired()
    assert len(harness.take_all()) == begun
    harness.schedule.schedule_at(next_one, harness.now)
    assert harness.schedule._timer_at - harness.now == pytest.approx(gap)


async def test_with_a_rate_limit_no_poll_waits_for_others() -> None:
    harness = ScheduleHarness(rate=100)
    [task] = harness.tasks(1)
    harness.schedule._timer_fired()
    harness.schedule.schedule_at(task, harness.now + 0.01)
    assert harness.schedule._timer_at == harness.now + 0.01


async def test_the_timer_waits_for_the_rate_limit() -> None:
    harness = ScheduleHarness(rate=1)
    first, second = harness.tasks(2)
    for task in (first, second):
        harness.schedule.schedule_at(task, harness.now)
    harness.schedule._timer_fired()
    assert harness.take_all() == [first]
    assert harness.timer_seconds() == pytest.approx(1.05, abs=0.3)


async def test_a_schedule_that_was_stopped_returns_no_tasks_and_sets_no_timer() -> None:
    harness = ScheduleHarness()
    first, second = harness.tasks(2)
    harness.schedule.schedule_at(first, harness.now)
    harness.schedule.stop()
    assert harness.take_all() == []
    assert harness.timer_seconds() is None
    harness.schedule.schedule_at(second, harness.now - 1)
    assert harness.timer_seconds() is None


async def test_clearing_drops_all_tasks_and_credentials() -> None:
    harness = ScheduleHarness()
    tasks = harness.tasks(3)
    harness.schedule.schedule_evenly(tasks)
    harness.run(10, lambda _task: REFUSED)
    harness.schedule.clear(tasks)
    assert {task.phase for task in tasks} == {Phase.DROPPED}
    assert harness.run(60) == Counter()
    assert harness.metrics.registry.get_sample_value("amux_bridge_paused_credentials") == 0


async def test_too_many_tasks_are_polled_less_often_and_in_turn() -> None:
    harness = ScheduleHarness(rate=20)
    tasks = harness.tasks(400)  # they need 80 polls a second
    harness.schedule.schedule_evenly(tasks)
    seconds = harness.run(120)
    assert max(seconds.values()) <= 20
    assert sum(seconds.values()) >= 120 * 18
    polls = [task.polls for task in tasks]
    assert min(polls) >= 4
    assert max(polls) - min(polls) <= 3

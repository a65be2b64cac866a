"""The poll schedule and its batch lanes: which of them takes a task, what is read next, and when the timer fires."""

import pytest

from bridge.core.batch_lane import BatchFailed, BatchPolicy, Lane, Reading
from bridge.core.credential import CredentialState
from bridge.polling.lane_schedule import RELEASED_AT_ONCE
from bridge.polling.state import Phase, PolledTask
from tests.polling.schedule_harness import REFUSED, RUNNING, ScheduleHarness

BATCH = BatchPolicy()
BROKEN = BatchFailed("http_503", "overloaded")


@pytest.fixture(autouse=True)
async def _in_a_loop() -> None:
    """Timers need an event loop."""


def harness(rate: float = 0) -> ScheduleHarness:
    return ScheduleHarness(rate=rate, batch=BATCH)


def single(task: PolledTask) -> PolledTask:
    """Marks a task as missing in batches, so that it is only read singly. Returns the task."""
    task.reading = Reading.MISSING
    return task


# --- which lane takes a task --------------------------------------------------------------------------------------


async def test_a_due_task_goes_to_its_lane_and_the_next_one_that_is_read_singly_is_returned() -> None:
    made = harness()
    batched, alone = made.tasks(2)
    made.schedule.schedule_at(batched, made.now - 1)
    made.schedule.schedule_at(single(alone), made.now)
    assert made.take_all() == [alone]
    assert (batched.phase, alone.phase) == (Phase.BATCHED, Phase.POLLING)


async def test_the_timer_fires_when_the_lane_is_due() -> None:
    made = harness()
    [task] = made.tasks(1)
    made.schedule.schedule_at(task, made.now)
    made.schedule._timer_fired()
    assert made.schedule.take() is None
    assert made.lanes is not None
    assert made.lanes.next_at() == made.now + 0.25, "tasks that become due within a quarter of a second are asked too"
    assert made.timer_seconds() == pytest.approx(0.25, abs=0.2)


async def test_a_task_that_rejoins_its_lane_is_read_with_the_next_batch_and_the_timer_fires_then() -> None:
    made = harness()
    tasks = made.tasks(10)
    lane = made.open_lane(tasks)
    assert lane.waiting == 10
    assert {task.phase for task in tasks} == {Phase.BATCHED}
    made.now = lane.next_at
    batch = made.due_batch()
    made.schedule._timer_fired()
    made.schedule.schedule_next(batch.tasks[0], made.now + 900)
    assert batch.tasks[0].phase is Phase.BATCHED
    assert made.timer_seconds() == pytest.approx(lane.spacing, abs=0.5)


async def test_a_task_that_does_not_rejoin_is_read_singly_at_its_own_time() -> None:
    made = harness()
    tasks = made.tasks(2)
    made.open_lane(tasks)
    batch_of = made.tasks(1)[0]
    made.schedule.schedule_next(single(batch_of), made.now + 7)
    assert (batch_of.phase, batch_of.due) == (Phase.SCHEDULED, made.now + 7)
    without = ScheduleHarness()
    [task] = without.tasks(1)
    without.schedule.schedule_next(task, without.now + 7)
    assert (task.phase, task.due) == (Phase.SCHEDULED, without.now + 7)


async def test_a_task_that_is_put_is_read_singly_and_is_in_no_later_batch() -> None:
    made = harness()
    first, second, third = tasks = made.tasks(3)
    lane = made.open_lane(tasks)
    second.overdue_at = made.now  # an overdue task gets its last read singly
    made.schedule.schedule_single(second, made.now)
    assert lane.waiting == 2
    assert made.take_all() == [second]
    made.now = lane.next_at
    assert made.due_batch().tasks == [first, third]


async def test_a_task_that_is_removed_is_in_no_later_batch() -> None:
    made = harness()
    first, second, third = tasks = made.tasks(3)
    lane = made.open_lane(tasks)
    made.schedule.remove(first, Phase.WRITING)
    assert (first.phase, lane.waiting) == (Phase.WRITING, 2)
    made.now = lane.next_at
    assert made.due_batch().tasks == [second, third]


async def test_a_task_that_waits_in_the_heap_leaves_its_lane_as_it_is() -> None:
    made = harness()
    tasks = made.tasks(3)
    lane = made.open_lane(tasks[:2])
    made.schedule.schedule_single(tasks[2], made.now + 5)
    made.schedule.schedule_single(tasks[2], made.now + 6)
    made.schedule.remove(tasks[2], Phase.WRITING)
    assert (lane.waiting, lane.stale.total()) == (2, 0)


async def test_clearing_drops_the_tasks_of_lanes_too() -> None:
    made = harness()
    tasks = made.tasks(3)
    lane = made.open_lane(tasks)
    made.schedule.clear(tasks)
    made.now += 100
    assert (made.schedule.take_batch(), lane.tasks, {task.phase for task in tasks}) == (None, 0, {Phase.DROPPED})


# --- batches ------------------------------------------------------------------------------------------------------


async def test_without_lanes_and_after_the_stop_there_is_no_batch() -> None:
    assert ScheduleHarness().schedule.take_batch() is None
    made = harness()
    lane = made.open_lane(made.tasks(2))
    made.now = lane.next_at
    made.schedule.stop()
    assert (made.schedule.take_batch(), lane.waiting) == (None, 2)


async def test_batches_are_due_12_ms_apart_and_do_not_wait_to_begin_together_as_polls_do() -> None:
    made = harness()
    lane = made.open_lane(made.tasks(3))
    made.schedule._timer_fired()
    lane.entry = 0
    made.lanes._due.put(lane, made.now + 0.012)  # type: ignore[union-attr]
    assert made.schedule.take_batch() is None
    assert made.schedule._timer_at == made.now + 0.012
    made.schedule._timer_fired()
    assert made.schedule.take() is None
    assert made.schedule._timer_at == made.now + 0.012


async def test_a_batch_that_is_not_due_is_not_returned_and_the_timer_fires_when_it_is() -> None:
    made = harness()
    lane = made.open_lane(made.tasks(2))
    made.schedule._timer_fired()
    made.now = lane.next_at - 3.0
    assert made.schedule.take_batch() is None
    assert made.timer_seconds() == pytest.approx(3.0, abs=0.5)
    made.now += 3.0
    batch = made.due_batch()
    assert {task.phase for task in batch.tasks} == {Phase.POLLING}


@pytest.mark.parametrize(
    ("heap_due_in", "lane_due_in", "is_due"),
    [(0.0, 9.0, True), (9.0, 0.0, True), (9.0, 9.0, False), (0.0, 0.0, True), (0.001, 9.0, False)],
)
async def test_polls_are_due_when_a_task_or_a_lane_is(heap_due_in: float, lane_due_in: float, *, is_due: bool) -> None:
    made = harness()
    tasks = made.tasks(2)
    lane = made.open_lane(tasks[:1])
    made.now = lane.next_at - lane_due_in
    made.schedule.schedule_single(single(tasks[1]), made.now + heap_due_in)
    assert made.schedule.is_due() is is_due
    without = ScheduleHarness()
    assert not without.schedule.is_due()
    without.schedule.schedule_single(without.tasks(1)[0], without.now + heap_due_in)
    assert without.schedule.is_due() is (heap_due_in == 0.0)


# --- the rate limit counts both lanes, which take turns -----------------------------------------------------------


async def test_the_batch_workers_are_woken_when_it_is_the_turn_of_a_batch() -> None:
    made = harness(rate=1000.0)
    tasks = made.tasks(3)
    lane = made.open_lane(tasks[:2])
    made.schedule.schedule_single(single(tasks[2]), made.now)
    woken = made.batches_woken
    assert made.schedule.take() is tasks[2]
    assert made.batches_woken == woken, "the lane is not due, and the last request was a batch"
    made.now = lane.next_at
    made.schedule.take()
    assert made.batches_woken == woken + 1, "the lane is due, and the last request was a single read"
    assert made.schedule.take_batch() is not None
    made.schedule.take()
    assert made.batches_woken == woken + 1
    without_limit = harness()
    without_limit.now = without_limit.open_lane(without_limit.tasks(2)).next_at
    without_limit.schedule.take()
    assert without_limit.batches_woken == 0


async def test_after_a_batch_a_single_read_that_is_due_is_next() -> None:
    made = harness(rate=1000.0)
    first, second = made.tasks(2)
    lane = made.open_lane([first])
    made.now = lane.next_at
    made.schedule.schedule_single(single(second), made.now)
    assert made.schedule.take_batch() is None, "the last request was a batch, and a single read is due"
    assert made.schedule.take() is second
    made.now += 1
    assert made.due_batch().tasks == [first]


async def test_a_batch_counts_as_a_start_and_waits_for_the_rate_limit() -> None:
    made = harness(rate=1.0)
    tasks = made.tasks(4)
    lane = made.open_lane(tasks[:2])
    limiter = made.schedule._rate_limiter
    assert limiter is not None
    assert (limiter.last, limiter.opens_at(made.now)) == (Lane.BATCH, made.now + 1.05)
    made.now = lane.next_at
    made.schedule.schedule_single(single(tasks[2]), made.now - 1)
    assert made.schedule.take() is tasks[2]
    assert limiter.last is Lane.SINGLE
    assert made.schedule.take_batch() is None
    made.now += 1.05
    assert made.schedule.take_batch() is not None
    made.schedule._timer_fired()
    made.schedule.schedule_single(single(tasks[3]), made.now + 900)
    assert made.schedule.take() is None
    assert made.timer_seconds() == pytest.approx(900, abs=1)


async def test_the_timer_of_a_lane_waits_for_the_rate_limit_too() -> None:
    made = harness(rate=0.1)
    first, second = made.tasks(2)
    lane = made.open_lane([first])
    opens = made.now + 10.5
    assert lane.next_at < opens
    made.now = lane.next_at
    for take in (made.schedule.take, made.schedule.take_batch):
        made.schedule._timer_fired()
        assert take() is None
        assert made.timer_seconds() == pytest.approx(opens - made.now, abs=0.5)
    made.schedule.schedule_single(single(second), made.now)
    assert made.schedule.take() is None


# --- credentials --------------------------------------------------------------------------------------------------


async def test_a_refused_key_stops_its_lane_and_a_task_of_the_lane_is_the_probe_that_opens_it_again() -> None:
    made = harness()
    tasks = made.tasks(3)
    lane = made.open_lane(tasks[:2])
    made.schedule.schedule_single(single(tasks[2]), made.now)
    assert made.schedule.take() is tasks[2]
    made.schedule.update_credential(tasks[2], REFUSED, made.now)
    credential = tasks[2].credential
    assert (credential.health.state, credential.probe) == (CredentialState.PAUSED, None), (
        "all other tasks are in the lane"
    )
    made.schedule.schedule_at(tasks[2], made.now)
    assert credential.probe is tasks[2]
    made.schedule.remove(tasks[2], Phase.DROPPED)
    assert credential.probe is tasks[0]
    assert (tasks[0].phase, lane.waiting) == (Phase.SCHEDULED, 1)
    made.now = credential.health.resumes_at
    assert made.schedule.take_batch() is None, "a lane of a blocked key is not read"
    assert made.schedule.take() is tasks[0]
    made.now = lane.began + 1.0
    made.schedule._timer_fired()
    made.schedule.update_credential(tasks[0], RUNNING, made.now)
    assert lane.next_at == lane.began + lane.spacing
    assert made.timer_seconds() == pytest.approx(lane.spacing - 1.0, abs=0.5)
    made.now = lane.next_at
    assert made.due_batch().tasks == [tasks[1]]


async def test_a_key_that_is_accepted_again_is_read_at_once_when_its_lane_is_late() -> None:
    made = harness()
    tasks = made.tasks(3)
    lane = made.open_lane(tasks[:2])
    made.schedule.schedule_single(single(tasks[2]), made.now)
    probe = made.schedule.take()
    assert probe is tasks[2]
    made.schedule.update_credential(probe, REFUSED, made.now)
    made.schedule.schedule_at(probe, made.now)
    made.now += 500
    assert (made.schedule.take_batch(), made.take_all()) == (None, [probe])
    made.schedule.update_credential(probe, RUNNING, made.now)
    assert lane.next_at == made.now


# --- many tasks, closed lanes -------------------------------------------------------------------------------------


async def test_very_many_loaded_tasks_wait_in_their_lane_and_are_released_bit_by_bit() -> None:
    made = harness()
    lane = made.lane()
    tasks = made.tasks(RELEASED_AT_ONCE + 100)
    made.schedule.schedule_loaded([*tasks[:-1], single(tasks[-1])])
    assert lane.waiting == 99
    assert tasks[-1].phase is Phase.SCHEDULED
    assert [task.phase for task in tasks].count(Phase.SCHEDULED) == RELEASED_AT_ONCE + 1
    assert made.now <= min(task.due for task in tasks[:RELEASED_AT_ONCE])
    assert max(task.due for task in tasks[:RELEASED_AT_ONCE]) <= made.now + made.policy.interval
    made.schedule.release_closed_lanes()
    assert (lane.waiting, {task.phase for task in tasks}) == (0, {Phase.SCHEDULED})


async def test_very_many_loaded_tasks_of_a_refused_key_have_a_probe() -> None:
    made = harness()
    [probe] = made.tasks(1)
    lane = made.open_lane([probe])
    credential = probe.credential
    made.schedule.update_credential(probe, REFUSED, made.now)
    made.schedule.remove(probe, Phase.DROPPED)
    assert (lane.waiting, credential.probe, credential.blocked) == (0, None, True)
    made.schedule.schedule_loaded(made.tasks(RELEASED_AT_ONCE + 1))
    made.now = credential.health.resumes_at
    assert made.schedule.take_batch() is None
    [probe] = made.take_all()
    assert credential.probe is probe
    made.schedule.update_credential(probe, RUNNING, made.now)
    made.now = lane.next_at
    assert len(made.due_batch().tasks) == BATCH.size


@pytest.mark.parametrize("batch", [BATCH, None])
async def test_fewer_loaded_tasks_are_due_evenly_over_one_interval(batch: BatchPolicy | None) -> None:
    made = ScheduleHarness(batch=batch)
    tasks = made.tasks(RELEASED_AT_ONCE if batch else RELEASED_AT_ONCE + 1)
    made.schedule.schedule_loaded(tasks)
    assert {task.phase for task in tasks} == {Phase.SCHEDULED}
    assert made.now <= min(task.due for task in tasks)
    assert max(task.due for task in tasks) <= made.now + made.policy.interval


async def test_the_tasks_of_a_lane_that_fails_are_read_singly_over_one_interval() -> None:
    made = harness()
    tasks = made.tasks(4)
    lane = made.open_lane(tasks)
    made.now = lane.next_at
    batch = made.due_batch()
    made.read(batch, BROKEN)
    assert not lane.health.is_open
    assert [task.phase for task in tasks] == [Phase.BATCHED] * 4
    made.schedule.release_closed_lanes()
    assert [task.phase for task in tasks] == [Phase.SCHEDULED] * 4
    assert [task.due - made.now for task in tasks] == pytest.approx([0.0, 1.25, 2.5, 3.75])
    assert lane.waiting == 0
    made.now += made.policy.interval
    assert made.take_all() == tasks

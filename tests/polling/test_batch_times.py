"""How often tasks are read in batches, in virtual time: few and many tasks, outages, servers without the route."""

from collections.abc import Callable
from itertools import pairwise

import pytest

from bridge.core.batch_lane import BatchFailed, BatchPolicy, NoBatchRoute, batch_cost
from bridge.core.model import TaskRecord, TaskStatus
from bridge.polling import lane_schedule
from tests.polling.harness import Harness
from tests.polling.virtual import POLICY, VirtualPoller

RECORDED = TaskRecord(TaskStatus.IN_PROGRESS, platform="50", model="kling")
NO_ROUTE = NoBatchRoute("http_404", "no such route")
DEFAULT = BatchPolicy()
BUSY = BatchFailed("http_503", "system cpu overloaded")


def half() -> float:
    return 0.5


def virtual(
    harness: Harness, batch: BatchPolicy | None = DEFAULT, *, random: Callable[[], float] = half
) -> VirtualPoller:
    found = VirtualPoller.of(harness, learn=False, random=random, batch=batch)
    found.amux.running = RECORDED
    return found


async def started(harness: Harness, tasks: int, batch: BatchPolicy | None = DEFAULT) -> VirtualPoller:
    """Returns a poller that has polled its tasks for two minutes. If it has a batch lane, the lane is open."""
    found = virtual(harness, batch)
    for number in range(tasks):
        await found.start(f"task_{number}", 86_400.0)
    await found.run_until(found.amux.now + 120.0)
    found.amux.batches.clear()
    found.amux.polled.clear()
    return found


async def test_one_task_alone_is_asked_as_often_as_singly(harness: Harness) -> None:
    batched, alone = await started(harness, 1), await started(harness, 1, None)
    for one in (batched, alone):
        await one.run_until(one.amux.now + 600.0)
    assert not batched.amux.polled
    assert len(batched.amux.batches) == pytest.approx(alone.amux.requests, abs=1)


@pytest.mark.parametrize("tasks", [2, 5, 8])
async def test_few_tasks_never_take_more_requests_than_singly(harness: Harness, tasks: int) -> None:
    batched, alone = await started(harness, tasks), await started(harness, tasks, None)
    for one in (batched, alone):
        await one.run_until(one.amux.now + 300.0)
    assert not batched.amux.polled
    assert len(batched.amux.batches) <= alone.amux.requests + 1
    assert all(later - earlier >= 2.0 for (earlier, _), (later, _) in pairwise(batched.amux.batches))


async def test_young_tasks_take_no_more_requests_than_singly_from_their_registration_on(harness: Harness) -> None:
    found = {}
    for batch in (BatchPolicy(), None):
        one = virtual(harness, batch)
        for number in range(3):
            await one.start(f"task_{number}_{batch is None}", 86_400.0)
        await one.run_until(one.amux.now + 90.0)
        found[batch is None] = one.amux.requests
    assert found[False] <= found[True]


async def test_many_tasks_are_all_read_every_two_seconds_with_one_request(harness: Harness) -> None:
    poller = await started(harness, 200)
    await poller.run_until(poller.amux.now + 60.0)
    assert not poller.amux.polled
    assert len(poller.amux.batches) == pytest.approx(30, abs=1)
    assert {len(ids) for _, ids in poller.amux.batches} == {200}


@pytest.mark.parametrize("tasks", [4, 20, 60])
async def test_fewer_tasks_are_read_as_often_as_amux_needs_no_more_cpu_than_singly(
    harness: Harness, tasks: int
) -> None:
    poller = await started(harness, tasks)
    began = poller.amux.now
    await poller.run_until(began + 300.0)
    assert not poller.amux.polled
    seconds = [at for at, _ in poller.amux.batches]
    single = POLICY.max_interval * 1.05  # the mean with jitter
    cost = sum(batch_cost(len(ids)) for _, ids in poller.amux.batches)
    assert cost <= 300.0 / single * tasks + batch_cost(tasks)
    assert max(later - earlier for earlier, later in pairwise(seconds)) <= single / 2, "each task is read more often"


async def test_tasks_that_begin_one_after_the_other_make_amux_no_busier_than_singly(harness: Harness) -> None:
    poller = await started(harness, 60)
    began = poller.amux.now
    for number in range(60):
        await poller.start(f"task_more_{number}", 86_400.0)
        await poller.run_until(began + number)
    cost = sum(batch_cost(len(ids)) for _, ids in poller.amux.batches)
    delays = POLICY.max_interval * 1.05, POLICY.first_delay * 1.05
    assert cost <= 60 / delays[0] * 60 + sum((60 - number) / delays[1] for number in range(60)) + batch_cost(120)


async def test_more_tasks_than_a_batch_holds_are_read_in_turn_with_full_batches(harness: Harness) -> None:
    poller = await started(harness, 400, BatchPolicy(size=200))
    await poller.run_until(poller.amux.now + 60.0)
    assert {len(ids) for _, ids in poller.amux.batches} == {200}
    last: dict[str, float] = {}
    for at, ids in poller.amux.batches:
        for each in ids:
            assert at - last.get(each, at) <= 2.9
            last[each] = at
    assert len(last) == 400
    assert len(poller.amux.batches) == pytest.approx(60 / 2 * 400 / 200, abs=2)


async def test_a_new_task_is_read_no_sooner_than_its_first_delay_and_then_with_the_others(harness: Harness) -> None:
    poller = await started(harness, 20)
    spacing = POLICY.max_interval * 1.1 * batch_cost(21) / 21
    began = poller.amux.now
    await poller.start("task_new", 86_400.0)
    await poller.run_until(began + 30.0)
    first = next(at for at, ids in poller.amux.batches if "task_new" in ids)
    assert POLICY.first_delay <= first - began <= POLICY.first_delay * 1.1 + spacing
    assert not poller.amux.polled
    assert all("task_new" in ids for at, ids in poller.amux.batches if at > first)


async def test_a_server_without_the_route_is_asked_after_a_minute_doubling(harness: Harness) -> None:
    poller = virtual(harness)
    poller.amux.batch_answer = NO_ROUTE
    await poller.start("task_1", 86_400.0)
    began = poller.amux.now
    await poller.run_until(began + 2000.0)
    times = [at - began for at, _ in poller.amux.batches]
    gaps = [round(later - earlier) for earlier, later in pairwise(times)]
    for gap, expected in zip(gaps, [60, 120, 240, 480, 960], strict=False):
        assert expected <= gap <= expected + 17  # the next due read is the probe
    assert len(times) == 6
    singles = poller.amux.polled["task_1"]
    assert max(later - earlier for earlier, later in pairwise(singles)) <= 17


async def test_where_there_is_no_route_the_single_reads_are_those_of_a_bridge_without_batches(harness: Harness) -> None:
    found = []
    for batch in (BatchPolicy(), None):
        poller = virtual(harness, batch)
        poller.amux.batch_answer = NO_ROUTE
        for number in range(5):
            await poller.start(f"task_{number}_{batch is None}", 86_400.0)
        await poller.run_until(poller.amux.now + 55.0)  # time for one probe
        found.append([len(times) for times in poller.amux.polled.values()])
    assert found[0] == found[1]


async def test_an_overloaded_amux_is_asked_after_15_s_doubling_to_a_minute_and_singly_meanwhile(
    harness: Harness,
) -> None:
    poller = await started(harness, 20)
    poller.amux.batch_answer = BUSY
    began = poller.amux.now
    await poller.run_until(began + 200.0)
    times = [at for at, _ in poller.amux.batches]
    gaps = [later - earlier for earlier, later in pairwise(times)]
    for gap, expected in zip(gaps, [15, 30, 60, 60], strict=False):
        assert expected <= gap <= expected + 4
    reads = sorted(at for times in poller.amux.polled.values() for at in times)
    assert len(poller.amux.polled) == 20
    first_round = [at - times[0] for at in reads[:20]]
    assert first_round[0] <= 1.0
    assert 10.0 <= first_round[-1] <= 17.0  # spread over one interval: no burst
    poller.amux.batch_answer = None
    await poller.run_until(poller.amux.now + 80.0)
    poller.amux.polled.clear()
    await poller.run_until(poller.amux.now + 30.0)
    assert not poller.amux.polled


async def test_a_lane_with_more_tasks_than_a_tick_releases_is_released_over_one_interval(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lane_schedule, "RELEASED_AT_ONCE", 25)
    poller = await started(harness, 150)
    poller.amux.batch_answer = BUSY
    began = poller.amux.now
    await poller.run_until(began + 18.0)
    reads = [at - began for times in poller.amux.polled.values() for at in times[:1]]
    assert len(reads) == 150
    a_second = [sum(second <= at < second + 1 for at in reads) for second in range(19)]
    assert max(a_second) <= 2 * 150 / 15


async def test_learned_schedules_count_only_single_polls(harness: Harness) -> None:
    poller = await started(harness, 12)
    for each in list(poller.amux.ends):
        poller.amux.ends[each] = poller.amux.now + 10.0
    await poller.finish()
    [figures] = [one for one in poller.poller.classes.figures() if one.name == "amux 50 kling"]
    assert figures.ends == 12
    assert figures.polls is not None
    assert figures.polls < 15  # these are single polls; with the batches there were about 60


async def test_the_statistics_say_how_many_tasks_are_read_in_batches_and_what_that_saves(harness: Harness) -> None:
    poller = await started(harness, 60)
    stats = await poller.poller.stats(10)
    assert (stats.tasks, stats.batched, stats.late) == (60, 60, 0)
    assert stats.saved_per_minute == pytest.approx(60 * 60 / 15.75 - 60 / (batch_cost(60) * 15.75 / 60), abs=1)
    alone = await started(harness, 2, None)
    stats = await alone.poller.stats(10)
    assert (stats.tasks, stats.batched, stats.saved_per_minute) == (2, 0, 0)

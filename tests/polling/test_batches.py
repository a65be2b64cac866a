"""Reading tasks in batches: which tasks, with which key, how many requests, and the last polls before deadlines."""

from dataclasses import replace

import pytest

from bridge.amux.client import AmuxClient
from bridge.core.batch_lane import BatchPolicy
from bridge.core.model import TERMINAL_EVENTS, EventType, Outcome
from bridge.core.schedule import PollPolicy
from bridge.polling import lane_schedule, schedule
from bridge.sandbox import Behaviour, Platform
from tests.polling.batch_amux import BATCH, BatchAmux, Bench, row, rows, single
from tests.polling.harness import QUICK, Harness
from tests.polling.scripted_amux import live

RECORDED = Behaviour(queue_seconds=0, run_seconds=0.3, platform=Platform.KLING)
DONE_RECORDED = replace(RECORDED, run_seconds=0)
STATUS_EVENTS = TERMINAL_EVENTS | {EventType.QUEUED, EventType.IN_PROGRESS}
VIDEO = "https://v.example/a.mp4"


# --- the lane ---------------------------------------------------------------------------------------------------------


async def test_recorded_tasks_end_by_batches_with_few_requests(batch_harness: Harness) -> None:
    sandbox = batch_harness.sandbox
    poller = batch_harness.poller(QUICK, batch=BATCH)
    tasks = [sandbox.create_task(replace(RECORDED, run_seconds=3600)) for _ in range(40)]
    watches = [await batch_harness.register(task_id, poller) for task_id in tasks]
    await batch_harness.until(lambda: all(sandbox.batches.read[task_id] > 10 for task_id in tasks))
    assert sandbox.batches.ids > 5 * (sandbox.batches.requests + sandbox.polls.total())
    for task_id in tasks:
        sandbox.change(task_id, DONE_RECORDED)
    await batch_harness.until(lambda: poller.owned == 0)
    assert {await batch_harness.outcome(watch) for watch in watches} == {Outcome.COMPLETED}
    for watch in watches:
        [data] = batch_harness.event_data(watch)
        assert str(data["url"]).endswith(f"/{watch.watch.task_id}.mp4")


async def test_without_the_lane_no_batch_is_sent(batch_harness: Harness) -> None:
    poller = batch_harness.poller()
    await batch_harness.register(batch_harness.sandbox.create_task(RECORDED), poller)
    await batch_harness.until(lambda: poller.owned == 0)
    assert batch_harness.sandbox.batches.requests == 0


async def test_tasks_that_run_are_read_in_batches_only_and_one_of_a_platform_singly_once(bench: Bench) -> None:
    ids = [f"task_{number}" for number in range(20)]
    await bench.register(*ids)
    await bench.batched(*ids)
    polls = bench.amux.polls.copy()
    await bench.batched(*ids, more=5)
    assert bench.amux.polls == polls
    assert max(bench.amux.polls.values()) == 1
    task = bench.task("task_3")
    await bench.harness.until(lambda: task.polls >= 7)  # amux counts a batch before its answer arrives here
    live_task = bench.poller.live(task.row)
    assert live_task is not None
    assert live_task.facts.model == "model-50"


async def test_a_new_task_s_first_read_is_a_batch_where_the_lane_is_open(bench: Bench) -> None:
    await bench.register("task_1", "task_2")
    await bench.batched("task_1", "task_2")
    await bench.register("task_3")
    await bench.batched("task_3")
    assert bench.amux.polls["task_3"] == 0


async def test_each_key_has_a_lane_of_its_own_and_asks_for_its_own_tasks(bench: Bench) -> None:
    await bench.register("task_1", "task_2")
    await bench.register("task_3", "task_4", api_key="sk-the-apps-own-key")
    await bench.batched("task_1", "task_2", "task_3", "task_4")
    own = {
        key: {each for ids, by in zip(bench.amux.batches, bench.amux.keys, strict=True) if by == key for each in ids}
        for key in bench.amux.keys
    }
    assert own == {"sk-configured-key": {"task_1", "task_2"}, "sk-the-apps-own-key": {"task_3", "task_4"}}


async def test_status_events_and_the_progress_come_from_batches_too(bench: Bench) -> None:
    bench.amux.batch = lambda ids: rows(*(row(each, "QUEUED") for each in ids))
    bench.amux.singles = {each: single(each, "QUEUED") for each in ("task_1", "task_2")}
    await bench.register("task_1", "task_2", events=STATUS_EVENTS)
    await bench.batched("task_1", "task_2")
    bench.amux.batch = lambda ids: rows(*(row(each, progress="60%") for each in ids))
    await bench.batched("task_1", "task_2")
    watch = bench.watches["task_1"]
    live_task = bench.poller.live(watch.view.task.row)
    assert live_task is not None
    assert live_task.snapshot.progress == 60
    assert live_task.next_poll_at == pytest.approx(bench.harness.store.now(), abs=1)
    bench.amux.batch = lambda ids: rows(*(row(each, "SUCCESS", result_url=VIDEO) for each in ids))
    await bench.end()
    assert bench.harness.event_types(watch) == ["video.queued", "video.in_progress", "video.completed"]


async def test_a_cancelled_watch_s_task_leaves_the_lane(bench: Bench) -> None:
    await bench.register("task_1", "task_2")
    await bench.batched("task_1", "task_2")
    await bench.harness.store.cancel(bench.watches["task_1"].watch.id, None)
    bench.poller.check_closed(bench.watches["task_1"].view.task.row)
    await bench.harness.until(lambda: bench.poller.owned == 1)
    asked = bench.amux.asked("task_1")
    await bench.batched("task_2", more=4)
    assert bench.amux.asked("task_1") <= asked + 1


async def test_a_watch_that_is_cancelled_during_a_batch_that_fails_costs_no_read_more(bench: Bench) -> None:
    slow = PollPolicy(first_delay=0.01, interval=0.02, max_interval=600.0)
    bench.poller = bench.harness.poller(slow, client=bench.poller._client, batch=BATCH)
    await bench.register("task_1", "task_2")
    await bench.batched("task_1", "task_2")
    bench.amux.gate.clear()
    sent, polls = len(bench.amux.batches), bench.amux.polls["task_1"]
    await bench.harness.until(lambda: len(bench.amux.batches) > sent)
    watch = bench.watches["task_1"]
    await bench.harness.store.cancel(watch.watch.id, None)
    bench.poller.check_closed(watch.view.task.row)
    bench.amux.batch = lambda _ids: (503, {})
    bench.amux.gate.set()
    await bench.harness.until(lambda: bench.poller.owned == 1)
    assert bench.amux.polls["task_1"] == polls


async def test_a_poller_whose_lease_is_lost_forgets_its_lanes(bench: Bench) -> None:
    await bench.register("task_1", "task_2")
    await bench.batched("task_1", "task_2")
    bench.amux.gate.clear()
    sent = len(bench.amux.batches)
    await bench.harness.until(lambda: len(bench.amux.batches) > sent)
    bench.poller.forget_all()
    bench.amux.batch = lambda ids: rows(*(row(each, "SUCCESS") for each in ids))
    bench.amux.gate.set()
    await bench.register("task_3", "task_4")
    await bench.harness.until(lambda: bench.poller.owned == 0)
    assert (await bench.outcomes())["task_1"] is None


# --- deadlines --------------------------------------------------------------------------------------------------------


async def test_a_watch_in_the_batch_lane_gets_a_single_last_poll_before_it_times_out(bench: Bench) -> None:
    await bench.register("task_1", "task_2", lasts=0.4)
    await bench.batched("task_1", "task_2")
    await bench.harness.past_deadline()
    bench.amux.polls.clear()
    bench.amux.singles["task_2"] = single("task_2", "SUCCESS")
    await bench.past_deadlines()
    assert bench.amux.polls == {"task_1": 1, "task_2": 1}
    assert (await bench.outcomes()) == {"task_1": Outcome.TIMED_OUT, "task_2": Outcome.COMPLETED}


async def test_a_deadline_that_passes_during_a_batch_is_followed_by_a_single_last_poll(bench: Bench) -> None:
    await bench.register("task_1", "task_2", lasts=0.4)
    await bench.batched("task_1", "task_2")
    bench.amux.gate.clear()
    sent = len(bench.amux.batches)
    await bench.harness.until(lambda: len(bench.amux.batches) > sent)
    await bench.harness.past_deadline()
    bench.amux.polls.clear()
    await bench.poller.check_deadlines()
    bench.amux.gate.set()
    await bench.past_deadlines()
    assert bench.amux.polls == {"task_1": 1, "task_2": 1}
    assert set((await bench.outcomes()).values()) == {Outcome.TIMED_OUT}


# --- limits -----------------------------------------------------------------------------------------------------------


async def test_the_rate_limit_counts_both_lanes_and_neither_starves(
    batch_harness: Harness, served: tuple[BatchAmux, AmuxClient]
) -> None:
    amux, client = served
    rate = 40
    poller = batch_harness.poller(QUICK, rate=rate, client=client, batch=BATCH)
    amux.batch = lambda ids: rows(*(row(each, platform="54" if "live" in each else "50") for each in ids))
    ids = [f"task_{kind}_{number}" for kind in ("live", "recorded") for number in range(20)]
    amux.singles = {each: live("processing") for each in ids if "live" in each}
    for each in ids:
        await batch_harness.register(each, poller)
    await batch_harness.until(lambda: len(amux.requests) >= 4 * rate)
    times = [at for at, _ in amux.requests]
    assert all(later - earlier > 0.9 for earlier, later in zip(times, times[rate + 2 :], strict=False))
    lanes = [lane for _, lane in amux.requests[-2 * rate :]]
    assert min(lanes.count("single"), lanes.count("batch")) > rate / 2


async def test_no_more_batches_than_allowed_are_under_way(
    batch_harness: Harness, served: tuple[BatchAmux, AmuxClient]
) -> None:
    amux, client = served
    poller = batch_harness.poller(QUICK, client=client, batch=BatchPolicy(size=5, interval=0.02, concurrency=2))
    ids = [f"task_{number}" for number in range(40)]
    for each in ids:
        await batch_harness.register(each, poller)
    await batch_harness.until(lambda: all(any(each in ids for ids in amux.batches) for each in ids[:20]))
    amux.gate.clear()
    sent = len(amux.batches)
    await batch_harness.until(lambda: len(amux.batches) >= sent + 1)
    await many_single_reads(batch_harness, amux)
    assert len(amux.batches) <= sent + 2
    amux.gate.set()
    await batch_harness.until(lambda: len(amux.batches) > sent + 10)
    assert max(map(len, amux.batches)) == 5


async def many_single_reads(batch_harness: Harness, amux: BatchAmux) -> None:
    """Wait until many more single reads have passed: the tasks of a lane whose batches hang are read singly."""
    enough = amux.polls.total() + 20
    await batch_harness.until(lambda: amux.polls.total() >= enough)


async def test_many_keys_with_few_tasks_each_do_not_wait_for_one_another(bench: Bench) -> None:
    """Two batches hang, and no more may be under way. The other lanes are small and late, so single reads take over."""
    keys = [f"sk-key-of-app-{'x' * number}" for number in range(8)]
    for number, key in enumerate(keys):
        await bench.register(f"task_{number}", api_key=key)
    await bench.batched(*bench.watches)
    bench.amux.gate.clear()
    await bench.polled(*list(bench.watches)[:2], more=0)
    before = bench.amux.polls.copy()
    await bench.harness.until(lambda: sum(bench.amux.polls[each] > before[each] for each in bench.watches) >= 6)


async def test_thousands_of_loaded_tasks_wait_in_their_lane_and_not_in_the_heap(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schedule, "RELEASED_AT_ONCE", 10)
    monkeypatch.setattr(lane_schedule, "RELEASED_AT_ONCE", 10)
    ids = [f"task_{number}" for number in range(60)]
    await bench.register(*ids, polled=False)
    policy = PollPolicy(first_delay=2.0, interval=2.0, max_interval=3.0)
    poller = bench.harness.poller(policy, client=bench.poller._client, batch=BATCH)
    await poller.load()
    assert (await poller.stats(0)).late == 0
    await bench.batched(*ids)
    assert bench.amux.polls.total() <= 20  # reads that test the platform, and reads during the first batch


async def test_thousands_of_loaded_tasks_are_read_singly_where_there_is_no_route(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schedule, "RELEASED_AT_ONCE", 10)
    monkeypatch.setattr(lane_schedule, "RELEASED_AT_ONCE", 10)
    bench.amux.batch = lambda _ids: (404, {})
    ids = [f"task_{number}" for number in range(60)]
    await bench.register(*ids, polled=False)
    await bench.poller.load()
    await bench.polled(*ids)
    assert len(bench.amux.batches) == 1

"""Answers to batches that are the same as the last ones: nothing is read from them, and no change is missed."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from bridge.amux import batch_wire
from bridge.core.batch_lane import PROBE_TASKS, BatchObservation, BatchUnchanged, Reading
from bridge.core.model import TERMINAL_EVENTS, EventType, Outcome
from tests.polling.batch_amux import Bench, row, rows
from tests.store.builders import register

OTHER_CALLBACK = "http://receiver.example/other"
IDS = ("task_1", "task_2", "task_3")
REFUSED = 401, {"error": {"code": "invalid_token", "message": "no", "type": "new_api_error"}}
STATUS_EVENTS = TERMINAL_EVENTS | {EventType.QUEUED, EventType.IN_PROGRESS}


@pytest.fixture
def answers(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> list[BatchObservation]:
    """The observations of all batches of `bench`."""
    found: list[BatchObservation] = []
    read_many = bench.poller._client.read_many

    async def noted(task_ids: Sequence[str], key: str, digest: int | None = None) -> BatchObservation:
        found.append(await read_many(task_ids, key, digest))
        return found[-1]

    monkeypatch.setattr(bench.poller._client, "read_many", noted)
    return found


async def unchanged(bench: Bench, answers: list[BatchObservation], more: int = 2) -> None:
    """Wait until `more` further answers in a row were the same as the ones before."""
    count = len(answers) + more
    await bench.harness.until(
        lambda: len(answers) >= count and all(isinstance(each, BatchUnchanged) for each in answers[-more:])
    )


async def unchanged_answer_under_way(bench: Bench, answers: list[BatchObservation]) -> None:
    """Register three tasks, and hold back amux's answer about them, which is the same as the last one."""
    await bench.register(*IDS)
    await unchanged(bench, answers)
    bench.amux.gate.clear()
    asked = len(bench.amux.batches)
    await bench.harness.until(lambda: len(bench.amux.batches) > asked)


async def test_tasks_whose_answers_stay_the_same_are_read_on_until_they_end(
    bench: Bench, answers: list[BatchObservation]
) -> None:
    await bench.register(*IDS)
    await unchanged(bench, answers)
    task = bench.task("task_2")
    polls, started = task.polls, task.started
    await unchanged(bench, answers, more=3)
    assert task.polls >= polls + 3
    assert task.started is not None
    assert task.started == task.seen_running != started
    bench.amux.batch = lambda ids: rows(*(row(each, progress="60%") for each in ids))
    await bench.harness.until(lambda: task.snapshot.progress == 60)
    await unchanged(bench, answers)
    bench.amux.batch = lambda ids: rows(*(row(each, "SUCCESS" if each == "task_2" else "IN_PROGRESS") for each in ids))
    await bench.harness.until(lambda: bench.poller.owned == 2)
    assert await bench.outcomes() == {"task_1": None, "task_2": Outcome.COMPLETED, "task_3": None}
    await unchanged(bench, answers)
    bench.amux.batch = lambda ids: rows(*(row(each, "FAILURE") for each in ids))
    await bench.end()


async def test_a_watch_that_came_during_an_unchanged_answer_gets_its_status_event(
    bench: Bench, answers: list[BatchObservation]
) -> None:
    await unchanged_answer_under_way(bench, answers)
    new = bench.harness.new_watch("task_1", events=STATUS_EVENTS)
    watch = await register(bench.harness.store, replace(new, watch=replace(new.watch, callback_url=OTHER_CALLBACK)))
    assert watch.task is not None
    bench.poller.add(watch.task)
    bench.amux.gate.set()
    await bench.harness.until(lambda: "video.in_progress" in bench.harness.event_types(watch))


async def test_a_task_that_was_dropped_during_an_unchanged_answer_is_read_no_more(
    bench: Bench, answers: list[BatchObservation]
) -> None:
    await unchanged_answer_under_way(bench, answers)
    bench.poller.drop(bench.task("task_3").row)
    bench.amux.gate.set()
    await bench.batched("task_1", "task_2", more=3)
    assert sorted(bench.amux.batches[-1]) == ["task_1", "task_2"]
    await unchanged(bench, answers)


async def test_a_task_whose_watch_is_cancelled_during_an_unchanged_answer_is_checked(
    bench: Bench, answers: list[BatchObservation]
) -> None:
    await unchanged_answer_under_way(bench, answers)
    await bench.harness.store.cancel(bench.watches["task_1"].watch.id, None)
    bench.poller.check_closed(bench.watches["task_1"].view.task.row)
    bench.amux.gate.set()
    await bench.harness.until(lambda: bench.poller.owned == 2)
    await unchanged(bench, answers)


async def test_a_platform_that_turns_out_to_be_live_ends_its_batches(
    bench: Bench, answers: list[BatchObservation]
) -> None:
    await unchanged_answer_under_way(bench, answers)
    lane = bench.task("task_1").credential.lane
    assert lane is not None
    lane.platforms = lane.platforms.with_live("50")
    bench.amux.gate.set()
    await bench.polled(*IDS)


async def test_a_misrouted_task_does_not_have_the_answers_about_other_tasks_read(
    bench: Bench, answers: list[BatchObservation]
) -> None:
    await bench.register(*IDS)
    await unchanged(bench, answers)
    bench.amux.singles["task_9"] = 404, {"detail": "Not Found"}
    await bench.register("task_9")
    bench.task("task_9").reading = Reading.LIVE
    await bench.harness.until(lambda: bool(bench.poller.degraded()))
    await unchanged(bench, answers, more=3)
    assert bench.poller.degraded()
    bench.poller.drop(bench.task("task_9").row)
    await bench.harness.until(lambda: not bench.poller.degraded())
    await unchanged(bench, answers)


async def test_an_unexpected_error_while_an_answer_is_read_again_stops_no_task(
    bench: Bench, answers: list[BatchObservation], monkeypatch: pytest.MonkeyPatch
) -> None:
    await bench.register(*IDS)
    await unchanged(bench, answers)
    with monkeypatch.context() as broken:
        broken.setattr(bench.poller._handler, "keep_unchanged", lambda _batch: False)
        broken.setattr(batch_wire, "_read_usual_rows", lambda *_: 1 / 0)
        await bench.polled(*IDS)
    await unchanged(bench, answers)


async def test_a_key_that_is_refused_during_an_unchanged_answer_is_tested_again(
    bench: Bench, answers: list[BatchObservation]
) -> None:
    await unchanged_answer_under_way(bench, answers)
    lane = bench.task("task_1").credential.lane
    assert lane is not None
    assert not lane.waiting
    await _refuse_the_key(bench)
    bench.amux.gate.set()
    await bench.harness.until(lambda: not lane.credential.blocked)
    await unchanged(bench, answers)


async def test_a_key_is_tested_again_if_the_task_that_was_refused_leaves(bench: Bench) -> None:
    await bench.register(*IDS)
    await bench.batched(*IDS)
    credential = bench.task("task_1").credential
    await _refuse_the_key(bench)
    await bench.harness.until(lambda: not credential.blocked)
    await bench.batched(*IDS)


async def test_a_key_that_is_refused_during_a_batch_that_is_too_large_is_tested_again(bench: Bench) -> None:
    ids = [f"task_{number}" for number in range(10, 11 + PROBE_TASKS)]
    await bench.register(*ids)
    await bench.batched(*ids)
    bench.amux.gate.clear()
    asked = len(bench.amux.batches)
    await bench.harness.until(lambda: any(len(each) > PROBE_TASKS for each in bench.amux.batches[asked:]))
    credential = bench.task("task_10").credential
    await _refuse_the_key(bench)
    bench.amux.batch = lambda ids: (413, b"too large") if len(ids) > PROBE_TASKS else rows(*map(row, ids))
    bench.amux.gate.set()
    await bench.harness.until(lambda: not credential.blocked)
    await bench.batched(*ids)


async def _refuse_the_key(bench: Bench) -> None:
    """Let a single read of another task find that the key is refused, and cancel its watch."""
    bench.amux.singles["task_9"] = REFUSED
    await bench.register("task_9")
    task = bench.task("task_9")
    task.reading = Reading.LIVE
    await bench.harness.until(lambda: task.credential.blocked)
    bench.poller.drop(task.row)


async def test_the_last_poll_of_a_task_that_finds_the_key_refused_stops_no_other_task(bench: Bench) -> None:
    await bench.register(*IDS)
    await bench.batched(*IDS)
    credential = bench.task("task_1").credential
    bench.amux.singles["task_9"] = REFUSED
    await bench.register("task_9", lasts=0.4)
    while bench.poller.owned > len(IDS):
        await bench.poller.check_deadlines()
        await bench.harness.store.overdue(None, 1)
    await bench.harness.until(lambda: not credential.blocked)
    await bench.batched(*IDS)

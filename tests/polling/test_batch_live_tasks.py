"""Live tasks where there is a batch lane: single reads end them. A batch can only confirm a live failure."""

import logging
from dataclasses import replace

import pytest

from bridge.core.model import TERMINAL_EVENTS, EventType, Outcome
from bridge.sandbox import Behaviour, Platform
from bridge.sandbox.behaviour import VendorAnswer
from tests.polling.batch_amux import BATCH, Bench, row, rows, single
from tests.polling.harness import QUICK, Harness
from tests.polling.scripted_amux import live

RECORDED = Behaviour(queue_seconds=0, run_seconds=0.3, platform=Platform.KLING)
DONE_RECORDED = replace(RECORDED, run_seconds=0)
STATUS_EVENTS = TERMINAL_EVENTS | {EventType.QUEUED, EventType.IN_PROGRESS}
VIDEO = "https://v.example/a.mp4"


# --- live tasks -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("platform", [Platform.GEMINI, Platform.VERTEX, Platform.DOUBAO])
async def test_live_tasks_end_by_single_reads_and_get_their_class_from_a_batch(
    batch_harness: Harness, platform: Platform
) -> None:
    poller = batch_harness.poller(QUICK, batch=BATCH)
    sandbox = batch_harness.sandbox
    task_id = sandbox.create_task(Behaviour(queue_seconds=0, run_seconds=3600, platform=platform), model="veo")
    other = sandbox.create_task(RECORDED)
    watch = await batch_harness.register(task_id, poller)
    await batch_harness.register(other, poller)
    await sandbox.polled(task_id, 5)
    live_task = poller.live(watch.view.task.row)
    assert live_task is not None
    assert live_task.facts.task_class == f"amux {platform.value} veo"
    assert sandbox.batches.read[task_id] <= 2
    sandbox.change(task_id, Behaviour(queue_seconds=0, run_seconds=0, platform=platform))
    await batch_harness.until(lambda: poller.owned == 0)
    assert await batch_harness.outcome(watch) is Outcome.COMPLETED
    assert sandbox.batches.read[task_id] <= 2


async def test_a_platform_that_answers_live_is_learned_and_its_tasks_stay_single(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "bridge.polling")
    ids = ["task_1", "task_2", "task_3"]
    bench.amux.batch = lambda asked: rows(*(row(each, platform="99") for each in asked))
    bench.amux.singles = dict.fromkeys(ids, live("processing"))
    await bench.register(*ids)
    await bench.polled(*ids, more=4)
    asked = {each: bench.amux.asked(each) for each in ids}
    await bench.polled(*ids, more=4)
    assert {each: bench.amux.asked(each) for each in ids} == asked
    assert [record.getMessage() for record in caplog.records].count("live_platform") == 1


async def test_a_failure_in_the_row_of_a_live_task_without_a_live_failure_ends_nothing(bench: Bench) -> None:
    bench.amux.batch = lambda asked: rows(*(row(each, "FAILURE", platform="54") for each in asked))
    bench.amux.singles = dict.fromkeys(("task_1", "task_2"), live("processing"))
    await bench.register("task_1", "task_2")
    await bench.polled("task_1", "task_2", more=4)
    assert set((await bench.outcomes()).values()) == {None}
    bench.amux.singles = dict.fromkeys(("task_1", "task_2"), live("succeeded", url=VIDEO))
    await bench.end()
    assert set((await bench.outcomes()).values()) == {Outcome.COMPLETED}


async def test_a_failure_on_a_platform_that_was_not_tested_is_asked_about_singly(bench: Bench) -> None:
    bench.amux.batch = lambda asked: rows(*(row(each, "FAILURE", platform="99") for each in asked))
    bench.amux.singles = dict.fromkeys(("task_1", "task_2"), single("task_1", "FAILURE"))
    bench.amux.singles["task_2"] = single("task_2", "FAILURE")
    await bench.register("task_1", "task_2")
    await bench.end()
    assert bench.amux.polls.total() >= 1
    assert set((await bench.outcomes()).values()) == {Outcome.FAILED}


async def test_amux_s_row_confirms_a_live_failure_while_single_reads_fail(bench: Bench) -> None:
    ids = ["task_1", "task_2"]
    bench.amux.batch = lambda asked: rows(*(row(each, platform="54") for each in asked))
    bench.amux.singles = dict.fromkeys(ids, live("processing"))
    await bench.register(*ids)
    await bench.polled(*ids)
    bench.amux.singles["task_1"] = live("failed", "vendor is busy")
    await bench.harness.until(lambda: bench.task("task_1").unconfirmed_failure is not None)
    bench.amux.singles["task_1"] = (502, {})
    await bench.batched("task_1", more=2)  # a row that still runs neither confirms nor clears the failure
    assert (await bench.outcomes())["task_1"] is None
    bench.amux.batch = lambda asked: rows(*(row(each, "FAILURE", platform="54") for each in asked))
    await bench.harness.until(lambda: bench.poller.owned == 1)
    assert (await bench.outcomes()) == {"task_1": Outcome.FAILED, "task_2": None}


async def test_a_soft_failure_of_a_live_task_does_not_end_it_although_amux_keeps_it_in_its_row(
    bench: Bench,
) -> None:
    """amux saves the reported failure in its row. The next single read comes before any read of that row."""
    ids = ["task_1", "task_2"]
    bench.amux.batch = lambda asked: rows(*(row(each, platform="54") for each in asked))
    bench.amux.singles = dict.fromkeys(ids, live("processing"))
    await bench.register(*ids)
    await bench.polled(*ids)
    bench.amux.batch = lambda asked: rows(*(row(each, "FAILURE", platform="54") for each in asked))
    bench.amux.singles["task_1"] = live("failed", "vendor is busy")
    await bench.harness.until(lambda: bench.task("task_1").unconfirmed_failure is not None)
    bench.amux.singles["task_1"] = live("succeeded", url=VIDEO)
    await bench.harness.until(lambda: bench.poller.owned == 1)
    assert (await bench.outcomes())["task_1"] is Outcome.COMPLETED


async def test_a_vendor_s_soft_failure_on_the_stand_in_ends_no_watch_that_completes(batch_harness: Harness) -> None:
    poller = batch_harness.poller(QUICK, batch=BATCH)
    answers = (VendorAnswer.GOOD, VendorAnswer.SOFT_FAILURE, VendorAnswer.GOOD, VendorAnswer.SOFT_FAILURE)
    behaviour = Behaviour(queue_seconds=0, run_seconds=0.4, platform=Platform.DOUBAO, vendor_answers=answers)
    watches = [await batch_harness.register(batch_harness.sandbox.create_task(behaviour), poller) for _ in range(4)]
    await batch_harness.until(lambda: poller.owned == 0)
    assert {await batch_harness.outcome(watch) for watch in watches} == {Outcome.COMPLETED}

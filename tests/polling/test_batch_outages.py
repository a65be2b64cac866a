"""Servers without the batch route, outages of the route, and answers that lack tasks or are false."""

import logging
import random
from dataclasses import replace
from math import inf
from typing import Any

import pytest

from bridge.amux.client import AmuxClient
from bridge.core import batch_lane
from bridge.core.batch_lane import BatchPolicy, Reading
from bridge.core.model import TERMINAL_EVENTS, EventType, Outcome
from bridge.sandbox import Behaviour, Fault, FaultKind, Platform
from tests.polling.batch_amux import BATCH, BatchAmux, Bench, row, rows, single
from tests.polling.harness import QUICK, Harness
from tests.polling.scripted_amux import Answer, live, nested

RECORDED = Behaviour(queue_seconds=0, run_seconds=0.3, platform=Platform.KLING)
DONE_RECORDED = replace(RECORDED, run_seconds=0)
STATUS_EVENTS = TERMINAL_EVENTS | {EventType.QUEUED, EventType.IN_PROGRESS}
VIDEO = "https://v.example/a.mp4"


# --- servers without the route ----------------------------------------------------------------------------------------

NO_ROUTE: list[Answer] = [
    (404, {"error": {"message": "Invalid URL (POST /suno/fetch)", "type": "invalid_request_error"}}),
    (405, {}),
    (200, b"<!doctype html>"),
    (400, {"code": "invalid_request", "message": "no", "data": None}),
    nested(401, "Invalid token", "new_api_error"),
    nested(403, "no access to this group", "new_api_error"),
    (200, {"code": "success", "data": None}),
    rows(),
    rows(row("task_of_someone_else", "SUCCESS")),
]


@pytest.mark.parametrize("answer", NO_ROUTE, ids=str)
async def test_where_there_is_no_route_tasks_are_read_singly_at_once_and_no_key_is_paused(
    bench: Bench, caplog: pytest.LogCaptureFixture, answer: Answer
) -> None:
    caplog.set_level(logging.INFO, "bridge.polling")
    bench.amux.batch = lambda _ids: answer
    ids = [f"task_{number}" for number in range(5)]
    await bench.register(*ids)
    await bench.polled(*ids, more=3)
    assert len(bench.amux.batches) == 1
    assert {status.state.value for status in bench.poller.credentials()} == {"good"}
    assert {bench.task(each).reading for each in ids} == {Reading.BATCH}  # no task has changed its lane
    assert not bench.poller.degraded()
    bench.amux.singles = {each: single(each, "SUCCESS") for each in ids}
    await bench.end()
    assert set((await bench.outcomes()).values()) == {Outcome.COMPLETED}
    assert [record.getMessage() for record in caplog.records if "batch" in record.getMessage()] == [
        "batches_unsupported"
    ]


async def test_a_refused_key_is_paused_by_single_reads_and_its_batches_stop_too(bench: Bench) -> None:
    ids = ["task_1", "task_2", "task_3"]
    await bench.register(*ids)
    await bench.batched(*ids)
    refused = nested(401, "Invalid token", "new_api_error")
    bench.amux.batch = lambda _ids: refused
    bench.amux.singles = dict.fromkeys(ids, refused)
    await bench.harness.until(lambda: bool(bench.poller.degraded()))
    sent = len(bench.amux.batches)
    bench.amux.singles = {each: single(each, "SUCCESS") for each in ids}
    await bench.end()
    assert set((await bench.outcomes()).values()) == {Outcome.COMPLETED}
    assert len(bench.amux.batches) <= sent


async def test_without_a_key_the_tasks_of_a_lane_wait_for_a_start_with_one(
    batch_harness: Harness, served: tuple[BatchAmux, AmuxClient]
) -> None:
    amux, client = served
    batch_harness.key = None
    bench = Bench(batch_harness, amux, batch_harness.poller(QUICK, client=client, batch=BATCH))
    await bench.register("task_1", "task_2")
    await batch_harness.until(lambda: bool(bench.poller.degraded()))
    await bench.poller.drain(5)
    assert amux.keys == []
    batch_harness.key = "sk-new"
    bench.poller = batch_harness.poller(QUICK, client=client, batch=BATCH)
    await bench.poller.load()
    await bench.batched("task_1", "task_2")
    assert set(amux.keys) == {"sk-new"}


# --- outages of the route ---------------------------------------------------------------------------------------------

BROKEN: list[Answer] = [
    (503, {"error": {"message": "overloaded", "type": "new_api_error", "code": "system_cpu_overloaded"}}),
    (429, {}),
    (500, {"code": "get_tasks_failed", "message": "database is locked", "data": None}),
    (502, b"<html>bad gateway"),
    (200, {"code": "success", "data": {"task_1": row("task_1", "SUCCESS")}}),
    (200, {"code": "success"}),
    (200, [row("task_1", "FAILURE")]),
    rows(row("task_1", "SUCCESS"), row("task_1", "FAILURE"), row("task_2", ""), {"task_id": "task_3"}),
]


@pytest.mark.parametrize("answer", BROKEN, ids=str)
async def test_while_the_route_fails_tasks_are_read_singly_and_it_is_logged_once_each_way(
    bench: Bench, caplog: pytest.LogCaptureFixture, answer: Answer
) -> None:
    caplog.set_level(logging.INFO, "bridge.polling")
    ids = ["task_1", "task_2", "task_3"]
    await bench.register(*ids)
    await bench.batched(*ids)
    bench.amux.batch = lambda _ids: answer
    await bench.polled(*ids, more=3)
    assert set((await bench.outcomes()).values()) == {None}
    bench.amux.batch = lambda ids: rows(*map(row, ids))
    log = bench.poller._lanes._log  # type: ignore[union-attr]
    log._calm_seconds = inf
    await bench.batched(*ids)
    bench.amux.batch = lambda _ids: answer  # the route fails again soon, which is the same outage
    await bench.polled(*ids, more=3)
    bench.amux.batch = lambda ids: rows(*map(row, ids))
    await bench.batched(*ids, more=3)
    log._calm_seconds = 0.0
    await bench.harness.until(lambda: "batches_resumed" in caplog.messages)
    lines = [line for line in caplog.messages if line.startswith("batches")]
    assert lines == ["batches_begun", "batches_failing", "batches_resumed"]
    assert {bench.task(each).reading for each in ids} == {Reading.BATCH}


async def test_a_batch_that_fails_inside_the_bridge_costs_no_task(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(bench.poller._client, "read_many", fail)
    bench.amux.singles = {"task_1": single("task_1", "SUCCESS"), "task_2": single("task_2", "SUCCESS")}
    await bench.register("task_1", "task_2")
    await bench.end()
    assert set((await bench.outcomes()).values()) == {Outcome.COMPLETED}


async def test_an_answer_of_two_mebibytes_is_read(batch_harness: Harness) -> None:
    sandbox = batch_harness.sandbox
    sandbox.batch_fault = Fault(FaultKind.HUGE_BODY, times=None)
    poller = batch_harness.poller(QUICK, batch=BATCH)
    watches = [await batch_harness.register(sandbox.create_task(RECORDED), poller) for _ in range(4)]
    await batch_harness.until(lambda: poller.owned == 0)  # 2 MiB are read: the limit is 16 MiB
    assert {await batch_harness.outcome(watch) for watch in watches} == {Outcome.COMPLETED}


async def test_a_batch_of_one_task_whose_answer_is_too_long_is_read_singly(bench: Bench) -> None:
    pad = "x" * (17 << 20)
    bench.amux.batch = lambda ids: rows(*(row(each, pad=pad if each == "task_1" else "") for each in ids))
    await bench.register("task_1", "task_2")
    await bench.polled("task_1")
    await bench.batched("task_2")
    assert bench.task("task_1").reading is Reading.MISSING
    assert bench.task("task_2").reading is not Reading.MISSING


# --- absence ----------------------------------------------------------------------------------------------------------


async def test_a_task_that_an_answer_lacks_is_read_singly_from_then_on(bench: Bench) -> None:
    bench.amux.batch = lambda ids: rows(*(row(each) for each in ids if each != "task_2"))
    await bench.register("task_1", "task_2", "task_3")
    await bench.polled("task_2", more=4)
    asked = bench.amux.asked("task_2")
    await bench.batched("task_1", "task_3", more=5)
    assert bench.amux.asked("task_2") == asked == 1
    assert set((await bench.outcomes()).values()) == {None}
    bench.amux.singles["task_2"] = single("task_2", "SUCCESS")
    await bench.harness.until(lambda: bench.poller.owned == 2)
    assert (await bench.outcomes())["task_2"] is Outcome.COMPLETED


async def test_one_task_that_a_batch_of_its_own_lacks_closes_no_lane(bench: Bench) -> None:
    await bench.register("task_1")
    await bench.batched("task_1")
    bench.amux.batch = lambda _ids: rows()
    await bench.harness.until(lambda: bench.task("task_1").reading is Reading.MISSING)
    bench.amux.batch = lambda ids: rows(*map(row, ids))
    await bench.register("task_2")
    await bench.batched("task_2")
    assert (await bench.outcomes()) == {"task_1": None, "task_2": None}


async def test_a_platform_that_no_record_names_can_be_live(bench: Bench) -> None:
    ids = ["task_1", "task_2", "task_3"]
    bench.amux.batch = lambda asked: rows(*(row(each, platform="") for each in asked))
    bench.amux.singles = dict.fromkeys(ids, live("processing"))
    await bench.register(*ids)
    await bench.harness.until(lambda: all(bench.task(each).reading is Reading.LIVE for each in ids))
    bench.amux.batch = lambda asked: rows(*(row(each, "FAILURE", platform="") for each in asked))
    bench.amux.singles = dict.fromkeys(ids, live("succeeded", url=VIDEO))
    await bench.end()
    assert set((await bench.outcomes()).values()) == {Outcome.COMPLETED}


async def test_a_proxy_that_refuses_large_requests_gets_smaller_batches(bench: Bench) -> None:
    ids = [f"task_{number:02d}" for number in range(60)]
    bench.amux.batch = lambda asked: (413, b"<html>") if len(asked) > 30 else rows(*map(row, asked))
    await bench.register(*ids)
    await bench.batched(*ids, more=4)
    lane = bench.poller._credentials._configured.lane
    assert lane is not None
    assert lane.health.is_open
    assert lane.health.size <= 30
    assert sum(len(asked) > 30 for asked in bench.amux.batches) <= 2


async def test_a_route_that_appears_later_is_used_and_one_that_disappears_is_not(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_lane, "NO_ROUTE_SECONDS", 0.05)
    ids = ["task_1", "task_2", "task_3"]
    bench.amux.batch = lambda _ids: (404, {})
    await bench.register(*ids)
    await bench.polled(*ids)
    for _ in range(2):
        bench.amux.batch = lambda asked: rows(*map(row, asked))
        await bench.batched(*ids, more=3)
        bench.amux.batch = lambda _ids: (404, {})
        await bench.polled(*ids, more=3)
    bench.amux.singles = {each: single(each, "SUCCESS") for each in ids}
    await bench.end()
    assert set((await bench.outcomes()).values()) == {Outcome.COMPLETED}


async def test_only_single_answers_count_towards_not_found(bench: Bench) -> None:
    bench.amux.batch = lambda ids: rows(*(row(each) for each in ids if each != "task_2"))
    unknown: Answer = (400, {"code": "task_not_exist", "message": "task_not_exist", "data": None})
    bench.amux.singles["task_2"] = unknown
    await bench.register("task_1", "task_2", "task_3", age=61, polled=False)
    await bench.poller.load()
    await bench.harness.until(lambda: bench.poller.owned == 2)
    assert (await bench.outcomes()) == {"task_1": None, "task_2": Outcome.UNAVAILABLE, "task_3": None}
    assert bench.amux.polls["task_2"] == 3


# --- hostile answers --------------------------------------------------------------------------------------------------


async def test_no_answer_of_a_hostile_route_makes_a_wrong_event_or_leaves_a_watch_stuck(
    batch_harness: Harness, served: tuple[BatchAmux, AmuxClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hostile answers report ends of tasks that still run, or are malformed. Later both routes tell the truth."""
    monkeypatch.setattr(batch_lane, "NO_ROUTE_SECONDS", 0.01)
    monkeypatch.setattr(batch_lane, "LONGEST_NO_ROUTE_SECONDS", 0.02)
    amux, client = served
    draw = random.Random(20261128)
    poller = batch_harness.poller(QUICK, client=client, batch=BatchPolicy(interval=0.01, size=8))
    ids = [f"task_{number}" for number in range(24)]

    def lie(asked: list[str]) -> Answer:
        truth = [row(each, platform=draw.choice(["50", "54", "24", "17", ""])) for each in asked]
        lies: list[Any] = [
            row(f"{draw.choice(asked)}x", "SUCCESS"),
            {"id": draw.choice(asked), "status": "FAILURE"},
            {"task_id": draw.choice(asked), "data": {"status": "SUCCESS"}},
            row(draw.choice(asked), "SUCCESS") | {"status": None},
            row(draw.choice(asked), draw.choice(["unknown", "WAITING", "MODIFYING"])),
            {"status": "failed", "task_id": draw.choice(asked), "url": ""},
            None,
            [row(draw.choice(asked), "SUCCESS")],
        ]
        mixed = draw.sample(truth, draw.randint(0, len(truth))) + draw.sample(lies, draw.randint(0, len(lies)))
        draw.shuffle(mixed)
        return draw.choice(
            [
                rows(*mixed),
                rows(*mixed, *mixed),
                rows(*mixed, code="error"),
                (200, {"data": mixed[:1], "message": "partial"}),
                (200, {"data": {each["task_id"]: each for each in truth}}),
                (draw.choice([200, 404, 429, 503]), b"<html>"),
                (draw.choice([400, 401, 403, 500]), {"code": "x", "message": "y", "data": None}),
            ]
        )

    amux.batch = lambda asked: lie(list(asked))
    watches = {each: await batch_harness.register(each, poller, age=61) for each in ids}
    await batch_harness.until(lambda: len(amux.batches) > 100 or min(amux.polls[each] for each in ids) > 3)
    assert not batch_harness.deliveries
    failed = set(ids[::3])
    amux.singles = {each: single(each, "FAILURE" if each in failed else "SUCCESS") for each in ids}
    amux.batch = lambda asked: rows(*(row(each, "FAILURE" if each in failed else "SUCCESS") for each in asked))
    await batch_harness.until(lambda: poller.owned == 0)
    found = {each: await batch_harness.outcome(watch) for each, watch in watches.items()}
    assert found == {each: Outcome.FAILED if each in failed else Outcome.COMPLETED for each in ids}

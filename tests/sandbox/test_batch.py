"""The batch route: the records of many tasks in one answer, and the answer of a deployment without this route."""

import asyncio
from dataclasses import replace
from typing import Any

import orjson
import pytest

from bridge.sandbox import BatchMode, Behaviour, Fault, FaultKind, GatewayFault, Platform, VendorAnswer
from tests.sandbox.harness import DONE, Amux

RECORDED = replace(DONE, platform=Platform.KLING)
LIVE = replace(DONE, platform=Platform.GEMINI)


async def fetch(amux: Amux, body: object, **options: Any) -> tuple[int, Any, Any]:
    """Posts to the batch route and returns the status, the headers and the body, parsed if it is JSON."""
    data = body if isinstance(body, bytes) else orjson.dumps(body)
    async with amux.client.post(f"{amux.url}/suno/fetch", data=data, **options) as answer:
        content = await answer.read()
        is_json = answer.content_type == "application/json" and content
        return answer.status, answer.headers, orjson.loads(content) if is_json else content


def ids_of(body: Any) -> list[str]:
    return [each["task_id"] for each in body["data"]]


async def test_it_answers_with_records_of_every_platform_and_asks_no_vendor(amux: Amux) -> None:
    recorded, live = amux.sandbox.create_task(RECORDED), amux.sandbox.create_task(LIVE)
    status, headers, body = await fetch(amux, {"ids": [live, recorded]})
    assert (status, body["code"], body["message"]) == (200, "success", "")
    assert "X-Oneapi-Request-Id" in headers
    assert ids_of(body) == [recorded, live]  # not in the order of the request
    assert [each["status"] for each in body["data"]] == ["NOT_START", "NOT_START"]
    assert [each["platform"] for each in body["data"]] == ["50", "24"]
    amux.clock.now += 17
    assert [each["status"] for each in (await fetch(amux, {"ids": [live, recorded]}))[2]["data"]] == ["SUCCESS"] * 2
    assert amux.sandbox.vendor_requests == {}


async def test_a_record_of_the_batch_route_is_that_of_a_single_read(amux: Amux) -> None:
    task_id = amux.sandbox.create_task(RECORDED)
    amux.clock.now += 15
    assert (await fetch(amux, {"ids": [task_id]}))[2]["data"] == [(await amux.polled_json(task_id))["data"]]


async def test_unknown_late_and_scripted_tasks_are_missing(amux: Amux) -> None:
    known = amux.sandbox.create_task(RECORDED)
    late = amux.sandbox.create_task(replace(RECORDED, late_seconds=1))
    scripted = amux.sandbox.create_task(DONE)
    asked = [scripted, "task_unknown", late, known, known, 7]
    assert ids_of((await fetch(amux, {"ids": asked}))[2]) == [known]
    amux.sandbox.batch = BatchMode.ALL
    amux.clock.now += 1
    body = (await fetch(amux, {"ids": asked}))[2]
    assert ids_of(body) == [known, late, scripted]
    assert body["data"][2]["status"] == "SUCCESS"


async def test_nothing_asked_is_an_empty_list_and_nothing_found_is_null(amux: Amux) -> None:
    for body in (b'{"ids": []}', b"{}", b'{"ids": null}'):
        assert (await fetch(amux, body))[2] == {"code": "success", "message": "", "data": []}
    assert (await fetch(amux, {"ids": ["task_unknown"]}))[2]["data"] is None


async def test_tasks_implied_by_their_ids_begin_in_a_batch(amux: Amux) -> None:
    ids = [f"sandbox50_0_1000_completed_{number}" for number in range(500)]
    assert ids_of((await fetch(amux, {"ids": ids}))[2]) == ids


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"ids": "task_1"}'])
async def test_a_bad_body_gets_amuxs_flat_error(amux: Amux, body: bytes) -> None:
    status, _, answer = await fetch(amux, body)
    assert (status, answer["code"], answer["data"]) == (400, "invalid_request", None)


async def test_a_bad_key_is_refused(amux: Amux) -> None:
    amux.sandbox.keys = frozenset({"another"})
    status, _, body = await fetch(amux, {"ids": ["task_1"]})
    assert (status, body["error"]["type"]) == (401, "new_api_error")


async def test_too_many_ids_are_a_500_with_a_body(amux: Amux) -> None:
    known = amux.sandbox.create_task(RECORDED)
    assert (await fetch(amux, {"ids": [known, *map(str, range(31_999))]}))[0] == 200
    status, _, body = await fetch(amux, {"ids": [known, *map(str, range(32_000))]})
    assert (status, body) == (500, {"code": "get_tasks_failed", "message": "too many SQL variables", "data": None})
    amux.sandbox.batch_max_ids = 2
    assert (await fetch(amux, {"ids": ["a", "b", "c"]}))[0] == 500


async def test_a_busy_machine_refuses_batches_only(amux: Amux) -> None:
    task_id = amux.sandbox.create_task(RECORDED)
    amux.sandbox.batch_fault = Fault(GatewayFault.CPU_OVERLOADED)
    status, _, body = await fetch(amux, {"ids": [task_id]})
    assert (status, body["error"]["code"], body["error"]["type"]) == (503, "system_cpu_overloaded", "new_api_error")
    assert (await amux.poll(task_id))[0] == 200
    amux.sandbox.batch_fault = None
    assert (await fetch(amux, {"ids": [task_id]}))[0] == 200


@pytest.mark.parametrize(
    ("mode", "status", "start"),
    [
        (BatchMode.NOT_FOUND, 404, b'{"error":{"message":"Invalid URL (POST /suno/fetch)"'),
        (BatchMode.HTML, 200, b"<!doctype html>"),
        (BatchMode.FILTERED, 200, b'{"code":"success","message":"","data":null}'),
    ],
)
async def test_a_deployment_may_not_have_the_route(amux: Amux, mode: BatchMode, status: int, start: bytes) -> None:
    amux.sandbox.batch = mode
    task_id = amux.sandbox.create_task(RECORDED)
    async with amux.client.post(f"{amux.url}/suno/fetch", json={"ids": [task_id]}) as answer:
        assert answer.status == status
        assert (await answer.read()).startswith(start)
    assert (await amux.poll(task_id))[0] == 200


async def test_an_outage_applies_to_batches_as_well(amux: Amux) -> None:
    task_id = amux.sandbox.create_task(RECORDED)
    amux.sandbox.outage = Fault(FaultKind.BAD_GATEWAY_HTML, times=None)
    assert (await fetch(amux, {"ids": [task_id]}))[0] == 502
    amux.sandbox.outage = Fault(FaultKind.WRONG_TASK, times=None)
    assert ids_of((await fetch(amux, {"ids": [task_id]}))[2]) == ["task_someone_elses"]


async def test_requests_and_ids_are_counted_and_can_be_waited_for(amux: Amux) -> None:
    task_id = amux.sandbox.create_task(RECORDED)
    waiting = asyncio.ensure_future(amux.sandbox.batches.read.reached(task_id, 2))
    await fetch(amux, {"ids": [task_id, "x"]})
    assert not waiting.done()
    await fetch(amux, {"ids": [task_id]})
    await waiting
    await fetch(amux, b"{")
    batches = amux.sandbox.batches
    assert (batches.requests, batches.ids) == (3, 3)
    assert batches.read == {task_id: 2}
    assert batches.statuses == {200: 2, 400: 1}
    assert [call.ids for call in batches.calls] == [(task_id, "x"), (task_id,), ()]
    assert {call.key for call in batches.calls} == {"sk-sandbox-key"}
    assert amux.sandbox.polls == {}


async def test_vendors_in_trouble_do_not_touch_the_batch_route(amux: Amux) -> None:
    amux.sandbox.vendor_outage = VendorAnswer.UNREACHABLE
    task_id = amux.sandbox.create_task(Behaviour(platform=Platform.VIDU))
    amux.clock.now += 100
    assert (await fetch(amux, {"ids": [task_id]}))[2]["data"][0]["status"] == "NOT_START"

"""The stand-in answers as amux does: each route and each fault. Tests set the time."""

import asyncio
import hashlib
from dataclasses import replace

import aiohttp
import orjson
import pytest

from bridge.sandbox import PRIVATE_MARK, Behaviour, Fault, FaultKind, Outcome, Sandbox
from tests.sandbox.harness import DONE, KEY, Amux

# --- creation -----------------------------------------------------------------------------------------------------


async def test_a_task_is_created_with_json_and_polled_to_its_end(amux: Amux) -> None:
    fields = {"model": "kling", "prompt": "a cat", "sandbox": {"queue_seconds": 1, "run_seconds": 2}}
    status, body = await amux.create(json=fields)
    assert (status, body["object"], body["model"], body["status"]) == (200, "video", "kling", "queued")
    assert body["id"] == body["task_id"]
    assert len(body["id"].removeprefix("task_")) == 32
    assert set((await amux.create(json={"sandbox": {"form": "A"}}))[1]) == {
        "task_id",
        "status",
    }  # as in amux's documentation
    statuses = []
    for now in (1000, 1001, 1002, 1003):
        amux.clock.now = now
        statuses.append((await amux.polled_json(body["id"]))["data"]["status"])
    assert statuses == ["NOT_START", "IN_PROGRESS", "IN_PROGRESS", "SUCCESS"]
    assert amux.sandbox.polls[body["id"]] == 4
    assert amux.sandbox.last_key[body["id"]] == "sk-sandbox-key"


async def test_a_task_is_created_with_a_form_and_a_file(amux: Amux) -> None:
    form = aiohttp.FormData()
    form.add_field("model", "sora-2")
    form.add_field("prompt", "a cat, 猫")
    form.add_field("sandbox[outcome]", "failed")
    form.add_field("sandbox[run_seconds]", "0.5")
    form.add_field("sandbox[faults][]", "panic")
    form.add_field("input_reference", b"\x89PNG\r\n--not a boundary\r\n" * 1000, filename="a.png")
    status, body = await amux.create("/v1/videos?tag=1", data=form)
    assert (status, body["model"]) == (200, "sora-2")
    assert (await amux.poll(body["id"]))[0] == 500
    amux.clock.now += 1.5
    record = (await amux.polled_json(body["id"]))["data"]
    assert (record["status"], record["properties"]["input"]) == ("FAILURE", f"{PRIVATE_MARK} a cat, 猫")
    [create] = amux.sandbox.creates
    assert (create.task_id, create.path, create.query, create.size) == (
        body["id"],
        "/v1/videos",
        "tag=1",
        len(create.body),
    )
    assert create.sha256 == hashlib.sha256(create.body).hexdigest()
    assert create.headers["Content-Type"].startswith("multipart/form-data")


async def test_a_task_is_created_with_a_form_that_holds_json(amux: Amux) -> None:
    with aiohttp.MultipartWriter("form-data") as form:
        form.append("hello").set_content_disposition("form-data", name="prompt")
        form.append_json({"form": "D"}).set_content_disposition("form-data", name="sandbox")
    _, body = await amux.create("/v1/videos", data=form)
    assert (await amux.polled_json(body["id"]))["object"] == "video"


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (b"{", "not JSON"),
        (b"[]", "JSON object"),
        (b'{"prompt": 5}', "prompt: should be a string"),
        (b'{"sandbox": {"outcome": "great"}}', "sandbox.outcome"),
    ],
)
async def test_a_bad_create_call_gets_amuxs_flat_error(amux: Amux, body: bytes, named: str) -> None:
    status, answer = await amux.create(data=body, headers={"Content-Type": "application/json"})
    assert (status, answer["code"], answer["data"]) == (400, "invalid_request", None)
    assert named in answer["message"]
    assert amux.sandbox.creates[0].task_id is None


async def test_a_create_call_with_a_fault_creates_the_task_nevertheless(amux: Amux) -> None:
    status, answer = await amux.create(json={"sandbox": {"create_fault": "server_error"}})
    assert (status, answer["code"]) == (500, "get_task_failed")
    task_id = amux.sandbox.creates[0].task_id
    assert task_id is not None
    assert (await amux.poll(task_id))[0] == 200


# --- polling ------------------------------------------------------------------------------------------------------


async def test_forms_alternate_from_poll_to_poll(amux: Amux) -> None:
    task_id = amux.sandbox.create_task(replace(DONE, form="ABCDEF"))
    bodies = [await amux.polled_json(task_id) for _ in range(7)]
    words = [body.get("status") for body in bodies]
    assert words == ["completed", None, None, "completed", "succeeded", None, "completed"]
    assert [bodies[turn]["data"]["status"] for turn in (1, 2)] == ["succeeded", "SUCCESS"]
    assert bodies[3]["object"] == "video"
    assert bodies[5]["data"] is None


async def test_the_openai_route_always_answers_in_form_d(amux: Amux) -> None:
    task_id = amux.sandbox.create_task(replace(DONE, form="C"))
    body = orjson.loads((await amux.get(f"/v1/videos/{task_id}"))[2])
    assert (body["object"], body["status"], body["id"]) == ("video", "completed", task_id)


async def test_every_answer_of_amux_has_another_request_id(amux: Amux) -> None:
    task_id = amux.sandbox.create_task(DONE)
    ids = [(await amux.get(path))[1]["X-Oneapi-Request-Id"] for path in (f"/v1/videos/{task_id}", "/x", "/v1/videos/x")]
    assert len(set(ids)) == 3


async def test_a_task_implied_by_its_id_begins_at_its_first_poll(amux: Amux) -> None:
    amux.clock.now += 5000
    assert (await amux.polled_json("sandbox_0_1000_completed_17"))["data"]["status"] == "IN_PROGRESS"
    amux.clock.now += 1
    assert (await amux.polled_json("sandbox_0_1000_completed_17"))["data"]["status"] == "SUCCESS"


async def test_unknown_and_late_tasks_are_not_found(amux: Amux) -> None:
    late = amux.sandbox.create_task(replace(DONE, late_seconds=2), "late.1")
    for task_id in ("task_unknown", late):
        status, _, body = await amux.poll(task_id)
        assert (status, orjson.loads(body)["code"]) == (400, "task_not_exist")
    amux.clock.now += 2
    assert (await amux.poll(late))[0] == 200


async def test_every_route_needs_a_key(amux: Amux) -> None:
    task_id = amux.sandbox.create_task(replace(DONE, faults=(Fault(FaultKind.PANIC),)))
    paths = (f"/v1/video/generations/{task_id}", f"/v1/videos/{task_id}", f"/v1/videos/{task_id}/content")
    for header in ("", "Bearer ", "Basic abc", "sk-sandbox-key"):
        for path in paths:
            status, _, body = await amux.get(path, headers={"Authorization": header})
            assert (status, orjson.loads(body)["error"]["type"]) == (401, "new_api_error")
    amux.sandbox.keys = frozenset({"another"})
    assert (await amux.poll(task_id))[0] == 401
    assert (await amux.create(json={}))[0] == 401
    amux.sandbox.keys = frozenset({"another", "sk-sandbox-key"})
    assert (await amux.poll(task_id))[0] == 500  # the fault is left: polls with a refused key do not use it up


async def test_polled_waits_for_the_number_of_polls(amux: Amux) -> None:
    task_id = amux.sandbox.create_task(DONE)
    first, third = (asyncio.ensure_future(amux.sandbox.polled(task_id, times)) for times in (1, 3))
    await asyncio.sleep(0)
    await amux.poll(task_id)
    await first
    await amux.poll(task_id)
    assert not third.done()
    await amux.poll(task_id)
    await third
    await amux.sandbox.polled(task_id, times=3)


async def test_change_starts_the_faults_again(amux: Amux) -> None:
    task_id = amux.sandbox.create_task(Behaviour(outcome=Outcome.NEVER))
    await amux.poll(task_id)
    amux.sandbox.change(task_id, replace(DONE, outcome=Outcome.FAILED, faults=(Fault(FaultKind.PANIC),)))
    assert (await amux.poll(task_id))[0] == 500
    assert (await amux.polled_json(task_id))["data"]["status"] == "FAILURE"
    with pytest.raises(KeyError):
        amux.sandbox.change("task_unknown", DONE)


async def test_an_outage_applies_to_every_poll(amux: Amux) -> None:
    amux.sandbox.outage = Fault(FaultKind.QUOTA)
    task_id = amux.sandbox.create_task(DONE)
    assert [(await amux.poll(each))[0] for each in (task_id, task_id, "unknown")] == [401, 401, 401]
    amux.sandbox.outage = None
    assert (await amux.poll(task_id))[0] == 200


async def test_the_server_can_be_stopped_and_started_again() -> None:
    sandbox = Sandbox()
    task_id = sandbox.create_task(DONE)
    for _ in range(2):
        url = await sandbox.start()
        async with aiohttp.request("GET", f"{url}/v1/videos/{task_id}", headers=KEY) as answer:
            assert answer.status == 200
        await sandbox.stop()
    await sandbox.stop()


async def test_a_port_in_use_is_an_os_error(amux: Amux) -> None:
    with pytest.raises(OSError, match="in use"):
        await Sandbox().start(port=int(amux.url.rpartition(":")[2]))


# --- content ------------------------------------------------------------------------------------------------------


async def test_content_is_a_whole_mp4_without_ranges(amux: Amux) -> None:
    task_id = amux.sandbox.create_task(DONE)
    for path in (f"/v1/videos/{task_id}/content", f"/files/{task_id}.mp4"):
        status, headers, body = await amux.get(path, headers={"Range": "bytes=0-1"})
        assert (status, headers["Content-Type"]) == (200, "video/mp4")
        assert (body[4:8], len(body) > 4096) == (b"ftyp", True)


async def test_content_of_an_unfinished_or_unknown_task_is_an_error(amux: Amux) -> None:
    running = amux.sandbox.create_task(Behaviour())
    status, _, body = await amux.get(f"/v1/videos/{running}/content")
    message = "Task is not completed yet, current status: NOT_START"
    assert (status, orjson.loads(body)) == (400, {"error": {"message": message, "type": "invalid_request_error"}})
    assert (await amux.get("/v1/videos/task_unknown/content"))[0] == 404
    assert (await amux.get("/files/task_unknown.mp4"))[0] == 404


async def test_content_may_have_a_fault(amux: Amux) -> None:
    task_id = amux.sandbox.create_task(replace(DONE, content_fault=Fault(FaultKind.BAD_GATEWAY_HTML)))
    for _ in range(2):
        assert (await amux.get(f"/v1/videos/{task_id}/content"))[0] == 502

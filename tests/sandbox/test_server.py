"""The stand-in answers as amux does: each route and each fault. Tests set the time."""

import asyncio
import gzip
import hashlib
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from typing import Any

import aiohttp
import orjson
import pytest

from bridge.sandbox import PRIVATE_MARK, Behaviour, Fault, FaultKind, Outcome, Sandbox

DONE = Behaviour(queue_seconds=0, run_seconds=0)
KEY = {"Authorization": "Bearer sk-sandbox-key"}


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Amux:
    """A running sandbox, and a client with its key."""

    sandbox: Sandbox
    clock: Clock
    client: aiohttp.ClientSession
    url: str

    async def get(self, path: str, **options: Any) -> tuple[int, Any, bytes]:
        async with self.client.get(self.url + path, allow_redirects=False, **options) as answer:
            return answer.status, answer.headers, await answer.read()

    async def poll(self, task_id: str) -> tuple[int, Any, bytes]:
        return await self.get(f"/v1/video/generations/{task_id}")

    async def polled_json(self, task_id: str) -> Any:
        return orjson.loads((await self.poll(task_id))[2])

    async def create(self, path: str = "/v1/video/generations", **options: Any) -> tuple[int, Any]:
        async with self.client.post(self.url + path, **options) as answer:
            return answer.status, await answer.json()


@pytest.fixture
async def amux() -> AsyncIterator[Amux]:
    clock = Clock()
    sandbox = Sandbox(clock=clock)
    url = await sandbox.start()
    async with aiohttp.ClientSession(headers=KEY, auto_decompress=False) as client:
        yield Amux(sandbox, clock, client, url)
    await sandbox.stop()


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
    assert (await amux.poll(task_id))[0] == 500  # polls with a refused key did not count for the fault


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


# --- faults -------------------------------------------------------------------------------------------------------

K = FaultKind
ERRORS: list[tuple[FaultKind, int, Callable[[Any], object], object]] = [
    (K.NOT_FOUND_400, 400, lambda body: body, {"code": "task_not_exist", "message": "task_not_exist", "data": None}),
    (K.NOT_FOUND_404, 404, lambda body: body["error"]["code"], "task_not_found"),
    (K.WRONG_BASE_404, 404, lambda body: body["error"]["type"], "invalid_request_error"),
    (K.UNAUTHORIZED, 401, lambda body: (body["error"]["type"], body["error"]["code"]), ("new_api_error", "")),
    (K.QUOTA, 401, lambda body: (body["error"]["type"], body["error"]["code"]), ("new_api_error", "")),
    (K.FORBIDDEN_KEY, 403, lambda body: (body["error"]["type"], body["error"]["code"]), ("new_api_error", "")),
    (K.FORBIDDEN_TASK, 403, lambda body: body["error"]["code"], "task_not_found"),
    (K.REJECTED, 400, lambda body: (body["code"], body["data"]), ("invalid_request", None)),
    (K.RATE_LIMITED, 429, lambda body: body["error"]["type"], "new_api_error"),
    (K.SERVER_ERROR, 500, set, {"code", "message", "data"}),
    (K.PANIC, 500, lambda body: body["error"]["type"], "new_api_panic"),
    (K.NOT_IMPLEMENTED, 501, lambda body: body["code"], "not_implemented"),
    (K.ECHO_KEY, 500, lambda body: "sk-sandbox-key" in body["message"], True),
    (K.DATA_NULL, 200, lambda body: body, {"code": "success", "data": None}),
]


async def poll_with(amux: Amux, fault: Fault) -> tuple[int, Any, bytes]:
    task_id = amux.sandbox.create_task(replace(DONE, faults=(fault,)), "task_faulty")
    answer = await amux.poll(task_id)
    assert (await amux.polled_json(task_id))["data"]["status"] == "SUCCESS"  # the next answer is good
    return answer


@pytest.mark.parametrize(("kind", "status", "part", "expected"), ERRORS)
async def test_each_error_has_amuxs_form(
    amux: Amux, kind: FaultKind, status: int, part: Callable[[Any], object], expected: object
) -> None:
    found, headers, body = await poll_with(amux, Fault(kind))
    assert (found, part(orjson.loads(body))) == (status, expected)
    assert headers["Content-Type"].startswith("application/json")
    assert "X-Oneapi-Request-Id" in headers


@pytest.mark.parametrize(
    ("fault", "status"),
    [
        (Fault(K.HTML_200), 200),
        (Fault(K.BAD_GATEWAY_HTML), 502),
        (Fault(K.BAD_GATEWAY_HTML, status=522), 522),
        (Fault(K.BAD_GATEWAY_HTML, status=404), 404),
    ],
)
async def test_pages_of_a_proxy_have_no_request_id(amux: Amux, fault: Fault, status: int) -> None:
    found, headers, body = await poll_with(amux, fault)
    assert (found, headers["Content-Type"][:9], body[:9]) == (status, "text/html", b"<!doctype")
    assert "X-Oneapi-Request-Id" not in headers


@pytest.mark.parametrize(
    ("fault", "retry_after"),
    [
        (Fault(K.RATE_LIMITED), None),
        (Fault(K.RATE_LIMITED, retry_after=2), "2"),
        (Fault(K.BAD_GATEWAY_HTML, status=503, retry_after=120), "120"),
    ],
)
async def test_retry_after_is_in_seconds(amux: Amux, fault: Fault, retry_after: str | None) -> None:
    assert (await poll_with(amux, fault))[1].get("Retry-After") == retry_after


async def test_retry_after_may_be_a_date_without_a_body(amux: Amux) -> None:
    _, headers, body = await poll_with(amux, Fault(K.RATE_LIMITED, retry_after=60, as_date=True, empty=True))
    assert headers["Retry-After"].endswith(" GMT")
    assert body == b""


async def test_a_redirect_points_to_an_unknown_path(amux: Amux) -> None:
    status, headers, _ = await poll_with(amux, Fault(K.REDIRECT, status=301))
    assert (status, headers["Location"]) == (301, f"{amux.url}/moved")
    assert (await amux.get("/moved"))[0] == 404
    assert amux.sandbox.unknown_paths == {"/moved": 1}


async def test_faults_whose_body_is_not_json(amux: Amux) -> None:
    assert (await poll_with(amux, Fault(K.EMPTY_BODY)))[2] == b""
    for kind in (K.TRUNCATED_JSON, K.DEEP_JSON):
        with pytest.raises((ValueError, RecursionError)):
            json.loads((await poll_with(amux, Fault(kind)))[2])


@pytest.mark.parametrize("kind", [K.BOM, K.NAN, K.HUGE_NUMBER, K.LONE_SURROGATE])
async def test_faults_whose_body_only_a_lenient_reader_accepts(amux: Amux, kind: FaultKind) -> None:
    _, _, body = await poll_with(amux, Fault(kind))
    if kind is not K.HUGE_NUMBER:  # orjson reads it, as infinity
        with pytest.raises(orjson.JSONDecodeError):
            orjson.loads(body)
    assert json.loads(body.decode("utf-8-sig"))["data"]["status"] == "SUCCESS"


async def test_faults_that_change_the_record(amux: Amux) -> None:
    _, headers, body = await poll_with(amux, Fault(K.WRONG_CONTENT_TYPE))
    assert headers["Content-Type"].startswith("text/plain")
    assert orjson.loads(body)["data"]["task_id"] == "task_faulty"
    assert orjson.loads((await poll_with(amux, Fault(K.WRONG_TASK)))[2])["data"]["task_id"] == "task_someone_elses"
    assert orjson.loads((await poll_with(amux, Fault(K.NUL_IN_STRINGS)))[2])["data"]["status"] == "S\0UCCESS"


async def test_faults_with_very_large_bodies(amux: Amux) -> None:
    huge = (await poll_with(amux, Fault(K.HUGE_BODY)))[2]
    assert len(huge) > 2 << 20
    assert orjson.loads(huge)["data"]["status"] == "SUCCESS"
    _, headers, bomb = await poll_with(amux, Fault(K.GZIP_BOMB))
    assert headers["Content-Encoding"] == "gzip"
    assert len(bomb) < 100_000
    assert len(gzip.decompress(bomb)) > 64 << 20


@pytest.mark.parametrize("kind", [K.RESET, K.CUT_BODY])
async def test_faults_that_reset_the_connection(amux: Amux, kind: FaultKind) -> None:
    with pytest.raises(aiohttp.ClientError):
        await poll_with(amux, Fault(kind, times=2))  # 2: aiohttp's client repeats the request by itself


async def test_an_endless_body_ends_when_its_reader_leaves(amux: Amux) -> None:
    task_id = amux.sandbox.create_task(replace(DONE, faults=(Fault(K.ENDLESS_BODY),)))
    async with amux.client.get(f"{amux.url}/v1/video/generations/{task_id}") as answer:
        await answer.content.readexactly(3 << 20)
        answer.close()


@pytest.mark.parametrize("kind", [K.SLOW, K.STALLED_BODY])
async def test_a_late_answer_is_complete_in_the_end(amux: Amux, kind: FaultKind) -> None:
    status, _, body = await poll_with(amux, Fault(kind, seconds=0.01))
    assert (status, orjson.loads(body)["data"]["status"]) == (200, "SUCCESS")


@pytest.mark.parametrize("kind", [K.SLOW, K.STALLED_BODY])
async def test_a_stop_ends_stalled_answers(amux: Amux, kind: FaultKind) -> None:
    task_id = amux.sandbox.create_task(replace(DONE, faults=(Fault(kind, seconds=3600),)))
    stalled = asyncio.ensure_future(amux.poll(task_id))
    await amux.sandbox.polled(task_id)
    await amux.sandbox.stop()
    await asyncio.wait_for(asyncio.gather(stalled, return_exceptions=True), 10)

"""Drop-in creation: create calls are passed to amux, and the created tasks are watched."""

import asyncio
import hashlib
import io
import json
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from bridge.core.errors import StoreUnavailable
from bridge.sandbox import Sandbox
from tests.waiting import SAFETY_SECONDS
from tests.web.drop_in_harness import CALLBACK, CREATE, DROP_IN, KEY, PATHS, create, watches
from tests.web.harness import OPERATOR, Bridge, running_bridge
from tests.web.upstream import upstream

# --- create calls ------------------------------------------------------------------------------------------------


async def test_drop_in_creation_is_off_by_default(tmp_path: Path, sandbox: Sandbox) -> None:
    async with running_bridge(tmp_path, amux_url=await sandbox.start()) as bridge:
        for path in PATHS:
            (await bridge.post(path, CREATE)).problem(404, "not_found")
            (await bridge.get(f"{path}/task_1")).problem(404, "not_found")
        (await bridge.get("/v1/videos/task_1/content")).problem(404, "not_found")
        for path in (*PATHS, "/v1/videos/", "/v1/videos/task_1", "/v1/videos/task_1/content"):
            answer = await bridge.get(path)
            assert answer.json["detail"].startswith("drop-in creation is off: set BRIDGE_DROP_IN=true"), path
            assert answer.json["error"]["message"] == answer.json["detail"]
        assert (await bridge.get("/v1/models")).json["detail"] == "no route has this path"
    assert not sandbox.creates


async def test_openai_sdks_see_the_bridges_errors(drop_in_bridge: Bridge) -> None:
    answer = await create(drop_in_bridge, X_Callback_Url="http://10.0.0.1/hook")
    answer.problem(422, "callback_refused")
    assert answer.json["error"] == {
        "message": "10.0.0.1 is private (10.0.0.0/8)",
        "type": "invalid_request_error",
        "code": "callback_refused",
        "param": None,
    }
    answer = await create(drop_in_bridge, X_Callback_Url="https://app.example/hook", X_Callback_Timeout="soon")
    assert answer.json["error"]["param"] == "X-Callback-Timeout"
    unknown = await drop_in_bridge.get("/v1/videos/task_1", headers={"Authorization": "Bearer wrong"})
    assert unknown.json["error"]["type"] == "authentication_error"
    assert "error" not in (await drop_in_bridge.get("/watch/wat_x")).json


async def test_the_openai_sdk_shows_the_sentence(drop_in_bridge: Bridge) -> None:
    from openai import AsyncOpenAI, UnprocessableEntityError

    base = f"http://127.0.0.1:{drop_in_bridge.port}/v1"
    headers = {"X-Callback-Url": "http://10.0.0.1/hook"}
    async with AsyncOpenAI(base_url=base, api_key="app-token", max_retries=0) as client:
        with pytest.raises(UnprocessableEntityError) as refused:
            await client.post("/videos", body={"prompt": "a fox"}, cast_to=object, options={"headers": headers})
    assert refused.value.body == {
        "message": "10.0.0.1 is private (10.0.0.0/8)",
        "type": "invalid_request_error",
        "code": "callback_refused",
        "param": None,
    }


@pytest.mark.parametrize("path", PATHS)
async def test_a_created_task_is_watched(drop_in_bridge: Bridge, sandbox: Sandbox, path: str) -> None:
    answer = await drop_in_bridge.post(
        path,
        CREATE,
        headers={
            **CALLBACK,
            "X-Callback-Context": '{"order": 7, "name": "Zoë"}',
            "X-Callback-Events": "video.completed, video.failed",
            "X-Callback-Timeout": "90",
            "Idempotency-Key": "order-7",
            "Cookie": "a=b",
            "X-Other": "x",
        },
    )
    assert answer.status == 200, answer
    task = answer.json.get("task_id") or answer.json["id"]
    watch = (await drop_in_bridge.get(f"/watch/{answer.headers['X-Watch-Id']}")).json
    assert (watch["task_id"], watch["app"], watch["callback_url"]) == (task, "shop", CALLBACK["X-Callback-Url"])
    assert watch["context"] == {"order": 7, "name": "Zoë"}
    assert watch["events"] == ["video.completed", "video.failed"]
    assert watch["task"]["model"] == CREATE["model"]
    assert [row.task_id for row, _ in drop_in_bridge.poller.added] == [task]
    [created] = sandbox.creates
    assert (created.path, created.query, created.body) == (path, "", json.dumps(CREATE).encode())
    assert created.headers["Authorization"] == f"Bearer {KEY}"
    assert created.headers["Idempotency-Key"] == "order-7"
    assert created.headers["Content-Type"] == "application/json"
    assert not {"X-Callback-Url", "Cookie", "X-Other", "X-Forwarded-For"} & set(created.headers)
    assert "app-token" not in str(created.headers)


async def test_a_call_without_a_callback_is_only_passed_on(drop_in_bridge: Bridge, sandbox: Sandbox) -> None:
    answer = await create(drop_in_bridge)
    assert answer.status == 200
    assert not {"X-Watch-Id", "X-Watch-Error"} & set(answer.headers)
    assert await watches(drop_in_bridge) == []
    assert len(sandbox.creates) == 1


async def test_a_form_of_any_size_is_streamed_unchanged(drop_in_bridge: Bridge, sandbox: Sandbox) -> None:
    image = b"pixels" * (1 << 19)
    form = aiohttp.FormData({"model": "sora-2", "prompt": "a fox"})
    form.add_field("input_reference", io.BytesIO(image), filename="fox.png", content_type="image/png")
    whole = b""
    for name, value in (("model", b"sora-2"), ("input_reference", image)):
        head = f'--edge\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n'
        whole += head.encode() + value + b"\r\n"
    whole += b"--edge--\r\n"
    kind = {"Content-Type": "multipart/form-data; boundary=edge"}

    async def pieces() -> AsyncIterator[bytes]:
        for first in range(0, len(whole), 100_000):
            yield whole[first : first + 100_000]

    for body in (form, io.BytesIO(whole), pieces()):
        headers = CALLBACK if isinstance(body, aiohttp.FormData) else {**CALLBACK, **kind}
        answer = await drop_in_bridge.ask("POST", "/v1/videos", data=body, headers=headers)
        assert answer.status == 200, answer
        assert answer.headers["X-Watch-Id"]
    _, sized, chunked = sandbox.creates
    for created in (sized, chunked):
        assert (created.size, created.sha256) == (len(whole), hashlib.sha256(whole).hexdigest())
    assert sized.headers["Content-Length"] == str(len(whole))
    assert chunked.headers["Transfer-Encoding"] == "chunked"


async def test_the_watch_uses_the_caller_s_own_key(drop_in_bridge: Bridge, sandbox: Sandbox) -> None:
    answer = await create(drop_in_bridge, **CALLBACK, X_Amux_Api_Key="sk-own")
    assert sandbox.creates[0].headers["Authorization"] == "Bearer sk-own"
    assert drop_in_bridge.poller.added[0][1] == "sk-own"
    assert await drop_in_bridge.store.api_key_of(answer.headers["X-Watch-Id"]) == "sk-own"
    assert "X-Amux-Api-Key" not in sandbox.creates[0].headers


async def test_a_bridge_without_a_key_requires_the_caller_s(tmp_path: Path, sandbox: Sandbox) -> None:
    async with running_bridge(tmp_path, amux_url=await sandbox.start(), drop_in=DROP_IN, api_key=None) as bridge:
        for headers in ({}, CALLBACK):
            problem = (await create(bridge, **headers)).problem(422, "no_api_key")
            assert [error["field"] for error in problem["errors"]] == ["X-Amux-Api-Key"]
        assert (await create(bridge, **CALLBACK, X_Amux_Api_Key="sk-own")).headers["X-Watch-Id"]
        (await bridge.get("/v1/videos/task_1")).problem(422, "no_api_key")


async def test_a_task_that_amux_returns_again_is_the_same_watch(tmp_path: Path) -> None:
    """amux returns a task again for an Idempotency-Key that it knows."""

    async def handler(_: web.Request) -> web.Response:
        return web.json_response({"task_id": "task_1"})

    async with upstream(handler) as amux, running_bridge(tmp_path, amux_url=amux.url, drop_in=DROP_IN) as bridge:
        first, again = await create(bridge, **CALLBACK), await create(bridge, **CALLBACK)
        assert first.headers["X-Watch-Id"] == again.headers["X-Watch-Id"]
        other = await create(bridge, **CALLBACK, X_Callback_Timeout="5")
        assert other.status == 200
        assert other.headers["X-Watch-Error"].startswith("watch_conflict: ")


# --- nothing is created that cannot be watched --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "field"),
    [
        ({"X-Callback-Url": "https://app.example/#part"}, "X-Callback-Url"),
        ({"X-Callback-Url": ""}, "X-Callback-Url"),
        ({"X-Callback-Context": "{}"}, "X-Callback-Url"),
        ({**CALLBACK, "X-Callback-Context": "[]"}, "X-Callback-Context"),
        ({**CALLBACK, "X-Callback-Context": "{"}, "X-Callback-Context"),
        ({**CALLBACK, "X-Callback-Context": '{"a": "' + "b" * 5000 + '"}'}, "X-Callback-Context"),
        ({**CALLBACK, "X-Callback-Events": "video.completed,video.lost"}, "X-Callback-Events.1"),
        ({**CALLBACK, "X-Callback-Events": ""}, "X-Callback-Events.0"),
        ({**CALLBACK, "X-Callback-Timeout": "0"}, "X-Callback-Timeout"),
        ({**CALLBACK, "X-Callback-Timeout": "soon"}, "X-Callback-Timeout"),
        ({**CALLBACK, "X-Callback-Timeout": "3601"}, "X-Callback-Timeout"),
        ({**CALLBACK, "X-Callback-Secret": "whsec_"}, "x-callback-secret"),
        ({**CALLBACK, "X-Amux-Api-Key": "a b"}, "X-Amux-Api-Key"),
        ({"X-Amux-Api-Key": "é"}, "X-Amux-Api-Key"),
        ({"Idempotency-Key": "é"}, "Idempotency-Key"),
    ],
)
async def test_bad_options_are_named_and_amux_is_not_asked(
    drop_in_bridge: Bridge, sandbox: Sandbox, headers: dict[str, str], field: str
) -> None:
    answer = await drop_in_bridge.post("/v1/videos", CREATE, headers=headers)
    assert answer.fields() == {field}
    assert not sandbox.creates


async def test_invalid_calls_are_refused_before_amux_is_asked(drop_in_bridge: Bridge, sandbox: Sandbox) -> None:
    refused = {"X-Callback-Url": "http://10.0.0.1/"}
    (await create(drop_in_bridge, **refused)).problem(422, "callback_refused")
    (await create(drop_in_bridge, **{"X-Callback-Url": "https://bad.example/"})).problem(422, "callback_refused")
    (await drop_in_bridge.post("/v1/videos", CREATE, headers={**CALLBACK, **OPERATOR})).problem(403, "forbidden")
    (await drop_in_bridge.post("/v1/videos", CREATE, headers={"Authorization": "Bearer x"})).problem(
        401, "unauthorized"
    )
    assert (await drop_in_bridge.post("/v1/videos?a=1", CREATE)).fields() == {"a"}
    for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
        answer = await drop_in_bridge.ask("POST", "/v1/videos", data=b"{}", headers={"Content-Type": kind})
        answer.problem(415, "unsupported_media_type")
    packed = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    (await drop_in_bridge.ask("POST", "/v1/videos", data=b"x", headers=packed)).problem(415, "unsupported_media_type")
    assert not sandbox.creates


async def test_a_full_bridge_creates_nothing(tmp_path: Path, sandbox: Sandbox) -> None:
    async with running_bridge(
        tmp_path, amux_url=await sandbox.start(), drop_in=DROP_IN, max_active_watches=1
    ) as bridge:
        await bridge.watch()
        (await create(bridge, **CALLBACK)).problem(429, "too_many_watches")
        assert not sandbox.creates
        assert (await create(bridge)).status == 200


async def test_each_create_call_in_progress_counts_towards_the_limit(tmp_path: Path) -> None:
    """With room for one watch, the second of two calls is refused. A created task is watched even beyond the limit."""
    go_on = asyncio.Event()

    async def handler(_: web.Request) -> web.Response:
        await go_on.wait()
        return web.json_response({"id": "task_9"})

    async with (
        upstream(handler) as amux,
        running_bridge(tmp_path, amux_url=amux.url, drop_in=DROP_IN, max_active_watches=1) as bridge,
    ):
        first = asyncio.create_task(create(bridge, **CALLBACK))
        async with asyncio.timeout(SAFETY_SECONDS):
            await amux.requested.wait()
        (await create(bridge, **CALLBACK)).problem(429, "too_many_watches")
        await bridge.watch()
        go_on.set()
        assert (await first).headers["X-Watch-Id"]
        assert len(amux.requests) == 1
        assert len(await watches(bridge)) == 2


async def test_nothing_is_created_while_the_store_does_not_answer(
    drop_in_bridge: Bridge, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def down() -> None:
        raise StoreUnavailable("the database does not answer")

    monkeypatch.setattr(drop_in_bridge.store, "probe", down)
    (await create(drop_in_bridge, **CALLBACK)).problem(503, "store_unavailable")
    assert not sandbox.creates


# --- every created task is watched --------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [10, 300_000])
async def test_the_task_of_a_caller_that_disconnects_is_watched(tmp_path: Path, size: int) -> None:
    go_on = asyncio.Event()

    async def handler(request: web.Request) -> web.Response:
        await request.read()
        read.set()
        await go_on.wait()
        return web.json_response({"object": "video", "id": "task_left"})

    read = asyncio.Event()
    async with upstream(handler) as amux, running_bridge(tmp_path, amux_url=amux.url, drop_in=DROP_IN) as bridge:
        asking = asyncio.create_task(create(bridge, body={"prompt": "x" * size}, **CALLBACK))
        async with asyncio.timeout(SAFETY_SECONDS):
            await read.wait()
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
            # `_create_and_watch` runs on after the server has cancelled the handler.
            while not any(task.get_coro().__name__ == "_create_and_watch" for task in asyncio.all_tasks()):  # type: ignore[union-attr]
                await asyncio.sleep(0)
            go_on.set()
            while not (found := await watches(bridge)):
                await asyncio.sleep(0)
        assert [watch["task_id"] for watch in found] == ["task_left"]
        assert not amux.disconnected.is_set()


async def test_a_caller_that_disconnects_within_its_body_creates_nothing(tmp_path: Path) -> None:
    whole: list[bytes] = []

    async def handler(request: web.Request) -> web.Response:
        whole.append(await request.read())
        return web.json_response({"id": "task_1"})

    heads = (b"Content-Length: 200000", b"Transfer-Encoding: chunked")
    async with upstream(handler) as amux, running_bridge(tmp_path, amux_url=amux.url, drop_in=DROP_IN) as bridge:
        for head, piece in zip(heads, (b"{" * 100_000, b"186a0\r\n" + b"{" * 100_000 + b"\r\n"), strict=True):
            amux.requested.clear()
            amux.disconnected.clear()
            _, writer = await asyncio.open_connection("127.0.0.1", bridge.port)
            lines = [
                b"POST /v1/videos HTTP/1.1",
                b"Host: x",
                b"Authorization: Bearer app-token",
                b"X-Callback-Url: https://app.example/",
                b"Content-Type: application/json",
                head,
            ]
            writer.write(b"\r\n".join([*lines, b"", piece]))
            async with asyncio.timeout(SAFETY_SECONDS):
                await amux.requested.wait()
                writer.transport.abort()
                await amux.disconnected.wait()
        await bridge.context.proxy.finish(20)
        assert await watches(bridge) == []
    assert whole == []


async def test_a_broken_body_is_a_400(drop_in_bridge: Bridge, sandbox: Sandbox) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", drop_in_bridge.port)
    writer.write(b"POST /v1/videos HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer app-token\r\n")
    writer.write(b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{    \r\nzz\r\n")
    async with asyncio.timeout(SAFETY_SECONDS):
        status = await reader.readline()
    writer.transport.abort()
    assert b" 400 " in status
    assert not sandbox.creates


async def test_registering_is_retried_while_the_store_does_not_answer(
    drop_in_bridge: Bridge, monkeypatch: pytest.MonkeyPatch
) -> None:
    register, fails = drop_in_bridge.store.register_all, [True, True]

    async def fail_twice(new_watches: Any) -> Any:
        if fails:
            fails.pop()
            raise StoreUnavailable("the database does not answer")
        return await register(new_watches)

    monkeypatch.setattr(drop_in_bridge.store, "register_all", fail_twice)
    answer = await create(drop_in_bridge, **CALLBACK)
    assert [watch["id"] for watch in await watches(drop_in_bridge)] == [answer.headers["X-Watch-Id"]]


async def test_a_watch_that_cannot_be_stored_is_reported_and_logged(
    drop_in_bridge: Bridge, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(_: Any) -> Any:
        raise StoreUnavailable("the database does not answer")

    monkeypatch.setattr(drop_in_bridge.store, "register_all", fail)
    answer = await create(drop_in_bridge, **CALLBACK)
    assert answer.status == 200
    assert answer.json["id"]
    assert answer.headers["X-Watch-Error"] == "store_unavailable: the database does not answer"
    assert "X-Watch-Id" not in answer.headers
    [logged] = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert logged.message == "created_task_unwatched"
    assert logged.bridge_fields["task_id"] == answer.json["id"]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "body",
    [b"", b"no json", b"[]", b'{"id": 7}', b'{"task_id": "../x"}', b'{"task_id": ""}', b'{"data": null}', b"\xff"],
)
async def test_an_answer_without_a_task_id_is_reported(tmp_path: Path, body: bytes) -> None:
    async def handler(_: web.Request) -> web.Response:
        return web.Response(body=body, content_type="application/json")

    async with upstream(handler) as amux, running_bridge(tmp_path, amux_url=amux.url, drop_in=DROP_IN) as bridge:
        answer = await create(bridge, **CALLBACK)
        assert (answer.status, answer.body) == (200, body)
        assert answer.headers["X-Watch-Error"].startswith("no_task: ")


@pytest.mark.parametrize(
    "body",
    [
        b'{"task_id": "a", "id": "b"}',
        b'{"id": "a"}',
        b'\xef\xbb\xbf{"code": "success", "data": {"id": 7, "task_id": "a"}}',
    ],
)
async def test_the_task_id_is_found_in_every_form_of_answer(tmp_path: Path, body: bytes) -> None:
    async def handler(_: web.Request) -> web.Response:
        return web.Response(status=201, body=body, content_type="application/json")

    async with upstream(handler) as amux, running_bridge(tmp_path, amux_url=amux.url, drop_in=DROP_IN) as bridge:
        assert (await create(bridge, **CALLBACK)).status == 201
        assert [watch["task_id"] for watch in await watches(bridge)] == ["a"]

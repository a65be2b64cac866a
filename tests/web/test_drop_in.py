"""amux's own routes, passed on, and a watch on what they create."""

import asyncio
import hashlib
import io
import json
import logging
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest
from aiohttp import web
from scripted_upstream import upstream
from served import OPERATOR, OTHER, Answer, Bridge, served

from bridge.core.errors import StoreUnavailable
from bridge.sandbox import Behaviour, Sandbox
from bridge.sandbox.behaviour import Fault, FaultKind
from bridge.sandbox.video import MP4
from bridge.web.services import DropIn

KEY = "sk-configured"
CALLBACK = {"X-Callback-Url": "https://app.example/hook"}
CREATE = {"model": "sora-2", "prompt": "a fox"}
PATHS = ("/v1/videos", "/v1/video/generations")
ON = DropIn(pauses=(0.0, 0.0))


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    made = Sandbox(keys=frozenset({KEY, "sk-own"}), default=Behaviour(queue_seconds=0, run_seconds=0))
    yield made
    await made.stop()


@pytest.fixture
async def bridge(tmp_path: Path, sandbox: Sandbox) -> AsyncIterator[Bridge]:
    async with served(tmp_path, amux_url=await sandbox.start(), drop_in=ON) as running:
        yield running


async def create(bridge: Bridge, path: str = "/v1/videos", body: Any = CREATE, **headers: str) -> Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return await bridge.post(path, body, headers=named)


async def watches(bridge: Bridge) -> list[Any]:
    found: list[Any] = (await bridge.get("/watch")).json["items"]
    return found


# --- what comes of a create call ----------------------------------------------------------------------------------


async def test_it_is_off_unless_it_is_switched_on(tmp_path: Path, sandbox: Sandbox) -> None:
    async with served(tmp_path, amux_url=await sandbox.start()) as bridge:
        for path in PATHS:
            (await bridge.post(path, CREATE)).problem(404, "not_found")
            (await bridge.get(f"{path}/task_1")).problem(404, "not_found")
        (await bridge.get("/v1/videos/task_1/content")).problem(404, "not_found")
    assert not sandbox.creates


@pytest.mark.parametrize("path", PATHS)
async def test_what_is_created_is_watched(bridge: Bridge, sandbox: Sandbox, path: str) -> None:
    answer = await bridge.post(
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
    watch = (await bridge.get(f"/watch/{answer.headers['X-Watch-Id']}")).json
    assert (watch["task_id"], watch["app"], watch["callback_url"]) == (task, "shop", CALLBACK["X-Callback-Url"])
    assert watch["context"] == {"order": 7, "name": "Zoë"}
    assert watch["events"] == ["video.completed", "video.failed"]
    assert [row.task_id for row, _ in bridge.poller.added] == [task]
    [created] = sandbox.creates
    assert (created.path, created.query, created.body) == (path, "", json.dumps(CREATE).encode())
    assert created.headers["Authorization"] == f"Bearer {KEY}"
    assert created.headers["Idempotency-Key"] == "order-7"
    assert created.headers["Content-Type"] == "application/json"
    assert not {"X-Callback-Url", "Cookie", "X-Other", "X-Forwarded-For"} & set(created.headers)
    assert "app-token" not in str(created.headers)


async def test_without_a_callback_it_is_only_passed_on(bridge: Bridge, sandbox: Sandbox) -> None:
    answer = await create(bridge)
    assert answer.status == 200
    assert not {"X-Watch-Id", "X-Watch-Error"} & set(answer.headers)
    assert await watches(bridge) == []
    assert len(sandbox.creates) == 1


async def test_a_form_of_any_size_is_streamed_unchanged(bridge: Bridge, sandbox: Sandbox) -> None:
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
        answer = await bridge.ask("POST", "/v1/videos", data=body, headers=headers)
        assert answer.status == 200, answer
        assert answer.headers["X-Watch-Id"]
    _, sized, chunked = sandbox.creates
    for created in (sized, chunked):
        assert (created.size, created.sha256) == (len(whole), hashlib.sha256(whole).hexdigest())
    assert sized.headers["Content-Length"] == str(len(whole))
    assert chunked.headers["Transfer-Encoding"] == "chunked"


async def test_the_caller_s_own_key_is_the_watch_s_as_well(bridge: Bridge, sandbox: Sandbox) -> None:
    answer = await create(bridge, **CALLBACK, X_Amux_Api_Key="sk-own")
    assert sandbox.creates[0].headers["Authorization"] == "Bearer sk-own"
    assert bridge.poller.added[0][1] == "sk-own"
    assert await bridge.store.api_key_of(answer.headers["X-Watch-Id"]) == "sk-own"
    assert "X-Amux-Api-Key" not in sandbox.creates[0].headers


async def test_a_bridge_without_a_key_needs_the_caller_s(tmp_path: Path, sandbox: Sandbox) -> None:
    async with served(tmp_path, amux_url=await sandbox.start(), drop_in=ON, api_key=None) as bridge:
        for headers in ({}, CALLBACK):
            told = (await create(bridge, **headers)).problem(422, "no_api_key")
            assert [error["field"] for error in told["errors"]] == ["X-Amux-Api-Key"]
        assert (await create(bridge, **CALLBACK, X_Amux_Api_Key="sk-own")).headers["X-Watch-Id"]
        (await bridge.get("/v1/videos/task_1")).problem(422, "no_api_key")


async def test_the_same_task_again_is_the_same_watch(tmp_path: Path) -> None:
    """As with an Idempotency-Key that amux knows."""

    async def answering(_: web.Request) -> web.Response:
        return web.json_response({"task_id": "task_1"})

    async with upstream(answering) as amux, served(tmp_path, amux_url=amux.url, drop_in=ON) as bridge:
        first, again = await create(bridge, **CALLBACK), await create(bridge, **CALLBACK)
        assert first.headers["X-Watch-Id"] == again.headers["X-Watch-Id"]
        other = await create(bridge, **CALLBACK, X_Callback_Timeout="5")
        assert other.status == 200
        assert other.headers["X-Watch-Error"].startswith("watch_conflict: ")


# --- nothing is paid for what could not be watched ----------------------------------------------------------------


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
    bridge: Bridge, sandbox: Sandbox, headers: dict[str, str], field: str
) -> None:
    answer = await bridge.post("/v1/videos", CREATE, headers=headers)
    assert answer.fields() == {field}
    assert not sandbox.creates


async def test_what_else_is_refused_before_amux_is_asked(bridge: Bridge, sandbox: Sandbox) -> None:
    refused = {"X-Callback-Url": "http://10.0.0.1/"}
    (await create(bridge, **refused)).problem(422, "callback_refused")
    (await create(bridge, **{"X-Callback-Url": "https://bad.example/"})).problem(422, "callback_refused")
    (await bridge.post("/v1/videos", CREATE, headers={**CALLBACK, **OPERATOR})).problem(403, "forbidden")
    (await bridge.post("/v1/videos", CREATE, headers={"Authorization": "Bearer x"})).problem(401, "unauthorized")
    assert (await bridge.post("/v1/videos?a=1", CREATE)).fields() == {"a"}
    for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
        answer = await bridge.ask("POST", "/v1/videos", data=b"{}", headers={"Content-Type": kind})
        answer.problem(415, "unsupported_media_type")
    packed = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    (await bridge.ask("POST", "/v1/videos", data=b"x", headers=packed)).problem(415, "unsupported_media_type")
    assert not sandbox.creates


async def test_a_full_bridge_pays_for_nothing(tmp_path: Path, sandbox: Sandbox) -> None:
    async with served(tmp_path, amux_url=await sandbox.start(), drop_in=ON, max_active_watches=1) as bridge:
        await bridge.watch()
        (await create(bridge, **CALLBACK)).problem(429, "too_many_watches")
        assert not sandbox.creates
        assert (await create(bridge)).status == 200


async def test_creates_under_way_hold_a_place_each(tmp_path: Path) -> None:
    """With room for one, one of two at a time is refused; what was paid for is stored whatever came in between."""
    go_on = asyncio.Event()

    async def answering(_: web.Request) -> web.Response:
        await go_on.wait()
        return web.json_response({"id": "task_9"})

    async with (
        upstream(answering) as amux,
        served(tmp_path, amux_url=amux.url, drop_in=ON, max_active_watches=1) as bridge,
    ):
        first = asyncio.create_task(create(bridge, **CALLBACK))
        async with asyncio.timeout(20):
            await amux.asked.wait()
        (await create(bridge, **CALLBACK)).problem(429, "too_many_watches")
        await bridge.watch()
        go_on.set()
        assert (await first).headers["X-Watch-Id"]
        assert len(amux.requests) == 1
        assert len(await watches(bridge)) == 2


async def test_a_store_that_does_not_answer_pays_for_nothing(
    bridge: Bridge, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def down() -> None:
        raise StoreUnavailable("the database does not answer")

    monkeypatch.setattr(bridge.store, "probe", down)
    (await create(bridge, **CALLBACK)).problem(503, "store_unavailable")
    assert not sandbox.creates


# --- nothing that was paid for is lost ----------------------------------------------------------------------------


@pytest.mark.parametrize("size", [10, 300_000])
async def test_a_caller_that_leaves_loses_nothing(tmp_path: Path, size: int) -> None:
    go_on = asyncio.Event()

    async def answering(request: web.Request) -> web.Response:
        await request.read()
        read.set()
        await go_on.wait()
        return web.json_response({"object": "video", "id": "task_left"})

    read = asyncio.Event()
    async with upstream(answering) as amux, served(tmp_path, amux_url=amux.url, drop_in=ON) as bridge:
        asking = asyncio.create_task(create(bridge, body={"prompt": "x" * size}, **CALLBACK))
        async with asyncio.timeout(20):
            await read.wait()
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
            # The server's side has noticed once its handler has gone.
            while not any(task.get_coro().__name__ == "_create" for task in asyncio.all_tasks()):  # type: ignore[union-attr]
                await asyncio.sleep(0)
            go_on.set()
            while not (found := await watches(bridge)):
                await asyncio.sleep(0)
        assert [watch["task_id"] for watch in found] == ["task_left"]
        assert not amux.left.is_set()


async def test_a_caller_that_leaves_in_the_middle_of_its_body_creates_nothing(tmp_path: Path) -> None:
    whole: list[bytes] = []

    async def answering(request: web.Request) -> web.Response:
        whole.append(await request.read())
        return web.json_response({"id": "task_1"})

    heads = (b"Content-Length: 200000", b"Transfer-Encoding: chunked")
    async with upstream(answering) as amux, served(tmp_path, amux_url=amux.url, drop_in=ON) as bridge:
        for head, piece in zip(heads, (b"{" * 100_000, b"186a0\r\n" + b"{" * 100_000 + b"\r\n"), strict=True):
            amux.asked.clear()
            amux.left.clear()
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
            async with asyncio.timeout(20):
                await amux.asked.wait()
                writer.transport.abort()
                await amux.left.wait()
        await bridge.services.relay.finish(20)
        assert await watches(bridge) == []
    assert whole == []


async def test_a_broken_body_is_the_caller_s_fault(bridge: Bridge, sandbox: Sandbox) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", bridge.port)
    writer.write(b"POST /v1/videos HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer app-token\r\n")
    writer.write(b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{    \r\nzz\r\n")
    async with asyncio.timeout(20):
        status = await reader.readline()
    writer.transport.abort()
    assert b" 400 " in status
    assert not sandbox.creates


async def test_a_store_that_comes_back_has_the_watch(bridge: Bridge, monkeypatch: pytest.MonkeyPatch) -> None:
    register, fails = bridge.store.register_all, [True, True]

    async def sometimes(news: Any) -> Any:
        if fails:
            fails.pop()
            raise StoreUnavailable("the database does not answer")
        return await register(news)

    monkeypatch.setattr(bridge.store, "register_all", sometimes)
    answer = await create(bridge, **CALLBACK)
    assert [watch["id"] for watch in await watches(bridge)] == [answer.headers["X-Watch-Id"]]


async def test_a_watch_that_cannot_be_stored_is_told(
    bridge: Bridge, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def never(_: Any) -> Any:
        raise StoreUnavailable("the database does not answer")

    monkeypatch.setattr(bridge.store, "register_all", never)
    answer = await create(bridge, **CALLBACK)
    assert answer.status == 200
    assert answer.json["id"]
    assert answer.headers["X-Watch-Error"] == "store_unavailable: the database does not answer"
    assert "X-Watch-Id" not in answer.headers
    [told] = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert told.message == "created_unwatched"
    assert told.bridge_fields["task_id"] == answer.json["id"]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "body",
    [b"", b"no json", b"[]", b'{"id": 7}', b'{"task_id": "../x"}', b'{"task_id": ""}', b'{"data": null}', b"\xff"],
)
async def test_an_answer_that_names_no_task(tmp_path: Path, body: bytes) -> None:
    async def answering(_: web.Request) -> web.Response:
        return web.Response(body=body, content_type="application/json")

    async with upstream(answering) as amux, served(tmp_path, amux_url=amux.url, drop_in=ON) as bridge:
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
async def test_where_the_task_is_named(tmp_path: Path, body: bytes) -> None:
    async def answering(_: web.Request) -> web.Response:
        return web.Response(status=201, body=body, content_type="application/json")

    async with upstream(answering) as amux, served(tmp_path, amux_url=amux.url, drop_in=ON) as bridge:
        assert (await create(bridge, **CALLBACK)).status == 201
        assert [watch["task_id"] for watch in await watches(bridge)] == ["a"]


# --- amux's answer ------------------------------------------------------------------------------------------------


async def test_the_answer_comes_back_as_it_was(tmp_path: Path) -> None:
    async def answering(_: web.Request) -> web.Response:
        spoken = {
            "Content-Type": "application/json; charset=utf-8",
            "X-Oneapi-Request-Id": "r1",
            "Set-Cookie": "a=b",
            "Connection": "X-Hop",
            "X-Hop": "1",
            "Keep-Alive": "5",
            "Strict-Transport-Security": "max-age=1",
            "Access-Control-Allow-Origin": "*",
            "Content-Security-Policy": "default-src *",
            "X-Watch-Id": "wat_forged",
        }
        return web.Response(status=402, body=b'{ "error" : {} }', headers=spoken)

    async with upstream(answering) as amux, served(tmp_path, amux_url=amux.url, drop_in=ON) as bridge:
        answer = await create(bridge, **CALLBACK)
        assert (answer.status, answer.body) == (402, b'{ "error" : {} }')
        assert answer.headers["Content-Type"] == "application/json; charset=utf-8"
        assert answer.headers["X-Oneapi-Request-Id"] == "r1"
        assert "sandbox" in answer.headers["Content-Security-Policy"]
        gone = {"Set-Cookie", "X-Hop", "Keep-Alive", "Strict-Transport-Security", "Access-Control-Allow-Origin"}
        assert not {*gone, "X-Watch-Id", "X-Watch-Error"} & set(answer.headers)
        assert await watches(bridge) == []


async def test_a_redirect_is_no_answer(tmp_path: Path) -> None:
    async def answering(_: web.Request) -> web.Response:
        return web.Response(status=307, headers={"Location": "https://elsewhere.example/"})

    async with upstream(answering) as amux, served(tmp_path, amux_url=amux.url, drop_in=ON) as bridge:
        (await create(bridge, **CALLBACK)).problem(502, "amux_unavailable")
        for path in ("/v1/videos/task_1", "/v1/video/generations/task_1", "/v1/videos/task_1/content"):
            (await bridge.get(path)).problem(502, "amux_unavailable")
    assert len(amux.requests) == 4


async def test_amux_that_does_not_answer(tmp_path: Path) -> None:
    async def huge(_: web.Request) -> web.Response:
        return web.Response(body=b" " * (5 << 20))

    async with served(tmp_path, drop_in=ON) as bridge:
        (await create(bridge, **CALLBACK)).problem(502, "amux_unavailable")
        (await bridge.get("/v1/videos/task_1")).problem(502, "amux_unavailable")
    async with upstream(huge) as amux, served(tmp_path, amux_url=amux.url, drop_in=ON) as bridge:
        (await create(bridge, **CALLBACK)).problem(502, "amux_unavailable")
        (await bridge.get("/v1/videos/task_1")).problem(502, "amux_unavailable")


async def test_a_key_that_amux_repeats_is_taken_out(tmp_path: Path, sandbox: Sandbox) -> None:
    async def echo(request: web.Request) -> web.Response:
        said = request.headers["Authorization"]
        return web.json_response({"error": said}, status=500, headers={"X-Said": said})

    async with upstream(echo) as amux, served(tmp_path, amux_url=amux.url, drop_in=ON) as bridge:
        for answer in (await create(bridge), *[await bridge.get(f"/v1/videos/t{end}") for end in ("", "/content")]):
            assert (answer.status, answer.json) == (500, {"error": "Bearer [redacted]"})
            assert KEY not in str(answer.headers)


async def test_reading_passes_through(bridge: Bridge, sandbox: Sandbox) -> None:
    task = sandbox.create_task(Behaviour(queue_seconds=0, run_seconds=0))
    generic = (await bridge.get(f"/v1/video/generations/{task}")).json
    assert (generic["code"], generic["data"]["status"]) == ("success", "SUCCESS")
    alias = await bridge.get(f"/v1/videos/{task}", headers={"X-Amux-Api-Key": "sk-own", **OTHER})
    assert (alias.json["id"], alias.json["object"]) == (task, "video")
    assert sandbox.last_key[task] == "sk-own"
    content = await bridge.get(f"/v1/videos/{task}/content")
    assert (content.status, content.body, content.headers["Content-Type"]) == (200, MP4, "video/mp4")
    assert "sandbox" in content.headers["Content-Security-Policy"]
    unknown = await bridge.get("/v1/videos/task_unknown")
    assert (unknown.status, unknown.json["code"]) == (400, "task_not_exist")
    head = await bridge.ask("HEAD", f"/v1/videos/{task}")
    assert (head.status, head.body) == (200, b"")
    for strange in ("..", "%2e%2e", "a%2Fb", "a%20b", "a" * 192):
        (await bridge.get(f"/v1/videos/{strange}")).problem(404, "not_found")
    (await bridge.get(f"/v1/videos/{task}", headers=OPERATOR)).problem(403, "forbidden")
    assert (await bridge.get(f"/v1/videos/{task}?variant=x")).fields() == {"variant"}
    assert sandbox.strays == {}


async def test_a_create_call_s_own_fault_is_passed_on(bridge: Bridge, sandbox: Sandbox) -> None:
    answer = await create(bridge, body=CREATE | {"sandbox": {"create_fault": "rejected"}}, **CALLBACK)
    assert answer.status == 400
    assert not {"X-Watch-Id", "X-Watch-Error"} & set(answer.headers)
    assert Fault(FaultKind.REJECTED).kind == "rejected"


# --- clients of others --------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:The Sora API")
async def test_the_openai_sdk_needs_a_base_url_and_one_header(bridge: Bridge, sandbox: Sandbox) -> None:
    async with openai.AsyncOpenAI(
        api_key="app-token", base_url=f"http://127.0.0.1:{bridge.port}/v1", max_retries=0
    ) as client:
        raw = await client.videos.with_raw_response.create(model="sora-2", prompt="a fox", extra_headers=CALLBACK)
        video = raw.parse()
        assert raw.headers["X-Watch-Id"]
        assert (await client.videos.retrieve(video.id)).status == "completed"
        reference = ("fox.png", os.urandom(200_000), "image/png")
        with_image = await client.videos.create(
            model="sora-2", prompt="a fox", input_reference=reference, extra_headers=CALLBACK
        )
        content = await client.videos.download_content(video.id)
        assert content.content == MP4
        with pytest.raises(openai.UnprocessableEntityError) as refused:
            await client.videos.create(prompt="a fox", extra_headers={"X-Callback-Url": "http://10.0.0.1/"})
        assert refused.value.code == "callback_refused" or "callback_refused" in str(refused.value)
    assert {watch["task_id"] for watch in await watches(bridge)} == {video.id, with_image.id}
    assert len(sandbox.creates) == 2


NODE = """
import OpenAI from "openai";
const client = new OpenAI({ apiKey: "app-token", baseURL: process.argv[2], maxRetries: 0 });
const headers = { "X-Callback-Url": "https://app.example/hook" };
const { data, response } = await client.videos
  .create({ model: "sora-2", prompt: "a fox" }, { headers })
  .withResponse();
const seen = await client.videos.retrieve(data.id);
const content = await client.videos.downloadContent(data.id);
const bytes = (await content.arrayBuffer()).byteLength;
console.log(JSON.stringify({ id: data.id, watch: response.headers.get("x-watch-id"), status: seen.status, bytes }));
"""


@pytest.mark.long
async def test_the_node_sdk_needs_no_more(bridge: Bridge, tmp_path: Path) -> None:
    """Needs npm and its registry; skipped without them."""
    try:
        npm = await asyncio.create_subprocess_exec(
            *("npm", "install", "--no-audit", "--no-fund", "--prefix", str(tmp_path), "openai"),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
    except FileNotFoundError:
        pytest.skip("there is no npm here")
    if await npm.wait():
        pytest.skip("npm could not install the SDK")
    script = tmp_path / "drop_in.mjs"
    script.write_text(NODE)
    node = await asyncio.create_subprocess_exec(
        "node", str(script), f"http://127.0.0.1:{bridge.port}/v1", stdout=asyncio.subprocess.PIPE, cwd=tmp_path
    )
    out, _ = await node.communicate()
    told = json.loads(out)
    assert (told["status"], told["bytes"]) == ("completed", len(MP4))
    [watch] = await watches(bridge)
    assert (watch["id"], watch["task_id"]) == (told["watch"], told["id"])

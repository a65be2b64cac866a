"""Drop-in creation: amux's answers, and the SDKs of OpenAI."""

import asyncio
import json
import os
from pathlib import Path

import openai
import pytest
from aiohttp import web
from yarl import URL

from bridge.sandbox import Behaviour, Sandbox
from bridge.sandbox.behaviour import Fault, FaultKind
from bridge.sandbox.video import MP4
from tests.programs import npm_install
from tests.web.drop_in_harness import CALLBACK, CREATE, DROP_IN, KEY, create, watches
from tests.web.harness import APP, OPERATOR, OTHER, Bridge, running_bridge
from tests.web.upstream import upstream

# --- amux's answer ------------------------------------------------------------------------------------------------


async def test_amux_s_answer_is_passed_on_unchanged(tmp_path: Path) -> None:
    async def handler(_: web.Request) -> web.Response:
        headers = {
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
        return web.Response(status=402, body=b'{ "error" : {} }', headers=headers)

    async with upstream(handler) as amux, running_bridge(tmp_path, amux_url=amux.url, drop_in=DROP_IN) as bridge:
        answer = await create(bridge, **CALLBACK)
        assert (answer.status, answer.body) == (402, b'{ "error" : {} }')
        assert answer.headers["Content-Type"] == "application/json; charset=utf-8"
        assert answer.headers["X-Oneapi-Request-Id"] == "r1"
        assert "sandbox" in answer.headers["Content-Security-Policy"]
        gone = {"Set-Cookie", "X-Hop", "Keep-Alive", "Strict-Transport-Security", "Access-Control-Allow-Origin"}
        assert not {*gone, "X-Watch-Id", "X-Watch-Error"} & set(answer.headers)
        assert await watches(bridge) == []


async def test_a_redirect_of_amux_is_amux_unavailable(tmp_path: Path) -> None:
    async def handler(_: web.Request) -> web.Response:
        return web.Response(status=307, headers={"Location": "https://elsewhere.example/"})

    async with upstream(handler) as amux, running_bridge(tmp_path, amux_url=amux.url, drop_in=DROP_IN) as bridge:
        (await create(bridge, **CALLBACK)).problem(502, "amux_unavailable")
        for path in ("/v1/videos/task_1", "/v1/video/generations/task_1", "/v1/videos/task_1/content"):
            (await bridge.get(path)).problem(502, "amux_unavailable")
    assert len(amux.requests) == 4


async def test_an_amux_that_does_not_answer_is_amux_unavailable(tmp_path: Path) -> None:
    async def huge(_: web.Request) -> web.Response:
        return web.Response(body=b" " * (5 << 20))

    async with running_bridge(tmp_path, drop_in=DROP_IN) as bridge:
        (await create(bridge, **CALLBACK)).problem(502, "amux_unavailable")
        (await bridge.get("/v1/videos/task_1")).problem(502, "amux_unavailable")
    async with upstream(huge) as amux, running_bridge(tmp_path, amux_url=amux.url, drop_in=DROP_IN) as bridge:
        (await create(bridge, **CALLBACK)).problem(502, "amux_unavailable")
        (await bridge.get("/v1/videos/task_1")).problem(502, "amux_unavailable")


async def test_a_key_that_amux_repeats_is_redacted(tmp_path: Path, sandbox: Sandbox) -> None:
    async def echo(request: web.Request) -> web.Response:
        authorization = request.headers["Authorization"]
        return web.json_response({"error": authorization}, status=500, headers={"X-Said": authorization})

    async with upstream(echo) as amux, running_bridge(tmp_path, amux_url=amux.url, drop_in=DROP_IN) as bridge:
        for answer in (await create(bridge), *[await bridge.get(f"/v1/videos/t{end}") for end in ("", "/content")]):
            assert (answer.status, answer.json) == (500, {"error": "Bearer [redacted]"})
            assert KEY not in str(answer.headers)


async def test_reading_a_task_is_passed_on(drop_in_bridge: Bridge, sandbox: Sandbox) -> None:
    task = sandbox.create_task(Behaviour(queue_seconds=0, run_seconds=0))
    generic = (await drop_in_bridge.get(f"/v1/video/generations/{task}")).json
    assert (generic["code"], generic["data"]["status"]) == ("success", "SUCCESS")
    alias = await drop_in_bridge.get(f"/v1/videos/{task}", headers={"X-Amux-Api-Key": "sk-own", **OTHER})
    assert (alias.json["id"], alias.json["object"]) == (task, "video")
    assert sandbox.last_key[task] == "sk-own"
    content = await drop_in_bridge.get(f"/v1/videos/{task}/content")
    assert (content.status, content.body, content.headers["Content-Type"]) == (200, MP4, "video/mp4")
    assert "sandbox" in content.headers["Content-Security-Policy"]
    unknown = await drop_in_bridge.get("/v1/videos/task_unknown")
    assert (unknown.status, unknown.json["code"]) == (400, "task_not_exist")
    head = await drop_in_bridge.ask("HEAD", f"/v1/videos/{task}")
    assert (head.status, head.body) == (200, b"")
    for invalid in ("..", "%2e%2e", "a%2Fb", "a%20b", "a" * 192):
        (await drop_in_bridge.get(f"/v1/videos/{invalid}")).problem(404, "not_found")
    (await drop_in_bridge.get(f"/v1/videos/{task}", headers=OPERATOR)).problem(403, "forbidden")
    assert sandbox.unknown_paths == {}


async def test_the_query_of_a_read_is_passed_on_unchanged(tmp_path: Path) -> None:
    async def handler(_: web.Request) -> web.Response:
        return web.Response(body=b"bytes", headers={"Content-Type": "video/mp4"})

    async with upstream(handler) as amux, running_bridge(tmp_path, amux_url=amux.url, drop_in=DROP_IN) as bridge:
        for path in ("/v1/videos/task_1/content", "/v1/videos/task_1", "/v1/video/generations/task_1"):
            for query in ("?variant=video", "?a=1&a=%2F%C3%A9&b", ""):
                amux.requests.clear()
                url = URL(f"http://127.0.0.1:{bridge.port}{path}{query}", encoded=True)
                async with bridge.session.get(url, headers=APP) as answer:
                    assert (answer.status, await answer.read()) == (200, b"bytes")
                [request] = amux.requests
                assert request.raw_path == path + query
            assert (await bridge.get(f"{path}?{'x' * 2001}")).fields() == {"query"}
            assert (await bridge.post("/v1/videos?variant=x", CREATE)).fields() == {"variant"}


@pytest.mark.parametrize(("status", "accepted"), [(200, "none"), (206, "bytes"), (404, None), (416, None)], ids=str)
async def test_ranges_are_announced_only_where_amux_honours_them(
    tmp_path: Path, status: int, accepted: str | None
) -> None:
    async def handler(_: web.Request) -> web.Response:
        return web.Response(status=status, body=b"{}", headers={"Content-Type": "video/mp4", "Accept-Ranges": "bytes"})

    async with upstream(handler) as amux, running_bridge(tmp_path, amux_url=amux.url, drop_in=DROP_IN) as bridge:
        answer = await bridge.get("/v1/videos/task_1/content", headers={"Range": "bytes=0-1"})
        assert (answer.status, answer.headers.get("Accept-Ranges")) == (status, accepted)


async def test_a_create_call_that_amux_rejects_is_passed_on(drop_in_bridge: Bridge, sandbox: Sandbox) -> None:
    answer = await create(drop_in_bridge, body=CREATE | {"sandbox": {"create_fault": "rejected"}}, **CALLBACK)
    assert answer.status == 400
    assert not {"X-Watch-Id", "X-Watch-Error"} & set(answer.headers)
    assert Fault(FaultKind.REJECTED).kind == "rejected"


# --- SDKs ---------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:The Sora API")
async def test_the_openai_sdk_needs_a_base_url_and_one_header(drop_in_bridge: Bridge, sandbox: Sandbox) -> None:
    async with openai.AsyncOpenAI(
        api_key="app-token", base_url=f"http://127.0.0.1:{drop_in_bridge.port}/v1", max_retries=0
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
    assert {watch["task_id"] for watch in await watches(drop_in_bridge)} == {video.id, with_image.id}
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
async def test_the_node_sdk_needs_a_base_url_and_one_header(drop_in_bridge: Bridge, tmp_path: Path) -> None:
    await asyncio.to_thread(npm_install, tmp_path, "openai")
    script = tmp_path / "drop_in.mjs"
    script.write_text(NODE)
    node = await asyncio.create_subprocess_exec(
        "node", str(script), f"http://127.0.0.1:{drop_in_bridge.port}/v1", stdout=asyncio.subprocess.PIPE, cwd=tmp_path
    )
    out, _ = await node.communicate()
    result = json.loads(out)
    assert (result["status"], result["bytes"]) == ("completed", len(MP4))
    [watch] = await watches(drop_in_bridge)
    assert (watch["id"], watch["task_id"]) == (result["watch"], result["id"])

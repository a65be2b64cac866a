"""Each example that is a program works with a real bridge and the stand-in for amux."""

import asyncio
import time
from pathlib import Path

import pytest

from bridge.core.signing import Signer
from tests.examples.harness import (
    EXAMPLES,
    OTHER,
    SECRET,
    BridgeHarness,
    environment,
    install,
    run_to_end,
    running_receiver,
)
from tests.programs import program

RECEIVERS, APPS = EXAMPLES / "receivers", EXAMPLES / "apps"


@pytest.mark.parametrize(
    ("name", "installing"),
    [
        ("aiohttp_receiver.py", False),
        pytest.param("fastapi_receiver.py", True, marks=pytest.mark.long),
        pytest.param("flask_receiver.py", True, marks=pytest.mark.long),
        pytest.param("express_receiver.mjs", True, marks=pytest.mark.long),
    ],
)
async def test_a_receiver_accepts_an_event_once_and_refuses_a_forged_one(
    harness: BridgeHarness, name: str, tmp_path: Path, *, installing: bool
) -> None:
    example, environ = RECEIVERS / name, dict[str, str]()
    if installing:
        example, environ = await asyncio.to_thread(install, example, tmp_path)
    async with running_receiver(example, tmp_path, environ) as receiver:
        task = harness.completed_task()
        watch = await harness.register(task, receiver.url)
        delivery = await harness.delivered(watch, 1)
        await harness.request("POST", f"/deliveries/{delivery['id']}/retry")
        await harness.delivered(watch, 2)
        body = b'{"id": "evt_1", "type": "video.completed", "data": {"task_id": "forged", "url": null}}'
        for secret, sent in ((OTHER, body), (SECRET, body + b" ")):
            forged = {"Content-Type": "application/json", **Signer([secret]).headers("evt_1", int(time.time()), body)}
            async with harness.session.post(receiver.url, data=sent, headers=forged) as answer:
                assert answer.status == 401
        pinged = await harness.request("POST", "/ping", callback_url=receiver.url)
        assert pinged["status_code"] == 204, pinged
        printed = [line for line in await receiver.stop() if not line.startswith(" * ")]  # the banner of Flask
        nothing = "null" if name.endswith(".mjs") else "None"
        assert printed == [
            f"video.completed {task} {harness.amux_url}/files/{task}.mp4",
            f"bridge.ping {nothing} {nothing}",
        ]


async def test_the_shell_receiver_waits_for_the_end_prints_an_event_once_and_refuses_another_secret(
    harness: BridgeHarness, tmp_path: Path
) -> None:
    program("curl", "curl")
    program("openssl", "openssl")
    # No program receives the callback: the shell receiver fetches the event.
    watch = await harness.register(harness.amux.create_task(), "http://127.0.0.1:1/")
    run = RECEIVERS / "receive.sh"
    code, out, err = await run_to_end(run, watch, folder=tmp_path, environ=harness.environ)
    assert (code, err.lower().count("webhook-signature: v1,")) == (0, 1), err
    async with harness.session.get(f"{harness.url}/watch/{watch}/envelope") as answer:
        assert out == await answer.text() + "\n"
    code, out, err = await run_to_end(run, watch, folder=tmp_path, environ=harness.environ)
    assert (code, out, err.endswith(": seen already\n")) == (0, "", True)
    wrong = {**harness.environ, "WEBHOOK_SECRET": OTHER.text}
    assert await run_to_end(run, watch, folder=tmp_path, environ=wrong) == (1, "", "not verified\n")
    code, out, err = await run_to_end(run, "wat_unknown", folder=tmp_path, environ=harness.environ)
    assert (code, out, "not_found" in err) == (1, "", True)


@pytest.mark.parametrize(
    ("name", "last"),
    [
        ("app_httpx.py", "{'order': 17}"),
        ("app_openai.py", "{'order': 17}"),
        ("app_fetch.mjs", '{"order":17}'),
    ],
)
async def test_an_app_creates_a_video_registers_a_watch_and_receives_the_callback(
    harness: BridgeHarness, name: str, last: str, tmp_path: Path
) -> None:
    code, out, err = await run_to_end(APPS / name, folder=tmp_path, environ=harness.environ)
    assert code == 0, err
    [creation] = harness.amux.creates
    lines = out.splitlines()
    watch = await harness.request("GET", f"/watch/{lines[0].removeprefix('watching ')}")
    assert watch["task_id"] == creation.task_id
    assert lines[1] == f"video.completed {harness.amux_url}/files/{creation.task_id}.mp4 {last}"
    assert lines[2:] == (
        [f"{len(await video_bytes(harness, str(creation.task_id)))} bytes"] if "openai" in name else []
    )


async def video_bytes(harness: BridgeHarness, task_id: str) -> bytes:
    async with harness.session.get(f"{harness.amux_url}/files/{task_id}.mp4") as answer:
        return await answer.read()


async def test_an_app_without_a_secret_or_with_a_wrong_token_fails(harness: BridgeHarness, tmp_path: Path) -> None:
    wrong = {**harness.environ, "BRIDGE_TOKEN": "wrong"}
    for name in ("app_httpx.py", "app_openai.py"):
        code, _, err = await run_to_end(APPS / name, folder=tmp_path, environ=wrong)
        assert (code, "401" in err) == (1, True), err
    assert (await run_to_end(APPS / "app_httpx.py", folder=tmp_path, environ=environment({})))[0] == 1

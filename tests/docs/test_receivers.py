"""Each receiver on the pages gets real callbacks of a bridge, and forged ones."""

import asyncio
import json
import os
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp.test_utils import TestClient, TestServer
from openai import InvalidWebhookSignatureError

from bridge.core.signing import Secret, Signer, parse_secret
from tests.docs.harness import DOCS, README, Workspace, block
from tests.docs.sender import CONTEXT, Sender
from tests.e2e.receiver import SECRET
from tests.programs import program
from tests.waiting import SAFETY_SECONDS

RECEIVERS = DOCS / "receivers.md"
OTHER = Secret(b"x" * 32)


def forged() -> tuple[dict[str, str], bytes]:
    """Returns a message that is signed with another secret."""
    body = b'{"id": "evt_1", "type": "video.completed", "data": {"url": null, "context": null}}'
    return {"Content-Type": "application/json", **Signer([OTHER]).headers("evt_1", int(time.time()), body)}, body


@pytest.mark.parametrize("page", [README, RECEIVERS], ids=["readme", "receivers"])
async def test_the_event_on_the_page_has_the_fields_of_a_real_event(page: Path, sender: Sender) -> None:
    _, body = await sender.envelope("A")  # the form in the documentation of amux, which has every field
    shown, sent = json.loads(block(page, "json", "video.completed")), json.loads(body)
    assert (list(shown), list(shown["data"])) == (list(sent), list(sent["data"]))
    assert list(shown["data"]["metadata"]) == list(sent["data"]["metadata"])


def run_block(page: Path, containing: str) -> dict[str, Any]:
    """Runs a Python block with the secret of the tests. Returns the names that it defines."""
    defined: dict[str, Any] = {"__name__": "page"}
    exec(compile(block(page, "python", containing).replace("whsec_...", SECRET), str(page), "exec"), defined)  # noqa: S102
    return defined


async def test_the_python_receiver_accepts_an_event_once_and_refuses_a_forged_one(
    sender: Sender, capsys: pytest.CaptureFixture[str]
) -> None:
    async with TestClient(TestServer(run_block(RECEIVERS, "standardwebhooks")["app"])) as client:
        watch = await sender.send(str(client.make_url("/hooks/video")))
        await sender.delivered(watch, 2)
        headers, body = forged()
        assert (await client.post("/hooks/video", data=body, headers=headers)).status == 401
    assert capsys.readouterr().out.splitlines() == [sender.line(watch, f" {CONTEXT}")]


@pytest.mark.parametrize("page", [README, RECEIVERS], ids=["readme", "receivers"])
async def test_the_python_receiver_accepts_a_ping(
    page: Path, sender: Sender, capsys: pytest.CaptureFixture[str]
) -> None:
    async with TestClient(TestServer(run_block(page, "standardwebhooks")["app"])) as client:
        await sender.ping(str(client.make_url("/hooks/video")))
    assert capsys.readouterr().out.splitlines() == ["bridge.ping None None"]


async def test_the_openai_sdk_unwraps_a_callback(sender: Sender) -> None:
    on_hook = run_block(RECEIVERS, "OpenAI")["on_hook"]
    headers, body = await sender.envelope()
    kind, data = on_hook(body, dict(headers))
    assert kind == "video.completed"
    assert (data if isinstance(data, dict) else data.model_dump())["context"] == CONTEXT
    headers, body = forged()
    with pytest.raises(InvalidWebhookSignatureError):
        on_hook(body, headers)


async def test_the_node_receiver_accepts_a_callback_and_refuses_a_forged_one(
    sender: Sender, workspace: Workspace
) -> None:
    program("node", "nodejs")
    (workspace.folder / "receiver.mjs").write_text(block(RECEIVERS, "js", "createHmac"))
    environ = {"PORT": str(workspace.hook_port), "WEBHOOK_SECRET": SECRET}
    async with workspace.running("exec node receiver.mjs", "listening", **environ) as receiver:
        watch = await sender.send(workspace.hook_url)
        headers, body = forged()
        async with aiohttp.ClientSession() as session:
            for given in (headers, {}):
                async with session.post(workspace.hook_url, data=body, headers=given) as answer:
                    assert answer.status == 401
        await sender.ping(workspace.hook_url)
        receiver.signal(signal.SIGTERM)
    assert receiver.lines == ["listening", sender.line(watch), "bridge.ping null"]


@pytest.mark.long  # the first compilation takes half a minute
async def test_the_go_receiver_accepts_a_callback_and_refuses_a_forged_one(
    sender: Sender, workspace: Workspace
) -> None:
    program("go", "golang-go")
    (workspace.folder / "receiver.go").write_text(workspace.localized(block(RECEIVERS, "go", "hmac.Equal")))
    alone = {"GOPROXY": "off", "GOTOOLCHAIN": "local"}  # the page says that the standard library is enough
    await asyncio.to_thread(workspace.compile, "go", "vet", "receiver.go", **alone)
    await asyncio.to_thread(workspace.compile, "go", "build", "receiver.go", **alone)
    async with workspace.running("echo started; exec ./receiver", "started", WEBHOOK_SECRET=SECRET) as receiver:
        headers, body = forged()
        async with aiohttp.ClientSession() as session:
            assert await status_of(session, workspace.hook_url, body, headers) == 401
            watch = await sender.send(workspace.hook_url)
            assert await status_of(session, workspace.hook_url, body, {}) == 401
        await sender.ping(workspace.hook_url)
        receiver.signal(signal.SIGTERM)
    assert receiver.lines == ["started", sender.line(watch), "bridge.ping "]


async def status_of(session: aiohttp.ClientSession, url: str, body: bytes, headers: Mapping[str, str]) -> int:
    """Waits until the receiver has started, sends a message, and returns the status of the answer."""
    async with asyncio.timeout(SAFETY_SECONDS):
        while True:
            try:
                async with session.post(url, data=body, headers=headers) as answer:
                    return answer.status
            except aiohttp.ClientConnectionError:
                await asyncio.sleep(0.02)  # a pause between two requests


async def test_the_shell_check_accepts_a_good_signature_and_refuses_a_bad_one(sender: Sender, tmp_path: Path) -> None:
    program("openssl", "openssl")
    headers, body = await sender.envelope()
    (tmp_path / "body.json").write_bytes(body)
    wrong = Signer([OTHER]).headers(headers["webhook-id"], int(time.time()), body)
    for given, printed in ((headers, "verified\n"), (wrong, "not verified\n")):
        variables = {name.upper().replace("-", "_"): value for name, value in given.items()}
        done = subprocess.run(
            ["/bin/sh", "-c", block(RECEIVERS, "sh", "openssl dgst")],
            cwd=tmp_path,
            env={**os.environ, **variables, "WEBHOOK_SECRET": parse_secret(SECRET).text},
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.stdout, done.stderr, done.returncode == 0) == (printed, "", printed == "verified\n")

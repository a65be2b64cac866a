"""The README's receivers, each given what a real bridge sends, and what it does not."""

import asyncio
import json
import os
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp.test_utils import TestClient, TestServer
from openai import InvalidWebhookSignatureError

from bridge.core.signing import Secret, Signer, parse_secret
from tests.docs.harness import Newcomer, block, newcomer
from tests.e2e.bridges import Bridge, runtime
from tests.e2e.harness import World, world
from tests.e2e.receiver import SAFETY_SECONDS, SECRET
from tests.programs import program

OTHER = Secret(b"x" * 32)
# Bytes that shells and JSON parsers like to change.
CONTEXT = {"note": "caf\u00e9 $HOME \\ %s"}


@dataclass
class Sender:
    """A bridge with amux's stand-in."""

    around: World
    bridge: Bridge

    async def sends(self, hook_url: str, form: str = "C") -> Any:
        """The watch whose end was told there, once it was taken."""
        watch = await self.bridge.register(self.around.done(form), hook_url, context=CONTEXT)
        return await self.again(await self.bridge.final(watch), 1)

    async def again(self, watch: Any, attempts: int) -> Any:
        """The watch once so many attempts were made, and the last was taken."""
        if attempts > 1:
            await self.bridge.ask("POST", f"/deliveries/{watch['deliveries'][0]['id']}/retry")
        answer = await self.bridge.until(
            "GET",
            f"/watch/{watch['id']}",
            lambda it: (
                [(owed["state"], owed["attempts"]) for owed in it.json["deliveries"]] == [("delivered", attempts)]
            ),
        )
        return answer.json

    async def envelope(self, form: str = "C") -> tuple[Mapping[str, str], bytes]:
        """An event as a receiver gets it: headers and bytes."""
        watch = await self.sends(self.around.receiver.url, form)
        answer = await self.bridge.ask("GET", f"/watch/{watch['id']}/envelope")
        return {name: value for name, value in answer.headers.items() if name.startswith("webhook-")}, answer.body

    def line(self, watch: Any, after: str = "") -> str:
        return f"video.completed {self.around.file_of(watch['task_id'])}{after}"


@pytest.fixture
async def sender(sqlite_url: str) -> AsyncIterator[Sender]:
    async with world(sqlite_url) as around, runtime(sqlite_url, around.amux_url) as bridge:
        yield Sender(around, bridge)


@pytest.fixture
async def at(tmp_path: Path) -> AsyncIterator[Newcomer]:
    async with newcomer(tmp_path) as made:
        yield made


def forged() -> tuple[dict[str, str], bytes]:
    """A message that somebody else has signed."""
    body = b'{"id": "evt_1", "type": "video.completed", "data": {"url": null, "context": null}}'
    return {"Content-Type": "application/json", **Signer([OTHER]).headers("evt_1", int(time.time()), body)}, body


async def test_the_event_that_it_shows_is_one(sender: Sender) -> None:
    _, body = await sender.envelope("A")  # the form of amux's document, with all that it may tell
    shown, sent = json.loads(block("json", "video.completed")), json.loads(body)
    assert (list(shown), list(shown["data"])) == (list(sent), list(sent["data"]))
    assert list(shown["data"]["metadata"]) == list(sent["data"]["metadata"])


def run_block(holding: str) -> dict[str, Any]:
    """What a Python block defines, with our secret in it."""
    defined: dict[str, Any] = {"__name__": "readme"}
    exec(compile(block("python", holding).replace("whsec_...", SECRET), "README.md", "exec"), defined)  # noqa: S102
    return defined


async def test_the_python_receiver_takes_good_messages_once_and_refuses_bad_ones(
    sender: Sender, capsys: pytest.CaptureFixture[str]
) -> None:
    async with TestClient(TestServer(run_block("standardwebhooks")["app"])) as client:
        watch = await sender.sends(str(client.make_url("/hooks/video")))
        await sender.again(watch, 2)
        headers, body = forged()
        assert (await client.post("/hooks/video", data=body, headers=headers)).status == 401
    assert capsys.readouterr().out.splitlines() == [sender.line(watch, f" {CONTEXT}")]


async def test_the_openai_sdk_unwraps_our_messages(sender: Sender) -> None:
    on_hook = run_block("OpenAI")["on_hook"]
    headers, body = await sender.envelope()
    kind, data = on_hook(body, dict(headers))
    assert kind == "video.completed"
    assert (data if isinstance(data, dict) else data.model_dump())["context"] == CONTEXT
    headers, body = forged()
    with pytest.raises(InvalidWebhookSignatureError):
        on_hook(body, headers)


async def test_the_node_receiver_takes_good_messages_and_refuses_bad_ones(sender: Sender, at: Newcomer) -> None:
    program("node", "nodejs")
    (at.folder / "receiver.mjs").write_text(block("js", "createHmac"))
    environ = {"PORT": str(at.hook_port), "WEBHOOK_SECRET": SECRET}
    async with at.going("exec node receiver.mjs", "listening", **environ) as receiver:
        watch = await sender.sends(at.hook_url)
        headers, body = forged()
        async with aiohttp.ClientSession() as session:
            for given in (headers, {}):
                async with session.post(at.hook_url, data=body, headers=given) as answer:
                    assert answer.status == 401
        receiver.signal(signal.SIGTERM)
    assert receiver.lines == ["listening", sender.line(watch)]


@pytest.mark.long  # the compiler takes half a minute, the first time
async def test_the_go_receiver_takes_good_messages_and_refuses_bad_ones(sender: Sender, at: Newcomer) -> None:
    program("go", "golang-go")
    (at.folder / "receiver.go").write_text(at.typed(block("go", "hmac.Equal")))
    alone = {"GOPROXY": "off", "GOTOOLCHAIN": "local"}  # nothing to install, as the README says
    await asyncio.to_thread(at.built, "go", "vet", "receiver.go", **alone)
    await asyncio.to_thread(at.built, "go", "build", "receiver.go", **alone)
    async with at.going("echo started; exec ./receiver", "started", WEBHOOK_SECRET=SECRET) as receiver:
        headers, body = forged()
        async with aiohttp.ClientSession() as session:
            assert await refused(session, at.hook_url, body, headers) == 401
            watch = await sender.sends(at.hook_url)
            assert await refused(session, at.hook_url, body, {}) == 401
        receiver.signal(signal.SIGTERM)
    assert receiver.lines == ["started", sender.line(watch)]


async def refused(session: aiohttp.ClientSession, url: str, body: bytes, headers: Mapping[str, str]) -> int:
    """The status that a message gets, once somebody listens."""
    async with asyncio.timeout(SAFETY_SECONDS):
        while True:
            try:
                async with session.post(url, data=body, headers=headers) as answer:
                    return answer.status
            except aiohttp.ClientConnectionError:
                await asyncio.sleep(0.02)  # a pause between questions


async def test_the_shell_check_tells_good_from_bad(sender: Sender, tmp_path: Path) -> None:
    program("openssl", "openssl")
    headers, body = await sender.envelope()
    (tmp_path / "body.json").write_bytes(body)
    wrong = Signer([OTHER]).headers(headers["webhook-id"], int(time.time()), body)
    for given, said in ((headers, "verified\n"), (wrong, "not verified\n")):
        told = {name.upper().replace("-", "_"): value for name, value in given.items()}
        done = subprocess.run(
            ["/bin/sh", "-c", block("sh", "openssl dgst")],
            cwd=tmp_path,
            env={**os.environ, **told, "WEBHOOK_SECRET": parse_secret(SECRET).text},
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.stdout, done.stderr, done.returncode == 0) == (said, "", said == "verified\n")

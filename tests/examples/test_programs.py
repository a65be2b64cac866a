"""Each example that is a program, run against a real bridge with the stand-in in amux's place."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bridge.core.signing import Signer
from tests.examples.harness import EXAMPLES, OTHER, SECRET, Stage, clean, install, listening, run_to_end, staged
from tests.programs import program

RECEIVERS, APPS = EXAMPLES / "receivers", EXAMPLES / "apps"


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    async with staged(tmp_path) as made:
        yield made


@pytest.mark.parametrize(
    ("name", "installing"),
    [
        ("aiohttp_receiver.py", False),
        pytest.param("fastapi_receiver.py", True, marks=pytest.mark.long),
        pytest.param("flask_receiver.py", True, marks=pytest.mark.long),
        pytest.param("express_receiver.mjs", True, marks=pytest.mark.long),
    ],
)
async def test_a_receiver_takes_an_event_once_and_refuses_what_is_not_ours(
    stage: Stage, name: str, tmp_path: Path, *, installing: bool
) -> None:
    example, environ = RECEIVERS / name, dict[str, str]()
    if installing:
        example, environ = await asyncio.to_thread(install, example, tmp_path)
    async with listening(example, tmp_path, environ) as receiver:
        task = stage.done_task()
        watch = await stage.register(task, receiver.url)
        delivery = await stage.delivered(watch, 1)
        await stage.ask("POST", f"/deliveries/{delivery['id']}/retry")
        await stage.delivered(watch, 2)
        body = b'{"id": "evt_1", "type": "video.completed", "data": {"task_id": "forged", "url": null}}'
        for secret, sent in ((OTHER, body), (SECRET, body + b" ")):
            forged = {"Content-Type": "application/json", **Signer([secret]).headers("evt_1", int(time.time()), body)}
            async with stage.session.post(receiver.url, data=sent, headers=forged) as answer:
                assert answer.status == 401
        told = [line for line in await receiver.written() if not line.startswith(" * ")]  # Flask's banner
        assert told == [f"video.completed {task} {stage.amux_url}/files/{task}.mp4"]


async def test_the_shell_waits_for_the_end_shows_the_bytes_once_and_refuses_another_secret(
    stage: Stage, tmp_path: Path
) -> None:
    program("curl", "curl")
    program("openssl", "openssl")
    # Callbacks go nowhere: this receiver comes for its event.
    watch = await stage.register(stage.amux.create_task(), "http://127.0.0.1:1/")
    run = RECEIVERS / "receive.sh"
    code, out, err = await run_to_end(run, watch, folder=tmp_path, environ=stage.environ)
    assert (code, err.lower().count("webhook-signature: v1,")) == (0, 1), err
    async with stage.session.get(f"{stage.url}/watch/{watch}/envelope") as answer:
        assert out == await answer.text() + "\n"
    code, out, err = await run_to_end(run, watch, folder=tmp_path, environ=stage.environ)
    assert (code, out, err.endswith(": seen already\n")) == (0, "", True)
    wrong = {**stage.environ, "WEBHOOK_SECRET": OTHER.text}
    assert await run_to_end(run, watch, folder=tmp_path, environ=wrong) == (1, "", "not verified\n")
    code, out, err = await run_to_end(run, "wat_unknown", folder=tmp_path, environ=stage.environ)
    assert (code, out, "not_found" in err) == (1, "", True)


@pytest.mark.parametrize(
    ("name", "last"),
    [
        ("app_httpx.py", "{'order': 17}"),
        ("app_openai.py", "{'order': 17}"),
        ("app_fetch.mjs", '{"order":17}'),
    ],
)
async def test_an_app_creates_a_video_has_it_watched_and_is_called_back(
    stage: Stage, name: str, last: str, tmp_path: Path
) -> None:
    code, out, err = await run_to_end(APPS / name, folder=tmp_path, environ=stage.environ)
    assert code == 0, err
    [creation] = stage.amux.creates
    lines = out.splitlines()
    watch = await stage.ask("GET", f"/watch/{lines[0].removeprefix('watching ')}")
    assert watch["task_id"] == creation.task_id
    assert lines[1] == f"video.completed {stage.amux_url}/files/{creation.task_id}.mp4 {last}"
    assert lines[2:] == ([f"{len(await _video(stage, str(creation.task_id)))} bytes"] if "openai" in name else [])


async def _video(stage: Stage, task_id: str) -> bytes:
    async with stage.session.get(f"{stage.amux_url}/files/{task_id}.mp4") as answer:
        return await answer.read()


async def test_an_app_without_its_secret_or_with_a_wrong_token_ends_with_an_error(stage: Stage, tmp_path: Path) -> None:
    wrong = {**stage.environ, "BRIDGE_TOKEN": "wrong"}
    for name in ("app_httpx.py", "app_openai.py"):
        code, _, err = await run_to_end(APPS / name, folder=tmp_path, environ=wrong)
        assert (code, "401" in err) == (1, True), err
    assert (await run_to_end(APPS / "app_httpx.py", folder=tmp_path, environ=clean({})))[0] == 1

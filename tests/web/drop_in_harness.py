"""A bridge with drop-in creation, beside the stand-in."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from bridge.sandbox import Behaviour, Sandbox
from bridge.web.context import DropIn
from tests.web.harness import Answer, Bridge, served

KEY = "sk-configured"
CALLBACK = {"X-Callback-Url": "https://app.example/hook"}
CREATE = {"model": "sora-2", "prompt": "a fox"}
PATHS = ("/v1/videos", "/v1/video/generations")
ON = DropIn(pauses=(0.0, 0.0))


@pytest.fixture(name="sandbox")
async def sandbox_fixture() -> AsyncIterator[Sandbox]:
    made = Sandbox(keys=frozenset({KEY, "sk-own"}), default=Behaviour(queue_seconds=0, run_seconds=0))
    yield made
    await made.stop()


@pytest.fixture(name="bridge")
async def bridge_fixture(tmp_path: Path, sandbox: Sandbox) -> AsyncIterator[Bridge]:
    async with served(tmp_path, amux_url=await sandbox.start(), drop_in=ON) as running:
        yield running


async def create(bridge: Bridge, path: str = "/v1/videos", body: Any = CREATE, **headers: str) -> Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return await bridge.post(path, body, headers=named)


async def watches(bridge: Bridge) -> list[Any]:
    found: list[Any] = (await bridge.get("/watch")).json["items"]
    return found

"""A running stand-in, its clock, and a client that has a key."""

from dataclasses import dataclass
from typing import Any

import aiohttp
import orjson

from bridge.sandbox import Behaviour, Sandbox

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

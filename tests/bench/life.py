"""The bare life of a watch: a server that registers, polls and delivers with aiohttp alone, and stores nothing."""

import asyncio
import hashlib
import hmac
import time
from base64 import b64encode
from collections.abc import Sequence
from itertools import count
from multiprocessing.connection import Connection

import aiohttp
import orjson
from aiohttp import web

from bridge.web.api.request_models import WatchRequestBody
from tests.bench.bare_loop import listen
from tests.bench.processes import MEASURED, Child, serve


def bare_bridge(amux: str, delays: Sequence[float], body: bytes) -> Child:
    """Starts the server. It waits `delays` seconds before each poll of a task, and sends `body` when the task ends."""
    return Child(MEASURED, _serve, amux, tuple(delays), body)


def _serve(pipe: Connection, amux: str, delays: Sequence[float], body: bytes) -> None:
    secret, numbers = b"k" * 32, count()
    lives: set[asyncio.Task[None]] = set()

    async def start() -> str:
        session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=10),
        )

        async def live(watch: WatchRequestBody) -> None:
            url = f"{amux}/v1/video/generations/{watch.task_id}"
            for delay in delays:
                await asyncio.sleep(delay)
                async with session.get(url, headers={"Authorization": "Bearer bench"}) as response:
                    record = orjson.loads(await response.read())
                if record["data"]["status"] == "SUCCESS":
                    break
            name, at = f"evt_bare{next(numbers)}", str(int(time.time()))
            signature = hmac.digest(secret, f"{name}.{at}.".encode() + body, hashlib.sha256)
            headers = {
                "Content-Type": "application/json",
                "webhook-id": name,
                "webhook-timestamp": at,
                "webhook-signature": "v1," + b64encode(signature).decode(),
            }
            async with session.post(watch.callback_url, data=body, headers=headers) as response:
                await response.read()

        async def register(request: web.Request) -> web.Response:
            watch = WatchRequestBody.read(orjson.loads(await request.read()))
            life = asyncio.create_task(live(watch))
            lives.add(life)
            life.add_done_callback(lives.discard)
            answer = orjson.dumps({"task_id": watch.task_id, "callback_url": watch.callback_url})
            return web.Response(body=answer, status=201, content_type="application/json")

        return await listen(register)

    serve(pipe, start, lambda question: question)

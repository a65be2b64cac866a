"""Baselines: the least work that aiohttp, uvloop and orjson need for a poll, a registration and a callback.

The baselines have no schedule, no limits and no store. Each is measured in the same run as the bridge, on its core.
"""

import asyncio
import gc
import hashlib
import hmac
import ssl
import time
from base64 import b64encode
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from itertools import count
from multiprocessing.connection import Connection
from statistics import median

import aiohttp
import orjson
from aiohttp import web

from bridge.core.errors import InvalidRequest
from bridge.web.api.request_models import WatchRequestBody
from tests.bench.processes import MEASURED, Child, Meter, Usage, own_cpu, run_once, serve


@dataclass(frozen=True)
class Work:
    """How many items were processed, and the time that they took."""

    count: int
    usage: Usage

    @property
    def microseconds(self) -> float:
        """CPU µs for one item."""
        return self.usage.cpu / max(self.count, 1) * 1e6

    @property
    def rate(self) -> float:
        """Items in a second, by the wall clock."""
        return self.count / self.usage.wall

    def without_idle(self, idle: float) -> "Work":
        """Returns the work without the CPU time of an idle process, which is `idle` CPU seconds a second."""
        return Work(self.count, Usage(self.usage.wall, self.usage.cpu - idle * self.usage.wall))


class Rounds:
    """Several measurements of the same work. Only their median counts: other programs disturb some of them."""

    def __init__(self) -> None:
        self._works: list[Work] = []

    def add(self, work: Work) -> None:
        self._works.append(work)

    @property
    def microseconds(self) -> float:
        """CPU µs for one item."""
        return median(work.microseconds for work in self._works)

    @property
    def rate(self) -> float:
        """Items in a second, by the wall clock."""
        return median(work.rate for work in self._works)


def _session(authority: str | None = None) -> aiohttp.ClientSession:
    context = None if authority is None else ssl.create_default_context(cafile=authority)
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, ssl=context or True),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=10),
    )


def polls(base: str, concurrency: int, seconds: float, authority: str | None = None) -> Work:
    """Polls as fast as possible: request, read, parse, check the status. `authority` is a file of trusted CAs."""
    work = run_once(MEASURED, _polls, base, concurrency, seconds, authority)
    assert isinstance(work, Work)
    return work


async def _polls(base: str, concurrency: int, seconds: float, authority: str | None) -> Work:
    async with _session(authority) as session:

        async def poll(number: int) -> None:
            url = f"{base}/v1/video/generations/task_{number}"
            async with session.get(url, headers={"Authorization": "Bearer bench"}) as response:
                record = orjson.loads(await response.read())
            if not (record.get("status") or record["data"]["status"]):
                raise ValueError("an answer without a status")

        return await _repeat(poll, concurrency, seconds)


def paced_polls(base: str, tasks: int, interval: float, seconds: float) -> Work:
    """Polls `tasks` tasks at an interval, each in an asyncio task of its own."""
    work = run_once(MEASURED, _paced_polls, base, tasks, interval, seconds)
    assert isinstance(work, Work)
    return work


async def _paced_polls(base: str, tasks: int, interval: float, seconds: float) -> Work:
    done = 0
    async with _session() as session:

        async def watch(number: int) -> None:
            nonlocal done
            url = f"{base}/v1/video/generations/task_{number}"
            await asyncio.sleep(interval * number / tasks)
            while True:
                async with session.get(url, headers={"Authorization": "Bearer bench"}) as response:
                    orjson.loads(await response.read())
                done += 1
                await asyncio.sleep(interval)

        watches = [asyncio.create_task(watch(number)) for number in range(tasks)]
        await asyncio.sleep(interval * 1.2)
        gc.collect()
        gc.freeze()  # as the bridge does: otherwise each collection scans 30,000 asyncio tasks
        before, meter = done, Meter(own_cpu)
        await asyncio.sleep(seconds)
        work = Work(done - before, meter.read())
        for one in watches:
            one.cancel()
        await asyncio.gather(*watches, return_exceptions=True)
    return work


async def _repeat(handle: Callable[[int], Awaitable[None]], concurrency: int, seconds: float) -> Work:
    """Calls `handle` in `concurrency` workers for some seconds. The connections are open before the clock starts."""
    await asyncio.gather(*map(handle, range(concurrency)))
    done = 0
    gc.collect()
    gc.freeze()
    meter = Meter(own_cpu)
    end = time.monotonic() + seconds

    async def worker(number: int) -> None:
        nonlocal done
        while time.monotonic() < end:
            await handle(number)
            done += 1

    await asyncio.gather(*map(worker, range(concurrency)))
    return Work(done, meter.read())


def posts(urls: list[str], concurrency: int, seconds: float, body: bytes) -> Work:
    """Signs and sends callbacks over kept connections, and reads the answers."""
    work = run_once(MEASURED, _posts, urls, concurrency, seconds, body)
    assert isinstance(work, Work)
    return work


async def _posts(urls: list[str], concurrency: int, seconds: float, body: bytes) -> Work:
    secret = b"k" * 32
    numbers = count()
    async with _session() as session:

        async def post(number: int) -> None:
            name, at = f"evt_bare{next(numbers)}", str(int(time.time()))
            signature = hmac.digest(secret, f"{name}.{at}.".encode() + body, hashlib.sha256)
            headers = {
                "Content-Type": "application/json",
                "webhook-id": name,
                "webhook-timestamp": at,
                "webhook-signature": "v1," + b64encode(signature).decode(),
            }
            async with session.post(urls[number % len(urls)], data=body, headers=headers) as response:
                await response.read()

        return await _repeat(post, concurrency, seconds)


def handler() -> Child:
    """Starts a server that validates registrations with the bridge's own model and stores nothing."""
    return Child(MEASURED, _serve_handler)


def _serve_handler(pipe: Connection) -> None:
    async def register(request: web.Request) -> web.Response:
        try:
            watch = WatchRequestBody.read(orjson.loads(await request.read()))
        except InvalidRequest:
            return web.Response(status=422)
        body = orjson.dumps({"task_id": watch.task_id, "callback_url": watch.callback_url})
        return web.Response(body=body, status=201, content_type="application/json")

    serve(pipe, lambda: listen(register), lambda question: question)


async def listen(register: Callable[[web.Request], Awaitable[web.Response]]) -> str:
    """Serves only `POST /watch` on the running loop and returns the URL."""
    app = web.Application()
    app.router.add_post("/watch", register)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=1024).start()
    gc.collect()
    gc.freeze()
    port: int = runner.addresses[0][1]
    return f"http://127.0.0.1:{port}"

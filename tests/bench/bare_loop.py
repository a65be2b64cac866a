"""The yardsticks: the least that aiohttp, uvloop and orjson can do for a poll, a registration and a callback.

No schedule, no limits, no store. Each is measured beside the bridge in the same run, on the same core.
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
from tests.bench.processes import MEASURED, Child, Meter, Spent, answer_for_ever, own_cpu, run_once


@dataclass(frozen=True)
class Done:
    """How much was done, and what it took."""

    count: int
    spent: Spent

    @property
    def microseconds(self) -> float:
        """CPU µs of one."""
        return self.spent.cpu / max(self.count, 1) * 1e6

    @property
    def rate(self) -> float:
        """How many a second, by the wall clock."""
        return self.count / self.spent.wall

    def less(self, idle: float) -> "Done":
        """Without what the process spends doing nothing, `idle` CPU seconds a second."""
        return Done(self.count, Spent(self.spent.wall, self.spent.cpu - idle * self.spent.wall))


class Rounds:
    """The same thing done several times. Their median counts: now and then others have the machine."""

    def __init__(self) -> None:
        self._done: list[Done] = []

    def add(self, done: Done) -> None:
        self._done.append(done)

    @property
    def microseconds(self) -> float:
        """CPU µs of one."""
        return median(done.microseconds for done in self._done)

    @property
    def rate(self) -> float:
        """How many a second, by the wall clock."""
        return median(done.rate for done in self._done)


def _session(authority: str | None = None) -> aiohttp.ClientSession:
    context = None if authority is None else ssl.create_default_context(cafile=authority)
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, ssl=context or True),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=10),
    )


def polls(base: str, concurrency: int, seconds: float, authority: str | None = None) -> Done:
    """Ask, read, parse, look at the status; as often as it goes. `authority` is a file of CAs to trust."""
    done = run_once(MEASURED, _polls, base, concurrency, seconds, authority)
    assert isinstance(done, Done)
    return done


async def _polls(base: str, concurrency: int, seconds: float, authority: str | None) -> Done:
    async with _session(authority) as session:

        async def poll(number: int) -> None:
            url = f"{base}/v1/video/generations/task_{number}"
            async with session.get(url, headers={"Authorization": "Bearer bench"}) as response:
                record = orjson.loads(await response.read())
            if not (record.get("status") or record["data"]["status"]):
                raise ValueError("an answer without a status")

        return await _busy(poll, concurrency, seconds)


async def _busy(work: Callable[[int], Awaitable[None]], concurrency: int, seconds: float) -> Done:
    """Keep so many workers busy; the connections are there before the clock starts."""
    await asyncio.gather(*map(work, range(concurrency)))
    done = 0
    gc.collect()
    gc.freeze()
    meter = Meter(own_cpu)
    end = time.monotonic() + seconds

    async def worker(number: int) -> None:
        nonlocal done
        while time.monotonic() < end:
            await work(number)
            done += 1

    await asyncio.gather(*map(worker, range(concurrency)))
    return Done(done, meter.read())


def posts(urls: list[str], concurrency: int, seconds: float, body: bytes) -> Done:
    """Sign, POST and read the answer, over kept connections."""
    done = run_once(MEASURED, _posts, urls, concurrency, seconds, body)
    assert isinstance(done, Done)
    return done


async def _posts(urls: list[str], concurrency: int, seconds: float, body: bytes) -> Done:
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

        return await _busy(post, concurrency, seconds)


def handler() -> Child:
    """A server that validates a registration by the bridge's own model and stores nothing; its greeting is its URL."""
    return Child(MEASURED, _serve_handler)


def _serve_handler(pipe: Connection) -> None:
    async def register(request: web.Request) -> web.Response:
        try:
            wanted = WatchRequestBody.read(orjson.loads(await request.read()))
        except InvalidRequest:
            return web.Response(status=422)
        body = orjson.dumps({"task_id": wanted.task_id, "callback_url": wanted.callback_url})
        return web.Response(body=body, status=201, content_type="application/json")

    answer_for_ever(pipe, lambda: listen(register), lambda question: question)


async def listen(register: Callable[[web.Request], Awaitable[web.Response]]) -> str:
    """Serve `POST /watch` and no more, on the running loop; the URL."""
    app = web.Application()
    app.router.add_post("/watch", register)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=1024).start()
    gc.collect()
    gc.freeze()
    port: int = runner.addresses[0][1]
    return f"http://127.0.0.1:{port}"

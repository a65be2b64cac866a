"""Apps that register watches, in a process of their own: a bare protocol, so that they take little CPU time."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, count, islice
from multiprocessing.connection import Connection
from random import Random
from typing import cast
from urllib.parse import urlsplit

import aiohttp

from tests.bench.bridge_process import TOKEN
from tests.bench.processes import LOADING, Child, Meter, Usage, own_cpu, run_once, serve

_HEAD = (
    "POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nAuthorization: Bearer {token}\r\n"
    "Content-Length: "
)
_WATCH = (
    '{"task_id":"task_%032x","callback_url":"http://localhost:%d/hooks/video","context":{"order":"%d","user":"u_4711"}}'
)


@dataclass(frozen=True)
class Registered:
    """The number of registered watches, the time of the client, and the waits for the answers in seconds, sorted."""

    watches: int
    usage: Usage
    waits: Sequence[float]

    def wait(self, share: float) -> float:
        """Returns the wait that this share of the requests did not exceed."""
        return self.waits[min(int(share * len(self.waits)), len(self.waits) - 1)]


def register(  # noqa: PLR0917  the numbers of a load
    urls: str | Sequence[str], connections: int, seconds: float, run: str, batch: int = 1, port: int = 9
) -> Registered:
    """Registers as fast as answers come, at one bridge or at several in turn.

    The ids of the tasks are random, as amux's are. They differ from run to run: `run` is the seed.
    """
    all_urls = [urls] if isinstance(urls, str) else list(urls)
    result = run_once(LOADING, _register, all_urls, connections, seconds, run, batch, port)
    assert isinstance(result, Registered)
    return result


def register_evenly(url: str, rate: float, seconds: float, life_seconds: float, callbacks: Sequence[str]) -> Child:
    """Starts to register `rate` watches a second, for `seconds`. Each task ends `life_seconds` afterwards.

    The returned process answers "count" with the number of registered watches.
    """
    return Child(LOADING, _serve_evenly, url, rate, seconds, life_seconds, list(callbacks))


def _serve_evenly(  # noqa: PLR0917
    pipe: Connection, url: str, rate: float, seconds: float, life_seconds: float, callbacks: list[str]
) -> None:
    answers: list[int] = []

    async def run() -> None:
        headers = {"Authorization": f"Bearer {TOKEN}"}
        async with aiohttp.ClientSession(headers=headers) as session, asyncio.TaskGroup() as group:

            async def register_one(number: int) -> None:
                ends_at = (time.time() + life_seconds) * 1000
                task = f"task_{time.time_ns()}x{number}-{ends_at:.0f}"
                body = {"task_id": task, "callback_url": callbacks[number % len(callbacks)]}
                async with session.post(f"{url}/watch", json=body) as response:
                    response.raise_for_status()
                    await response.read()
                answers.append(number)

            began = time.monotonic()
            for number in range(int(rate * seconds)):
                await asyncio.sleep(began + number / rate - time.monotonic())
                group.create_task(register_one(number))

    async def start() -> str:
        running.append(asyncio.create_task(run()))
        return url

    running: list[asyncio.Task[None]] = []
    serve(pipe, start, lambda _: len(answers))


async def _register(  # noqa: PLR0917
    urls: Sequence[str], connections: int, seconds: float, run: str, batch: int, port: int
) -> Registered:
    loop = asyncio.get_running_loop()
    hosts = [urlsplit(url) for url in urls]
    path = "/watch" if batch == 1 else "/watch/batch"
    heads = [_HEAD.format(path=path, host=host.netloc, token=TOKEN).encode() for host in hosts]
    numbers, ids = count(), Random(run)

    def request(head: bytes) -> bytes:
        watches = [_WATCH % (ids.getrandbits(128), port, number) for number in islice(numbers, batch)]
        body = (watches[0] if batch == 1 else '{"watches":[' + ",".join(watches) + "]}").encode()
        return head + b"%d\r\n\r\n" % len(body) + body

    meter = Meter(own_cpu)
    until = time.monotonic() + seconds
    apps = [
        _App(partial(request, heads[place % len(heads)]), until, loop.create_future()) for place in range(connections)
    ]
    for place, app in enumerate(apps):
        host = hosts[place % len(hosts)]
        await loop.create_connection(partial(_itself, app), host.hostname or "", host.port or 80)
    await asyncio.gather(*(app.done for app in apps))
    waits = sorted(chain.from_iterable(app.waits for app in apps))
    return Registered(len(waits) * batch, meter.read(), waits)


def _itself(app: "_App") -> "_App":
    return app


class _App(asyncio.Protocol):
    """One connection, which sends the next request when the answer has come."""

    def __init__(self, request: Callable[[], bytes], until: float, done: "asyncio.Future[None]") -> None:
        self._request = request
        self._until = until
        self.done = done
        self.waits: list[float] = []
        self._began = 0.0
        self._received = b""
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(exc or ConnectionError("the server closed the connection"))

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, found, body = self._received.partition(b"\r\n\r\n")
        if not found or len(body) < _length(head):
            return
        if not head.startswith((b"HTTP/1.1 201", b"HTTP/1.1 200")):
            self.done.set_exception(RuntimeError(f"refused: {self._received[:500]!r}"))
            return
        self._received = b""
        now = time.monotonic()
        self.waits.append(now - self._began)
        if now < self._until:
            self._send()
        else:
            self.done.set_result(None)

    def _send(self) -> None:
        self._began = time.monotonic()
        self._transport.write(self._request())


def _length(head: bytes) -> int:
    lowered = head.lower()
    at = lowered.index(b"content-length:") + 15
    end = lowered.find(b"\r\n", at)
    return int(lowered[at : end if end > 0 else None])

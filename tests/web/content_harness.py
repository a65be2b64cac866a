"""An amux whose `/content` behaves like the real one, and slow readers, for the tests of the content cache."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from tests.waiting import SAFETY_SECONDS
from tests.web.harness import APP, Bridge
from tests.web.upstream import Upstream, upstream

PIECE = 64 * 1024


def video(size: int) -> bytes:
    """Returns `size` random bytes, the same for every call with this size."""
    return random.Random(size).randbytes(size)


MIB = 1 << 20
SMALL = video(1000)


@dataclass
class Amux:
    """Sends `body` as fast as the reader takes it, ignores Range, and breaks off after `limit_seconds`.

    After each number of bytes in `gates` it waits for `open_gate`. After `breaks_at` bytes it breaks off. `finished` is
    set when the whole body is sent, `broke_off` when it breaks off.
    """

    body: bytes
    limit_seconds: float = 60.0
    with_length: bool = True
    gates: list[int] = field(default_factory=list)
    breaks_at: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    finished: asyncio.Event = field(default_factory=asyncio.Event)
    broke_off: asyncio.Event = field(default_factory=asyncio.Event)
    server: Upstream = field(init=False)
    _gate: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def reads(self) -> int:
        return len(self.server.requests)

    def open_gate(self) -> None:
        self._gate.set()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        headers = {"Content-Type": "video/mp4", "Accept-Ranges": "bytes", **self.headers}
        response = web.StreamResponse(headers=headers)
        if self.with_length:
            response.content_length = len(self.body)
        await response.prepare(request)
        try:
            async with asyncio.timeout(self.limit_seconds):
                await self._send(response)
        except TimeoutError:
            self.broke_off.set()
            assert request.transport is not None
            request.transport.abort()
        return response

    async def _send(self, response: web.StreamResponse) -> None:
        stops = sorted({*self.gates, len(self.body), *([] if self.breaks_at is None else [self.breaks_at])})
        position = 0
        for stop in stops:
            while position < stop:
                piece = self.body[position : min(position + PIECE, stop)]
                await response.write(piece)
                position += len(piece)
            if position == self.breaks_at:
                raise TimeoutError
            if position in self.gates:
                await self._gate.wait()
                self._gate.clear()
        self.finished.set()


@asynccontextmanager
async def serving(amux: Amux) -> AsyncIterator[Amux]:
    """Serves an amux on loopback."""
    async with upstream(amux.answer) as amux.server:
        yield amux


async def completed(bridge: Bridge, task_id: str = "task_1") -> str:
    """Registers a watch and settles it. Returns the path of its video."""
    watch = await bridge.watch(task_id=task_id)
    await bridge.settle(watch["id"])
    return f"/watch/{watch['id']}/content"


@asynccontextmanager
async def opened(bridge: Bridge, path: str, **headers: str) -> AsyncIterator[aiohttp.ClientResponse]:
    """Opens a video without reading it. A header's name may have `_` for `-`."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    url = f"http://127.0.0.1:{bridge.port}{path}"
    async with bridge.session.get(url, headers={**APP, **named}) as response:
        yield response


async def until(condition: Any) -> None:
    """Waits until `condition()` is true."""
    async with asyncio.timeout(SAFETY_SECONDS):
        while not condition():
            await asyncio.sleep(0.001)


def files(folder: Path) -> list[Path]:
    """Returns the files of the cache, except its lock file."""
    return [path for path in (folder / "content").rglob("*") if path.is_file() and path.name != "lock"]


def count(bridge: Bridge, result: str) -> float:
    return float(bridge.context.metrics.content_requests[result]._value.get())


async def kept(folder: Path) -> None:
    """Waits until the cache has at least one file and every file is complete."""
    await until(lambda: files(folder) and all(path.suffix != ".part" for path in files(folder)))

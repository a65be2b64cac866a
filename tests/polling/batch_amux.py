"""A server in amux's place. A test sets the answers of its batch route, also answers that amux never gives."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from bridge.amux.client import AmuxClient
from bridge.core.batch_lane import BatchPolicy
from bridge.core.model import Outcome
from bridge.polling.poller import Poller
from bridge.polling.state import PolledTask
from bridge.store.records import RegisteredWatch
from tests.polling.harness import AMUX_SECONDS, Harness
from tests.polling.scripted_amux import Answer

BATCH = BatchPolicy(interval=0.02)
BatchAnswer = Callable[[Sequence[str]], Answer]


def row(task_id: str, status: str = "IN_PROGRESS", platform: str = "50", **more: Any) -> dict[str, Any]:
    """Returns amux's row of a task, as in form C."""
    return {
        "id": 7,
        "task_id": task_id,
        "platform": platform,
        "status": status,
        "progress": "30%",
        "fail_reason": "no" if status == "FAILURE" else "",
        "submit_time": 1_795_446_200,
        "properties": {"origin_model_name": f"model-{platform}"},
        "data": {},
        **more,
    }


def rows(*found: Any, code: str = "success") -> Answer:
    """Returns a batch answer with these records."""
    return 200, {"code": code, "message": "", "data": list(found)}


def single(task_id: str, status: str = "IN_PROGRESS", platform: str = "50") -> Answer:
    """Returns the answer to a single read of a recorded task."""
    return 200, {"code": "success", "message": "", "data": row(task_id, status, platform)}


@dataclass
class BatchAmux:
    """Answers single reads by task id, and batches by `batch`. An answer's body is JSON, or bytes for a web page."""

    batch: BatchAnswer = lambda ids: rows(*map(row, ids))
    singles: dict[str, Answer] = field(default_factory=dict)
    polls: Counter[str] = field(default_factory=Counter)
    batches: list[tuple[str, ...]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    """The key of each batch."""
    requests: list[tuple[float, str]] = field(default_factory=list)
    """When each request came, and in which lane."""
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    """Batches are answered while it is set."""

    def __post_init__(self) -> None:
        self.gate.set()

    async def answer_single(self, request: web.Request) -> web.Response:
        task_id = request.match_info["task_id"]
        self.polls[task_id] += 1
        self.requests.append((time.monotonic(), "single"))
        return _response(self.singles.get(task_id) or single(task_id))

    async def answer_batch(self, request: web.Request) -> web.Response:
        ids = (await request.json())["ids"]
        self.batches.append(tuple(ids))
        self.keys.append(request.headers["Authorization"].removeprefix("Bearer "))
        self.requests.append((time.monotonic(), "batch"))
        await self.gate.wait()
        return _response(self.batch(ids))

    def asked(self, task_id: str) -> int:
        """Returns how many batches asked for a task."""
        return sum(task_id in ids for ids in self.batches)


def _response(answer: Answer) -> web.Response:
    status, body = answer
    if isinstance(body, bytes):
        return web.Response(status=status, body=body, content_type="text/html")
    return web.json_response(body, status=status)


@asynccontextmanager
async def batch_amux() -> AsyncIterator[tuple[BatchAmux, AmuxClient]]:
    """Start a server. Yields the server and a client of it."""
    amux = BatchAmux()
    app = web.Application()
    app.router.add_get("/v1/video/generations/{task_id}", amux.answer_single)
    app.router.add_post("/suno/fetch", amux.answer_batch)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    client = AmuxClient(
        f"http://127.0.0.1:{runner.addresses[0][1]}", user_agent="amux-bridge/test", timeout_seconds=AMUX_SECONDS
    )
    try:
        yield amux, client
    finally:
        amux.gate.set()
        await client.close()
        await runner.cleanup()


@dataclass
class Bench:
    """A poller that reads in batches from a `BatchAmux`, and its tasks."""

    harness: Harness
    amux: BatchAmux
    poller: Poller
    watches: dict[str, RegisteredWatch] = field(default_factory=dict)

    async def register(self, *ids: str, polled: bool = True, **options: Any) -> None:
        """Register a watch on each task. The poller then gets all tasks at once, so its first batch has all of them."""
        found = {task_id: await self.harness.register(task_id, **options) for task_id in ids}
        self.watches |= found
        for registered in found.values():
            if polled and registered.task is not None:
                self.poller.add(registered.task, options.get("api_key"))

    def task(self, task_id: str) -> PolledTask:
        return self.poller._tasks[self.watches[task_id].view.task.row]

    async def outcomes(self) -> dict[str, Outcome | None]:
        return {task_id: await self.harness.outcome(watch) for task_id, watch in self.watches.items()}

    async def batched(self, *ids: str, more: int = 2) -> None:
        """Wait until `more` further batches have asked for each task."""
        before = {task_id: self.amux.asked(task_id) for task_id in ids}
        await self.harness.until(lambda: all(self.amux.asked(each) >= before[each] + more for each in ids))

    async def polled(self, *ids: str, more: int = 2) -> None:
        """Wait until each task was read singly `more` further times."""
        before = {task_id: self.amux.polls[task_id] for task_id in ids}
        await self.harness.until(lambda: all(self.amux.polls[each] >= before[each] + more for each in ids))

    async def past_deadlines(self) -> None:
        """Check the deadlines, as the scheduler does, until every watch has ended."""
        while self.poller.owned:
            await self.poller.check_deadlines()
            await self.harness.store.overdue(None, 1)

    async def end(self) -> None:
        await self.harness.until(lambda: self.poller.owned == 0)

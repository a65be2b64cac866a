"""A server in amux's place that answers the polls of each task with a list of answers, and repeats the last one."""

import time
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

from bridge.amux.client import AmuxClient
from tests.polling.harness import AMUX_SECONDS

Answer = tuple[int, Any]


def live(status: str, message: str = "", url: str = "") -> Answer:
    """Returns form B, an answer that amux got from the vendor."""
    return 200, {"code": "success", "message": message, "data": {"status": status, "url": url, "format": "mp4"}}


def row(status: str, reason: str = "") -> Answer:
    """Returns form C, which has amux's own row."""
    data = {"id": 7, "status": status, "fail_reason": reason, "platform": "54", "submit_time": 1_795_446_200}
    return 200, {"code": "success", "message": "", "data": data}


def nested(status: int, message: str, kind: str) -> Answer:
    """Returns an error in amux's nested form."""
    return status, {"error": {"code": "", "message": message, "type": kind}}


class ScriptedAmux:
    """Answers the polls of each task with its script. `polled_at` has the monotonic times of each task's polls."""

    def __init__(self) -> None:
        self.scripts: dict[str, list[Answer]] = {}
        self.polled_at: defaultdict[str, list[float]] = defaultdict(list)

    async def answer(self, request: web.Request) -> web.Response:
        task_id = request.match_info["task_id"]
        self.polled_at[task_id].append(time.monotonic())
        script = self.scripts[task_id]
        status, body = script.pop(0) if len(script) > 1 else script[0]
        return web.json_response(body, status=status)


@asynccontextmanager
async def scripted_amux() -> AsyncIterator[tuple[ScriptedAmux, AmuxClient]]:
    """Start a server. Yields the server and a client that polls it."""
    amux = ScriptedAmux()
    app = web.Application()
    app.router.add_get("/v1/video/generations/{task_id}", amux.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    client = AmuxClient(
        f"http://127.0.0.1:{runner.addresses[0][1]}", user_agent="amux-bridge/test", timeout_seconds=AMUX_SECONDS
    )
    try:
        yield amux, client
    finally:
        await client.close()
        await runner.cleanup()

"""Sends the requests of the examples to a real bridge, with the `curl` command and the program that are shown."""

import asyncio
import json
import os
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

from aiohttp import web

from bridge.sandbox import Behaviour
from bridge.web.api.samples import TOKENS, Example, Examples, Request, curl_of, python_of
from tests.dashboard.harness import APP_TOKEN, OPERATOR_TOKEN, Bridge
from tests.docs import test_api as api_tour
from tests.waiting import SAFETY_SECONDS

EXCERPT_LINES = 6  # the number of lines that are kept of an answer that is not JSON
RUNNING = "in_progress"
STATUS_LINE = "\n--- status "
APP = {"Authorization": f"Bearer {APP_TOKEN}"}
NUMBERS = re.compile(r"\d+(\.\d+)?")


@dataclass
class Receiver:
    """A receiver that answers with `status`, and with 410 at `/gone`. `events` has the last event of each type."""

    url: str = ""
    status: int = 204
    events: dict[str, Any] = field(default_factory=dict)
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def receive(self, request: web.Request) -> web.Response:
        event = await request.json()
        async with self.changed:
            self.events[event["type"]] = event
            self.changed.notify_all()
        return web.Response(status=410 if request.path == "/gone" else self.status)

    async def until(self, *types: str) -> None:
        """Wait until an event of each type has come."""
        async with asyncio.timeout(SAFETY_SECONDS), self.changed:
            await self.changed.wait_for(lambda: self.events.keys() >= set(types))


@asynccontextmanager
async def running_receiver() -> AsyncIterator[Receiver]:
    receiver, app = Receiver(), web.Application()
    app.router.add_post("/{path:.*}", receiver.receive)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    receiver.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield receiver
    finally:
        await runner.cleanup()


@dataclass
class Recorder:
    """Sends requests and keeps their answers."""

    bridge: Bridge
    receiver: Receiver
    folder: Path
    examples: Examples = field(default_factory=lambda: Examples(operations={}, errors={}, events={}))

    # --- requests -------------------------------------------------------------------------------------------------

    async def example(self, operation: str, request: Request, shown: Callable[[Any], Any] = lambda value: value) -> Any:
        """Send a request with curl and with Python, and keep the answer to curl. Return its value."""
        status, value = await self._by_curl(request)
        python = await asyncio.to_thread(self._by_python, request)
        assert 200 <= status < 300, (operation, status, value)
        if request["answer"] == "json":
            assert python[0] // 100 == status // 100, (operation, python)
            same = form_of if request["method"] == "GET" else set  # a repeated change may have another answer
            assert same(python[1]) == same(value), operation
        self.examples["operations"][operation] = Example(
            request=request, answer={"status": status, "value": shown(value)}
        )
        return value

    async def _by_curl(self, request: Request) -> tuple[int, Any]:
        command = curl_of(request, self.bridge.url, request["caller"])
        process = await asyncio.create_subprocess_shell(
            f"{command} -w '{STATUS_LINE}%{{http_code}}'",
            cwd=self.folder,
            env={**os.environ, **self.tokens},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await process.communicate()
        assert process.returncode == 0, (command, err)
        text, _, status = out.decode().rpartition(STATUS_LINE)
        if request["answer"] == "json":
            return int(status), json.loads(text)
        if request["answer"] == "bytes":
            assert (self.folder / "video.mp4").stat().st_size > 1000
            return int(status), None
        return int(status), "\n".join(text.splitlines()[:EXCERPT_LINES])

    def _by_python(self, request: Request) -> tuple[Any, ...]:
        printed: list[tuple[Any, ...]] = []
        source = python_of(request, self.bridge.url, request["caller"])
        source = source.replace('open("video.mp4"', f'open("{self.folder}/python.mp4"')
        with patch.dict(os.environ, self.tokens):
            exec(compile(source, "sample", "exec"), {"print": lambda *values: printed.append(values)})  # noqa: S102
        if request["answer"] == "bytes":
            assert (self.folder / "python.mp4").read_bytes() == (self.folder / "video.mp4").read_bytes()
            return ()
        assert printed, source
        return printed[0]

    @property
    def tokens(self) -> dict[str, str]:
        return {TOKENS["app"]: APP_TOKEN, TOKENS["operator"]: OPERATOR_TOKEN}

    async def error(self, code: str, method: str, path: str, **options: Any) -> None:
        """Send a request, and keep the problem in its answer. The problem must have this code."""
        headers = APP | options.pop("headers", {})
        answer = await self.bridge.request(method, path, headers=headers, **options)
        self.keep(code, answer.json)

    def keep(self, code: str, problem: Any) -> None:
        assert problem["code"] == code, problem
        self.examples["errors"][code] = problem

    # --- helpers --------------------------------------------------------------------------------------------------

    async def register(self, behaviour: Behaviour, **fields: Any) -> Any:
        """Register a watch on a new task."""
        return await self.bridge.register(behaviour, **({"callback_url": f"{self.receiver.url}/hooks/video"} | fields))

    async def settled(self, watch_id: str) -> Any:
        """Wait until a watch has ended and none of its deliveries is pending, and return the watch."""
        async with asyncio.timeout(SAFETY_SECONDS):
            while True:
                answer = await self.bridge.request("GET", f"/watch/{watch_id}?wait_seconds=30", headers=APP)
                watch = answer.json
                if watch["state"] != "active" and all(one["state"] != "pending" for one in watch["deliveries"]):
                    return watch
                await asyncio.sleep(0.02)  # a pause between two requests

    async def seen_running(self, watch_id: str) -> None:
        """Wait until a poll has seen the watch's task running."""
        async with asyncio.timeout(SAFETY_SECONDS):
            while (await self.bridge.request("GET", f"/watch/{watch_id}", headers=APP)).json["task"][
                "status"
            ] != RUNNING:
                await asyncio.sleep(0.02)  # a pause between two requests


def request(
    method: str, path: str, body: Any = None, *, caller: Any = "app", answer: Any = "json", **headers: str
) -> Request:
    made = Request(method=method, path=path, caller=caller, answer=answer)
    if headers:
        made["headers"] = {name.replace("_", "-"): value for name, value in headers.items()}
    if body is not None:
        made["body"] = body
    return made


def form_of(value: Any) -> Any:
    """Return a JSON value with masks for what differs from run to run, also within its texts."""
    return api_tour.form_of(value, lambda text: NUMBERS.sub("NUMBER", api_tour.masked(text)))


def same_form(one: Any, other: Any) -> bool:
    """Return whether two values have the same form. A null matches any value, which may have come later in that run."""
    match one, other:
        case (None, _) | (_, None):
            return True
        case dict(), dict():
            return one.keys() == other.keys() and all(same_form(one[key], other[key]) for key in one)
        case list(), list():
            return all(same_form(*pair) for pair in zip(one, other, strict=False))
    return bool(form_of(one) == form_of(other))

"""A whole bridge with amux's stand-in and a receiver, and an operator who is signed in to its page."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from bridge.sandbox import Behaviour, Sandbox
from bridge.service.runtime import Runtime
from bridge.settings import settings as reading
from bridge.web.dashboard.context import DashboardContext

SAFETY_SECONDS = 30.0
KEY = "sk-configured-0123456789"
APP_TOKEN = "app-token-1234"
OPERATOR_TOKEN = "operator-token-1234"
SHORT: Mapping[str, str] = {
    "host": "127.0.0.1",
    "port": "0",
    "amux_api_key": KEY,
    "tokens": f"shop:{APP_TOKEN}",
    "operator_tokens": f"ops:{OPERATOR_TOKEN}",
    "callback_allow_networks": "127.0.0.0/8",
    "poll_first_delay_seconds": "0.05",
    "poll_interval_seconds": "0.1",
    "poll_max_interval_seconds": "0.3",
    "delivery_retry_delays_seconds": "0.05",
    "delivery_timeout_seconds": "5",
    "drain_timeout_seconds": "2",
}
Told = Callable[[Any], bool]


@dataclass
class Answer:
    """An answer, read."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    cookies: list[str] = field(default_factory=list)

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def text(self) -> str:
        return self.body.decode()


@dataclass
class Receiver:
    """Answers what its path says: `/answer/500`. `bodies` is what it says beside, by status."""

    url: str = ""
    bodies: dict[int, str] = field(default_factory=dict)
    statuses: dict[int, int] = field(default_factory=dict)  # what is answered in a status' stead
    taken: list[str] = field(default_factory=list)

    async def answer(self, request: web.Request) -> web.Response:
        status = int(request.match_info["status"])
        status = self.statuses.get(status, status)
        self.taken.append(request.headers["webhook-id"])
        return web.Response(status=status, text=self.bodies.get(status, "said"))


@dataclass
class Operator:
    """Who is signed in: the cookie, and what proves his changes."""

    stage: "Stage"
    cookie: str
    csrf: str

    async def get(self, path: str, **headers: str) -> Answer:
        return await self.stage.ask("GET", path, headers={"Cookie": self.cookie, **headers})

    async def post(self, path: str, body: Any = None, **headers: str) -> Answer:
        """As the page's script does it; a header given as "" is left out."""
        proof = {"Origin": self.stage.url, "X-CSRF-Token": self.csrf, "Cookie": self.cookie} | headers
        kept = {name: value for name, value in proof.items() if value}
        return await self.stage.ask("POST", path, headers=kept, **({} if body is None else {"json": body}))

    async def sees(self, event: str, told: Told, query: str = "") -> Any:
        """What the live stream tells once `told` holds of it."""
        options: Any = {"headers": {"Cookie": self.cookie}, "timeout": aiohttp.ClientTimeout(sock_read=SAFETY_SECONDS)}
        async with self.stage.session.get(f"{self.stage.url}/page/live{query}", **options) as answer:
            assert answer.status == 200, await answer.text()
            last: Any = None
            try:
                async with asyncio.timeout(SAFETY_SECONDS):
                    async for name, data in events_of(answer):
                        last = data if name == event else last
                        if name == event and told(data):
                            return data
            except TimeoutError:
                pass
            raise AssertionError(f"the last {event} was {last}")

    async def trouble(self, key: str) -> Any:
        """A trouble of the overview, once it is told."""
        found = await self.sees("overview", lambda told: any(one["key"].startswith(key) for one in told["troubles"]))
        return next(one for one in found["troubles"] if one["key"].startswith(key))


async def events_of(answer: aiohttp.ClientResponse) -> AsyncIterator[tuple[str, Any]]:
    """Name and data of each server-sent event."""
    name = ""
    async for line in answer.content:
        field_name, _, value = line.decode().rstrip("\n").partition(": ")
        if field_name == "event":
            name = value
        elif field_name == "data":
            yield name, json.loads(value)


@dataclass
class Stage:
    """What a test asks and looks into."""

    runtime: Runtime
    amux: Sandbox
    receiver: Receiver
    session: aiohttp.ClientSession

    @property
    def url(self) -> str:
        return self.runtime.url

    async def ask(self, method: str, path: str, **options: Any) -> Answer:
        options.setdefault("allow_redirects", False)
        async with self.session.request(method, self.url + path, **options) as answer:
            cookies = answer.headers.getall("Set-Cookie", [])
            return Answer(answer.status, answer.headers, await answer.read(), cookies)

    async def sign_in(self, token: str = OPERATOR_TOKEN, **headers: str) -> Answer:
        return await self.ask("POST", "/page/sign-in", data={"token": token}, headers=headers)

    async def operator(self) -> Operator:
        [cookie] = (await self.sign_in()).cookies
        pair = cookie.partition(";")[0]
        session = await self.ask("GET", "/page/session", headers={"Cookie": pair})
        return Operator(self, pair, session.json["csrf"])

    async def watch(self, behaviour: Behaviour | None = None, status: int = 200, **fields: Any) -> Any:
        """A watch on a new task at amux, whose receiver answers with a status."""
        body = {
            "task_id": self.amux.create_task(behaviour or Behaviour(queue_seconds=0, run_seconds=0)),
            "callback_url": f"{self.receiver.url}/answer/{status}?token=hidden-query",
        } | fields
        headers = {"Authorization": f"Bearer {APP_TOKEN}"}
        answer = await self.ask("POST", "/watch", json=body, headers=headers)
        assert answer.status == 201, answer
        return answer.json

    async def dead(self, count: int = 1) -> list[str]:
        """Watches whose callbacks the receiver refused for good."""
        ids = [(await self.watch(status=410))["id"] for _ in range(count)]
        operator = await self.operator()
        await operator.sees("overview", lambda told: told["figures"]["dead"] == count)
        return ids


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class QuickRuntime(Runtime):
    """A bridge whose page looks five times a second: tests wait for what it sees."""

    def _make_dashboard_context(self) -> DashboardContext:
        return replace(super()._make_dashboard_context(), beat_seconds=0.2, overview_good_for_seconds=0.2)


@asynccontextmanager
async def staged(folder: Path, *, keys: frozenset[str] | None = None, **settings: str) -> AsyncIterator[Stage]:
    """Everything starts and ends with it; `settings` are texts, as an environment has them."""
    amux, receiver = Sandbox(keys=keys), Receiver()
    app = web.Application()
    app.router.add_post("/answer/{status}", receiver.answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    receiver.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        places = {"amux_base_url": await amux.start(), "database_url": f"sqlite:///{folder}/bridge.db"}
        given = {name: value for name, value in {**SHORT, **places, **settings}.items() if value}
        runtime = await QuickRuntime.start(reading.load(env_file=None, **given))
        try:
            async with aiohttp.ClientSession() as session:
                yield Stage(runtime, amux, receiver, session)
        finally:
            await runtime.stop()
    finally:
        await amux.stop()
        await runner.cleanup()

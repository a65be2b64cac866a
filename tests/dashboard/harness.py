"""A whole bridge with amux's stand-in and a receiver, and an operator who is signed in to the dashboard."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from bridge.sandbox import Behaviour, Sandbox
from bridge.service.runtime import Runtime
from bridge.settings import settings as bridge_settings
from bridge.web.dashboard.context import DashboardContext
from tests.waiting import SAFETY_SECONDS

KEY = "sk-configured-0123456789"
APP_TOKEN = "app-token-1234"
OPERATOR_TOKEN = "operator-token-1234"
FAST_SETTINGS: Mapping[str, str] = {
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
    "delivery_timeout_seconds": "20",
    "drain_timeout_seconds": "2",
}
Condition = Callable[[Any], bool]


@dataclass
class Answer:
    """An HTTP answer whose body has been read."""

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
    """A receiver that answers with the status in its path: `/answer/500`.

    `bodies` has the body of the answer for a status. `statuses` has the status that replaces a status of the path.
    `received` are the webhook-ids of all requests.
    """

    url: str = ""
    bodies: dict[int, str] = field(default_factory=dict)
    statuses: dict[int, int] = field(default_factory=dict)
    received: list[str] = field(default_factory=list)

    async def answer(self, request: web.Request) -> web.Response:
        status = int(request.match_info["status"])
        status = self.statuses.get(status, status)
        self.received.append(request.headers["webhook-id"])
        return web.Response(status=status, text=self.bodies.get(status, "answered"))


@dataclass
class Operator:
    """A signed-in operator: the session's cookie and its CSRF token."""

    bridge: "Bridge"
    cookie: str
    csrf: str

    async def get(self, path: str, **headers: str) -> Answer:
        return await self.bridge.request("GET", path, headers={"Cookie": self.cookie, **headers})

    async def post(self, path: str, body: Any = None, **headers: str) -> Answer:
        """Requests a change as the page's script does. A header given as "" is left out."""
        all_headers = {"Origin": self.bridge.url, "X-CSRF-Token": self.csrf, "Cookie": self.cookie} | headers
        sent = {name: value for name, value in all_headers.items() if value}
        return await self.bridge.request("POST", path, headers=sent, **({} if body is None else {"json": body}))

    async def wait_for(self, event: str, condition: Condition, query: str = "") -> Any:
        """Returns the data of the live stream's first event with this name for which `condition` is true."""
        options: Any = {"headers": {"Cookie": self.cookie}, "timeout": aiohttp.ClientTimeout(sock_read=SAFETY_SECONDS)}
        async with self.bridge.session.get(f"{self.bridge.url}/page/live{query}", **options) as answer:
            assert answer.status == 200, await answer.text()
            last: Any = None
            try:
                async with asyncio.timeout(SAFETY_SECONDS):
                    async for name, data in events_of(answer):
                        last = data if name == event else last
                        if name == event and condition(data):
                            return data
            except TimeoutError:
                pass
            raise AssertionError(f"the last {event} was {last}")

    async def alert(self, key: str, title: str = "") -> Any:
        """Waits for an alert whose key starts with `key` and whose title contains `title`. Returns the alert."""

        def fits(alert: Any) -> bool:
            return alert["key"].startswith(key) and title in alert["title"]

        overview = await self.wait_for("overview", lambda found: any(map(fits, found["alerts"])))
        return next(filter(fits, overview["alerts"]))


async def events_of(answer: aiohttp.ClientResponse) -> AsyncIterator[tuple[str, Any]]:
    """Yields the name and the data of each server-sent event."""
    name = ""
    async for line in answer.content:
        field_name, _, value = line.decode().rstrip("\n").partition(": ")
        if field_name == "event":
            name = value
        elif field_name == "data":
            yield name, json.loads(value)


@dataclass
class Bridge:
    """A running bridge with amux's stand-in and a receiver."""

    runtime: Runtime
    amux: Sandbox
    receiver: Receiver
    session: aiohttp.ClientSession

    @property
    def url(self) -> str:
        return self.runtime.url

    async def request(self, method: str, path: str, **options: Any) -> Answer:
        options.setdefault("allow_redirects", False)
        async with self.session.request(method, self.url + path, **options) as answer:
            cookies = answer.headers.getall("Set-Cookie", [])
            return Answer(answer.status, answer.headers, await answer.read(), cookies)

    async def sign_in(self, token: str = OPERATOR_TOKEN, **headers: str) -> Answer:
        return await self.request("POST", "/page/sign-in", data={"token": token}, headers=headers)

    async def operator(self) -> Operator:
        [cookie] = (await self.sign_in()).cookies
        pair = cookie.partition(";")[0]
        session = await self.request("GET", "/page/session", headers={"Cookie": pair})
        return Operator(self, pair, session.json["csrf"])

    async def register(self, behaviour: Behaviour | None = None, status: int = 200, **fields: Any) -> Any:
        """Registers a watch on a new task at amux. Its receiver answers with `status`. Returns the watch."""
        body = {
            "task_id": self.amux.create_task(behaviour or Behaviour(queue_seconds=0, run_seconds=0)),
            "callback_url": f"{self.receiver.url}/answer/{status}?token=hidden-query",
        } | fields
        headers = {"Authorization": f"Bearer {APP_TOKEN}"}
        answer = await self.request("POST", "/watch", json=body, headers=headers)
        assert answer.status == 201, answer
        return answer.json

    async def register_dead(self, count: int = 1) -> list[str]:
        """Registers watches whose receiver answers 410. Returns their ids as soon as their deliveries are dead."""
        ids = [(await self.register(status=410))["id"] for _ in range(count)]
        operator = await self.operator()
        await operator.wait_for("overview", lambda overview: overview["figures"]["dead"] == count)
        return ids


class FastRuntime(Runtime):
    """A bridge whose dashboard refreshes five times a second, because tests wait for it."""

    def _make_dashboard_context(self) -> DashboardContext:
        return replace(super()._make_dashboard_context(), refresh_seconds=0.2, overview_max_age_seconds=0.2)


@asynccontextmanager
async def running_bridge(folder: Path, *, keys: frozenset[str] | None = None, **settings: str) -> AsyncIterator[Bridge]:
    """Starts a bridge with a stand-in and a receiver. `settings` are texts, as in environment variables."""
    amux, receiver = Sandbox(keys=keys), Receiver()
    app = web.Application()
    app.router.add_post("/answer/{status}", receiver.answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    receiver.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        places = {"amux_base_url": await amux.start(), "database_url": f"sqlite:///{folder}/bridge.db"}
        values = {name: value for name, value in {**FAST_SETTINGS, **places, **settings}.items() if value}
        runtime = await FastRuntime.start(bridge_settings.load(env_file=None, **values))
        try:
            async with aiohttp.ClientSession() as session:
                yield Bridge(runtime, amux, receiver, session)
        finally:
            await runtime.stop()
    finally:
        await amux.stop()
        await runner.cleanup()

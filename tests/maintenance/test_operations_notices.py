"""A running bridge sends signed notices to the operations receiver, each once, and starts only with a good target."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from standardwebhooks import Webhook

from bridge.core.errors import BadSetting
from bridge.sandbox import Behaviour, Outcome
from tests.dashboard.harness import Bridge, running_bridge
from tests.waiting import SAFETY_SECONDS

SECRET = "whsec_" + "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LTEyMzQ="


@dataclass
class OperationsReceiver:
    """Verifies and keeps every notice. `answers` are the next statuses; after them, the status is 204."""

    url: str = ""
    answers: list[int] = field(default_factory=list)
    received: list[dict[str, Any]] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def answer(self, request: web.Request) -> web.Response:
        event = Webhook(SECRET).verify(await request.read(), dict(request.headers))
        assert event["id"] == request.headers["webhook-id"]
        self.received.append(event)
        self.changed.set()
        return web.Response(status=self.answers.pop(0) if self.answers else 204)

    async def wait_for(self, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Waits for a notice that meets a condition. Returns the first one."""
        async with asyncio.timeout(SAFETY_SECONDS):
            while True:
                self.changed.clear()
                if found := [one for one in self.received if condition(one)]:
                    return found[0]
                await self.changed.wait()

    async def of_type(self, name: str) -> dict[str, Any]:
        return await self.wait_for(lambda one: one["type"] == f"bridge.{name}")


@asynccontextmanager
async def operations_receiver() -> AsyncIterator[OperationsReceiver]:
    made, app = OperationsReceiver(), web.Application()
    app.router.add_post("/ops", made.answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}/ops?token=hidden-query"
    try:
        yield made
    finally:
        await runner.cleanup()


@asynccontextmanager
async def noticing_bridge(folder: Path, **settings: str) -> AsyncIterator[tuple[Bridge, OperationsReceiver]]:
    async with operations_receiver() as receiver:
        given: dict[str, Any] = {"operations_callback_url": receiver.url, "signing_secrets": SECRET, **settings}
        async with running_bridge(folder, **given) as bridge:
            yield bridge, receiver


async def test_receivers_and_dead_deliveries_are_noticed_with_signed_and_retried_events(tmp_path: Path) -> None:
    async with noticing_bridge(tmp_path, delivery_retry_delays_seconds="0.05,0.05,0.05,0.05") as (bridge, receiver):
        receiver.answers = [500]  # a notice is retried like any delivery
        bridge.receiver.statuses[200] = 503
        watch = await bridge.register()
        dead = await receiver.of_type("delivery_dead")
        name = bridge.receiver.url.removeprefix("http://")
        [delivery] = (await (await bridge.operator()).get(f"/page/watches/{watch['id']}")).json["deliveries"]
        data = dead["data"]
        assert (data["receiver"], data["apps"], data["count"], data["delivery_ids"]) == (
            name,
            ["shop"],
            1,
            [delivery["id"]],
        )
        failing = await receiver.of_type("receiver_failing")
        assert (failing["object"], failing["data"]["receiver"], failing["data"]["page_url"]) == ("event", name, None)
        bridge.receiver.statuses.clear()
        await bridge.register()
        await receiver.of_type("receiver_recovered")
        operator = await bridge.operator()
        await operator.post(f"/page/receivers/{name}/pause")
        assert (await receiver.of_type("receiver_paused"))["data"]["by"] == "ops"
        await operator.post(f"/page/receivers/{name}/resume")
        await receiver.of_type("receiver_resumed")
        types = [one["type"] for one in receiver.received]
        assert len(types) == len(set(types)) + 1  # the one that was answered 500 came twice, with one id
        assert len({one["id"] for one in receiver.received}) == len(set(types))
        assert "hidden-query" not in str(receiver.received)


async def test_a_refused_key_and_its_acceptance_are_noticed(tmp_path: Path) -> None:
    async with noticing_bridge(tmp_path) as (bridge, receiver):
        bridge.amux.keys = frozenset({"sk-another"})
        await bridge.register(Behaviour(outcome=Outcome.NEVER))
        refused = await receiver.of_type("key_refused")
        assert (refused["data"]["credential"], refused["data"]["apps"]) == ("configured", ["shop"])
        assert "sk-" not in str(refused)
        bridge.amux.keys = None
        accepted = await receiver.of_type("key_accepted")
        assert accepted["data"]["since"] == refused["data"]["since"]


async def test_a_key_that_was_renewed_while_the_bridge_was_stopped_is_noticed(tmp_path: Path) -> None:
    async with operations_receiver() as receiver:
        given: dict[str, Any] = {"operations_callback_url": receiver.url, "signing_secrets": SECRET}
        async with running_bridge(tmp_path, keys=frozenset({"sk-another"}), **given) as bridge:
            await bridge.register(Behaviour(outcome=Outcome.NEVER))
            await receiver.of_type("key_refused")
        async with running_bridge(tmp_path, **given) as bridge:
            await bridge.register()
            await receiver.of_type("key_accepted")
        assert len({one["id"] for one in receiver.received}) == 2


@pytest.mark.parametrize(
    ("url", "rule"),
    [
        ("http://169.254.169.254/ops?token=hidden-query", "metadata"),
        ("http://10.1.2.3/ops?token=hidden-query", "private"),
        ("http://user:hidden@app.example/ops", "a user or a password"),
        ("ftp://app.example/ops", "http"),
    ],
)
async def test_a_target_that_a_rule_refuses_stops_the_start(tmp_path: Path, url: str, rule: str) -> None:
    with pytest.raises(BadSetting) as refused:
        async with running_bridge(tmp_path, operations_callback_url=url):
            pass
    text = str(refused.value)
    assert text.startswith("BRIDGE_OPERATIONS_CALLBACK_URL: ")
    assert rule in text
    assert "hidden" not in text

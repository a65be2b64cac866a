"""A stopping bridge keeps its listener open to the end, answers probes and readers, and begins nothing new."""

import asyncio
import signal
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.bridges import APP, OPERATOR, Bridge, Process, serving
from tests.e2e.harness import Environment, environment
from tests.e2e.receiver import hold
from tests.waiting import SAFETY_SECONDS


@pytest.fixture
async def env(tmp_path: Path) -> AsyncIterator[Environment]:
    async with environment(f"sqlite:///{tmp_path / 'bridge.db'}", hold) as surroundings:
        yield surroundings


async def start_draining(env: Environment, process: Process, bridge: Bridge) -> str:
    """Sends SIGTERM while a receiver holds a callback. Returns the id of its watch."""
    watch = await bridge.register(env.finished_task(), env.receiver.url)
    await env.receiver.until(lambda: bool(env.receiver.arrived))
    process.signal(signal.SIGTERM)
    await process.wait_for_log("draining")
    return watch


async def test_while_draining_probes_and_reading_work_and_nothing_new_begins(env: Environment) -> None:
    async with serving(env.database_url, env.amux_url, drop_in="true") as (process, bridge):
        watch = await start_draining(env, process, bridge)
        assert (await bridge.ask("GET", "/healthz")).status == 200
        ready = await bridge.ask("GET", "/readyz")
        assert (ready.status, ready.json["reasons"]) == (503, ["draining: the bridge is stopping"])
        assert (await bridge.ask("GET", "/metrics")).status == 200
        seen = await bridge.watch(watch, wait_seconds=30)
        delivery = seen["deliveries"][0]["id"]
        assert (await bridge.get("/watch"))["items"][0]["id"] == watch
        assert (await bridge.get(f"/deliveries/{delivery}"))["state"] == "pending"
        body = {"task_id": "task_1", "callback_url": env.receiver.url}
        ping = {"callback_url": env.receiver.url}
        refused: list[tuple[str, Any, Mapping[str, str]]] = [
            ("/watch", body, APP),
            ("/watch/batch", {"watches": [body]}, APP),
            ("/ping", ping, APP),
            ("/ping", {**ping, "dry_run": True}, APP),
            (f"/deliveries/{delivery}/retry", None, APP),
            ("/deliveries/retry", {"state": "dead"}, OPERATOR),
            ("/v1/videos", {"prompt": "a cat"}, APP),
        ]
        for path, sent, headers in refused:
            answer = await bridge.ask("POST", path, json=sent, headers=headers)
            assert (answer.status, answer.json["code"]) == (503, "draining"), path
            assert int(answer.headers["Retry-After"]) >= 1
            assert answer.headers["Connection"] == "close"
        assert (await bridge.ask("GET", "/readyz")).status == 503
        env.receiver.released.set()
        assert await process.wait_for_exit() == 0
        process.check_no_exceptions()


async def test_held_answers_and_event_streams_end_at_once(env: Environment) -> None:
    async with serving(env.database_url, env.amux_url) as (process, bridge):
        running = await bridge.register(env.endless_task(), env.receiver.url)
        held = asyncio.create_task(bridge.watch(running, wait_seconds=30))
        async with bridge.session.get(f"{bridge.url}/watch/{running}/events", headers=APP) as stream:
            assert b"retry" in await stream.content.readuntil(b"\n\n")
            await start_draining(env, process, bridge)
            async with asyncio.timeout(SAFETY_SECONDS / 4):
                assert (await held)["state"] == "active"
                await stream.read()
            # New held answers and event streams end at once, too.
            assert (await bridge.watch(running, wait_seconds=30))["state"] == "active"
            again = await bridge.ask("GET", f"/watch/{running}/events")
            assert again.body.count(b"event: snapshot") == 1
        env.receiver.released.set()
        assert await process.wait_for_exit() == 0
        process.check_no_exceptions()


async def test_the_second_listener_answers_the_probes_until_the_end(env: Environment) -> None:
    async with serving(env.database_url, env.amux_url, metrics_host="127.0.0.1", metrics_port="0") as (process, bridge):
        probes = (await process.wait_for_log("listening_for_probes"))["url"]
        await start_draining(env, process, bridge)
        for path, status in (("/healthz", 200), ("/readyz", 503), ("/metrics", 200)):
            async with bridge.session.get(probes + path) as answer:
                assert answer.status == status, path
        env.receiver.released.set()
        assert await process.wait_for_exit() == 0
        process.check_no_exceptions()

"""Tests all timing while the wall clock is set forward or back by a day.

The bridge runs in a process whose wall clock a file shifts. Intervals must not change, and no completed video may time
out. On PostgreSQL all stored times come from the server's clock, so a replica's own clock must decide nothing.
"""

import signal
from pathlib import Path

import pytest

from tests.e2e.bridges import SHORT_LEASE, check_all_delivered, serving
from tests.e2e.harness import Environment, environment
from tests.e2e.receiver import accept, answer

DAY = 86_400


@pytest.fixture
def clock(tmp_path: Path) -> Path:
    path = tmp_path / "clock"
    path.write_text("0")
    return path


def set_clock(clock: Path, seconds: float) -> None:
    """Sets the clock to this offset from the real time, in one write: the process may read at any moment."""
    with clock.open("r+b", buffering=0) as file:
        file.write(f"{seconds:<24}".encode())


async def test_a_clock_set_forward_times_out_no_completed_video(sqlite_env: Environment, clock: Path) -> None:
    env = sqlite_env
    ready, running = env.running_task(), env.endless_task()
    rare_polls = {"poll_interval_seconds": "600", "poll_max_interval_seconds": "600"}
    async with serving(env.database_url, env.amux_url, {"clock": str(clock)}, **rare_polls) as (process, bridge):
        watches = await bridge.register_many([ready, running], env.receiver.url)
        await env.wait_for_polls(ready, running)
        env.clock.now += 11
        set_clock(clock, DAY)
        await env.receiver.wait_for_events(watches)
        await process.wait_for_log("clock_stepped")
        new = await bridge.register(env.finished_task(), env.receiver.url)
        await env.receiver.wait_for_events([new])
        process.signal(signal.SIGTERM)
        assert await process.wait_for_exit() == 0
        process.check_no_exceptions()
    assert env.receiver.terminal(watches[0])["type"] == "video.completed"
    assert env.receiver.terminal(watches[1])["type"] == "video.timed_out"
    check_all_delivered(env.database_url, [*watches, new])


@pytest.mark.long
async def test_on_postgresql_a_clock_set_forward_times_out_nothing(postgres_url: str, clock: Path) -> None:
    async with (
        environment(postgres_url) as env,
        serving(env.database_url, env.amux_url, {"clock": str(clock)}) as (process, bridge),
    ):
        running = env.running_task()
        watch = await bridge.register(running, env.receiver.url)
        await env.wait_for_polls(running)
        set_clock(clock, DAY)
        await process.wait_for_log("clock_stepped")
        late = await bridge.register(env.endless_task(), env.receiver.url, timeout_seconds=2)
        await env.receiver.wait_for_events([late])  # deadlines were checked after the step
        assert (await bridge.watch(watch))["state"] == "active"
        env.clock.now += 11
        await env.receiver.wait_for_events([watch])
        process.signal(signal.SIGTERM)
        assert await process.wait_for_exit() == 0
        process.check_no_exceptions()
        assert env.receiver.terminal(watch)["type"] == "video.completed"
    check_all_delivered(postgres_url, [watch, late])


async def test_a_clock_set_back_stops_neither_polls_nor_deadlines_nor_retries(env: Environment, clock: Path) -> None:
    env.receiver.responder = answer(500)
    delays = {"delivery_retry_delays_seconds": "2,2,2,2"}
    async with serving(env.database_url, env.amux_url, {"clock": str(clock)}, **delays) as (process, bridge):
        retried = await bridge.register(env.finished_task(), env.receiver.url)
        running = env.running_task()
        polled = await bridge.register(running, env.receiver.url)
        await env.receiver.until(lambda: bool(env.receiver.calls))
        await env.wait_for_polls(running)
        set_clock(clock, -DAY)
        env.receiver.responder = accept
        await process.wait_for_log("clock_stepped")
        await env.wait_for_polls(running, more=3)
        await env.receiver.wait_for_events([retried])
        env.clock.now += 11
        await env.receiver.wait_for_events([polled])
        late = await bridge.register(env.endless_task(), env.receiver.url, timeout_seconds=1)
        await env.receiver.wait_for_events([late])
        assert (await bridge.ready()).status == 200
        process.signal(signal.SIGTERM)
        assert await process.wait_for_exit() == 0
        process.check_no_exceptions()
    check_all_delivered(env.database_url, [retried, polled, late])


@pytest.mark.long
async def test_times_from_a_clock_in_the_future_are_corrected(env: Environment, clock: Path) -> None:
    env.receiver.responder = answer(500)
    set_clock(clock, DAY)
    delays = {"delivery_retry_delays_seconds": "2,2,2,2"}
    async with serving(env.database_url, env.amux_url, {"clock": str(clock)}, **delays) as (process, bridge):
        retried = await bridge.register(env.finished_task(), env.receiver.url)
        running = await bridge.register(env.running_task(), env.receiver.url, timeout_seconds=3)
        await env.receiver.until(lambda: bool(env.receiver.calls))
        env.receiver.responder = accept
        set_clock(clock, 0)
        await process.wait_for_log("clock_stepped")
        await env.receiver.wait_for_events([retried, running])
        process.signal(signal.SIGTERM)
        assert await process.wait_for_exit() == 0
    check_all_delivered(env.database_url, [retried, running])


@pytest.mark.long
async def test_a_clock_set_back_between_two_starts_delays_nothing(env: Environment, clock: Path) -> None:
    env.receiver.responder = answer(500)
    set_clock(clock, DAY)
    hooks = {"clock": str(clock), **SHORT_LEASE}
    async with serving(env.database_url, env.amux_url, hooks) as (process, bridge):
        retried = await bridge.register(env.finished_task(), env.receiver.url)
        running = await bridge.register(env.running_task(), env.receiver.url, timeout_seconds=5)
        await env.receiver.until(lambda: bool(env.receiver.calls))
        await process.kill()
    env.receiver.responder = accept
    async with serving(env.database_url, env.amux_url, SHORT_LEASE) as (process, bridge):
        await env.receiver.wait_for_events([retried, running])
        process.signal(signal.SIGTERM)
        assert await process.wait_for_exit() == 0
    check_all_delivered(env.database_url, [retried, running])

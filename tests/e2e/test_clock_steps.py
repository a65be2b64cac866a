"""Attacks promptness and patience with a wall clock that is set forward and back by a day while the bridge works.

The launched process has its own wall clock, moved by a file; what counts intervals must not notice, and no video that
is ready may time out by it. On PostgreSQL times are the server's, and a replica's own clock decides nothing.
"""

import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.e2e.bridges import SHORT_LEASE, check_all_ended, serving
from tests.e2e.harness import World, world
from tests.e2e.receiver import accept, answer

DAY = 86_400


@pytest.fixture
async def around(either_url: str) -> AsyncIterator[World]:
    async with world(either_url) as made:
        yield made


@pytest.fixture
async def sqlite_world(sqlite_url: str) -> AsyncIterator[World]:
    async with world(sqlite_url) as made:
        yield made


@pytest.fixture
def clock(tmp_path: Path) -> Path:
    path = tmp_path / "clock"
    path.write_text("0")
    return path


def set_by(clock: Path, seconds: float) -> None:
    """Set the clock to so many seconds from the true time; in one write, for it is read all the time."""
    with clock.open("r+b", buffering=0) as file:
        file.write(f"{seconds:<24}".encode())


async def test_a_clock_set_forward_times_out_no_video_that_is_ready(sqlite_world: World, clock: Path) -> None:
    around = sqlite_world
    ready, running = around.running(), around.never()
    rare = {"poll_interval_seconds": "600", "poll_max_interval_seconds": "600"}
    async with serving(around.database_url, around.amux_url, {"clock": str(clock)}, **rare) as (process, bridge):
        watches = await bridge.register_many([ready, running], around.receiver.url)
        await around.polled(ready, running)
        around.stages.now += 11
        set_by(clock, DAY)
        await around.receiver.has(watches)
        await process.logged("clock_stepped")
        new = await bridge.register(around.done(), around.receiver.url)
        await around.receiver.has([new])
        process.signal(signal.SIGTERM)
        assert await process.ended() == 0
        process.no_faults()
    assert around.receiver.terminal(watches[0])["type"] == "video.completed"
    assert around.receiver.terminal(watches[1])["type"] == "video.timed_out"
    check_all_ended(around.database_url, [*watches, new])


@pytest.mark.long
async def test_on_postgresql_a_clock_set_forward_times_out_nothing(postgres_url: str, clock: Path) -> None:
    async with (
        world(postgres_url) as around,
        serving(around.database_url, around.amux_url, {"clock": str(clock)}) as (process, bridge),
    ):
        running = around.running()
        watch = await bridge.register(running, around.receiver.url)
        await around.polled(running)
        set_by(clock, DAY)
        await process.logged("clock_stepped")
        late = await bridge.register(around.never(), around.receiver.url, timeout_seconds=2)
        await around.receiver.has([late])  # deadlines have been looked at since
        assert (await bridge.watch(watch))["state"] == "active"
        around.stages.now += 11
        await around.receiver.has([watch])
        process.signal(signal.SIGTERM)
        assert await process.ended() == 0
        process.no_faults()
        assert around.receiver.terminal(watch)["type"] == "video.completed"
    check_all_ended(postgres_url, [watch, late])


async def test_a_clock_set_back_stops_neither_polls_nor_deadlines_nor_retries(around: World, clock: Path) -> None:
    around.receiver.answering = answer(500)
    delays = {"delivery_retry_delays_seconds": "2,2,2,2"}
    async with serving(around.database_url, around.amux_url, {"clock": str(clock)}, **delays) as (process, bridge):
        retried = await bridge.register(around.done(), around.receiver.url)
        running = around.running()
        polled = await bridge.register(running, around.receiver.url)
        await around.receiver.until(lambda: bool(around.receiver.calls))
        await around.polled(running)
        set_by(clock, -DAY)
        around.receiver.answering = accept
        await process.logged("clock_stepped")
        await around.polled(running, more=3)
        await around.receiver.has([retried])
        around.stages.now += 11
        await around.receiver.has([polled])
        late = await bridge.register(around.never(), around.receiver.url, timeout_seconds=1)
        await around.receiver.has([late])
        assert (await bridge.ready()).status == 200
        process.signal(signal.SIGTERM)
        assert await process.ended() == 0
        process.no_faults()
    check_all_ended(around.database_url, [retried, polled, late])


@pytest.mark.long
async def test_what_was_put_off_in_a_false_future_is_brought_back(around: World, clock: Path) -> None:
    around.receiver.answering = answer(500)
    set_by(clock, DAY)
    delays = {"delivery_retry_delays_seconds": "2,2,2,2"}
    async with serving(around.database_url, around.amux_url, {"clock": str(clock)}, **delays) as (process, bridge):
        retried = await bridge.register(around.done(), around.receiver.url)
        running = await bridge.register(around.running(), around.receiver.url, timeout_seconds=3)
        await around.receiver.until(lambda: bool(around.receiver.calls))
        around.receiver.answering = accept
        set_by(clock, 0)
        await process.logged("clock_stepped")
        await around.receiver.has([retried, running])
        process.signal(signal.SIGTERM)
        assert await process.ended() == 0
    check_all_ended(around.database_url, [retried, running])


@pytest.mark.long
async def test_a_clock_set_back_between_two_starts_delays_nothing(around: World, clock: Path) -> None:
    around.receiver.answering = answer(500)
    set_by(clock, DAY)
    hooks = {"clock": str(clock), **SHORT_LEASE}
    async with serving(around.database_url, around.amux_url, hooks) as (process, bridge):
        retried = await bridge.register(around.done(), around.receiver.url)
        running = await bridge.register(around.running(), around.receiver.url, timeout_seconds=5)
        await around.receiver.until(lambda: bool(around.receiver.calls))
        await process.kill()
    around.receiver.answering = accept
    async with serving(around.database_url, around.amux_url, SHORT_LEASE) as (process, bridge):
        await around.receiver.has([retried, running])
        process.signal(signal.SIGTERM)
        assert await process.ended() == 0
    check_all_ended(around.database_url, [retried, running])

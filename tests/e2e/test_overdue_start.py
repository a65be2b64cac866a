"""Attacks a start after a long night: thousands of watches overdue at once must not storm amux or a receiver."""

import asyncio
import re
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
from aiohttp import web

from bridge.sandbox import Behaviour, Outcome, Sandbox
from tests.e2e.bridges import SHORT_LEASE, Bridge, change, check_all_delivered, serving
from tests.e2e.receiver import Call, Receiver, accept, receiving

POLLS_AT_A_TIME = 32
POSTS_AT_A_TIME = 8  # to one host


@dataclass
class Count:
    """How many are under way at a server."""

    now: int = 0
    most: int = 0

    async def during(self, work: Awaitable[web.StreamResponse]) -> web.StreamResponse:
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            # Seven turns of the loop: long enough for all that is sent at once to be here at once.
            for _ in range(7):
                await asyncio.sleep(0)
            return await work
        finally:
            self.now -= 1


@asynccontextmanager
async def counted(amux: Sandbox, polls: Count) -> AsyncIterator[str]:
    """amux's stand-in with a counter before it; its base URL."""

    @web.middleware
    async def count(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        return await polls.during(handler(request))

    app = amux.app()
    app.middlewares.append(count)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=1024).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def test_hundreds_overdue_at_a_start_are_asked_about_once_a_few_at_a_time(either_url: str) -> None:
    await after_a_night(either_url, 300)


@pytest.mark.long
async def test_ten_thousand_as_well(sqlite_url: str) -> None:
    await after_a_night(sqlite_url, 10_000)


async def lost_answers(bridge: Bridge) -> int:
    """How many polls the bridge itself counts as having told nothing of their task: none, as a rule."""
    text = (await bridge.ask("GET", "/metrics")).body.decode()
    polls = dict(re.findall(r'^amux_bridge_polls_total\{result="(\w+)"\} ([0-9.]+)$', text, re.MULTILINE))
    assert {result for result, number in polls.items() if float(number)} <= {"seen", "trouble"}, polls
    return int(float(polls["trouble"]))


async def after_a_night(database_url: str, count: int) -> None:
    amux, polls, posts = Sandbox(clock=time.monotonic), Count(), Count()

    async def counting(receiver: Receiver, call: Call) -> web.StreamResponse:
        return await posts.during(accept(receiver, call))

    never = {"poll_first_delay_seconds": "6000"}
    pace = {"poll_concurrency": str(POLLS_AT_A_TIME), "poll_interval_seconds": "2", "poll_max_interval_seconds": "2"}
    # Every second one is ready: it was missed by the night, and must not be said to have timed out.
    ready, running = Behaviour(0, 0), Behaviour(0, outcome=Outcome.NEVER)
    tasks = [amux.create_task(ready if number % 2 else running) for number in range(count)]
    async with counted(amux, polls) as amux_url, receiving(counting) as receiver:
        async with serving(database_url, amux_url, SHORT_LEASE, **never) as (process, bridge):
            watches = await bridge.register_many(tasks, receiver.url, timeout_seconds=60)
            await process.kill()
        assert amux.polls.total() == 0
        # An hour passes: for the watches, because PostgreSQL's clock is not ours to set.
        change(database_url, "UPDATE watches SET created_at = created_at - 3600, deadline_at = deadline_at - 3600")
        async with serving(database_url, amux_url, SHORT_LEASE, **pace) as (process, bridge):
            await receiver.wait_for_events(watches, 60 + count / 20)
            without_answer = await lost_answers(bridge)
            process.signal(signal.SIGTERM)  # so that the last record is written as well
            assert await process.wait_for_exit() == 0
            process.check_no_exceptions()
        assert polls.most <= POLLS_AT_A_TIME
        assert posts.most <= POSTS_AT_A_TIME
        # Once each, but for those whose answer came too late or not at all, on a machine that stood still meanwhile.
        again = {task: polled for task, polled in amux.polls.items() if polled > 1}
        assert amux.polls.total() == count + without_answer, again
        assert len(amux.polls) == count
        assert len(receiver.arrived) == count
        for number, watch in enumerate(watches):
            assert receiver.terminal(watch)["type"] == ("video.completed" if number % 2 else "video.timed_out")
    check_all_delivered(database_url, watches)

"""Tests a start after a long stop: thousands of overdue watches must not overload amux or a receiver."""

import asyncio
import re
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
from aiohttp import web

from bridge.amux.batch_wire import PATH as BATCH_PATH
from bridge.sandbox import Behaviour, Outcome, Sandbox
from tests.e2e.bridges import SHORT_LEASE, Bridge, change, check_all_delivered, serving
from tests.e2e.receiver import Call, Receiver, accept, receiving

POLLS_AT_A_TIME = 32
POSTS_AT_A_TIME = 8  # to one host


@dataclass
class ConcurrencyCounter:
    """Counts the requests in progress at a server: now, and the most so far."""

    now: int = 0
    most: int = 0

    async def count(self, work: Awaitable[web.StreamResponse]) -> web.StreamResponse:
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            # Each request lasts seven turns of the event loop or more, so requests that are sent together overlap.
            for _ in range(7):
                await asyncio.sleep(0)
            return await work
        finally:
            self.now -= 1


@asynccontextmanager
async def counting_amux(amux: Sandbox, polls: ConcurrencyCounter) -> AsyncIterator[str]:
    """Serves the amux stand-in and counts the single polls in progress. Yields the base URL of the stand-in."""

    @web.middleware
    async def count_polls(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        # A batch is no poll: AMUX_BATCH_CONCURRENCY limits how many are in progress.
        return await (handler(request) if request.path == BATCH_PATH else polls.count(handler(request)))

    app = amux.app()
    app.middlewares.append(count_polls)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=1024).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def test_hundreds_of_overdue_tasks_are_polled_once_and_few_at_a_time(either_url: str) -> None:
    await start_with_overdue_watches(either_url, 300)


@pytest.mark.long
async def test_ten_thousand_overdue_tasks_are_polled_once_and_few_at_a_time(sqlite_url: str) -> None:
    await start_with_overdue_watches(sqlite_url, 10_000)


async def polls_without_answer(bridge: Bridge) -> int:
    """Returns how many polls got no usable answer, from the bridge's own metric. Normally this is 0."""
    text = (await bridge.ask("GET", "/metrics")).body.decode()
    polls = dict(re.findall(r'^amux_bridge_polls_total\{lane="single",result="(\w+)"\} ([0-9.]+)$', text, re.MULTILINE))
    assert {result for result, number in polls.items() if float(number)} <= {"seen", "trouble"}, polls
    return int(float(polls["trouble"]))


async def start_with_overdue_watches(database_url: str, count: int) -> None:
    amux, polls, posts = Sandbox(clock=time.monotonic), ConcurrencyCounter(), ConcurrencyCounter()

    async def counting(receiver: Receiver, call: Call) -> web.StreamResponse:
        return await posts.count(accept(receiver, call))

    never = {"poll_first_delay_seconds": "6000"}
    limits = {"poll_concurrency": str(POLLS_AT_A_TIME), "poll_interval_seconds": "2", "poll_max_interval_seconds": "2"}
    limits["poll_request_timeout_seconds"] = "60"  # a poll that is given up is still in progress at the server
    # Every second task ends while the bridge is stopped, and its watch must not time out.
    ready, running = Behaviour(0, 0), Behaviour(0, outcome=Outcome.NEVER)
    tasks = [amux.create_task(ready if number % 2 else running) for number in range(count)]
    async with counting_amux(amux, polls) as amux_url, receiving(counting) as receiver:
        async with serving(database_url, amux_url, SHORT_LEASE, **never) as (process, bridge):
            watches = await bridge.register_many(tasks, receiver.url, timeout_seconds=60)
            await process.kill()
        assert amux.polls.total() == 0
        # Moves the watches' times back by an hour, because the test cannot set PostgreSQL's clock.
        change(database_url, "UPDATE watches SET created_at = created_at - 3600, deadline_at = deadline_at - 3600")
        async with serving(database_url, amux_url, SHORT_LEASE, **limits) as (process, bridge):
            await receiver.wait_for_events(watches, 60 + count / 5)
            without_answer = await polls_without_answer(bridge)
            process.signal(signal.SIGTERM)  # a clean stop, so that the last attempt is recorded
            assert await process.wait_for_exit() == 0
            process.check_no_exceptions()
        assert polls.most <= POLLS_AT_A_TIME
        assert posts.most <= POSTS_AT_A_TIME
        # Each task is polled once, or again if its answer was late or missing, as on a busy test machine.
        again = {task: polled for task, polled in amux.polls.items() if polled > 1}
        assert amux.polls.total() == count + without_answer, again
        assert len(amux.polls) == count
        assert len(receiver.arrived) == count
        for number, watch in enumerate(watches):
            assert receiver.terminal(watch)["type"] == ("video.completed" if number % 2 else "video.timed_out")
    check_all_delivered(database_url, watches)

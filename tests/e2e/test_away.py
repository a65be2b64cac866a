"""A receiver is away for longer than all retries, and then reads the event feed while bridges are killed.

At least 60 deliveries are dead before it reads. It must get every event once and in order, whichever bridge answers.
"""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING

import aiohttp
import orjson
import pytest

from bridge.sandbox import Behaviour
from tests.e2e.bridges import SHORT_LEASE, Bridge, Process, check_nothing_stuck, rows, serving
from tests.e2e.harness import Environment, environment
from tests.e2e.receiver import answer

if TYPE_CHECKING:
    from tests.databases import PostgresServer

pytestmark = pytest.mark.long

# All retries end after half a second instead of 3 days, so deliveries become dead while the receiver is away.
AWAY = {"delivery_retry_delays_seconds": "0.2,0.3"}
EVENTS = ["video.queued", "video.in_progress", "video.completed"]
QUICK = aiohttp.ClientTimeout(total=8)
DISTURBANCES = (aiohttp.ClientError, TimeoutError)
SAFETY_SECONDS = 120.0


@dataclass
class Fleet:
    """The bridges on one database: one on SQLite, several on PostgreSQL. Each can be killed and started again."""

    env: Environment
    stack: AsyncExitStack
    size: int
    running: list[tuple[Process, Bridge]] = field(default_factory=list)

    async def fill(self) -> None:
        while len(self.running) < self.size:
            hooks = SHORT_LEASE if self.size > 1 else {}
            started = await self.stack.enter_async_context(
                serving(self.env.database_url, self.env.amux_url, hooks, **AWAY)
            )
            self.running.append(started)

    async def kill_one(self, place: int) -> None:
        """Kills one bridge with SIGKILL in the middle of its work, and starts another one."""
        process, _ = self.running.pop(place % len(self.running))
        await process.kill()
        await self.fill()

    def any(self, place: int) -> Bridge | None:
        return self.running[place % len(self.running)][1] if self.running else None


@pytest.fixture(params=["sqlite", "postgres"])
async def fleet(request: pytest.FixtureRequest, sqlite_url: str) -> AsyncIterator[Fleet]:
    several = request.param == "postgres"
    url = sqlite_url
    if several:
        server: PostgresServer = request.getfixturevalue("postgres_server")
        url = server.migrated()
    async with environment(url, answer(503), clock=time.monotonic) as env, AsyncExitStack() as stack:
        fleet = Fleet(env, stack, 3 if several else 1)
        await fleet.fill()
        yield fleet


@asynccontextmanager
async def registering(fleet: Fleet) -> AsyncIterator[set[str]]:
    """Registers watches of tasks that last up to a second, at all bridges in turn. Yields the ids of the watches."""
    accepted: set[str] = set()
    stopped = asyncio.Event()

    async def register(place: int) -> None:
        for number in count(place):
            if stopped.is_set():
                return
            body = {
                "task_id": fleet.env.amux.create_task(Behaviour(queue_seconds=0.2, run_seconds=number % 3 * 0.3)),
                "callback_url": fleet.env.receiver.url,
                "events": EVENTS[number % 3 :],
            }
            bridge = fleet.any(number)
            with suppress(*DISTURBANCES):
                if bridge is not None:
                    answered = await bridge.ask("POST", "/watch", json=body, timeout=QUICK)
                    assert answered.status in {201, 503}, answered
                    if answered.status == 201:
                        accepted.add(answered.json["id"])
            await asyncio.sleep(0.05)  # a steady load, not the most that the machine can do

    work = [asyncio.create_task(register(place)) for place in range(4)]
    try:
        yield accepted
    finally:
        stopped.set()
        await asyncio.gather(*work)


async def catch_up(fleet: Fleet, limit: int, is_over: Callable[[], bool]) -> list[bytes]:
    """Returns the events of the feed from its beginning. Asks the bridges in turn.

    The end is an empty answer to a request that began after `is_over` became true.
    """
    found: list[bytes] = []
    after: dict[str, str] = {}
    for number in count(limit):
        over = is_over()
        bridge = fleet.any(number)
        query = {"limit": str(limit), "wait_seconds": "0" if over else "1", **after}
        try:
            read = None if bridge is None else await bridge.ask("GET", "/events", params=query, timeout=QUICK)
        except DISTURBANCES:
            read = None
        if read is None or read.status == 503:
            await asyncio.sleep(0.02)  # the bridge was killed; another one is asked
            continue
        assert read.status == 200, read
        items, after = read.json["items"], {"after": read.json["next_cursor"]}
        found += [orjson.dumps(item) for item in items]
        if over and not items:
            return found
    raise AssertionError


async def until(condition: Callable[[], bool], what: str) -> None:
    try:
        async with asyncio.timeout(SAFETY_SECONDS):
            while not condition():
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise AssertionError(f"waited for {what}") from None


async def grow(accepted: set[str], more: int) -> None:
    """Waits until `more` further watches are accepted."""
    enough = len(accepted) + more
    await until(lambda: len(accepted) >= enough, "a load")


async def test_a_receiver_that_was_away_catches_up_with_every_event_once_and_in_order(fleet: Fleet) -> None:
    url, pick, is_over = fleet.env.database_url, random.Random(7), False
    async with registering(fleet) as accepted:
        for _ in range(3):  # the receiver is away
            await grow(accepted, 40)
            await fleet.kill_one(pick.randrange(3))
        await until(lambda: len(rows(url, "SELECT id FROM deliveries WHERE state = 'dead'")) >= 60, "dead deliveries")
        readers = [asyncio.create_task(catch_up(fleet, limit, lambda: is_over)) for limit in (1, 7, 500)]
        for _ in range(3):  # the receiver is back, and reads while bridges die and new events come
            await grow(accepted, 30)
            await fleet.kill_one(pick.randrange(3))
    active = "SELECT id FROM watches WHERE state = 'active'"
    unnumbered = "SELECT watch_id FROM events WHERE number IS NULL"
    await until(lambda: not rows(url, active) and not rows(url, unnumbered), "the end of every watch")
    is_over = True
    orders = [await reader for reader in readers]

    expected = [bytes(row.payload) for row in rows(url, "SELECT payload FROM events ORDER BY number")]
    assert all(order == expected for order in orders)
    ids = [orjson.loads(payload)["id"] for payload in expected]
    assert len(set(ids)) == len(ids)
    ended = {orjson.loads(payload)["data"]["watch_id"] for payload in expected if b'"video.completed"' in payload}
    assert accepted <= ended
    check_nothing_stuck(url)

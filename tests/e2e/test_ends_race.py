"""Tests that a watch has one end when cancellation, deadline and settlement come at the same moment."""

import asyncio
import random
import time

import pytest

from bridge.sandbox import Behaviour
from tests.e2e.bridges import Bridge, check_nothing_stuck, rows, runtime
from tests.e2e.harness import environment


async def cancel_at(bridge: Bridge, watch: str, moment: float) -> int:
    """Sends two cancellations at this time of the event loop's clock. Returns their status, which must be the same."""
    loop = asyncio.get_running_loop()
    reached = asyncio.Event()
    loop.call_at(moment, reached.set)
    await reached.wait()
    first, second = await asyncio.gather(*(bridge.ask("DELETE", f"/watch/{watch}") for _ in range(2)))
    assert first.status == second.status
    return first.status


@pytest.mark.parametrize("count", [40, pytest.param(200, marks=pytest.mark.long)])
async def test_of_cancellation_deadline_and_settlement_exactly_one_wins(either_url: str, count: int) -> None:
    randomness = random.Random(count)
    async with environment(either_url, clock=time.monotonic) as env, runtime(either_url, env.amux_url) as bridge:
        watches, cancelling = [], []
        for number in range(count):
            # End, deadline and cancellation fall into the same half second. Every fourth task has a second watch, which
            # is not cancelled.
            task = env.amux.create_task(Behaviour(0, 0.8 + randomness.random() / 2))
            url = f"{env.receiver.url}/{number}"
            watch = await bridge.register(task, url, timeout_seconds=0.8 + randomness.random() / 2)
            moment = asyncio.get_running_loop().time() + 0.8 + randomness.random() / 2
            cancelling.append(asyncio.create_task(cancel_at(bridge, watch, moment)))
            watches.append(watch)
            if number % 4 == 0:
                await bridge.register(task, url + "/uncancelled")
        statuses = await asyncio.gather(*cancelling)
        for watch, status in zip(watches, statuses, strict=True):
            state = (await bridge.watch(watch))["state"]
            assert (status, state) in {(200, "cancelled"), (409, "settled")}
        ended = {row.id for row in rows(either_url, "SELECT id FROM watches WHERE state = 'settled'")}
        uncancelled = rows(either_url, "SELECT id FROM watches WHERE callback_url LIKE '%/uncancelled'")
        await env.receiver.wait_for_events(ended | {row.id for row in uncancelled})
        assert {call.watch_id for call in env.receiver.arrived} == ended | {row.id for row in uncancelled}
        env.receiver.check_copies()
    check_nothing_stuck(either_url)

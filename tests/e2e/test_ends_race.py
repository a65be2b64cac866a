"""Attacks "one terminal event": cancellation, deadline and settlement of the same watches at the same moment."""

import asyncio
import random
import time

import pytest

from bridge.sandbox import Behaviour
from tests.e2e.bridges import Bridge, check_nothing_stuck, rows, runtime
from tests.e2e.harness import environment


async def cancelled_at(bridge: Bridge, watch: str, moment: float) -> int:
    """Cancel twice at once, at a moment of the monotonic clock; the status, which must be the same for both."""
    loop = asyncio.get_running_loop()
    came = asyncio.Event()
    loop.call_at(moment, came.set)
    await came.wait()
    first, second = await asyncio.gather(*(bridge.ask("DELETE", f"/watch/{watch}") for _ in range(2)))
    assert first.status == second.status
    return first.status


@pytest.mark.parametrize("count", [40, pytest.param(200, marks=pytest.mark.long)])
async def test_of_cancelling_deadline_and_settlement_one_wins_and_only_one(either_url: str, count: int) -> None:
    chance = random.Random(count)
    async with environment(either_url, clock=time.monotonic) as env, runtime(either_url, env.amux_url) as bridge:
        watches, cancelling = [], []
        for number in range(count):
            # All three within the same half second, and every fourth task has a second watch that nobody cancels.
            task = env.amux.create_task(Behaviour(0, 0.8 + chance.random() / 2))
            url = f"{env.receiver.url}/{number}"
            watch = await bridge.register(task, url, timeout_seconds=0.8 + chance.random() / 2)
            moment = asyncio.get_running_loop().time() + 0.8 + chance.random() / 2
            cancelling.append(asyncio.create_task(cancelled_at(bridge, watch, moment)))
            watches.append(watch)
            if number % 4 == 0:
                await bridge.register(task, url + "/kept")
        statuses = await asyncio.gather(*cancelling)
        for watch, status in zip(watches, statuses, strict=True):
            state = (await bridge.watch(watch))["state"]
            assert (status, state) in {(200, "cancelled"), (409, "settled")}
        ended = {row.id for row in rows(either_url, "SELECT id FROM watches WHERE state = 'settled'")}
        kept = rows(either_url, "SELECT id FROM watches WHERE callback_url LIKE '%/kept'")
        await env.receiver.wait_for_events(ended | {row.id for row in kept})
        assert {call.watch_id for call in env.receiver.arrived} == ended | {row.id for row in kept}
        env.receiver.check_copies()
    check_nothing_stuck(either_url)

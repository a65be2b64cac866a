"""One timer over many time limits: each ends its own call, and no cancellation from elsewhere is lost."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest

from bridge.aio.timeouts import TimeoutSweep


@dataclass
class Clock:
    now: float = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def limits(clock: Clock) -> AsyncIterator[TimeoutSweep]:
    """Limits of 0.04 s; the clock stands until a test moves it."""
    made = TimeoutSweep(0.04, clock)
    yield made
    made.close()


async def stall(limits: TimeoutSweep) -> str:
    try:
        with limits.limit():
            await asyncio.Event().wait()
    except TimeoutError:
        return "over"
    return "never"


async def started(limits: TimeoutSweep, calls: int) -> list[asyncio.Task[str]]:
    stalled = [asyncio.ensure_future(stall(limits)) for _ in range(calls)]
    await asyncio.sleep(0)
    return stalled


def ticking(limits: TimeoutSweep) -> bool:
    return limits._timer is not None


async def test_each_call_ends_by_its_own_limit(limits: TimeoutSweep, clock: Clock) -> None:
    first = await started(limits, 3)
    clock.now += 0.03
    second = await started(limits, 2)
    clock.now += 0.01
    assert await asyncio.gather(*first) == ["over"] * 3
    assert not any(call.done() for call in second)
    clock.now += 0.03
    assert await asyncio.gather(*second) == ["over"] * 2


async def test_a_call_that_ends_in_time_is_left_alone(limits: TimeoutSweep, clock: Clock) -> None:
    with limits.limit():
        await asyncio.sleep(0)
    [later] = await started(limits, 1)
    clock.now += 0.05
    assert await later == "over"
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_an_error_of_the_call_is_its_own(limits: TimeoutSweep) -> None:
    with pytest.raises(KeyError), limits.limit():
        raise KeyError


async def test_a_cancellation_from_elsewhere_stays_one(limits: TimeoutSweep) -> None:
    [stalled] = await started(limits, 1)
    stalled.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stalled


async def test_a_cancellation_in_the_same_moment_is_not_lost(limits: TimeoutSweep, clock: Clock) -> None:
    [stalled] = await started(limits, 1)
    clock.now += 1
    limits._sweep()
    stalled.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stalled


async def test_a_call_that_swallows_the_end_is_not_cancelled_for_it_later(limits: TimeoutSweep, clock: Clock) -> None:
    task = asyncio.current_task()
    assert task is not None
    with limits.limit():
        clock.now += 1
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            assert task.cancelling() == 1
    assert task.cancelling() == 0


async def test_limits_nest_in_a_timeout_of_asyncios(limits: TimeoutSweep, clock: Clock) -> None:
    async with asyncio.timeout(5):
        clock.now += 1
        [stalled] = await started(limits, 1)
        clock.now += 1
        assert await stalled == "over"
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(stall(limits), 0.001)


async def test_one_timer_serves_all_and_comes_no_more_often_than_they_end(
    limits: TimeoutSweep, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    woken: list[float] = []
    call_later = asyncio.get_running_loop().call_later

    def noted(delay: float, *rest: Any) -> asyncio.TimerHandle:
        woken.append(delay)
        return call_later(delay, *rest)

    monkeypatch.setattr(asyncio.get_running_loop(), "call_later", noted)
    for _ in range(100):
        with limits.limit():
            clock.now += 0.0001
    [stalled] = await started(limits, 1)
    clock.now += 0.04
    assert await stalled == "over"
    assert len(woken) <= 2  # for the first of all, and once more for the one that was left


async def test_nothing_wakes_an_idle_loop(limits: TimeoutSweep, clock: Clock) -> None:
    assert not ticking(limits)
    [stalled] = await started(limits, 1)
    assert ticking(limits)
    clock.now += 1
    assert await stalled == "over"
    assert not ticking(limits)


async def test_closed_limits_end_nothing(limits: TimeoutSweep, clock: Clock) -> None:
    [stalled] = await started(limits, 1)
    limits.close()
    assert not ticking(limits)
    clock.now += 1
    stalled.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stalled


def test_a_limit_needs_a_task(clock: Clock) -> None:
    async def make() -> TimeoutSweep:
        return TimeoutSweep(1, clock)

    loop = asyncio.new_event_loop()
    limits = loop.run_until_complete(make())
    failures: list[BaseException] = []

    def outside_of_any_task() -> None:
        try:
            limits.limit()
        except RuntimeError as error:
            failures.append(error)

    loop.call_soon(outside_of_any_task)
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    assert len(failures) == 1

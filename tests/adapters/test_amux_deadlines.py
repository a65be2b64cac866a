"""One timer over many time limits: each ends its own call, and no cancellation from elsewhere is lost."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from bridge.amux.deadlines import Deadlines


@dataclass
class Clock:
    now: float = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def deadlines(clock: Clock) -> AsyncIterator[Deadlines]:
    """Limits of 0.04 s, so that the timer comes every 0.01 s; the clock stands until a test moves it."""
    made = Deadlines(0.04, clock)
    yield made
    made.close()


async def stall(deadlines: Deadlines) -> str:
    try:
        with deadlines.limit():
            await asyncio.Event().wait()
    except TimeoutError:
        return "over"
    return "never"


async def started(deadlines: Deadlines, calls: int) -> list[asyncio.Task[str]]:
    stalled = [asyncio.ensure_future(stall(deadlines)) for _ in range(calls)]
    await asyncio.sleep(0)
    return stalled


def ticking(deadlines: Deadlines) -> bool:
    return deadlines._timer is not None


async def test_each_call_ends_by_its_own_limit(deadlines: Deadlines, clock: Clock) -> None:
    first = await started(deadlines, 3)
    clock.now += 0.03
    second = await started(deadlines, 2)
    clock.now += 0.01
    assert await asyncio.gather(*first) == ["over"] * 3
    assert not any(call.done() for call in second)
    clock.now += 0.03
    assert await asyncio.gather(*second) == ["over"] * 2


async def test_a_call_that_ends_in_time_is_left_alone(deadlines: Deadlines, clock: Clock) -> None:
    with deadlines.limit():
        await asyncio.sleep(0)
    [later] = await started(deadlines, 1)
    clock.now += 0.05
    assert await later == "over"
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_an_error_of_the_call_is_its_own(deadlines: Deadlines) -> None:
    with pytest.raises(KeyError), deadlines.limit():
        raise KeyError


async def test_a_cancellation_from_elsewhere_stays_one(deadlines: Deadlines) -> None:
    [stalled] = await started(deadlines, 1)
    stalled.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stalled


async def test_a_cancellation_in_the_same_moment_is_not_lost(deadlines: Deadlines, clock: Clock) -> None:
    [stalled] = await started(deadlines, 1)
    clock.now += 1
    deadlines._sweep()
    stalled.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stalled


async def test_a_call_that_swallows_the_end_is_not_cancelled_for_it_later(deadlines: Deadlines, clock: Clock) -> None:
    task = asyncio.current_task()
    assert task is not None
    with deadlines.limit():
        clock.now += 1
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            assert task.cancelling() == 1
    assert task.cancelling() == 0


async def test_limits_nest_in_a_timeout_of_asyncios(deadlines: Deadlines, clock: Clock) -> None:
    async with asyncio.timeout(5):
        clock.now += 1
        [stalled] = await started(deadlines, 1)
        clock.now += 1
        assert await stalled == "over"
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(stall(deadlines), 0.001)


async def test_nothing_wakes_an_idle_loop(deadlines: Deadlines, clock: Clock) -> None:
    assert not ticking(deadlines)
    [stalled] = await started(deadlines, 1)
    assert ticking(deadlines)
    clock.now += 1
    assert await stalled == "over"
    assert not ticking(deadlines)


async def test_closed_limits_end_nothing(deadlines: Deadlines, clock: Clock) -> None:
    [stalled] = await started(deadlines, 1)
    deadlines.close()
    assert not ticking(deadlines)
    clock.now += 1
    stalled.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stalled


def test_a_limit_needs_a_task(clock: Clock) -> None:
    async def make() -> Deadlines:
        return Deadlines(1, clock)

    loop = asyncio.new_event_loop()
    deadlines = loop.run_until_complete(make())
    failures: list[BaseException] = []

    def outside_of_any_task() -> None:
        try:
            deadlines.limit()
        except RuntimeError as error:
            failures.append(error)

    loop.call_soon(outside_of_any_task)
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    assert len(failures) == 1

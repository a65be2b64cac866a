"""TimeoutSweep: one timer ends each call at its own limit, and no other cancellation is lost."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest

from bridge.aio.timeouts import Limit, TimeoutSweep


@dataclass
class Clock:
    now: float = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def sweep(clock: Clock) -> AsyncIterator[TimeoutSweep]:
    """Yields a sweep with limits of 0.04 s. Only the test moves its clock."""
    made = TimeoutSweep(0.04, clock)
    yield made
    made.close()


async def stall(sweep: TimeoutSweep) -> str:
    try:
        with Limit(sweep):
            await asyncio.Event().wait()
    except TimeoutError:
        return "timeout"
    return "no timeout"


async def start(sweep: TimeoutSweep, calls: int) -> list[asyncio.Task[str]]:
    stalled = [asyncio.ensure_future(stall(sweep)) for _ in range(calls)]
    await asyncio.sleep(0)
    return stalled


def timer_is_set(sweep: TimeoutSweep) -> bool:
    return sweep._timer is not None


async def test_each_call_ends_by_its_own_limit(sweep: TimeoutSweep, clock: Clock) -> None:
    first = await start(sweep, 3)
    clock.now += 0.03
    second = await start(sweep, 2)
    clock.now += 0.01
    assert await asyncio.gather(*first) == ["timeout"] * 3
    assert not any(call.done() for call in second)
    clock.now += 0.03
    assert await asyncio.gather(*second) == ["timeout"] * 2


async def test_a_call_that_ends_in_time_is_not_cancelled(sweep: TimeoutSweep, clock: Clock) -> None:
    with Limit(sweep):
        await asyncio.sleep(0)
    [later] = await start(sweep, 1)
    clock.now += 0.05
    assert await later == "timeout"
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_an_error_of_the_call_is_raised_unchanged(sweep: TimeoutSweep) -> None:
    with pytest.raises(KeyError), Limit(sweep):
        raise KeyError


async def test_a_cancellation_from_elsewhere_is_raised_as_such(sweep: TimeoutSweep) -> None:
    [stalled] = await start(sweep, 1)
    stalled.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stalled


async def test_a_cancellation_at_the_same_moment_is_not_lost(sweep: TimeoutSweep, clock: Clock) -> None:
    [stalled] = await start(sweep, 1)
    clock.now += 1
    sweep._sweep()
    stalled.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stalled


async def test_a_call_that_suppresses_its_cancellation_is_not_cancelled_later(
    sweep: TimeoutSweep, clock: Clock
) -> None:
    task = asyncio.current_task()
    assert task is not None
    with Limit(sweep):
        clock.now += 1
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            assert task.cancelling() == 1
    assert task.cancelling() == 0


async def test_a_limit_works_inside_asyncios_timeout(sweep: TimeoutSweep, clock: Clock) -> None:
    async with asyncio.timeout(5):
        clock.now += 1
        [stalled] = await start(sweep, 1)
        clock.now += 1
        assert await stalled == "timeout"
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(stall(sweep), 0.001)


async def test_one_timer_serves_all_limits_and_fires_no_more_often_than_they_end(
    sweep: TimeoutSweep, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    delays: list[float] = []
    call_later = asyncio.get_running_loop().call_later

    def call_later_noted(delay: float, *rest: Any) -> asyncio.TimerHandle:
        delays.append(delay)
        return call_later(delay, *rest)

    monkeypatch.setattr(asyncio.get_running_loop(), "call_later", call_later_noted)
    for _ in range(100):
        with Limit(sweep):
            clock.now += 0.0001
    [stalled] = await start(sweep, 1)
    clock.now += 0.04
    assert await stalled == "timeout"
    assert len(delays) <= 2  # one for the first limit and one for the last limit


async def test_an_idle_loop_has_no_timer(sweep: TimeoutSweep, clock: Clock) -> None:
    assert not timer_is_set(sweep)
    [stalled] = await start(sweep, 1)
    assert timer_is_set(sweep)
    clock.now += 1
    assert await stalled == "timeout"
    assert not timer_is_set(sweep)


async def test_a_closed_sweep_cancels_nothing(sweep: TimeoutSweep, clock: Clock) -> None:
    [stalled] = await start(sweep, 1)
    sweep.close()
    assert not timer_is_set(sweep)
    clock.now += 1
    stalled.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stalled


def test_a_limit_needs_a_task(clock: Clock) -> None:
    async def make() -> TimeoutSweep:
        return TimeoutSweep(1, clock)

    loop = asyncio.new_event_loop()
    sweep = loop.run_until_complete(make())
    failures: list[BaseException] = []

    def outside_any_task() -> None:
        try:
            Limit(sweep)
        except RuntimeError as error:
            failures.append(error)

    loop.call_soon(outside_any_task)
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    assert len(failures) == 1


def test_a_new_loop_starts_anew(clock: Clock) -> None:
    """Limits end their calls in a new loop, although the old loop still has an active limit."""
    sweep = TimeoutSweep(0.01, clock)

    async def leave_a_limit_active() -> None:
        await start(sweep, 1)

    async def stall_and_expire() -> str:
        [stalled] = await start(sweep, 1)
        clock.now += 1
        return await stalled

    loop = asyncio.new_event_loop()
    loop.run_until_complete(leave_a_limit_active())
    [abandoned] = asyncio.all_tasks(loop)
    assert asyncio.run(stall_and_expire()) == "timeout"
    abandoned.cancel()
    loop.run_until_complete(asyncio.wait([abandoned]))
    loop.close()

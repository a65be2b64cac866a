"""Threads for functions that block: who gets their results, and what a stop waits for."""

import asyncio
import threading

import pytest

from bridge.aio.threads import ITEMS_AT_ONCE, Stopped, Threads, parts_with_pauses, run_once
from tests.waiting import SAFETY_SECONDS


class Gate:
    """A function that blocks its thread until `go` is set."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.go = threading.Event()

    def __call__(self) -> str:
        self.entered.set()
        assert self.go.wait(SAFETY_SECONDS)
        return "done"


async def entered(gate: Gate) -> None:
    async with asyncio.timeout(SAFETY_SECONDS):
        while not gate.entered.is_set():
            await asyncio.sleep(0.001)


async def test_a_function_returns_or_raises_to_its_caller() -> None:
    threads = Threads(1, "test")
    assert await threads.submit(lambda: threading.current_thread().name) == "test"
    with pytest.raises(ZeroDivisionError):
        await threads.submit(lambda: 1 // 0)
    await threads.close(SAFETY_SECONDS)


async def test_so_many_functions_run_at_a_time() -> None:
    threads, gates = Threads(2, "test"), [Gate() for _ in range(3)]
    running = [threads.submit(gate) for gate in gates]
    await entered(gates[0])
    await entered(gates[1])
    gates[0].go.set()
    await entered(gates[2])
    for gate in gates:
        gate.go.set()
    assert await asyncio.gather(*running) == ["done"] * 3
    await threads.close(SAFETY_SECONDS)


async def test_a_function_whose_caller_left_before_its_turn_does_not_start() -> None:
    threads, first, second = Threads(1, "test"), Gate(), Gate()
    running = threads.submit(first)
    await entered(first)
    threads.submit(second).cancel()
    first.go.set()
    await running
    await threads.close(SAFETY_SECONDS)
    assert not second.entered.is_set()


async def test_what_a_function_returns_after_its_caller_left_is_discarded() -> None:
    gate, discarded = Gate(), list[str]()
    caller = asyncio.create_task(run_once(Threads(1, "test"), gate, discarded.append))
    await entered(gate)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    gate.go.set()
    async with asyncio.timeout(SAFETY_SECONDS):
        while not discarded:
            await asyncio.sleep(0.001)
    assert discarded == ["done"]


async def test_a_stop_waits_for_the_running_functions_and_takes_no_more() -> None:
    threads, gate = Threads(1, "test"), Gate()
    running = threads.submit(gate)
    await entered(gate)
    await threads.close(0.01)  # a stop waits at most so long for a function
    assert not running.done()
    with pytest.raises(Stopped):
        threads.submit(gate)
    gate.go.set()
    await threads.close(SAFETY_SECONDS)
    assert await running == "done"


@pytest.mark.parametrize("count", [0, 1, ITEMS_AT_ONCE, 2 * ITEMS_AT_ONCE + 1])
def test_very_many_items_are_looked_at_in_parts_with_pauses(count: int) -> None:
    parts = list(parts_with_pauses(range(count)))
    assert [item for part in parts for item in part] == list(range(count))
    assert max(map(len, parts), default=0) <= ITEMS_AT_ONCE

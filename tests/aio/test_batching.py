"""Work that is gathered: who shares it, whose results and faults are whose, and callers that leave."""

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any

import pytest

from bridge.aio.batching import MicroBatcher


class Bench:
    """Doubles numbers; a negative one is a fault."""

    def __init__(self) -> None:
        self.done: list[list[int]] = []
        self.tasks: list[asyncio.Task[None]] = []
        self.open = asyncio.Event()
        self.open.set()
        self.gathered = MicroBatcher(self.double, self.begin)

    def begin(self, work: Coroutine[Any, Any, None]) -> None:
        self.tasks.append(asyncio.create_task(work))

    async def double(self, numbers: Sequence[int]) -> list[int]:
        await self.open.wait()
        if any(number < 0 for number in numbers):
            raise ValueError("negative")
        self.done.append(list(numbers))
        return [2 * number for number in numbers]

    async def all_of(self, *numbers: int) -> list[int | BaseException]:
        return await asyncio.gather(*map(self.gathered.do, numbers), return_exceptions=True)


@pytest.fixture
async def bench() -> Bench:
    return Bench()


async def test_who_asks_in_one_turn_shares_the_work_and_the_next_turn_has_its_own(bench: Bench) -> None:
    assert await bench.all_of(3, 1, 2) == [6, 2, 4]
    assert await bench.all_of(5) == [10]
    assert bench.done == [[3, 1, 2], [5]]


async def test_a_fault_is_its_bringers_alone(bench: Bench) -> None:
    one, fault, two = await bench.all_of(1, -1, 2)
    assert (one, two) == (2, 4)
    assert isinstance(fault, ValueError)
    assert bench.done == [[1], [2]]


async def test_what_was_asked_by_one_who_left_is_done_and_keeps_nobody_back(bench: Bench) -> None:
    bench.open.clear()
    leaving, staying = (asyncio.create_task(bench.gathered.do(number)) for number in (1, 2))
    await asyncio.sleep(0)
    leaving.cancel()
    bench.open.set()
    assert await staying == 4
    assert leaving.cancelled()
    assert bench.done == [[1, 2]]
    await asyncio.gather(*bench.tasks)

"""Micro-batching: which items share a call, who gets which result or error, and callers that are cancelled."""

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any

import pytest

from bridge.aio.batching import MicroBatcher


class Doubler:
    """Doubles numbers in batches. A batch with a negative number raises ValueError."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.tasks: list[asyncio.Task[None]] = []
        self.open = asyncio.Event()
        self.open.set()
        self.batcher = MicroBatcher(self.double, self.start)

    def start(self, coroutine: Coroutine[Any, Any, None]) -> None:
        self.tasks.append(asyncio.create_task(coroutine))

    async def double(self, numbers: Sequence[int]) -> list[int]:
        await self.open.wait()
        if any(number < 0 for number in numbers):
            raise ValueError("negative")
        self.batches.append(list(numbers))
        return [2 * number for number in numbers]

    async def submit_all(self, *numbers: int) -> list[int | BaseException]:
        return await asyncio.gather(*map(self.batcher.submit, numbers), return_exceptions=True)


@pytest.fixture
async def doubler() -> Doubler:
    return Doubler()


async def test_items_of_one_turn_share_a_call_and_those_of_the_next_turn_do_not(doubler: Doubler) -> None:
    assert await doubler.submit_all(3, 1, 2) == [6, 2, 4]
    assert await doubler.submit_all(5) == [10]
    assert doubler.batches == [[3, 1, 2], [5]]


async def test_only_the_caller_of_a_faulty_item_gets_the_error(doubler: Doubler) -> None:
    one, fault, two = await doubler.submit_all(1, -1, 2)
    assert (one, two) == (2, 4)
    assert isinstance(fault, ValueError)
    assert doubler.batches == [[1], [2]]


async def test_the_item_of_a_cancelled_caller_is_handled_and_delays_no_other(doubler: Doubler) -> None:
    doubler.open.clear()
    cancelled, waiting = (asyncio.create_task(doubler.batcher.submit(number)) for number in (1, 2))
    await asyncio.sleep(0)
    cancelled.cancel()
    doubler.open.set()
    assert await waiting == 4
    assert cancelled.cancelled()
    assert doubler.batches == [[1, 2]]
    await asyncio.gather(*doubler.tasks)

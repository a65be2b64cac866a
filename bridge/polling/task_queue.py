"""A queue from which an item in the middle can be removed."""

from collections import Counter, deque
from collections.abc import Hashable, Sequence
from itertools import islice
from typing import Generic, TypeVar

Item = TypeVar("Item", bound=Hashable)


class TaskQueue(Generic[Item]):
    """First in, first out. A removed item keeps its place, and is skipped when it comes to the front."""

    __slots__ = ("queue", "stale", "waiting")

    def __init__(self) -> None:
        self.queue: deque[Item] = deque()
        self.stale: Counter[Item] = Counter()  # for each removed item, how many of its places are stale
        self.waiting = 0  # items in the queue

    def append(self, item: Item) -> None:
        """Add an item at the end."""
        self.queue.append(item)
        self.waiting += 1

    def extend(self, items: Sequence[Item]) -> None:
        """Add items at the end."""
        self.queue.extend(items)
        self.waiting += len(items)

    def put_back(self, items: Sequence[Item]) -> None:
        """Add items at the front, in their order."""
        self.queue.extendleft(reversed(items))
        self.waiting += len(items)

    def remove(self, item: Item) -> None:
        """Remove an item that is in the queue."""
        self.stale[item] += 1
        self.waiting -= 1

    def pop(self) -> Item | None:
        """Take the first item; None when there is none."""
        queue, stale = self.queue, self.stale
        while queue:
            item = queue.popleft()
            if not stale or item not in stale:
                self.waiting -= 1
                return item
            if stale[item] > 1:
                stale[item] -= 1
            else:
                del stale[item]
        return None

    def take(self, most: int) -> list[Item]:
        """Take up to `most` items from the front."""
        queue = self.queue
        if self.stale:
            return list(islice(iter(self.pop, None), most))
        taken = [queue.popleft() for _ in range(min(most, len(queue)))]
        self.waiting -= len(taken)
        return taken

    def clear(self) -> None:
        """Drop all items."""
        self.queue.clear()
        self.stale.clear()
        self.waiting = 0

"""A queue whose items are taken in groups, and from which an item in the middle can be removed."""

from collections import Counter, deque
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

Item = TypeVar("Item", bound=Hashable)
Mark = TypeVar("Mark")

# Groups stay as they are if they have this share of the items of full groups. Otherwise they are filled, so that the
# items are taken in fewer groups.
FULL_SHARE = 0.98


@dataclass(slots=True, eq=False)
class Group(Generic[Item, Mark]):
    """Items that were added together. `mark` is what the owner of the queue knows about exactly these items."""

    items: deque[Item]
    mark: Mark | None = None


class TaskQueue(Generic[Item, Mark]):
    """First in, first out. A removed item keeps its place, and is skipped when it comes to the front.

    Items that were added with `extend` are taken together, if the groups are nearly full.
    """

    __slots__ = ("groups", "last", "stale", "waiting")

    def __init__(self) -> None:
        self.groups: deque[Group[Item, Mark]] = deque()
        self.last: deque[Item] | None = None  # the items of the last group, if single items may be added to it
        self.stale: Counter[Item] = Counter()  # for each removed item, how many of its places are stale
        self.waiting = 0  # items in the queue

    def append(self, item: Item) -> None:
        """Add an item at the end."""
        if self.last is None:
            self.last = deque()
            self.groups.append(Group(self.last))
        self.last.append(item)
        self.waiting += 1

    def extend(self, items: Sequence[Item], mark: Mark | None = None) -> None:
        """Add items at the end, as a group."""
        if items:
            self.groups.append(Group(deque(items), mark))
            self.last = None
            self.waiting += len(items)

    def put_back(self, items: Sequence[Item]) -> None:
        """Add items at the front, in their order."""
        if items:
            self.groups.appendleft(Group(deque(items)))
            self.waiting += len(items)

    def remove(self, item: Item) -> None:
        """Remove an item that is in the queue."""
        self.stale[item] += 1
        self.waiting -= 1

    def pop(self) -> Item | None:
        """Take the first item; None when there is none."""
        taken, _ = self.take(1)
        return taken[0] if taken else None

    def take(self, most: int) -> tuple[list[Item], Mark | None]:
        """Take up to `most` items from the front. Return them, and their mark if they are a whole group."""
        taken: list[Item] = []
        mark: Mark | None = None
        while self.groups and len(taken) < most and not (taken and self._has_full_groups(most)):
            items, mark_of_items = self._take_first(most - len(taken))
            mark = None if taken else mark_of_items
            taken += items
        self.waiting -= len(taken)
        return taken, mark

    def _take_first(self, most: int) -> tuple[Sequence[Item], Mark | None]:
        """Take up to `most` items of the first group. Return them, and their mark if they are the whole group."""
        group = self.groups[0]
        if len(group.items) > most:
            group.mark = None
            return self._without_stale([group.items.popleft() for _ in range(most)]), None
        self.groups.popleft()
        if group.items is self.last:
            self.last = None
        items = self._without_stale(group.items)
        return items, group.mark if len(items) == len(group.items) else None

    def _has_full_groups(self, most: int) -> bool:
        """Whether the groups are nearly full, together with one that is just taken."""
        return self.waiting >= (len(self.groups) + 1) * most * FULL_SHARE

    def _without_stale(self, items: Sequence[Item]) -> Sequence[Item]:
        """Return the items that have not been removed. The places of the others are forgotten."""
        if not self.stale:
            return items
        live = []
        for item in items:
            if not self.stale.get(item):
                live.append(item)
            elif self.stale[item] > 1:
                self.stale[item] -= 1
            else:
                del self.stale[item]
        return live

    def clear(self) -> None:
        """Drop all items."""
        self.groups.clear()
        self.last = None
        self.stale.clear()
        self.waiting = 0

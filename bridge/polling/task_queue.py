"""A queue whose items are taken in groups, and from which an item in the middle can be removed."""

from collections import Counter, deque
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

Item = TypeVar("Item", bound=Hashable)
Mark = TypeVar("Mark")

# Groups stay as they are if they have this share of the items of full groups. Otherwise they are filled, so that the
# items are taken in fewer groups. So of 40 groups with 480 items, of up to 500, none stays as it is: 39 are enough.
FULL_SHARE = 0.97


@dataclass(slots=True, eq=False)
class Group(Generic[Item, Mark]):
    """Items that were added together. Those before the index `first` are taken already.

    `mark` is what the owner of the queue knows about exactly these items.
    """

    items: list[Item]
    mark: Mark | None = None
    first: int = 0


class TaskQueue(Generic[Item, Mark]):
    """Groups of items, first in, first out. Groups that are nearly full are taken as they were added.

    Single items form a group until that is taken. They come out sooner than a group that was added meanwhile. New ones
    also fill groups that are not full, the newest first. Items that were taken before wait for the turn of their group:
    if they filled groups too, each group would take the same items again.

    A removed item keeps its place, and is skipped when it comes to the front. If the item is added again meanwhile, one
    of its places is skipped. The other one counts, even if it is the old one, which can be in a group with a mark.
    """

    __slots__ = ("groups", "most", "returned", "singles", "stale", "waiting")

    def __init__(self) -> None:
        self.groups: deque[Group[Item, Mark]] = deque()
        self.singles: Group[Item, Mark] | None = None  # the group to which new single items are added
        self.returned: Group[Item, Mark] | None = None  # the group to which single items are added again
        self.most = 1  # how many items are taken together
        self.stale: Counter[Item] = Counter()  # for each removed item, how many of its places are stale
        self.waiting = 0  # items in the queue

    def append(self, item: Item) -> None:
        """Add a new single item."""
        self.singles = self._added(self.singles, item)

    def rejoin(self, item: Item) -> None:
        """Add a single item that was taken before."""
        if self.returned is not None and len(self.returned.items) >= self.most:
            self.returned = None  # after a start all items come back singly; new ones must not wait for all of them
        self.returned = self._added(self.returned, item)

    def _added(self, group: Group[Item, Mark] | None, item: Item) -> Group[Item, Mark]:
        """Add a single item to a group, or to a new one at the end; return the group."""
        if group is None:
            group = Group([])
            self.groups.append(group)
        group.items.append(item)
        self.waiting += 1
        return group

    def extend(self, items: Sequence[Item], mark: Mark | None = None) -> None:
        """Add items at the end, as a group."""
        if items:
            self.groups.append(Group(list(items), mark))
            self.waiting += len(items)

    def put_back(self, items: Sequence[Item]) -> None:
        """Add items at the front, in their order."""
        if items:
            self.groups.appendleft(Group(list(items)))
            self.waiting += len(items)

    def remove(self, item: Item) -> None:
        """Remove an item that is in the queue."""
        self.stale[item] += 1
        self.waiting -= 1

    def pop(self) -> Item | None:
        """Take the first item; None when there is none."""
        while self.groups:
            group = self.groups[0]
            items = group.items[group.first : group.first + 1]
            self._advance(group, len(items))
            if self._without_stale(items):
                self.waiting -= 1
                return items[0]
        return None

    def take(self, most: int) -> tuple[list[Item], Mark | None]:
        """Take up to `most` items: a group or more from the front, and new single items that fill it.

        Return them, and their mark if they are a whole group.
        """
        self.most = most
        taken: list[Item] = []
        mark: Mark | None = None
        while self.groups and len(taken) < most:
            group, room = self.groups[0], most - len(taken)
            if not group.items:  # its single items have filled other groups
                self._advance(group, 0)
                continue
            is_whole = not group.first and len(group.items) <= room
            places = group.items if is_whole else group.items[group.first : group.first + room]
            self._advance(group, len(places))
            live = self._without_stale(places)
            mark = group.mark if is_whole and not taken and len(live) == len(places) else None
            taken += live
            if taken and group.first == len(group.items) and self._has_full_groups():
                break
        is_small = len(taken) < most / 2
        if len(taken) < most and (mark is None or is_small) and (more := self._take_singles(most - len(taken))):
            taken, mark = taken + more, None
        self.waiting -= len(taken)
        return taken, mark

    def _take_singles(self, most: int) -> list[Item]:
        """Take up to `most` new single items, wherever their group is. So groups that are not full grow again."""
        if self.singles is None:
            return []
        places = self.singles.items[-most:]
        del self.singles.items[-most:]
        return list(self._without_stale(places))

    def _advance(self, group: Group[Item, Mark], places: int) -> None:
        """Note that so many places of the first group are taken. No single item is added to it any more."""
        group.first += places
        if group is self.singles:
            self.singles = None
        elif group is self.returned:
            self.returned = None
        if group.first == len(group.items):
            self.groups.popleft()

    def _has_full_groups(self) -> bool:
        """Whether the groups are nearly full and not too large, counting the group that was just taken."""
        is_empty = self.singles is not None and not self.singles.items
        places = (len(self.groups) + 1 - is_empty) * self.most
        return places * FULL_SHARE <= self.waiting <= places

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
        self.singles = self.returned = None
        self.stale.clear()
        self.waiting = 0

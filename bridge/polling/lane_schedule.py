"""When each batch lane is read next, and when the tasks of a closed lane are read singly.

The time is passed in, as in `lanes.py`.
"""

from collections.abc import Iterator
from heapq import heappop, heappush
from math import inf

from bridge.core.schedule import PollPolicy
from bridge.polling.state import CredentialLane, PolledTask

RELEASED_AT_ONCE = 2_000  # tasks; 1 to 2 ms. 100,000 tasks are released in 50 ticks


class DueLanes:
    """A heap of lanes by the time of their next batch. An entry is valid while the lane's `entry` is its number."""

    __slots__ = ("_entries", "_heap")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, CredentialLane]] = []
        self._entries = 0

    def put(self, lane: CredentialLane, at: float) -> None:
        """Make a lane due at `at`, unless it is due earlier."""
        if lane.entry and lane.next_at <= at:
            return
        self._entries = lane.entry = self._entries + 1
        lane.next_at = at
        heappush(self._heap, (at, lane.entry, lane))

    @staticmethod
    def drop(lane: CredentialLane) -> None:
        """Remove a lane: its entry becomes stale and is skipped."""
        lane.entry = 0

    def next_at(self) -> float:
        """Returns when the next lane is due; infinity if the heap is empty."""
        heap = self._heap
        while heap and heap[0][2].entry != heap[0][1]:
            heappop(heap)
        return heap[0][0] if heap else inf

    def pop_due(self, now: float) -> tuple[float, CredentialLane] | None:
        """Take the lane that has been due for the longest time, with its due time; None if no lane is due."""
        if self.next_at() > now:
            return None
        was_due, _, lane = heappop(self._heap)
        self.drop(lane)
        return was_due, lane

    def late(self, now: float, seconds: float) -> list[tuple[float, CredentialLane]]:
        """Returns the lanes that have been due for longer than `seconds`, and how long. They stay in the heap."""
        waiting = [(now - due, lane) for due, entry, lane in self._heap if entry == lane.entry]
        return [(late, lane) for late, lane in waiting if late > seconds]

    def clear(self) -> None:
        """Drop all entries."""
        self._heap.clear()


class ClosedLanes:
    """The lanes that have closed. Their tasks are released to single reads, spread over one interval."""

    def __init__(self, policy: PollPolicy, due: DueLanes) -> None:
        self._policy = policy
        self._due = due
        self._lanes: set[CredentialLane] = set()

    def __bool__(self) -> bool:
        """Whether tasks wait to be released."""
        return bool(self._lanes)

    def add(self, lane: CredentialLane, now: float) -> None:
        """Release the waiting tasks of a lane from `now` on, unless the lane opens."""
        lane.to_release, lane.released, lane.released_from = lane.waiting, 0, now
        self._lanes.add(lane)

    def release(self, now: float) -> Iterator[tuple[PolledTask, float]]:
        """Yield some tasks, and when each is read singly."""
        left = RELEASED_AT_ONCE
        for lane in list(self._lanes):
            while left and not lane.health.is_open and (task := lane.pop()) is not None:
                left -= 1
                interval = max(self._policy.delay_after(task.steps, 0.0), self._policy.interval)
                place = lane.released / max(lane.to_release, 1)
                lane.released += 1
                yield task, max(now, lane.released_from + place * interval)
            if lane.health.is_open or not lane.waiting:
                self._lanes.discard(lane)
                if lane.waiting and not lane.entry:
                    self._due.put(lane, now)

    def clear(self) -> None:
        """Release no more tasks."""
        self._lanes.clear()

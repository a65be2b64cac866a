"""The tasks that are read singly, by the time at which each is due."""

from heapq import heapify, heappop, heappush
from math import inf

from bridge.polling.state import Phase, PolledTask


class DueHeap:
    """Entries (due, number, task) in the order of their due times.

    An entry is valid while the task's `entry` is its number; others are skipped. Only the entries of the second in
    which the next task is due are in a heap. Later entries wait in a list for each second, without an order. If all
    entries were in one heap, taking one would read two in each of its levels. With 100,000 tasks most
    of them are not in the processor's caches, which would double the cost.
    """

    __slots__ = ("_entries", "_heap", "_later", "_seconds", "_until")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, PolledTask]] = []
        self._until = -inf  # the heap has all entries before this moment
        self._later: dict[float, list[tuple[float, int, PolledTask]]] = {}
        self._seconds: list[float] = []  # the keys of `_later`, as a heap
        self._entries = 0

    def put(self, task: PolledTask, due: float) -> None:
        """Make a task due at `due`; its earlier entry becomes stale."""
        self._entries = entry = self._entries + 1
        task.phase = Phase.SCHEDULED
        task.due = due
        task.entry = entry
        if due < self._until:
            heappush(self._heap, (due, entry, task))
            return
        second = due // 1.0
        entries = self._later.get(second)
        if entries is None:
            self._later[second] = [(due, entry, task)]
            heappush(self._seconds, second)
        else:
            entries.append((due, entry, task))

    def pop_due(self, now: float) -> PolledTask | None:
        """Take the task that has been due for the longest time; None if no task is due."""
        if self.next_due() > now:
            return None
        _, _, task = heappop(self._heap)  # `next_due` has removed the stale entries before it
        task.entry = 0
        return task

    def next_due(self) -> float:
        """Returns when the next task is due; infinity if there is none."""
        while True:
            heap = self._heap
            while heap and heap[0][2].entry != heap[0][1]:
                heappop(heap)
            if heap:
                return heap[0][0]
            if not self._seconds:
                return inf
            second = heappop(self._seconds)
            self._heap, self._until = self._later.pop(second), second + 1.0
            heapify(self._heap)

    @staticmethod
    def remove(task: PolledTask) -> None:
        """Make a task's entry stale."""
        task.entry = 0

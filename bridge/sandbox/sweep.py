"""amux's sweep: after each pause it visits every unfinished task, one after another.

The sweep has no timer. Each read of a record first makes all visits that are due, with the times at which they were
due. So a test's clock drives the sweep.
"""

from collections import deque
from collections.abc import Iterable, Iterator

from bridge.sandbox.records import Record, time_out

SWEEP_SECONDS = 15.0
_TASK_SHARE = 1 / 15  # the real sweep pauses for 15 s and takes 1 s for each task
_MAX_LATE_ROUNDS = 100  # older rounds are skipped: the newer ones visit the same records
_MIN_SECONDS = 0.001  # a sweep without a pause would never reach the present


class Sweep:
    """The times at which records change, in seconds of one clock.

    `pause` is the time between two rounds, `each` the time for one task (None: a 15th of the pause).
    """

    def __init__(self, begins: float, pause: float = SWEEP_SECONDS, each: float | None = None) -> None:
        self._pause = max(pause, _MIN_SECONDS)
        self._each = self._pause * _TASK_SHARE if each is None else each
        self._next = begins + self._pause
        self._round: deque[Record] = deque()
        self._unfinished: dict[str, Record] = {}

    def follow(self, record: Record) -> None:
        """Adds the record to later rounds, or removes it if it has ended. Call it after each change."""
        if record.ended:
            self._unfinished.pop(record.task.task_id, None)
        else:
            self._unfinished[record.task.task_id] = record

    def drop(self, task_id: str) -> None:
        """Removes a task whose id belongs to another task now."""
        self._unfinished.pop(task_id, None)

    def visits(self, now: float) -> Iterator[tuple[Record, float]]:
        """Yields each record that is visited up to `now`, and the time of the visit."""
        self._skip_old_rounds(now)
        while self._next <= now:
            at = self._next
            if not self._round:
                self._round.extend(self._begin_round(at))
            if not self._round:
                self._next += self._pause
                continue
            record = self._round.popleft()
            self._next += self._each if self._round else self._each + self._pause
            if self._unfinished.get(record.task.task_id) is record:
                yield record, at

    def _begin_round(self, at: float) -> Iterable[Record]:
        """Fails the records that are too old, and returns the others in the order of their rows."""
        for record in list(self._unfinished.values()):
            if at - record.task.created_clock >= record.task.behaviour.amux_timeout_seconds:
                time_out(record, int(record.task.created_at + at - record.task.created_clock))
                self.follow(record)
        found = (each for each in self._unfinished.values() if each.task.created_clock <= at)
        return sorted(found, key=lambda record: record.task.row_id)

    def _skip_old_rounds(self, now: float) -> None:
        round_seconds = self._pause + self._each * len(self._unfinished)
        rounds = int((now - self._next) / round_seconds)
        if rounds > _MAX_LATE_ROUNDS:
            self._round.clear()
            self._next += (rounds - _MAX_LATE_ROUNDS) * round_seconds

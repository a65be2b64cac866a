"""When a job that reads all watches or tasks reads them again: the more there are, the less often."""

import time
from collections.abc import Callable
from math import inf

# SQLite counts 40,000 watches in 4 ms, and the statistics of 40,000 polled tasks take 7 ms. So one such job takes at
# most 0.7 % of a core. A job that runs every 15 s reads 600,000 tasks or fewer at each run, and a million every 30 s.
READ_PER_SECOND = 40_000


class ReadPace:
    """The time of the next read of one job. `clock` is monotonic seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._due_at = -inf

    def is_due(self) -> bool:
        """Whether the job reads now."""
        return self._clock() >= self._due_at

    def note_read(self, rows: int) -> None:
        """Call it after the job has read `rows` watches or tasks."""
        self._due_at = self._clock() + rows / READ_PER_SECOND

"""A clock for limits like "within 5 s". It leaves out the time in which a busy machine did not run this process."""

import threading
import time
from functools import cache

_PAUSE_SECONDS = 0.02


class _Delays(threading.Thread):
    """A thread that wakes up every 20 ms and adds up how late it was each time."""

    def __init__(self) -> None:
        super().__init__(name="delays", daemon=True)
        self._late_seconds = 0.0
        self._due_at = time.monotonic() + _PAUSE_SECONDS

    def run(self) -> None:
        while True:
            time.sleep(max(0.0, self._due_at - time.monotonic()))
            now = time.monotonic()
            self._late_seconds += now - self._due_at
            self._due_at = now + _PAUSE_SECONDS

    def total(self, now: float) -> float:
        return self._late_seconds + max(0.0, now - self._due_at)


@cache
def _delays() -> _Delays:
    """Starts the thread at the first call, and returns the same thread each time. It ends with the process."""
    delays = _Delays()
    delays.start()
    return delays


def working_seconds() -> float:
    """Returns monotonic seconds without the delays of this machine. On a busy machine, 5 s of this clock take longer.

    A bridge that itself waits for too long still exceeds a limit on this clock.
    """
    delays, now = _delays(), time.monotonic()
    return now - delays.total(now)

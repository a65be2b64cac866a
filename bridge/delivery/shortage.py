"""A shortage on this machine, such as no free file descriptor. Sending pauses, and no attempt is used up."""

import logging
import math
from collections.abc import Callable

from bridge.telemetry import get_logger
from bridge.telemetry.outage_log import OutageLog

PAUSE_SECONDS = 1.0  # between tries to send while the shortage lasts
FORGET_SECONDS = 5.0  # after the last failure the shortage ends by itself: without deliveries there is no success


class OwnShortage:
    """Knows whether the bridge lacks a resource that it needs to send. `clock` is monotonic, in seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._reason = ""
        self._failed_at = -math.inf
        self._log = OutageLog(
            get_logger("delivery"),
            "resources_short",
            "resources_available",
            means="deliveries stay pending and use up no attempt; sending is tried again every second",
            repeat_seconds=math.inf,
        )

    @property
    def pausing(self) -> bool:
        """Whether no attempt may start now."""
        return self._clock() - self._failed_at < PAUSE_SECONDS

    @property
    def reason(self) -> str | None:
        """The present shortage as a sentence; None without one."""
        lasts = self._log.failures and self._clock() - self._failed_at < PAUSE_SECONDS + FORGET_SECONDS
        return self._reason if lasts else None

    def failed(self, reason: str) -> None:
        """Notes that an attempt could not be made."""
        self._reason, self._failed_at = reason, self._clock()
        self._log.failed(reason, self._failed_at, level=logging.ERROR)

    def recovered(self) -> None:
        """Notes that an attempt was made."""
        self._log.recovered()

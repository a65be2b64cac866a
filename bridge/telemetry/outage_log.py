"""Logs an outage once when it begins, at intervals while it lasts, and once when it ends."""

import logging
from typing import Any, Final

from bridge.telemetry.logs import Log

REPEAT_SECONDS: Final = 30.0  # an outage is logged when it begins, and then twice a minute


class OutageLog:
    """The log lines of one kind of outage, in which many calls may fail.

    `failed_event` and `recovered_event` are log event names. `means` is what the outage means for watches, and when the
    call is tried again. Several parts of the bridge may share one log. The outage then ends when each part that failed
    has succeeded. During an outage the line is repeated every `repeat_seconds` (infinity: never). If
    `repeat_on_new_reason` is set, it is also repeated when the reason changes. Times are monotonic, in seconds.
    """

    __slots__ = (
        "_failed_event",
        "_failing",
        "_log",
        "_means",
        "_reason",
        "_recovered_event",
        "_repeat_at",
        "_repeat_on_new_reason",
        "_repeat_seconds",
        "failures",
    )

    def __init__(  # noqa: PLR0913  what the lines say, and how often
        self,
        log: Log,
        failed_event: str,
        recovered_event: str,
        *,
        means: str,
        repeat_seconds: float = REPEAT_SECONDS,
        repeat_on_new_reason: bool = False,
    ) -> None:
        self._log = log
        self._failed_event = failed_event
        self._recovered_event = recovered_event
        self._means = means
        self._repeat_seconds = repeat_seconds
        self._repeat_on_new_reason = repeat_on_new_reason
        self._reason = ""
        self._failing: set[str] = set()  # parts
        self._repeat_at = 0.0
        self.failures = 0  # calls that failed in this outage; 0 while there is none

    def failed(self, reason: str, now: float, *, part: str = "", level: int = logging.ERROR, **fields: Any) -> None:
        """Counts a failed call of `part` at `now`, and writes a line if one is due. `fields` are added to the line."""
        self._failing.add(part)
        self.failures += 1
        new_reason = self._repeat_on_new_reason and reason != self._reason
        if self.failures > 1 and now < self._repeat_at and not new_reason:
            return
        self._reason = reason
        self._repeat_at = now + self._repeat_seconds
        self._log.event(
            self._failed_event, level=level, reason=reason, failures=self.failures, means=self._means, **fields
        )

    def recovered(self, *, part: str = "", **fields: Any) -> None:
        """Notes that a call of `part` succeeded. Writes a line, with `fields`, if the outage ends now."""
        self._failing.discard(part)
        if self.failures and not self._failing:
            self._log.event(self._recovered_event, failures=self.failures, **fields)
            self.failures = 0

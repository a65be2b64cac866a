"""Anomalies in amux's answers: a wrong base URL, unknown status words. Also measures how late an end was detected."""

import logging

from bridge.core.health import HealthCode, HealthReason
from bridge.core.model import Observation, TaskRecord, Throttled, TransientError
from bridge.telemetry import Metrics, get_logger

MAX_WORDS = 100  # each is logged once: a vendor that puts numbers into its status words must not fill the log
MAX_WORD_LENGTH = 80
# A longer delay is not a late detection: the task was registered late, or amux's clock is wrong.
MAX_DETECTION_SECONDS = 86_400.0
CLOCK_SKEW_SECONDS = 5.0

_log = get_logger("polling")


class Anomalies:
    """Counts anomalies, and logs each of them once."""

    __slots__ = ("_metrics", "_words", "misrouted")

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self.misrouted: TransientError | None = None  # the last answer, while answers look as if they were not amux's
        self._words: set[str] = set()

    def check(self, observation: Observation, task_id: str) -> None:
        """Check one answer."""
        match observation:
            case TransientError(misrouted=True):
                if self.misrouted is None:
                    _log.event(
                        "misrouted",
                        level=logging.WARNING,
                        error=observation.code,
                        reason=observation.message,
                        task_id=task_id,
                        means="no watch ends because of this; polls continue less often",
                    )
                self.misrouted = observation
            case TransientError() | Throttled():
                pass  # a proxy in between may send these as well, so they prove nothing
            case _:
                if self.misrouted is not None:
                    self.misrouted = None
                    _log.event("misrouting_ended", task_id=task_id)
        if (
            isinstance(observation, TaskRecord)
            and observation.raw_status is not None
            and observation.raw_status.lower() != "unknown"
        ):
            self._count_unknown_word(observation.raw_status, task_id)

    def _count_unknown_word(self, word: str, task_id: str) -> None:
        self._metrics.unknown_status_words.inc()
        word = word[:MAX_WORD_LENGTH]
        if word in self._words or len(self._words) >= MAX_WORDS:
            return
        self._words.add(word)
        _log.event(
            "unknown_status_word",
            level=logging.WARNING,
            word=word,
            task_id=task_id,
            means="the task counts as still running",
        )

    def record_detection(self, seconds: float, watched: float) -> None:
        """Record how many seconds after amux's own time a task's end was seen; it was watched for `watched` seconds."""
        if -CLOCK_SKEW_SECONDS <= seconds <= min(watched, MAX_DETECTION_SECONDS):
            self._metrics.detection_seconds.observe(max(seconds, 0.0))

    def degraded(self) -> list[HealthReason]:
        """Return one reason while answers look misrouted, else none."""
        if self.misrouted is None:
            return []
        message = f"AMUX_BASE_URL looks wrong, or a proxy answers instead of amux: {self.misrouted.message}"
        return [HealthReason(HealthCode.NOT_AMUX, message)]

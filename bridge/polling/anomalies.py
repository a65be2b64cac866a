"""What answers tell besides a task's status: a wrong base URL, words we don't know, how late an end was seen."""

import logging

from bridge.core.health import HealthCode, HealthReason
from bridge.core.model import Observation, TaskRecord, Throttled, TransientError
from bridge.telemetry import Metrics, get_logger

MOST_WORDS = 100  # told once each: a vendor that puts numbers into its words must not fill the log
LONGEST_WORD = 80
# An end that is older was not found late by us: its task was registered late, or amux's clock is wrong.
LONGEST_DETECTION_SECONDS = 86_400.0
CLOCK_SKEW_SECONDS = 5.0

_log = get_logger("polling")


class Anomalies:
    """Notes what is strange, tells it once, and counts it."""

    __slots__ = ("_metrics", "_words", "misrouted")

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self.misrouted: TransientError | None = None  # the last answer, while answers look as if they were not amux's
        self._words: set[str] = set()

    def read(self, said: Observation, task_id: str) -> None:
        """Look at an answer."""
        match said:
            case TransientError(misrouted=True):
                if self.misrouted is None:
                    _log.event(
                        "misrouted",
                        level=logging.WARNING,
                        error=said.code,
                        reason=said.message,
                        task_id=task_id,
                        means="no watch ends by it; polls go on, rarer",
                    )
                self.misrouted = said
            case TransientError() | Throttled():
                pass  # it may come from anyone in between, and proves nothing
            case _:
                if self.misrouted is not None:
                    self.misrouted = None
                    _log.event("routed_again", task_id=task_id)
        if isinstance(said, TaskRecord) and said.word is not None and said.word.lower() != "unknown":
            self._unknown_word(said.word, task_id)

    def _unknown_word(self, word: str, task_id: str) -> None:
        self._metrics.unknown_status_words.inc()
        word = word[:LONGEST_WORD]
        if word in self._words or len(self._words) >= MOST_WORDS:
            return
        self._words.add(word)
        means = "the task counts as still running"
        _log.event("unknown_status_word", level=logging.WARNING, word=word, task_id=task_id, means=means)

    def detected(self, seconds: float, watched: float) -> None:
        """A task's end was seen so many seconds after amux's own time of it; it was watched for `watched` seconds."""
        if -CLOCK_SKEW_SECONDS <= seconds <= min(watched, LONGEST_DETECTION_SECONDS):
            self._metrics.detection_seconds.observe(max(seconds, 0.0))

    def degraded(self) -> list[HealthReason]:
        """A sentence while answers look misrouted."""
        if self.misrouted is None:
            return []
        message = f"AMUX_BASE_URL looks wrong, or a proxy answers in amux's place: {self.misrouted.message}"
        return [HealthReason(HealthCode.NOT_AMUX, message)]

"""Anomalies in amux's answers: a wrong base URL, unknown status words. Also measures how late an end was detected."""

import logging

from bridge.core.health import HealthCode, HealthReason
from bridge.core.model import Observation, TaskRecord, Throttled, TransientError
from bridge.polling.state import PolledTask
from bridge.telemetry import Metrics, get_logger

MAX_WORDS = 100  # each is logged once: a vendor that puts numbers into its status words must not fill the log
MAX_WORD_LENGTH = 80
# A longer delay is not a late detection: the task was registered late, or amux's clock is wrong.
MAX_DETECTION_SECONDS = 86_400.0
CLOCK_SKEW_SECONDS = 5.0

_log = get_logger("polling")


class Anomalies:
    """Counts anomalies, and logs each of them once.

    Misrouting begins with one answer that does not look like amux's. It ends when each task that got such an answer
    has got a good one or is no longer polled, and `calm_seconds` have passed since the last such answer. So neither a
    few misrouted tasks among good ones nor one bad proxy among several fill the log.
    """

    __slots__ = ("_calm_seconds", "_metrics", "_misrouted_at", "_misrouted_tasks", "_words", "misrouted")

    def __init__(self, metrics: Metrics, calm_seconds: float) -> None:
        self._metrics = metrics
        self._calm_seconds = calm_seconds
        self.misrouted: TransientError | None = None  # the last answer, while answers look as if they were not amux's
        self._misrouted_at = 0.0
        self._misrouted_tasks: set[PolledTask] = set()  # their last answer but transient ones was misrouted
        self._words: set[str] = set()

    def check(self, observation: Observation, task: PolledTask, now: float) -> None:
        """Check one answer, which came at `now` (monotonic seconds)."""
        task_id = task.task_id
        match observation:
            case TransientError(misrouted=True):
                self._misrouted_tasks.add(task)
                self._misrouted_at = now
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
                self._misrouted_tasks.discard(task)
                self._end_misrouting(task_id, now)
        if (
            isinstance(observation, TaskRecord)
            and observation.raw_status is not None
            and observation.raw_status.lower() != "unknown"
        ):
            self._count_unknown_word(observation.raw_status, task_id)

    def forget(self, task: PolledTask) -> None:
        """Drop a task that is no longer polled."""
        self._misrouted_tasks.discard(task)

    def forget_all(self) -> None:
        """Drop all tasks."""
        self._misrouted_tasks.clear()

    def _end_misrouting(self, task_id: str, now: float) -> None:
        """End misrouting after a good answer, if the last misrouted one is long ago and no task awaits a good one."""
        if self.misrouted is None or self._misrouted_tasks or now - self._misrouted_at < self._calm_seconds:
            return
        self.misrouted = None
        _log.event("misrouting_ended", task_id=task_id)

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

"""Anomalies in amux's answers: a wrong base URL, unknown status words. Also measures the delay of detected ends."""

import logging
from collections.abc import Iterable

from bridge.core.health import HealthCode, HealthReason
from bridge.core.model import Observation, TaskRecord, Throttled, TransientError
from bridge.polling.state import PolledTask
from bridge.telemetry import Metrics, get_logger

MAX_WORDS = 100  # unknown words that are logged, each once; a vendor with numbers in its words must not fill the log
MAX_WORD_LENGTH = 80
# A longer delay is not a late detection: the task was registered late, or amux's clock is wrong.
MAX_DETECTION_SECONDS = 86_400.0
CLOCK_SKEW_SECONDS = 5.0

_log = get_logger("polling")


class Anomalies:
    """Counts anomalies, and logs each of them once.

    Misrouting begins with one answer that does not look like amux's. It ends when two conditions are true: each task
    with such an answer has had a good one since, or is not polled any more; and `calm_seconds` have passed since the
    last such answer. So a few misrouted tasks, or one bad proxy among several, do not fill the log.
    """

    __slots__ = ("_calm_seconds", "_metrics", "_misrouted_at", "_misrouted_tasks", "_words", "misrouted")

    def __init__(self, metrics: Metrics, calm_seconds: float) -> None:
        self._metrics = metrics
        self._calm_seconds = calm_seconds
        self.misrouted: TransientError | None = None  # the last misrouted answer, until misrouting ends
        self._misrouted_at = 0.0
        self._misrouted_tasks: set[PolledTask] = set()  # tasks with a misrouted answer and no good one since
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
                        means=(
                            "AMUX_BASE_URL looks wrong, or a proxy answers instead of amux; no watch ends because of"
                            " this answer; the polls continue less often"
                        ),
                    )
                self.misrouted = observation
            case TransientError() | Throttled():
                pass  # a proxy may send these too, so they do not show that amux answers
            case _:
                self._misrouted_tasks.discard(task)
                self._end_misrouting(task_id, now)
        if (
            isinstance(observation, TaskRecord)
            and observation.raw_status is not None
            and observation.raw_status.lower() != "unknown"
        ):
            self._count_unknown_word(observation.raw_status, task_id)

    def may_end_misrouting(self, tasks: Iterable[PolledTask]) -> bool:
        """Whether a good answer about one of these tasks may end misrouting, so `check` must see it."""
        waiting = self._misrouted_tasks
        return self.misrouted is not None and (not waiting or not waiting.isdisjoint(tasks))

    def forget(self, task: PolledTask) -> None:
        """Drop a task that is no longer polled."""
        self._misrouted_tasks.discard(task)

    def forget_all(self) -> None:
        """Drop all tasks."""
        self._misrouted_tasks.clear()

    def _end_misrouting(self, task_id: str, now: float) -> None:
        """End misrouting after a good answer, if the conditions of the class docstring are true."""
        if self.misrouted is None or self._misrouted_tasks or now - self._misrouted_at < self._calm_seconds:
            return
        self.misrouted = None
        _log.event("misrouting_ended", task_id=task_id, means="amux itself answers again")

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
            means="the task counts as still running; if amux keeps this word, its watches end at their deadlines",
        )

    def record_detection(self, seconds: float, watched: float) -> None:
        """Record that a task's end was seen `seconds` after amux's time of it. It was watched for `watched` seconds."""
        if -CLOCK_SKEW_SECONDS <= seconds <= min(watched, MAX_DETECTION_SECONDS):
            self._metrics.detection_seconds.observe(max(seconds, 0.0))

    def degraded(self) -> list[HealthReason]:
        """Return one reason during misrouting, else none."""
        if self.misrouted is None:
            return []
        message = f"AMUX_BASE_URL looks wrong, or a proxy answers instead of amux: {self.misrouted.message}"
        return [HealthReason(HealthCode.NOT_AMUX, message)]

"""Reports attempts: metrics and log lines. The many failures of a failing host get one line together."""

import logging
from typing import Any

from bridge.core.delivery import FAILURES_UNTIL_PROBING, Dead, Delivered, RetryAt
from bridge.core.model import TERMINAL_EVENTS, PendingDelivery, Problem
from bridge.core.receivers import LastAnswer
from bridge.core.trace_context import log_fields
from bridge.delivery.attempt import Sent
from bridge.delivery.attempt_writer import AttemptRecord
from bridge.delivery.figures import AttemptFigures
from bridge.telemetry import Metrics, Stage, get_logger, rfc3339, without_query

_log = get_logger("delivery")

LOG_FAILURES_EACH = 100  # a host that stays down is logged at 3, 100, 200, ... failures in a row


class DeliveryReporter:
    """Counts attempts and logs their results."""

    def __init__(self, metrics: Metrics, figures: AttemptFigures) -> None:
        self._metrics = metrics
        self._figures = figures

    def started(self, delivery: PendingDelivery, now: float) -> None:
        """Counts an attempt that starts at `now` (Unix seconds)."""
        if delivery.attempts == 0 and delivery.type in TERMINAL_EVENTS:
            self._metrics.settle_to_first_attempt_seconds.observe(max(0.0, now - delivery.created_at))
            self._metrics.stages.observe(Stage.ATTEMPTED, now - delivery.created_at)

    def ended(self, record: AttemptRecord, sent: Sent, failures_before: int, failures: int) -> None:
        """Counts and logs a finished attempt. `failures` is the host's failures in a row, with this attempt."""
        self._metrics.count_attempt(sent.answer)
        self._metrics.attempt_seconds.observe(sent.duration_seconds)
        attempt = record.attempt
        last = LastAnswer(record.at, attempt.status_code, attempt.error)
        self._figures.add(record.host.name, attempt.duration_seconds, last, delivered=attempt.error is None)
        self._log_attempt(record, failures)
        if failures > failures_before and (failures == FAILURES_UNTIL_PROBING or failures % LOG_FAILURES_EACH == 0):
            _log.event(
                "host_failing",
                level=logging.WARNING,
                host=record.host.name,
                failures=failures,
                error=None if record.attempt.error is None else record.attempt.error.code,
                reason=None if record.attempt.error is None else record.attempt.error.message,
                means="its deliveries stay pending; one at a time is sent until an answer is not 429, 502, 503 or 504",
            )
        elif failures_before >= FAILURES_UNTIL_PROBING and failures == 0:
            _log.event("host_recovered", host=record.host.name, failures=failures_before)

    def written(self, record: AttemptRecord) -> None:
        """Counts and logs an attempt whose record is durable."""
        delivery = record.claimed.delivery
        match record.verdict:
            case Delivered():
                # Only without a requested retry: after one, the delivery may be days old or delivered before.
                if delivery.attempts == delivery.round_attempts and delivery.type in TERMINAL_EVENTS:
                    self._metrics.settle_to_delivered_seconds.observe(max(0.0, record.at - delivery.created_at))
                    self._metrics.stages.observe(Stage.DELIVERED, record.at - delivery.created_at)
                _log.event("delivered", **_fields(record, None))
            case Dead(error=error):
                means = (
                    "the bridge gave up the delivery and keeps it; `amux-bridge retry` or the dashboard sends it again"
                )
                _log.event("dead", level=logging.WARNING, **_fields(record, error), means=means)
            case RetryAt(at=at, error=error) if record.retry_requested:
                means = "a retry was requested during the attempt; the delivery is sent again now"
                _log.event("attempt", **_fields(record, error), next_attempt_at=rfc3339(at), means=means)
            case RetryAt():
                pass  # `ended` has logged when the next attempt is due

    @staticmethod
    def _log_attempt(record: AttemptRecord, failures: int) -> None:
        """Logs a failed attempt. An attempt that ends its delivery is logged when its record is durable.

        While a host is failing, the level is INFO only for the first attempt of each delivery, and DEBUG for all
        others: the line `host_failing` reports them together.
        """
        delivery, verdict = record.claimed.delivery, record.verdict
        if not isinstance(verdict, RetryAt):
            return
        summed_up = failures > FAILURES_UNTIL_PROBING and delivery.attempts
        _log.event(
            "attempt",
            level=logging.DEBUG if summed_up else logging.INFO,
            **_fields(record, verdict.error),
            next_attempt_at=rfc3339(verdict.at),
            means="the delivery stays pending and is sent again at next_attempt_at",
        )

    def lost(self, record: AttemptRecord) -> None:
        """Logs an attempt whose result is dropped, because its claim is lost."""
        means = "the claim was lost, so the result is not stored: the delivery has a newer claim, or is not pending"
        _log.event("attempt_dropped", **_fields(record, record.attempt.error), means=means)


def _fields(record: AttemptRecord, error: Problem | None) -> dict[str, Any]:
    """Returns the fields that every line about a delivery has, named as in the API."""
    delivery = record.claimed.delivery
    return {
        "watch_id": delivery.watch_id or None,  # a notice for operators has no watch
        "delivery_id": delivery.id,
        "app": delivery.app or None,
        "type": delivery.type,
        "callback_url": without_query(delivery.callback_url),
        "attempt": delivery.attempts + 1,
        "status_code": record.attempt.status_code,
        "error": None if error is None else error.code,
        "reason": None if error is None else error.message,
        "duration_seconds": round(record.attempt.duration_seconds, 4),
        **log_fields(delivery.trace),
    }

"""What is told of attempts: metrics, and log lines that sum up a host's flood instead of repeating it."""

import logging
from typing import Any

from bridge.core.delivery import FAILURES_UNTIL_PROBING, Dead, Delivered, RetryAt
from bridge.core.model import TERMINAL_EVENTS, PendingDelivery, Problem
from bridge.delivery.attempt import Sent
from bridge.delivery.attempt_writer import AttemptRecord
from bridge.telemetry import Metrics, get_logger, rfc3339, without_query

_log = get_logger("delivery")

TELL_FAILURES_EACH = 100  # a host that stays down is told of at 3, 100, 200, ... failures in a row


class DeliveryReporter:
    """Counts and tells what attempts came to."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def began(self, owed: PendingDelivery, now: float) -> None:
        """An attempt begins at `now` (Unix seconds)."""
        if owed.attempts == 0 and owed.type in TERMINAL_EVENTS:
            self._metrics.settle_to_first_attempt_seconds.observe(max(0.0, now - owed.created_at))

    def ended(self, record: AttemptRecord, sent: Sent, failures_before: int, failures: int) -> None:
        """An attempt is over, and its host has failed `failures` times in a row with it."""
        self._metrics.count_attempt(sent.answer)
        self._metrics.attempt_seconds.observe(sent.duration_seconds)
        self._tell_attempt(record, failures)
        if failures > failures_before and (failures == FAILURES_UNTIL_PROBING or failures % TELL_FAILURES_EACH == 0):
            _log.event(
                "host_failing",
                level=logging.WARNING,
                host=record.host.name,
                failures=failures,
                error=None if record.attempt.error is None else record.attempt.error.code,
                reason=None if record.attempt.error is None else record.attempt.error.message,
                means="its deliveries stay owed and are tried one at a time until it answers",
            )
        elif failures_before >= FAILURES_UNTIL_PROBING and failures == 0:
            _log.event("host_recovered", host=record.host.name, failures=failures_before)

    def written(self, record: AttemptRecord) -> None:
        """An attempt's record is durable."""
        owed = record.claimed.owed
        match record.verdict:
            case Delivered():
                # What is sent again on request may have been delivered before, and comes days later.
                if owed.attempts == owed.round_attempts and owed.type in TERMINAL_EVENTS:
                    self._metrics.settle_to_delivered_seconds.observe(max(0.0, record.at - owed.created_at))
                _log.event("delivered", **_fields(record, None))
            case Dead(error=error):
                means = "given up and kept: it is sent again on request"
                _log.event("dead", level=logging.WARNING, **_fields(record, error), means=means)
            case RetryAt(at=at, error=error) if record.retry_requested:
                means = "a retry was asked for while it was under way: it is sent again now"
                _log.event("attempt", **_fields(record, error), next_attempt_at=rfc3339(at), means=means)
            case RetryAt():
                pass  # its attempt's line says when

    @staticmethod
    def _tell_attempt(record: AttemptRecord, failures: int) -> None:
        """A failed attempt's line; one that ends its delivery has its line when that is durable.

        Of a host's flood of failures `host_failing` tells, but for each delivery's first.
        """
        owed, verdict = record.claimed.owed, record.verdict
        if not isinstance(verdict, RetryAt):
            return
        summed_up = failures > FAILURES_UNTIL_PROBING and owed.attempts
        _log.event(
            "attempt",
            level=logging.DEBUG if summed_up else logging.INFO,
            **_fields(record, verdict.error),
            next_attempt_at=rfc3339(verdict.at),
            means="the callback stays owed, and is tried again then",
        )

    def lost(self, record: AttemptRecord) -> None:
        """An attempt's result was dropped, for the claim it was made under is gone."""
        means = "its claim is gone: it was claimed anew, ended meanwhile, or this result had been written after all"
        _log.event("attempt_dropped", **_fields(record, record.attempt.error), means=means)


def _fields(record: AttemptRecord, error: Problem | None) -> dict[str, Any]:
    """What every line of a delivery has, under the API's names."""
    owed = record.claimed.owed
    return {
        "watch_id": owed.watch_id,
        "delivery_id": owed.id,
        "app": owed.app,
        "type": owed.type,
        "callback_url": without_query(owed.callback_url),
        "attempt": owed.attempts + 1,
        "status_code": record.attempt.status_code,
        "error": None if error is None else error.code,
        "reason": None if error is None else error.message,
        "duration_seconds": round(record.attempt.duration_seconds, 4),
    }

"""What is told of attempts: metrics, and log lines that sum up a host's flood instead of repeating it."""

import logging
from datetime import UTC, datetime
from typing import Any

from bridge.core.delivery import FAILURES_UNTIL_PROBING, Dead, Delivered, RetryAt, Verdict
from bridge.core.model import TERMINAL_EVENTS, OwedDelivery
from bridge.delivering.attempt import Sent
from bridge.delivering.recording import Record
from bridge.telemetry import Metrics, get_logger, without_query

_log = get_logger("deliverer")

TELL_FAILURES_EACH = 100  # a host that stays down is told of at 3, 100, 200, ... failures in a row


class Report:
    """Counts and tells what attempts came to."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def began(self, owed: OwedDelivery, now: float) -> None:
        """An attempt begins at `now` (Unix seconds)."""
        if owed.attempts == 0 and owed.type in TERMINAL_EVENTS:
            self._metrics.settle_to_first_attempt_seconds.observe(max(0.0, now - owed.created_at))

    def ended(self, record: Record, sent: Sent, failures_before: int, failures: int) -> None:
        """An attempt is over, and its host has failed `failures` times in a row with it."""
        self._metrics.count_attempt(sent.answer)
        self._metrics.attempt_seconds.observe(sent.duration_seconds)
        owed = record.held.owed
        # Of a host's flood of failures `host_failing` tells.
        level = logging.DEBUG if failures > FAILURES_UNTIL_PROBING else logging.INFO
        _log.event("attempt", level=level, **_ids(record, owed), next_attempt_at=_when(record.verdict))
        if failures > failures_before and (failures == FAILURES_UNTIL_PROBING or failures % TELL_FAILURES_EACH == 0):
            _log.event(
                "host_failing",
                level=logging.WARNING,
                host=owed.host,
                failures=failures,
                error=None if record.attempt.error is None else record.attempt.error.code,
                means="its deliveries stay owed and are tried one at a time until it answers",
            )
        elif failures_before >= FAILURES_UNTIL_PROBING and failures == 0:
            _log.event("host_recovered", host=owed.host, failures=failures_before)

    def written(self, record: Record) -> None:
        """An attempt's record is durable."""
        owed = record.held.owed
        match record.verdict:
            case Delivered():
                # What is sent again on request may have been delivered before, and comes days later.
                if owed.attempts == owed.round_attempts and owed.type in TERMINAL_EVENTS:
                    self._metrics.settle_to_delivered_seconds.observe(max(0.0, record.at - owed.created_at))
                _log.event("delivered", **_ids(record, owed))
            case Dead(error=error):
                _log.event(
                    "dead",
                    level=logging.WARNING,
                    **_ids(record, owed),
                    message=error.message,
                    means="given up and kept: it is sent again on request",
                )
            case RetryAt():
                pass  # its attempt's line says when

    def lost(self, record: Record) -> None:
        """An attempt's result was dropped, for the claim it was made under is gone."""
        means = "its claim is gone: it was claimed anew, ended meanwhile, or this result had been written after all"
        _log.event("attempt_dropped", **_ids(record, record.held.owed), means=means)


def _ids(record: Record, owed: OwedDelivery) -> dict[str, Any]:
    error = record.attempt.error
    return {
        "watch_id": owed.watch_id,
        "delivery_id": owed.id,
        "app": owed.app,
        "type": owed.type,
        "attempt": owed.attempts + 1,
        "status": record.attempt.status_code,
        "error": None if error is None else error.code,
        "duration_seconds": round(record.attempt.duration_seconds, 4),
        "callback": without_query(owed.callback_url),
    }


def _when(verdict: Verdict) -> str | None:
    if not isinstance(verdict, RetryAt):
        return None
    return datetime.fromtimestamp(verdict.at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")

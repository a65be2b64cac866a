"""Telemetry: JSON logs, metrics and the charts' history. None of them contains a secret."""

from bridge.telemetry.logs import Log, configure_logging, get_logger, rfc3339
from bridge.telemetry.metrics import CONTENT_TYPE, Metrics, Stage, StuckReason
from bridge.telemetry.redaction import REDACTOR, Redactor, redact, without_query

__all__ = [
    "CONTENT_TYPE",
    "REDACTOR",
    "Log",
    "Metrics",
    "Redactor",
    "Stage",
    "StuckReason",
    "configure_logging",
    "get_logger",
    "redact",
    "rfc3339",
    "without_query",
]

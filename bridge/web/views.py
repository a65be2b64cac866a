"""Watches, deliveries and attempts as apps see them. Times are RFC 3339 UTC with milliseconds."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import orjson

from bridge.core.event import error_view, short_enough
from bridge.core.model import Attempt, DeliveryState, EventType, Problem, TaskSnapshot, WatchState
from bridge.core.registration import MASK
from bridge.store.records import DeliveryView, WatchView
from bridge.web.services import LiveTask

_ORDER = {event_type: number for number, event_type in enumerate(EventType)}


def rfc3339(seconds: float | None) -> str | None:
    """`2026-11-23T15:04:05.123Z` of Unix seconds; None of None."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")[:-6] + "Z"


def watch_json(view: WatchView, live: Callable[[str], LiveTask | None]) -> dict[str, Any]:
    """A watch with its task and its deliveries, for orjson; while it is active, as its poller knows the task."""
    watch = view.watch
    active = watch.state is WatchState.ACTIVE
    task = (live(view.task.row) if active else None) or _Row(view)
    return {
        "id": watch.id,
        "app": watch.app,
        "task_id": watch.task_id,
        "callback_url": watch.callback_url,
        "events": sorted(watch.events, key=_ORDER.__getitem__),
        "context": orjson.Fragment(watch.context),
        "headers": dict.fromkeys(watch.header_names, MASK) or None,
        "state": watch.state,
        "outcome": watch.outcome,
        "task": task_json(task.snapshot),
        "polls": task.polls,
        "last_polled_at": rfc3339(task.last_polled_at),
        "next_poll_at": rfc3339(task.next_poll_at) if active else None,
        "last_error": _last_error(task.last_error, task.last_error_at),
        "created_at": rfc3339(watch.created_at),
        "deadline_at": rfc3339(watch.deadline_at),
        "settled_at": rfc3339(watch.settled_at) if watch.state is WatchState.SETTLED else None,
        "deliveries": [delivery_json(delivery) for delivery in view.deliveries],
    }


class _Row:
    """A task as its row tells it, in the poller's words."""

    __slots__ = ("last_error", "last_error_at", "last_polled_at", "next_poll_at", "polls", "snapshot")

    def __init__(self, view: WatchView) -> None:
        note = view.task.note
        self.snapshot = view.task.snapshot
        self.polls = note.polls
        self.last_polled_at = note.last_polled_at
        self.next_poll_at = note.next_poll_at
        self.last_error = note.last_error
        self.last_error_at = note.last_error_at


def task_json(task: TaskSnapshot) -> dict[str, Any]:
    """A task as last seen."""
    return {
        "status": task.status,
        "progress": task.progress,
        "url": short_enough(task.url),
        "format": task.format,
        "metadata": None if task.metadata is None else asdict(task.metadata),
        "error": _error(task.error),
    }


def delivery_json(delivery: DeliveryView) -> dict[str, Any]:
    """A delivery as it stands in its watch."""
    pending = delivery.state is DeliveryState.PENDING
    return {
        "id": delivery.id,
        "type": delivery.type,
        "state": delivery.state,
        "attempts": delivery.attempts,
        "next_attempt_at": rfc3339(delivery.next_attempt_at) if pending else None,
        "delivered_at": rfc3339(delivery.delivered_at),
        "last_error": _error(delivery.last_error),
    }


def delivery_with_log(delivery: DeliveryView, attempts: Sequence[Attempt]) -> dict[str, Any]:
    """A delivery, the watch it belongs to, and its attempts, oldest first."""
    return delivery_json(delivery) | {
        "watch_id": delivery.watch_id,
        "attempt_log": [attempt_json(attempt) for attempt in attempts],
    }


def attempt_json(attempt: Attempt) -> dict[str, Any]:
    """One POST of a delivery."""
    return {
        "started_at": rfc3339(attempt.started_at),
        "duration_seconds": round(attempt.duration_seconds, 6),
        "status_code": attempt.status_code,
        "error": _error(attempt.error),
        "body": attempt.body,
    }


def _error(problem: Problem | None) -> dict[str, Any] | None:
    return None if problem is None else dict(error_view(problem))


def _last_error(problem: Problem | None, at: float | None) -> dict[str, Any] | None:
    return None if problem is None else {**error_view(problem), "at": rfc3339(at)}

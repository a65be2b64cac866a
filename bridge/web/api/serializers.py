"""Makes response models of watches, deliveries and attempts. Times are RFC 3339 in UTC, with milliseconds."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, cast

import orjson

from bridge.core.audit import AuditEntry
from bridge.core.event import error_view, limited_url
from bridge.core.model import (
    Attempt,
    DeliveryState,
    EventType,
    Outcome,
    Problem,
    TaskFacts,
    TaskSnapshot,
    VideoMetadata,
    Watch,
    WatchState,
)
from bridge.core.registration import MASK
from bridge.store.records import DeliveryView, TaskView, WatchView
from bridge.telemetry import rfc3339
from bridge.web.api.response_models import (
    AttemptBody,
    AuditBody,
    DeliveryBody,
    DeliveryWithLog,
    ErrorBody,
    Metadata,
    OwnedDelivery,
    Polling,
    TaskBody,
    Timing,
    WatchBody,
)

_ORDER = {event_type: number for number, event_type in enumerate(EventType)}


@lru_cache(maxsize=64)  # there are 63 sets of six types
def _in_order(events: frozenset[EventType]) -> list[EventType]:
    # Plain strings: orjson reads the value of each enum member through Python, which costs half a µs each.
    plain: list[Any] = [event.value for event in sorted(events, key=_ORDER.__getitem__)]
    return plain


def watch_json(view: WatchView, live: Callable[[str], TaskView | None]) -> WatchBody:
    """Returns a watch with its task and its deliveries, for orjson.

    `live` returns a task from this replica's poller, or None. It is called only while the watch is active.
    """
    watch, task = view.watch, shown_task(view, live)
    return {
        "id": watch.id,
        "app": watch.app,
        "task_id": watch.task_id,
        "callback_url": watch.callback_url,
        "events": _in_order(watch.events),
        "context": orjson.Fragment(watch.context),
        "headers": dict.fromkeys(watch.header_names, MASK) or None,
        "state": watch.state,
        "outcome": watch.outcome,
        **polling_json(watch, task),
        "created_at": rfc3339(watch.created_at),
        "deadline_at": rfc3339(watch.deadline_at),
        "settled_at": rfc3339(watch.settled_at) if watch.state is WatchState.SETTLED else None,
        "deliveries": [delivery_json(delivery) for delivery in view.deliveries],
        "timing": cast("Timing", {step: rfc3339(at) for step, at in timing_of(view, task.facts).items()}),
        "audit": [_audit_entry(one) for one in view.audit],
    }


def _audit_entry(one: AuditEntry) -> AuditBody:
    return {
        "at": rfc3339(one.at),
        "action": one.action,
        "by": one.by.name,
        "role": one.by.role,
        "delivery_id": one.delivery_id,
        "receiver": one.receiver,
    }


def timing_of(view: WatchView, facts: TaskFacts) -> dict[str, float | None]:
    """Returns the time of each step of a watch in Unix seconds; None if it is not reached or not known.

    The task's end has no time if a poll saw it after the watch had ended.
    """
    watch = view.watch
    delivery = None if watch.settled_at is None else view.terminal_delivery
    ended = watch.outcome in {Outcome.COMPLETED, Outcome.FAILED}
    return {
        "submitted_at": facts.submitted_at,
        "finished_at": facts.finished_at if ended else None,
        "seen_at": facts.seen_at if ended else None,
        "settled_at": watch.settled_at,
        "first_attempt_at": view.first_attempt_at,
        "delivered_at": None if delivery is None else delivery.delivered_at,
    }


def shown_task(view: WatchView, live: Callable[[str], TaskView | None]) -> TaskView:
    """Returns a watch's task: from the poller's memory if the watch is active and it is there, else from the store."""
    known = live(view.task.row) if view.watch.state is WatchState.ACTIVE else None
    return known or view.task


def polling_json(watch: Watch, task: TaskView) -> Polling:
    """Returns a watch's task and its polls."""
    error = error_json(task.last_error)
    return {
        "task": task_json(task.snapshot, task.facts, watch),
        "polls": task.polls,
        "last_polled_at": rfc3339(task.last_polled_at),
        "next_poll_at": rfc3339(task.next_poll_at) if watch.state is WatchState.ACTIVE else None,
        "last_error": None if error is None else {**error, "at": rfc3339(task.last_error_at)},
    }


def task_json(task: TaskSnapshot, facts: TaskFacts, watch: Watch) -> TaskBody:
    """Returns a task as it was last seen, for one of its watches. A `model` that another app gave is not shown."""
    return {
        "status": task.status,
        "progress": task.progress,
        "url": limited_url(task.url),
        "format": task.format,
        "metadata": None if task.metadata is None else _metadata(task.metadata),
        "error": error_json(task.error),
        "model": facts.model or watch.model,
        "submitted_at": rfc3339(facts.submitted_at),
        "finished_at": rfc3339(facts.finished_at),
    }


def delivery_json(delivery: DeliveryView) -> DeliveryBody:
    """Returns a delivery as a part of its watch."""
    pending = delivery.state is DeliveryState.PENDING
    return {
        "id": delivery.id,
        "type": EventType(delivery.type),
        "state": delivery.state,
        "attempts": delivery.attempts,
        "next_attempt_at": rfc3339(delivery.next_attempt_at) if pending else None,
        "delivered_at": rfc3339(delivery.delivered_at),
        "last_error": error_json(delivery.last_error),
    }


def owned_delivery(delivery: DeliveryView) -> OwnedDelivery:
    """Returns a delivery and the id of its watch."""
    return {**delivery_json(delivery), "watch_id": delivery.watch_id}


def delivery_with_log(delivery: DeliveryView, attempts: Sequence[Attempt]) -> DeliveryWithLog:
    """Returns a delivery, the id of its watch, and its attempts, oldest first."""
    return {**owned_delivery(delivery), "attempt_log": [attempt_json(attempt) for attempt in attempts]}


def attempt_json(attempt: Attempt) -> AttemptBody:
    """Returns one attempt."""
    return {
        "started_at": rfc3339(attempt.started_at),
        "duration_seconds": round(attempt.duration_seconds, 6),
        "status_code": attempt.status_code,
        "error": error_json(attempt.error),
        "body": attempt.body,
    }


def _metadata(metadata: VideoMetadata) -> Metadata:
    return {
        "duration": metadata.duration,
        "fps": metadata.fps,
        "width": metadata.width,
        "height": metadata.height,
        "seed": metadata.seed,
    }


def error_json(problem: Problem | None) -> ErrorBody | None:
    """Returns an error's code and message; None for None."""
    if problem is None:
        return None
    view = error_view(problem)
    message = view["message"]
    return {"code": view["code"], "message": None if message is None else str(message)}

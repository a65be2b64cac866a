"""Makes the JSON for the page's script. Times are Unix seconds. URLs have no query, and header values are masked."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from heapq import nsmallest
from typing import Any, Final
from urllib.parse import urlsplit

from bridge.core.credential import CredentialState
from bridge.core.event import error_view
from bridge.core.model import DeliveryState, TaskFacts
from bridge.core.receivers import Receiver as ReceiverFigures
from bridge.core.registration import MASK
from bridge.polling.state import CredentialStatus
from bridge.polling.task_classes import ClassFigures
from bridge.store.dashboard_queries import Receiver, StoreFacts, WatchHistory
from bridge.store.records import CONFIGURED, DeliveryView, TaskView, WatchView
from bridge.telemetry import without_query
from bridge.web.api.receivers import receiver_json
from bridge.web.api.serializers import timing_of
from bridge.web.dashboard.alert import MAX_KEYS, Alert, AlertInputs
from bridge.web.dashboard.diagnosis import Diagnosis
from bridge.web.dashboard.formatting import is_superseded
from bridge.web.dashboard.timeline import tenths, timeline

MAX_RECEIVERS: Final = 100


def row_json(view: WatchView, live: TaskView | None, diagnosis: Diagnosis | None) -> dict[str, Any]:
    """Returns a watch as a row of the table."""
    watch, task = view.watch, live or view.task
    return {
        "id": watch.id,
        "app": watch.app,
        "task_id": watch.task_id,
        "callback_url": without_query(watch.callback_url),
        "state": watch.state,
        "outcome": watch.outcome,
        "status": task.snapshot.status,
        "progress": task.snapshot.progress,
        "polls": task.polls,
        "last_polled_at": tenths(task.last_polled_at),
        "created_at": watch.created_at,
        "deadline_at": watch.deadline_at,
        "settled_at": watch.settled_at,
        "deliveries": _delivery_counts(view.deliveries),
        "diagnosis": None if diagnosis is None else asdict(diagnosis),
    }


def _delivery_counts(deliveries: Sequence[DeliveryView]) -> dict[str, int]:
    counts = dict.fromkeys(map(str, DeliveryState), 0)
    for one in deliveries:
        if not is_superseded(one):
            counts[one.state] += 1
    return counts


def watch_json(
    history: WatchHistory, live: TaskView | None, diagnosis: Diagnosis | None, *, paused: bool
) -> dict[str, Any]:
    """Returns a watch with all its fields and its timeline. If its receiver is `paused`, no next attempt has a time."""
    watch, row, task = history.view.watch, history.view.task, live or history.view.task
    snapshot, facts = task.snapshot, task.facts
    metadata = None if snapshot.metadata is None else asdict(snapshot.metadata)
    return row_json(history.view, live, diagnosis) | {
        "events": sorted(watch.events),
        "context": watch.context.decode(errors="replace"),
        "headers": dict.fromkeys(watch.header_names, MASK),
        "timeout_seconds": watch.timeout_seconds,
        "credential": row.credential,
        "owner": row.owner,
        "video": None if snapshot.url is None else without_query(snapshot.url),
        "format": snapshot.format,
        "metadata": metadata,
        "error": None if snapshot.error is None else dict(error_view(snapshot.error)),
        "deliveries": [_delivery(one, paused=paused) for one in history.view.deliveries],
        "model": facts.model or watch.model,
        "host": history.host,
        "timing": _timing(history, facts),
        "timeline": timeline(history, live),
    }


def _timing(history: WatchHistory, facts: TaskFacts) -> dict[str, float | None]:
    """Returns the time of each step in Unix seconds; None if the step is not reached or its time is not known.

    `first_answer_at` is None for a task that was polled before this watch was registered.
    """
    created_at = history.view.watch.created_at
    answers = [at for _, at in history.seen] + ([] if facts.seen_at is None else [facts.seen_at])
    first = min(answers, default=None)
    return {
        "registered_at": created_at,
        "first_answer_at": first if first is not None and first >= created_at else None,
        **timing_of(history.view, facts),
    }


def _delivery(one: DeliveryView, *, paused: bool) -> dict[str, Any]:
    return {
        "id": one.id,
        "type": one.type,
        "state": one.state,
        "superseded": is_superseded(one),
        "attempts": one.attempts,
        "next_attempt_at": None if paused else one.next_attempt_at,
    }


def overview_json(
    inputs: AlertInputs, alerts: Sequence[Alert], figures: Mapping[str, Any], classes: Sequence[ClassFigures]
) -> dict[str, Any]:
    """Returns all data of the page except the table, the open watch and the charts."""
    store = inputs.store
    return {
        "now": inputs.now,
        "alerts": [asdict(alert) for alert in alerts],
        "figures": dict(figures),
        "credentials": _credentials(inputs),
        "credential_count": len(inputs.credentials),
        "receivers": None if inputs.receivers is None else [_receiver(one) for one in inputs.receivers],
        "all_receivers": None if inputs.all_receivers is None else _all_receivers(inputs.all_receivers),
        "classes": [asdict(one) for one in classes],
        "store": None if store is None else _store(store),
        "store_ok": inputs.readiness.checks.get("store") == "ok",
        "replicas": [asdict(one) for one in store.replicas] if store is not None and inputs.shared else [],
    }


def _credentials(inputs: AlertInputs) -> list[dict[str, Any]]:
    """Returns at most 100 keys: the configured one, refused ones, throttled ones, then those with the most tasks."""
    tasks = inputs.stats.keys

    def order(key: CredentialStatus) -> tuple[bool, bool, bool, int]:
        refused, throttled = key.state is CredentialState.PAUSED, key.state is CredentialState.THROTTLED
        return key.name != CONFIGURED, not refused, not throttled, -tasks.get(key.name, 0)

    shown = nsmallest(MAX_KEYS, inputs.credentials, key=order)
    return [asdict(key) | {"tasks": tasks.get(key.name, 0)} for key in shown]


def _receiver(one: Receiver) -> dict[str, Any]:
    return asdict(one) | {"name": urlsplit(f"//{one.host}").hostname or one.host}


def _all_receivers(found: Sequence[ReceiverFigures]) -> dict[str, Any]:
    """Returns at most 100 receivers: those that need attention, then those with the most attempts.

    `count` is the number of all receivers.
    """
    ordered = sorted(
        found,
        key=lambda one: (one.pause is None, -one.failures, one.dead == 0, one.pending == 0, -one.figures.attempts),
    )
    return {"count": len(found), "items": [receiver_json(one) for one in ordered[:MAX_RECEIVERS]]}


def _store(store: StoreFacts) -> dict[str, Any]:
    return {name: value for name, value in asdict(store).items() if name != "replicas"}

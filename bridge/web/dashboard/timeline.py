"""The timeline of one watch: what happened, oldest first, and what comes next. Pure.

An entry has the fields `at` (Unix seconds), `kind`, `level`, `title` and `ahead` (true if it has not happened yet).
It can also have `text`, `body`, `delivery`, `duration_seconds`, `changes` and `repeats`. Consecutive attempts with the
same result are one entry: `repeats` has all of them except the first.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import count
from typing import Any, Final

from bridge.core.audit import Action, AuditEntry
from bridge.core.model import STATUS_EVENTS, DeliveryState, EventType, Outcome, WatchState
from bridge.core.watch import TERMINAL
from bridge.store.dashboard_queries import WatchHistory
from bridge.store.records import DeliveryView, TaskView
from bridge.telemetry import without_query
from bridge.web.dashboard.alert import Level
from bridge.web.dashboard.attempts import NumberedAttempt, numbered, runs
from bridge.web.dashboard.formatting import is_superseded, message_of, quantity, sentence

_STATUS_TITLES: Final[Mapping[EventType, str]] = {
    EventType.QUEUED: "amux: task queued",
    EventType.IN_PROGRESS: "amux: task in progress",
}
_OUTCOMES: Final[Mapping[Outcome, tuple[str, str]]] = {
    Outcome.COMPLETED: ("good", "Settled: the video is completed"),
    Outcome.FAILED: (Level.WARN, "Settled: the task failed at amux"),
    Outcome.TIMED_OUT: (Level.WARN, "Settled: the watch timed out"),
    Outcome.UNAVAILABLE: (Level.WARN, "Settled: amux no longer gives the task's status"),
}
_AUDIT_TITLES: Final[Mapping[Action, str]] = {
    Action.RESENT: "Sent again",
    Action.PAUSED: "Receiver paused",
    Action.RESUMED: "Receiver resumed",
}
_UNKNOWN_TIME: Final = float("inf")  # sorts last


def timeline(history: WatchHistory, live: TaskView | None) -> list[dict[str, Any]]:
    """Returns the entries, oldest first. Of two entries with the same time, the cause comes before its effect."""
    entries = [*_past(history, live), *_future(history, live)]
    place = count()
    return sorted(entries, key=lambda entry: (entry["ahead"], entry["at"] or _UNKNOWN_TIME, next(place)))


def tenths(seconds: float | None) -> float | None:
    """Returns a time rounded to 0.1 s, because each conversion from the monotonic clock differs by microseconds."""
    return None if seconds is None else round(seconds, 1)


def _entry(at: float | None, kind: str, title: str, level: str = "", **more: Any) -> dict[str, Any]:
    return {"at": tenths(at), "kind": kind, "level": level, "title": title, "ahead": False} | {
        name: value for name, value in more.items() if value is not None
    }


def _past(history: WatchHistory, live: TaskView | None) -> Iterator[dict[str, Any]]:
    watch = history.view.watch
    yield _entry(watch.created_at, "registered", f"Registered by {watch.app}", text=without_query(watch.callback_url))
    # A status event has a time of its own, which is preferred. Changes before the registration are not shown.
    changes = {STATUS_EVENTS[status]: at for status, at in history.seen if at >= watch.created_at} | dict(
        history.events
    )
    for event_type, title in _STATUS_TITLES.items():
        if event_type in changes:
            yield _entry(changes[event_type], "status", title)
    yield from _last_poll(history, live)
    if watch.state is WatchState.SETTLED and watch.outcome is not None:
        level, title = _OUTCOMES[watch.outcome]
        error = history.end_error
        text = None if error is None else sentence(message_of(error))
        yield _entry(history.ended_at, "settled", title, level, text=text)
    if watch.state is WatchState.CANCELLED:
        by = next((_by(one) for one in history.view.audit if one.action is Action.CANCELLED), "")
        yield _entry(history.ended_at, "cancelled", f"Cancelled{by}: no more polls, no more callbacks")
    for one in history.view.audit:
        if one.action in _AUDIT_TITLES:
            yield _entry(one.at, one.action, f"{_AUDIT_TITLES[one.action]}{_by(one)}", delivery=one.delivery_id)
    for delivery in history.view.deliveries:
        attempts = history.attempts.get(delivery.id, ())
        requested_at = [one.at for one in history.view.audit if one.delivery_id == delivery.id]
        for run in runs(numbered(attempts, 1 + delivery.attempts - len(attempts)), requested_at):
            yield _attempts(delivery, run)
        if delivery.state is DeliveryState.DEAD:
            yield _dead(delivery)


def _by(one: AuditEntry) -> str:
    return f" by {one.by.name} ({one.by.role})"


def _last_poll(history: WatchHistory, live: TaskView | None) -> Iterator[dict[str, Any]]:
    task = live or history.view.task
    snapshot = task.snapshot
    if task.last_polled_at is None:
        return
    failed = live.failures > 0 if live is not None else _last_poll_failed(task)
    running = snapshot.progress is not None and snapshot.status not in TERMINAL
    progress = f", {snapshot.progress} %" if running else ""
    result = "failed" if failed else f"{snapshot.status.replace('_', ' ')}{progress}"
    text = sentence(message_of(task.last_error)) if failed else None
    level = Level.WARN if failed else ""
    yield _entry(task.last_polled_at, "polled", f"Poll {task.polls:,}: {result}", level, text=text)


def _last_poll_failed(task: TaskView) -> bool:
    """Returns whether the last error in a task's row comes from its last poll."""
    at, polled_at = task.last_error_at, task.last_polled_at
    return at is not None and polled_at is not None and at >= polled_at


def _attempts(delivery: DeliveryView, run: Sequence[NumberedAttempt]) -> dict[str, Any]:
    """Returns the entry for attempts with the same result."""
    first, *others = run
    attempt, status = first.attempt, first.attempt.status_code
    succeeded = status is not None and 200 <= status < 300
    result = f"answered {status}" if status is not None else "no answer"
    name = delivery.type.removeprefix("video.").replace("_", " ")
    which = f"Attempts {first.number} to {others[-1].number}" if others else f"Attempt {first.number}"
    return _entry(
        attempt.started_at,
        "attempt",
        f"{which} of the {name} callback: {result}",
        "good" if succeeded else Level.WARN,
        text=None if status is not None else sentence(message_of(attempt.error)),
        body=attempt.body or None,
        delivery=delivery.id,
        duration_seconds=attempt.duration_seconds,
        changes=[asdict(change) for change in first.changes] or None,
        repeats=[_repeat(one) for one in others] or None,
    )


def _repeat(one: NumberedAttempt) -> dict[str, Any]:
    return {
        "number": one.number,
        "at": tenths(one.attempt.started_at),
        "duration_seconds": one.attempt.duration_seconds,
        "changes": [asdict(change) for change in one.changes],
    }


def _dead(delivery: DeliveryView) -> dict[str, Any]:
    if is_superseded(delivery):
        title = f"{delivery.type} is not sent: the watch became final first"
        return _entry(delivery.dead_at, "dead", title, delivery=delivery.id)
    title = f"The callback is dead after {quantity(delivery.attempts, 'attempt')}"
    text = sentence(message_of(delivery.last_error))
    return _entry(delivery.dead_at, "dead", title, Level.BAD, text=text, delivery=delivery.id)


def _future(history: WatchHistory, live: TaskView | None) -> Iterator[dict[str, Any]]:
    watch = history.view.watch
    if watch.state is WatchState.ACTIVE:
        next_poll = (live or history.view.task).next_poll_at
        if next_poll is not None:
            yield _entry(next_poll, "next_poll", "Next poll") | {"ahead": True}
        yield _entry(watch.deadline_at, "deadline", "Deadline: the watch times out") | {"ahead": True}
    for delivery in history.view.deliveries:
        if delivery.state is DeliveryState.PENDING:
            title = f"Attempt {delivery.attempts + 1} of the callback"
            yield _entry(delivery.next_attempt_at, "next_attempt", title, delivery=delivery.id) | {"ahead": True}

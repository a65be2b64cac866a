"""One watch's life as a time line: what happened, oldest first, and what comes next. Pure.

Each entry is `{at, kind, level, title}` and, where there is more, `text`, `body`, `delivery`, `duration_seconds`.
"""

from collections.abc import Iterator, Mapping
from itertools import count
from typing import Any, Final

from bridge.core.model import STATUS_EVENTS, Attempt, DeliveryState, EventType, Outcome, WatchState
from bridge.core.watch import TERMINAL
from bridge.polling.state import LiveTask
from bridge.store.dashboard_queries import WatchHistory
from bridge.store.records import DeliveryView, PollNote
from bridge.store.row_mapping import SUPERSEDED
from bridge.telemetry import without_query
from bridge.web.dashboard.alerts import Level
from bridge.web.dashboard.formatting import counted, sentence, told

_STATUS: Final[Mapping[EventType, str]] = {
    EventType.QUEUED: "The task waits at amux",
    EventType.IN_PROGRESS: "The task runs at amux",
}
_ENDS: Final[Mapping[Outcome, tuple[str, str]]] = {
    Outcome.COMPLETED: ("good", "Settled: the video is completed"),
    Outcome.FAILED: (Level.WARN, "Settled: the task failed at amux"),
    Outcome.TIMED_OUT: (Level.WARN, "Settled: the deadline passed"),
    Outcome.UNAVAILABLE: (Level.WARN, "Settled: amux will not tell of the task"),
}
_FAR: Final = float("inf")


def timeline(history: WatchHistory, live: LiveTask | None) -> list[dict[str, Any]]:
    """The entries; those of the same moment in the order of causes."""
    entries = [*_past(history, live), *_future(history, live)]
    place = count()
    return sorted(entries, key=lambda entry: (entry["ahead"], entry["at"] or _FAR, next(place)))


def tenths(seconds: float | None) -> float | None:
    """A moment in tenths of a second: one of the monotonic clock differs by microseconds each time it is asked for."""
    return None if seconds is None else round(seconds, 1)


def _entry(at: float | None, kind: str, title: str, level: str = "", **more: Any) -> dict[str, Any]:
    return {"at": tenths(at), "kind": kind, "level": level, "title": title, "ahead": False} | {
        name: value for name, value in more.items() if value is not None
    }


def _past(history: WatchHistory, live: LiveTask | None) -> Iterator[dict[str, Any]]:
    watch = history.view.watch
    yield _entry(watch.created_at, "registered", f"Registered by {watch.app}", text=without_query(watch.callback_url))
    # What was asked for is told as it was told; what its task did before the watch is not of its life.
    changes = {STATUS_EVENTS[status]: at for status, at in history.seen if at >= watch.created_at} | dict(
        history.events
    )
    for event_type, title in _STATUS.items():
        if event_type in changes:
            yield _entry(changes[event_type], "status", title)
    yield from _last_poll(history, live)
    if watch.state is WatchState.SETTLED and watch.outcome is not None:
        level, title = _ENDS[watch.outcome]
        error = history.end_error
        yield _entry(history.ended_at, "settled", title, level, text=None if error is None else sentence(told(error)))
    if watch.state is WatchState.CANCELLED:
        yield _entry(history.ended_at, "cancelled", "Cancelled: polled and sent no more")
    for delivery in history.view.deliveries:
        attempts = history.attempts.get(delivery.id, ())
        for number, attempt in enumerate(attempts, 1 + delivery.attempts - len(attempts)):
            yield _attempt(delivery, attempt, number)
        if delivery.state is DeliveryState.DEAD:
            yield _death(delivery)


def _last_poll(history: WatchHistory, live: LiveTask | None) -> Iterator[dict[str, Any]]:
    task = live or history.view.task.note
    snapshot = live.snapshot if live is not None else history.view.task.snapshot
    if task.last_polled_at is None:
        return
    running = snapshot.progress is not None and snapshot.status not in TERMINAL
    done = f", {snapshot.progress} % done" if running else ""
    seen = f"last seen {snapshot.status.replace('_', ' ')}{done}"
    failed = live.failures > 0 if live is not None else _failed(history.view.task.note)
    title = f"Poll {task.polls:,}: {'no answer about the task' if failed else seen}"
    text = sentence(told(task.last_error)) if failed else None
    yield _entry(task.last_polled_at, "polled", title, Level.WARN if failed else "", text=text)


def _failed(note: PollNote) -> bool:
    """Whether a task's last poll, as its row tells it, is the one that its last error came of."""
    at, polled_at = note.last_error_at, note.last_polled_at
    return at is not None and polled_at is not None and at >= polled_at


def _attempt(delivery: DeliveryView, attempt: Attempt, number: int) -> dict[str, Any]:
    status = attempt.status_code
    good = status is not None and 200 <= status < 300
    said = f"answered {status}" if status is not None else "no answer"
    name = delivery.type.removeprefix("video.").replace("_", " ")
    return _entry(
        attempt.started_at,
        "attempt",
        f"Attempt {number} of the {name} callback: {said}",
        "good" if good else Level.WARN,
        text=None if good or status is not None else sentence(told(attempt.error)),
        body=attempt.body or None,
        delivery=delivery.id,
        duration_seconds=attempt.duration_seconds,
    )


def _death(delivery: DeliveryView) -> dict[str, Any]:
    if delivery.last_error == SUPERSEDED:
        title = f"The {delivery.type} callback is not sent: the watch became final before"
        return _entry(delivery.dead_at, "dead", title, delivery=delivery.id)
    title = f"The callback is dead after {counted(delivery.attempts, 'attempt')}"
    return _entry(
        delivery.dead_at, "dead", title, Level.BAD, text=sentence(told(delivery.last_error)), delivery=delivery.id
    )


def _future(history: WatchHistory, live: LiveTask | None) -> Iterator[dict[str, Any]]:
    watch = history.view.watch
    if watch.state is WatchState.ACTIVE:
        next_poll = live.next_poll_at if live is not None else history.view.task.note.next_poll_at
        if next_poll is not None:
            yield _entry(next_poll, "next", "Next poll") | {"ahead": True}
        yield _entry(watch.deadline_at, "next", "Deadline: it ends as timed out") | {"ahead": True}
    for delivery in history.view.deliveries:
        if delivery.state is DeliveryState.PENDING:
            title = f"Attempt {delivery.attempts + 1} of the callback"
            yield _entry(delivery.next_attempt_at, "next", title, delivery=delivery.id) | {"ahead": True}

"""The timeline of one watch, computed from values."""

from dataclasses import replace
from typing import Any

from bridge.core.audit import Action, Actor, AuditEntry, Role
from bridge.core.model import (
    TERMINAL_EVENTS,
    EventType,
    Outcome,
    Problem,
    TaskSnapshot,
    TaskStatus,
    Watch,
    WatchState,
)
from bridge.store.dashboard_queries import WatchHistory
from bridge.store.records import TaskView, WatchView
from bridge.web.dashboard.timeline import timeline

T0 = 1_795_446_245.0
UNKNOWN_TASK = Problem("task_not_found", "amux knows no such task")
WATCH = Watch("wat_1", "shop", "task_1", "https://a.example/hook?q=1", TERMINAL_EVENTS, b"null", T0, T0 + 3600, 3600.0)
ENDED = replace(WATCH, state=WatchState.SETTLED, outcome=Outcome.UNAVAILABLE, settled_at=T0 + 70)


def polled(polls: int, at: float | None, status: TaskStatus = TaskStatus.UNKNOWN) -> TaskView:
    """Returns a task whose one failed poll was at 69.5 s."""
    snapshot = TaskSnapshot(status)
    return TaskView(
        "row", "task_1", "configured", snapshot, polls, at, last_error=UNKNOWN_TASK, last_error_at=T0 + 69.5
    )


def history(watch: Watch, task: TaskView, end_error: Problem | None = None) -> WatchHistory:
    view = WatchView(watch, task)
    ended_at = watch.settled_at
    built = [] if ended_at is None else [(EventType.UNAVAILABLE, ended_at)]
    return WatchHistory(view, ended_at, built, {}, end_error=end_error)


def entry(of: WatchHistory, kind: str, live: TaskView | None = None) -> dict[str, Any]:
    [found] = [one for one in timeline(of, live) if one["kind"] == kind]
    return found


def test_the_settled_entry_has_the_terminal_events_error() -> None:
    settled = entry(history(ENDED, polled(8, T0 + 69), UNKNOWN_TASK), "settled")
    assert settled["title"] == "Settled: amux no longer gives the task's status"
    assert settled["text"] == "amux knows no such task."


def test_a_failed_last_poll_is_shown_after_the_end_too() -> None:
    last_poll = entry(history(ENDED, polled(8, T0 + 69)), "polled")
    assert (last_poll["title"], last_poll["level"]) == ("Poll 8: failed", "warn")
    assert last_poll["text"] == "amux knows no such task."


def test_an_error_before_a_successful_poll_is_not_shown() -> None:
    completed = replace(ENDED, outcome=Outcome.COMPLETED)
    last_poll = entry(history(completed, polled(9, T0 + 80, TaskStatus.COMPLETED)), "polled")
    assert (last_poll["title"], last_poll["level"]) == ("Poll 9: completed", "")
    assert "text" not in last_poll


def test_who_did_what_is_in_the_timeline() -> None:
    ops, app = Actor("ops", Role.OPERATOR), Actor("shop", Role.APP)
    entries = (
        AuditEntry(T0 + 1, Action.PAUSED, ops, receiver="a.example:443"),
        AuditEntry(T0 + 2, Action.RESUMED, ops, receiver="a.example:443"),
        AuditEntry(T0 + 3, Action.RESENT, app, "wat_1", "evt_1"),
        AuditEntry(T0 + 4, Action.CANCELLED, app, "wat_1"),
    )
    cancelled = history(replace(WATCH, state=WatchState.CANCELLED), polled(0, None))
    found = timeline(replace(cancelled, ended_at=T0 + 4, view=replace(cancelled.view, audit=entries)), None)
    assert [(one["at"], one["title"], one.get("delivery")) for one in found[1:]] == [
        (T0 + 1, "Receiver paused by ops (operator)", None),
        (T0 + 2, "Receiver resumed by ops (operator)", None),
        (T0 + 3, "Sent again by shop (app)", "evt_1"),
        (T0 + 4, "Cancelled by shop (app): no more polls, no more callbacks", None),
    ]

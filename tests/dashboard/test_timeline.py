"""One watch's life as the page tells it, decided without a bridge."""

from dataclasses import replace
from typing import Any

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
from bridge.polling.state import LiveTask
from bridge.store.dashboard_queries import WatchHistory
from bridge.store.records import PollNote, TaskView, WatchView
from bridge.web.dashboard.timeline import timeline

T0 = 1_795_446_245.0
UNKNOWN_TASK = Problem("task_not_found", "amux knows no such task")
WATCH = Watch("wat_1", "shop", "task_1", "https://a.example/hook?q=1", TERMINAL_EVENTS, b"null", T0, T0 + 3600, 3600.0)
ENDED = replace(WATCH, state=WatchState.SETTLED, outcome=Outcome.UNAVAILABLE, settled_at=T0 + 70)


def history(watch: Watch, note: PollNote, end_error: Problem | None = None, status: str = "unknown") -> WatchHistory:
    view = WatchView(watch, TaskView("row", "local", TaskSnapshot(TaskStatus(status)), note))
    ended_at = watch.settled_at
    built = [] if ended_at is None else [(EventType.UNAVAILABLE, ended_at)]
    return WatchHistory(view, ended_at, built, {}, end_error=end_error)


def entry(told: WatchHistory, kind: str, live: LiveTask | None = None) -> dict[str, Any]:
    [found] = [one for one in timeline(told, live) if one["kind"] == kind]
    return found


def test_an_end_says_why_in_the_words_that_its_app_was_told() -> None:
    note = PollNote(8, T0 + 69, None, UNKNOWN_TASK, T0 + 69.5)
    settled = entry(history(ENDED, note, UNKNOWN_TASK), "settled")
    assert settled["title"] == "Settled: amux will not tell of the task"
    assert settled["text"] == "amux knows no such task."


def test_a_last_poll_that_failed_says_so_after_the_end_too() -> None:
    polled = entry(history(ENDED, PollNote(8, T0 + 69, None, UNKNOWN_TASK, T0 + 69.5)), "polled")
    assert (polled["title"], polled["level"]) == ("Poll 8: no answer about the task", "warn")
    assert polled["text"] == "amux knows no such task."


def test_an_error_that_a_good_poll_followed_is_not_told_of_that_poll() -> None:
    note = PollNote(9, T0 + 80, None, UNKNOWN_TASK, T0 + 69.5)
    polled = entry(history(replace(ENDED, outcome=Outcome.COMPLETED), note, status="completed"), "polled")
    assert (polled["title"], polled["level"]) == ("Poll 9: last seen completed", "")
    assert "text" not in polled

"""The diagnosis of one watch, computed from values."""

from dataclasses import replace

import pytest

from bridge.core.credential import CredentialState
from bridge.core.model import (
    TERMINAL_EVENTS,
    DeliveryState,
    EventType,
    Problem,
    TaskSnapshot,
    TaskStatus,
    Watch,
    WatchState,
)
from bridge.polling.state import CredentialStatus
from bridge.store.records import DeliveryView, TaskView, WatchView
from bridge.store.row_mapping import SUPERSEDED
from bridge.store.watch_filters import LAST_PART
from bridge.web.dashboard.alert import Level
from bridge.web.dashboard.diagnosis import Diagnosis, diagnose, of_paused_receiver

NOW = 1_795_446_245.0
WATCH = Watch("wat_1", "shop", "task_1", "https://a.example/hook", TERMINAL_EVENTS, b"null", NOW, NOW + 3600, 3600.0)
RUNNING = TaskSnapshot(TaskStatus.IN_PROGRESS, 50)
LIVE = TaskView("row", "task_1", "local", RUNNING, 3, NOW - 5, next_poll_at=NOW + 5)
VIEW = WatchView(WATCH, LIVE)
REFUSED = Problem("connection_failed", "connection refused")


def found(view: WatchView = VIEW, live: TaskView | None = LIVE, at: float = NOW, **key: CredentialStatus) -> Diagnosis:
    diagnosis = diagnose(view, live, key, at, shared=True)
    assert diagnosis is not None
    return diagnosis


def delivery(state: DeliveryState, error: Problem | None, next_attempt_at: float | None = None) -> DeliveryView:
    return DeliveryView("evt_1", "wat_1", "shop", EventType.COMPLETED, state, 2, NOW, next_attempt_at, last_error=error)


def test_a_healthy_watch_has_no_diagnosis() -> None:
    assert diagnose(VIEW, LIVE, {}, NOW, shared=True) is None


def test_a_callback_to_a_paused_receiver_has_no_next_attempt() -> None:
    settled = replace(WATCH, state=WatchState.SETTLED)
    view = replace(VIEW, watch=settled, deliveries=(delivery(DeliveryState.PENDING, REFUSED, NOW + 60),))
    text = "The receiver is paused. The callback is sent after it is resumed. Last error: connection refused."
    assert of_paused_receiver(view, found(view)) == Diagnosis(Level.NOTE, text)
    dead = replace(view, deliveries=(delivery(DeliveryState.DEAD, REFUSED), *view.deliveries))
    assert of_paused_receiver(dead, found(dead)) == found(dead)


def test_two_failed_polls_in_a_row_are_a_problem_and_one_is_not() -> None:
    failed = LIVE._replace(last_error=REFUSED, failures=2)
    assert found(live=failed) == Diagnosis(Level.WARN, "2 polls in a row failed, next in 5 s: connection refused.")
    assert diagnose(VIEW, failed._replace(failures=1), {}, NOW, shared=True) is None


def test_a_failure_that_awaits_confirmation_is_the_problem_of_its_task() -> None:
    unconfirmed = LIVE._replace(last_error=Problem("failure_unconfirmed", "vendor is busy"))
    explanation = "A failure is being confirmed, next in 5 s: vendor is busy."
    assert found(live=unconfirmed) == Diagnosis(Level.WARN, explanation.replace("next", "next poll"))
    assert found(live=unconfirmed._replace(failures=3)).explanation.startswith("A failure is being confirmed")


def test_a_late_poll_is_a_problem() -> None:
    late = LIVE._replace(next_poll_at=NOW - 42)
    assert found(live=late) == Diagnosis(Level.BAD, "The next poll is 42 s late.")


def test_a_task_without_an_owner_is_a_problem_where_there_are_several_replicas() -> None:
    unowned = replace(VIEW, task=VIEW.task._replace(owner=None))
    assert "takes it over within 15 s" in found(unowned, None).explanation
    assert diagnose(unowned, None, {}, NOW, shared=False) is None


@pytest.mark.parametrize(
    ("state", "level"), [(CredentialState.PAUSED, Level.BAD), (CredentialState.THROTTLED, Level.WARN)]
)
def test_a_key_that_amux_does_not_accept_is_the_problem(state: CredentialState, level: Level) -> None:
    key = CredentialStatus("local", state, NOW - 60, None, "Invalid token.")
    view = replace(VIEW, task=VIEW.task._replace(credential="local"))
    assert found(view, LIVE._replace(failures=9), local=key) == Diagnosis(level, "Polls are paused: Invalid token.")


def test_a_deadline_is_mentioned_in_the_last_tenth_of_the_time() -> None:
    near = WATCH.deadline_at - WATCH.timeout_seconds * LAST_PART
    live = LIVE._replace(next_poll_at=None)
    assert diagnose(VIEW, live, {}, near - 1, shared=True) is None
    assert found(live=live, at=near) == Diagnosis(
        Level.NOTE, "The watch times out in 6 min unless the task ends before."
    )
    assert "The deadline has passed" in found(live=live, at=WATCH.deadline_at).explanation


def test_a_dead_callback_comes_before_a_pending_one_and_a_superseded_one_is_no_problem() -> None:
    pending = delivery(DeliveryState.PENDING, REFUSED, NOW + 300)
    settled = replace(VIEW, watch=replace(WATCH, state=WatchState.SETTLED), deliveries=(pending,))
    explanation = "2 attempts failed, next in 5 min: connection refused."
    assert found(settled, None) == Diagnosis(Level.WARN, explanation)
    dead = replace(settled, deliveries=(pending, delivery(DeliveryState.DEAD, REFUSED)))
    assert found(dead, None) == Diagnosis(Level.BAD, "The callback is dead after 2 attempts: connection refused.")
    superseded = replace(settled, deliveries=(delivery(DeliveryState.DEAD, SUPERSEDED),))
    assert diagnose(superseded, None, {}, NOW, shared=True) is None

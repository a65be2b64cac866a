"""The diagnosis of one watch: its most important problem, with an explanation for operators. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass

from bridge.core.credential import CredentialState
from bridge.core.model import DeliveryState, WatchState
from bridge.core.watch import FAILURE_UNCONFIRMED
from bridge.polling.state import CredentialStatus
from bridge.polling.stats import FAILING_FROM, LATE_SECONDS
from bridge.store.records import DeliveryView, TaskView, WatchView
from bridge.store.watch_filters import LAST_PART
from bridge.web.dashboard.alert import Level
from bridge.web.dashboard.alerts import amux_message
from bridge.web.dashboard.formatting import (
    clock,
    is_superseded,
    message_of,
    quantity,
    relative_time,
    sentence,
    span,
)


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The problem of one watch: its severity and an explanation."""

    level: Level
    explanation: str


def diagnose(
    view: WatchView, live: TaskView | None, keys: Mapping[str, CredentialStatus], now: float, *, shared: bool
) -> Diagnosis | None:
    """Returns the most important problem of a watch; None if it has none."""
    found = _delivery_problem(view.deliveries, now)
    if view.watch.state is WatchState.ACTIVE:
        polling = _key_problem(view, keys) or _task_problem(view, live, now, shared=shared)
        found = polling or found or _deadline_problem(view, now)
    return found


def of_paused_receiver(view: WatchView, diagnosis: Diagnosis | None) -> Diagnosis | None:
    """Returns the diagnosis of a watch whose receiver is paused.

    It says that pending callbacks wait, unless the watch has a problem that is more important.
    """
    pending = [one for one in view.deliveries if one.state is DeliveryState.PENDING]
    dead = any(one.state is DeliveryState.DEAD and not is_superseded(one) for one in view.deliveries)
    if not pending or dead or (view.watch.state is WatchState.ACTIVE and diagnosis is not None):
        return diagnosis
    error = next((f" Last error: {message_of(one.last_error)}." for one in pending if one.last_error is not None), "")
    return Diagnosis(Level.NOTE, f"The receiver is paused. The callback is sent after it is resumed.{error}")


def _key_problem(view: WatchView, keys: Mapping[str, CredentialStatus]) -> Diagnosis | None:
    key = keys.get(view.task.credential)
    if key is None or key.state is CredentialState.GOOD:
        return None
    retry = "" if key.resumes_at is None else f". Next try at {clock(key.resumes_at)}"
    level = Level.WARN if key.state is CredentialState.THROTTLED else Level.BAD
    return Diagnosis(level, f"Polls are paused: {amux_message(key)}{retry}.")


def _task_problem(view: WatchView, live: TaskView | None, now: float, *, shared: bool) -> Diagnosis | None:
    if live is None:
        if shared and view.task.owner is None:
            return Diagnosis(Level.WARN, "No replica polls this task now. A replica takes it over within 15 s.")
        return None
    if live.last_error is not None and live.last_error.code == FAILURE_UNCONFIRMED:
        following = "" if live.next_poll_at is None else f", next poll {relative_time(live.next_poll_at, now)}"
        return Diagnosis(Level.WARN, f"A failure is being confirmed{following}: {message_of(live.last_error)}.")
    if live.failures >= FAILING_FROM:
        polls = quantity(live.failures, "poll")
        return Diagnosis(
            Level.WARN, f"{polls} in a row failed{_next(live.next_poll_at, now)}: {message_of(live.last_error)}."
        )
    if live.next_poll_at is not None and now - live.next_poll_at > LATE_SECONDS:
        return Diagnosis(Level.BAD, f"The next poll is {span(now - live.next_poll_at)} late.")
    return None


def _deadline_problem(view: WatchView, now: float) -> Diagnosis | None:
    left = view.watch.deadline_at - now
    if left > view.watch.timeout_seconds * LAST_PART:
        return None
    if left <= 0:
        return Diagnosis(Level.NOTE, "The deadline has passed. After one last poll the watch times out.")
    return Diagnosis(Level.NOTE, f"The watch times out in {span(left)} unless the task ends before.")


def _delivery_problem(deliveries: tuple[DeliveryView, ...], now: float) -> Diagnosis | None:
    for one in deliveries:
        if one.state is DeliveryState.DEAD and not is_superseded(one):
            attempts = quantity(one.attempts, "attempt")
            return Diagnosis(Level.BAD, f"The callback is dead after {attempts}: {message_of(one.last_error)}.")
    for one in deliveries:
        if one.state is DeliveryState.PENDING and one.last_error is not None:
            attempts = quantity(one.attempts, "attempt")
            error = message_of(one.last_error)
            return Diagnosis(Level.WARN, sentence(f"{attempts} failed{_next(one.next_attempt_at, now)}: {error}"))
    return None


def _next(at: float | None, now: float) -> str:
    return "" if at is None else f", next {relative_time(at, now)}"

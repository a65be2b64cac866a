"""The alerts about receivers: dead callbacks, late callbacks, receivers that fail, and paused receivers. Pure."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from bridge.core.model import Problem
from bridge.core.receivers import Receiver as ReceiverFigures
from bridge.core.receivers import ReceiverHealth, health_of
from bridge.store.dashboard_queries import Receiver
from bridge.web.dashboard.alert import Alert, AlertInputs, Level
from bridge.web.dashboard.formatting import clock, message_of, quantity, relative_time, span

LATE_CALLBACK_SECONDS: Final = 30.0  # a claim, its attempt and its record take 26 s at most by default


def receiver_alerts(inputs: AlertInputs) -> Iterator[Alert]:
    """Yields an alert for each receiver with dead or failing callbacks, and one for each paused receiver."""
    health = {one.name: one.health for one in inputs.all_receivers or ()}
    paused = {one.name: one for one in inputs.all_receivers or () if one.pause is not None}
    for receiver in inputs.receivers or ():
        if receiver.dead:  # a paused receiver has no next attempt
            shown = replace(receiver, next_at=None) if receiver.host in paused else receiver
            yield _dead_receiver_alert(shown, inputs.now)
        elif receiver.waiting and receiver.host not in paused:
            known = health.get(receiver.host) or health_of(receiver.failures, answered=None)
            yield _failing_receiver_alert(receiver, known, inputs.now)
    yield from map(_paused_receiver_alert, paused.values())


def _paused_receiver_alert(receiver: ReceiverFigures) -> Alert:
    by, at = ("", 0.0) if receiver.pause is None else (receiver.pause.by, receiver.pause.at)
    waiting = quantity(receiver.pending, "callback waits and uses up", "callbacks wait and use up")
    return Alert(
        f"paused {receiver.name}",
        Level.NOTE,
        f"{receiver.name} is paused",
        f"{by} paused it at {clock(at)}. {waiting} no attempt.",
        "Resume it when it is ready. The waiting callbacks are then sent, spread over time.",
        {"host": receiver.name, "delivery_state": "pending"},
    )


def _dead_receiver_alert(receiver: Receiver, now: float) -> Alert:
    one = receiver.dead == 1
    at = "" if receiver.dead_at is None else f" at {clock(receiver.dead_at)}"
    waiting = f" {_pending(receiver, now)}" if receiver.waiting else ""
    return Alert(
        f"host {receiver.host}",
        Level.BAD,
        f"{quantity(receiver.dead, 'callback')} to {receiver.host} {'is' if one else 'are'} dead",
        f"{_why_dead(receiver.dead_error)} Last error{at}: {message_of(receiver.dead_error)}.{waiting}",
        f"Fix {receiver.host}, then send the {'callback' if one else 'callbacks'} again. "
        "The webhook-id stays the same, so a receiver can detect duplicates.",
        {"host": receiver.host, "delivery_state": "dead"},
        receiver.host,
    )


def _failing_receiver_alert(receiver: Receiver, health: ReceiverHealth, now: float) -> Alert:
    """Returns the alert of a receiver with a failed callback that is pending. Its title follows from `health`."""
    level, title = Level.WARN, f"{receiver.host} did not accept its last callback"
    next_step = (
        f"Fix {receiver.host}. Retries continue automatically. "
        "After the last retry a callback is dead; it is kept and can be sent again."
    )
    if health is ReceiverHealth.FAILING:
        title = f"{receiver.host} does not accept its callbacks"
    elif health is ReceiverHealth.HEALTHY:
        level, title = Level.NOTE, f"A callback to {receiver.host} failed and is sent again"
        next_step = f"Nothing if the next attempt succeeds: {receiver.host} accepts other callbacks."
    in_a_row = f" {receiver.failures} attempts in a row failed." if receiver.failures > 1 else ""
    return Alert(
        f"host {receiver.host}",
        level,
        title,
        f"{_pending(receiver, now)}{in_a_row}",
        next_step,
        {"host": receiver.host, "delivery_state": "pending"},
    )


def _pending(receiver: Receiver, now: float) -> str:
    callbacks = quantity(receiver.waiting, "callback is pending", "callbacks are pending")
    retry = ""
    if receiver.next_at is not None:
        retry = f", next attempt {relative_time(receiver.next_at, now)}"
    return f"{callbacks}{retry}. Error: {message_of(receiver.waiting_error)}."


def _why_dead(error: Problem | None) -> str:
    match None if error is None else error.code:
        case "gone":
            return "A 410 answer ends all retries."
        case "callback_refused":
            return "A rule of this bridge refuses this target."
    return "All retries were used."


def late_callback_alerts(inputs: AlertInputs) -> Iterator[Alert]:
    """Yields an alert if a due callback has waited for 30 s or more although its receiver has not failed."""
    oldest = inputs.counts.oldest_due_at if inputs.counts is not None else None
    if oldest is None or inputs.now - oldest < LATE_CALLBACK_SECONDS:
        return
    if any(receiver.next_at == oldest for receiver in inputs.receivers or ()):
        return  # this receiver fails and gets one attempt at a time: it has an alert already
    waited = span(inputs.now - oldest)
    explanation = f"The oldest due callback has waited for {waited}, and its receiver has not failed."
    next_step = "Check the CPU, the store's write time and BRIDGE_DELIVERY_CONCURRENCY."
    yield Alert(
        "late callbacks", Level.WARN, "Callbacks are late", explanation, next_step, {"delivery_state": "pending"}
    )

"""What is the matter with one watch, in a sentence. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass

from bridge.core.model import DeliveryState, WatchState
from bridge.polling.state import CredentialState, CredentialStatus, LiveTask
from bridge.polling.stats import FAILING_FROM, LATE_SECONDS
from bridge.store.dashboard_queries import LAST_PART
from bridge.store.records import DeliveryView, WatchView
from bridge.store.row_mapping import SUPERSEDED
from bridge.web.dashboard.alerts import Level
from bridge.web.dashboard.formatting import clock, counted, sentence, span, told


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """How bad, and why."""

    level: Level
    why: str


def diagnose(
    view: WatchView, live: LiveTask | None, keys: Mapping[str, CredentialStatus], now: float, *, shared: bool
) -> Diagnosis | None:
    """The worst of what is the matter with a watch; None for one that fares well."""
    found = _of_deliveries(view.deliveries, now)
    if view.watch.state is WatchState.ACTIVE:
        found = _of_key(view, keys) or _of_task(view, live, now, shared=shared) or found or _of_deadline(view, now)
    return found


def _of_key(view: WatchView, keys: Mapping[str, CredentialStatus]) -> Diagnosis | None:
    key = keys.get(view.task.credential)
    if key is None or key.state is CredentialState.GOOD:
        return None
    again = "" if key.resumes_at is None else f"; asked again at {clock(key.resumes_at)}"
    message = (key.message or "amux gave no reason").strip().rstrip(".")
    level = Level.WARN if key.state is CredentialState.THROTTLED else Level.BAD
    return Diagnosis(level, f"Its polls rest: {message}{again}.")


def _of_task(view: WatchView, live: LiveTask | None, now: float, *, shared: bool) -> Diagnosis | None:
    if live is None:
        if shared and view.task.owner is None:
            return Diagnosis(Level.WARN, "No replica polls its task now; one takes it within 15 s.")
        return None
    if live.failures >= FAILING_FROM:
        again = "" if live.next_poll_at is None else f", next {_when(live.next_poll_at, now)}"
        return Diagnosis(
            Level.WARN, f"{counted(live.failures, 'poll')} in a row failed{again}: {told(live.last_error)}."
        )
    if live.next_poll_at is not None and now - live.next_poll_at > LATE_SECONDS:
        return Diagnosis(Level.BAD, f"Its poll is {span(now - live.next_poll_at)} late.")
    return None


def _of_deadline(view: WatchView, now: float) -> Diagnosis | None:
    left = view.watch.deadline_at - now
    if left > view.watch.timeout_seconds * LAST_PART:
        return None
    if left <= 0:
        return Diagnosis(Level.NOTE, "Its deadline has passed: one last poll, then it ends as timed out.")
    return Diagnosis(Level.NOTE, f"It ends as timed out in {span(left)} unless amux says that the video is done.")


def _of_deliveries(deliveries: tuple[DeliveryView, ...], now: float) -> Diagnosis | None:
    for one in deliveries:
        if one.state is DeliveryState.DEAD and one.last_error != SUPERSEDED:
            return Diagnosis(
                Level.BAD, f"The callback is dead after {counted(one.attempts, 'attempt')}: {told(one.last_error)}."
            )
    for one in deliveries:
        if one.state is DeliveryState.PENDING and one.last_error is not None:
            again = "" if one.next_attempt_at is None else f", next {_when(one.next_attempt_at, now)}"
            why = f"{counted(one.attempts, 'attempt')} failed{again}: {told(one.last_error)}"
            return Diagnosis(Level.WARN, sentence(why))
    return None


def _when(at: float, now: float) -> str:
    return f"in {span(at - now)}" if at > now else "now"

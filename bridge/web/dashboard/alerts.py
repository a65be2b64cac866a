"""What an operator has to know: each trouble with why it is one, in a sentence, and what to do. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from bridge.core.model import Problem
from bridge.maintenance.health import Readiness
from bridge.polling.state import CredentialState, CredentialStatus
from bridge.polling.stats import PollingStats
from bridge.store.dashboard_queries import COUNTED, Receiver, StoreFacts
from bridge.store.records import CONFIGURED, Counts
from bridge.telemetry.history import Minute, lag_quantile, settled_by_outcome
from bridge.web.dashboard.formatting import clock, counted, sentence, size, span, told

LATE_CALLBACK_SECONDS: Final = 30.0  # a claim, its attempt and its record take 26 s at most by default
LATE_POLL_SECONDS: Final = 5.0  # the 95th percentile of what should be 50 ms
LITTLE_ROOM: Final = 512 << 20  # bytes: 200,000 watches with their deliveries
HARDLY_ROOM: Final = 64 << 20
MOST_RECEIVERS: Final = 4  # told one by one; the page's list has the others
MOST_KEYS: Final = 3


class Level(StrEnum):
    """How bad: something is failing, something needs a look, or only worth knowing."""

    BAD = "bad"
    WARN = "warn"
    NOTE = "note"


ORDER: Final = tuple(Level)


@dataclass(frozen=True, slots=True)
class Alert:
    """One trouble. `show` is a filter of the table that lists what it is about; `resend` a host with dead callbacks."""

    key: str
    level: Level
    title: str
    why: str
    todo: str
    show: Mapping[str, str] = field(default_factory=dict)
    resend: str | None = None


@dataclass(frozen=True, slots=True)
class AlertInputs:
    """All that troubles are told from; what the store could not say is None. `shared`: other replicas may exist."""

    now: float
    readiness: Readiness
    stats: PollingStats
    credentials: Sequence[CredentialStatus]
    minutes: Sequence[Minute]
    shared: bool
    counts: Counts | None = None
    store: StoreFacts | None = None
    receivers: Sequence[Receiver] | None = None
    nearing: int | None = None


def current_alerts(facts: AlertInputs) -> list[Alert]:
    """Every trouble, the worst first."""
    parts = (_store, _room, _machinery, _keys, _routing, _polls, _receivers, _late_callbacks, _deadlines, _replicas)
    found = [trouble for part in parts for trouble in part(facts)]
    return sorted(found, key=lambda trouble: ORDER.index(trouble.level))


# --- the bridge itself --------------------------------------------------------------------------------------------


def _store(facts: AlertInputs) -> Iterator[Alert]:
    if facts.readiness.checks.get("store") != "failing":
        return
    reason = next((one for one in facts.readiness.reasons if one.startswith("the store")), "the store does not answer")
    place = facts.store.place if facts.store is not None and facts.store.place else "the database"
    if _tells_of_room(reason):
        title = "The disk is full: the store takes no writes"
        todo = f"Free space on the disk of {place}; the bridge goes on by itself within seconds."
    elif "gone" in reason or "replaced" in reason:
        title = "The database file is gone"
        todo = f"Put {place} back where it was; if the bridge does not go on within seconds, start it anew."
    else:
        title = "The store takes no writes"
        todo = "Look at the database and the way to it; the bridge goes on by itself once it answers."
    waiting = counted(facts.stats.unwritten, "change of a task waits", "changes of tasks wait")
    kept = f" {waiting} in memory." if facts.stats.unwritten else ""
    means = "Registrations answer 503, and callbacks that are not under way wait; what was accepted is safe."
    yield Alert("store", Level.BAD, title, f"{sentence(reason)} {means}{kept}", todo)


def _tells_of_room(reason: str) -> bool:
    return "full" in reason.lower() or "no space" in reason.lower()


def _room(facts: AlertInputs) -> Iterator[Alert]:
    store = facts.store
    if store is None or store.free_bytes is None or store.free_bytes >= LITTLE_ROOM:
        return
    if facts.readiness.checks.get("store") == "failing" and any(map(_tells_of_room, facts.readiness.reasons)):
        return  # told already, and "nearly" would be untrue
    level = Level.BAD if store.free_bytes < HARDLY_ROOM else Level.WARN
    why = f"{size(store.free_bytes)} are free where {store.place} lies; the database takes {size(store.size_bytes)}."
    todo = "Free space, or shorten BRIDGE_RETENTION_SECONDS; with a full disk the bridge registers and settles nothing."
    yield Alert("room", level, "The disk is nearly full", why, todo)


def _machinery(facts: AlertInputs) -> Iterator[Alert]:
    checks, reasons = facts.readiness.checks, facts.readiness.reasons
    if checks.get("scheduler") == "failing":
        reason = next((one for one in reasons if "scheduler" in one), "the scheduler does not tick")
        todo = "Look at this process' CPU and log; restart it if this lasts: nothing is lost by that."
        yield Alert("scheduler", Level.BAD, "The scheduler stalls", sentence(reason), todo)
    if checks.get("drain") == "failing":
        why = "It was told to stop: it takes nothing new, and ends what is under way."
        yield Alert("drain", Level.NOTE, "This bridge is stopping", why, "Nothing; another start goes on from here.")


def _replicas(facts: AlertInputs) -> Iterator[Alert]:
    if not facts.shared or facts.store is None:
        return
    gone = [one for one in facts.store.replicas if one.expires_at < facts.now - 30 and one.owned_tasks]
    if gone:
        one = gone[0]
        why = f"{one.id} was last heard of before {clock(one.expires_at)} and owned {counted(one.owned_tasks, 'task')}."
        todo = "Nothing at once: the other replicas take its tasks over within 15 s. Find out why it died."
        yield Alert("replicas", Level.WARN, f"{counted(len(gone), 'replica')} gone", why, todo)


# --- amux ---------------------------------------------------------------------------------------------------------


def _keys(facts: AlertInputs) -> Iterator[Alert]:
    resting = [one for one in facts.credentials if one.state is not CredentialState.GOOD]
    own = [one for one in resting if one.name != CONFIGURED and one.state is CredentialState.PAUSED]
    for one in resting:
        tasks = counted(facts.stats.keys.get(one.name, 0), "task")
        asked = "" if one.resumes_at is None else f"; amux is asked again at {clock(one.resumes_at)}"
        since = "" if one.since is None else f" (since {clock(one.since)})"
        if one.state is CredentialState.THROTTLED:
            title = f"amux asks for fewer polls ({_name(one.name)})"
            why = f"{sentence(_message(one) + since)} Polls of {tasks} rest{asked}."
            todo = "Nothing if it passes; else set BRIDGE_POLL_RATE_PER_SECOND below amux's limit."
            yield Alert(f"slowed {one.name}", Level.WARN, title, why, todo)
        elif one.name == CONFIGURED:
            why = f"{sentence(_message(one) + since)} Polls of {tasks} rest{asked}; watches end by their deadline only."
            todo = "Put a working key into AMUX_API_KEY and restart, or mend the account at amux: then polls resume."
            yield Alert("key", Level.BAD, "amux refuses the configured key", why, todo, {"state": "active"})
    for one in own[:MOST_KEYS]:
        tasks = counted(facts.stats.keys.get(one.name, 0), "task")
        why = f"{sentence(_message(one))} Polls of {tasks} rest; their watches end by their deadline only."
        todo = "Tell the app that gave this key: it can cancel and register anew with a working one."
        title, show = f"amux refuses an app's own key ({_name(one.name)})", {"trouble": "key"}
        yield Alert(f"key {one.name}", Level.WARN, title, why, todo, show)
    if len(own) > MOST_KEYS:
        more = counted(len(own) - MOST_KEYS, "more own key", "more own keys")
        yield Alert("keys", Level.WARN, f"amux refuses {more}", "They are listed below.", "As above, for each.")


def _name(credential: str) -> str:
    return "the configured key" if credential == CONFIGURED else f"key {credential[:8]}"


def _message(one: CredentialStatus) -> str:
    return (one.message or "amux gave no reason").strip().rstrip(".")


def _routing(facts: AlertInputs) -> Iterator[Alert]:
    for reason in facts.readiness.reasons:
        if reason.startswith("AMUX_BASE_URL"):
            why = f"{sentence(reason)} Polls go on, rarer; no watch ends by it."
            todo = "Check AMUX_BASE_URL, and what stands between this machine and amux."
            yield Alert("routing", Level.BAD, "The answers are not amux's", why, todo, {"trouble": "stuck"})


def _polls(facts: AlertInputs) -> Iterator[Alert]:
    stats = facts.stats
    if stats.failing:
        most = stats.failing * 2 >= stats.tasks and stats.failing >= 10
        said = "; ".join(
            f"{(stats.messages.get(code) or code).strip().rstrip('.')[:200]} ({code}, {counted(count, 'task')})"
            for code, count in list(stats.errors.items())[:2]
        )
        why = f"Two polls or more in a row brought no answer about the task. {sentence(said)}"
        todo = "Polls go on by themselves, rarer. If it is amux, see its status page; a watch ends at its deadline."
        title = f"{counted(stats.failing, 'task is', 'tasks are')} stuck: amux does not tell"
        yield Alert("stuck", Level.BAD if most else Level.WARN, title, why, todo, {"trouble": "stuck"})
    if stats.late:
        why = f"{counted(stats.late, 'poll is', 'polls are')} due for more than 10 s and not begun or not answered."
        todo = "Raise BRIDGE_POLL_CONCURRENCY, lift BRIDGE_POLL_RATE_PER_SECOND, or add a replica; check the CPU."
        yield Alert("late", Level.BAD, "Polls are late", why, todo, {"trouble": "stuck"})
        return
    lag = lag_quantile(facts.minutes[-2:], 0.95)
    if lag is not None and lag > LATE_POLL_SECONDS:
        why = f"In the last two minutes one poll in twenty began {span(min(lag, 60))} or more after it was due."
        todo = "Look at the CPU, amux's answer times, BRIDGE_POLL_CONCURRENCY and BRIDGE_POLL_RATE_PER_SECOND."
        yield Alert("lag", Level.WARN, "Polls lag", why, todo)


def _deadlines(facts: AlertInputs) -> Iterator[Alert]:
    if facts.nearing:
        many = (
            f"{COUNTED:,} and more watches" if facts.nearing >= COUNTED else counted(facts.nearing, "watch", "watches")
        )
        verb = "is" if facts.nearing == 1 else "are"
        why = "Nine tenths of their time have passed, and amux has not said that the video is done."
        todo = "Look at how far they are; an app that needs longer registers with a larger timeout_seconds."
        title = f"{many} {verb} near the deadline"
        yield Alert("nearing", Level.NOTE, title, why, todo, {"trouble": "nearing"})
    lost = {
        name: count
        for name, count in settled_by_outcome(facts.minutes).items()
        if name in {"timed_out", "unavailable"} and count
    }
    for name, count in lost.items():
        said = "their deadline passed" if name == "timed_out" else "amux would not tell of the tasks"
        todo = "Each one's time line says what was last seen; the apps were told the same."
        title = f"{counted(count, 'watch', 'watches')} ended {name.replace('_', ' ')} within the hour"
        yield Alert(
            name,
            Level.NOTE,
            title,
            sentence(f"{said} before any end of the video was seen"),
            todo,
            {"outcome": name},
        )


# --- receivers ----------------------------------------------------------------------------------------------------


def _receivers(facts: AlertInputs) -> Iterator[Alert]:
    found = facts.receivers or ()
    for one in found[:MOST_RECEIVERS]:
        waits = (
            ""
            if not one.waiting
            else (
                f"{counted(one.waiting, 'callback waits', 'callbacks wait')}"
                f"{'' if one.next_at is None else _next(one.next_at, facts.now)}: {told(one.waiting_error)}. "
            )
        )
        row = f"It has failed {one.failures} times in a row. " if one.failures > 1 else ""
        if one.dead:
            when = "" if one.dead_at is None else f" The last was given up at {clock(one.dead_at)}:"
            why = f"{_final(one.dead_error)}{when} {told(one.dead_error)}. {waits}"
            todo = f"Mend {one.host}, then send them again: they keep their webhook-id, so twice does no harm."
            title = f"{counted(one.dead, 'callback')} to {one.host} {'is' if one.dead == 1 else 'are'} dead"
            show = {"host": one.host, "delivery_state": "dead"}
            yield Alert(f"host {one.host}", Level.BAD, title, why.strip(), todo, show, one.host)
        elif one.waiting:
            todo = f"Mend {one.host}. Sends go on by themselves up to the last retry; then they are dead, and kept."
            show = {"host": one.host, "delivery_state": "pending"}
            title = f"{one.host} does not take its callbacks"
            yield Alert(f"host {one.host}", Level.WARN, title, f"{sentence(waits)} {row}".strip(), todo, show)
    if len(found) > MOST_RECEIVERS:
        more = counted(len(found) - MOST_RECEIVERS, "more receiver")
        yield Alert(
            "hosts", Level.WARN, f"{more} need a look", "They are listed under Receivers.", "As above, for each."
        )


def _final(error: Problem | None) -> str:
    """Why nothing more is tried."""
    match error.code if error is not None else None:
        case "gone":
            return "The receiver refused for good."
        case "callback_refused":
            return "A rule here refuses this target."
    return "Every retry was used."


def _next(at: float, now: float) -> str:
    return f", the next try in {span(at - now)}" if at > now else ", one is tried now"


def _late_callbacks(facts: AlertInputs) -> Iterator[Alert]:
    oldest = facts.counts.oldest_due_at if facts.counts is not None else None
    if oldest is None or facts.now - oldest < LATE_CALLBACK_SECONDS:
        return
    if any(one.next_at == oldest for one in facts.receivers or ()):
        return  # its host fails, and is asked by one attempt at a time: told already
    why = f"The oldest of those that are due has waited for {span(facts.now - oldest)}, and its receiver is well."
    todo = "Look at the CPU, the store's times and BRIDGE_DELIVERY_CONCURRENCY."
    yield Alert("late callbacks", Level.WARN, "Callbacks are late", why, todo, {"delivery_state": "pending"})

"""The alerts above the table: what an operator has to know, why, and what to do. Pure.

Each alert has a title, an explanation and a next step. Codes decide which alerts there are, never texts of messages.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final

from bridge.core.credential import CredentialState
from bridge.core.health import HealthCode
from bridge.core.model import Outcome
from bridge.polling.state import CredentialStatus
from bridge.store.near_deadline import COUNTED
from bridge.store.records import CONFIGURED
from bridge.telemetry.history import lag_quantile, settled_by_outcome
from bridge.web.dashboard.alert import KINDS, LEVELS, MAX_KEYS, Alert, AlertInputs, Kind, Level
from bridge.web.dashboard.formatting import clock, quantity, sentence, size, span
from bridge.web.dashboard.receiver_alerts import late_callback_alerts, receiver_alerts

LATE_POLL_SECONDS: Final = 5.0  # the 95th percentile of the poll lag; 50 ms is normal
LOW_DISK_BYTES: Final = 512 << 20  # 200,000 watches with their deliveries
CRITICAL_DISK_BYTES: Final = 64 << 20
EXPIRED_REPLICA_SECONDS: Final = 30.0  # after the end of a lease; other replicas take over the tasks within 15 s
MAX_KEY_ALERTS: Final = 3

_STORE_CODES: Final = (HealthCode.DISK_FULL, HealthCode.DATABASE_FILE_MISSING, HealthCode.STORE_UNWRITABLE)


def current_alerts(inputs: AlertInputs) -> list[Alert]:
    """Returns every alert, grouped by kind: the kind with the most severe alert first, and in it that alert first."""
    checks: Mapping[Kind, tuple[Callable[[AlertInputs], Iterator[Alert]], ...]] = {
        Kind.BRIDGE: (_store_alerts, _disk_alerts, _process_alerts, _replica_alerts),
        Kind.AMUX: (_key_alerts, _routing_alerts, _poll_alerts),
        Kind.RECEIVERS: (receiver_alerts, late_callback_alerts),
        Kind.WATCHES: (_deadline_alerts, _lost_outcome_alerts),
    }
    alerts = [replace(one, kind=kind) for kind in KINDS for check in checks[kind] for one in check(inputs)]
    worst = {kind: min((LEVELS.index(one.level) for one in alerts if one.kind is kind), default=0) for kind in KINDS}
    return sorted(alerts, key=lambda one: (worst[one.kind], KINDS.index(one.kind), LEVELS.index(one.level)))


# --- the bridge itself --------------------------------------------------------------------------------------------


def _store_alerts(inputs: AlertInputs) -> Iterator[Alert]:
    reason = inputs.reason(*_STORE_CODES)
    if reason is None:
        return
    place = inputs.store.place if inputs.store is not None and inputs.store.place else "the database"
    match reason.code:
        case HealthCode.DISK_FULL:
            title = "The disk is full: the store cannot write"
            next_step = f"Free space on the disk of {place}. The bridge then continues within seconds."
        case HealthCode.DATABASE_FILE_MISSING:
            title = "The database file is missing"
            next_step = f"Restore {place}. If the bridge does not continue within seconds, restart it."
        case _:
            title = "The store cannot write"
            next_step = "Check the database and the connection to it. The bridge continues when the database answers."
    effect = "New registrations get a 503, and pending callbacks wait. Nothing that was accepted is lost."
    unwritten = inputs.stats.unwritten
    waiting = quantity(unwritten, "task update waits", "task updates wait")
    in_memory = f" {waiting} in memory." if unwritten else ""
    yield Alert("store", Level.BAD, title, f"{sentence(reason.message)} {effect}{in_memory}", next_step)


def _disk_alerts(inputs: AlertInputs) -> Iterator[Alert]:
    store = inputs.store
    if store is None or store.free_bytes is None or store.free_bytes >= LOW_DISK_BYTES:
        return
    if inputs.reason(HealthCode.DISK_FULL) is not None:
        return  # there is an alert already, and "nearly full" would be wrong
    level = Level.BAD if store.free_bytes < CRITICAL_DISK_BYTES else Level.WARN
    explanation = (
        f"The disk of {store.place} has {size(store.free_bytes)} of free space. "
        f"The database uses {size(store.size_bytes)}."
    )
    next_step = (
        "Free space or reduce BRIDGE_RETENTION_SECONDS. When the disk is full, the bridge cannot store anything."
    )
    yield Alert("disk", level, "The disk is nearly full", explanation, next_step)


def _process_alerts(inputs: AlertInputs) -> Iterator[Alert]:
    stalled = inputs.reason(HealthCode.SCHEDULER_STALLED)
    if stalled is not None:
        next_step = "Check the CPU and the log of this process. If this continues, restart it: nothing is lost."
        yield Alert("scheduler", Level.BAD, "The scheduler does not run", sentence(stalled.message), next_step)
    if inputs.reason(HealthCode.DRAINING) is not None:
        explanation = "A stop was requested. This process accepts nothing new and finishes what has begun."
        next_step = "Nothing. After the next start, the work continues."
        yield Alert("drain", Level.NOTE, "This bridge is stopping", explanation, next_step)


def _replica_alerts(inputs: AlertInputs) -> Iterator[Alert]:
    if not inputs.shared or inputs.store is None:
        return
    oldest_lease = inputs.now - EXPIRED_REPLICA_SECONDS
    lost = [one for one in inputs.store.replicas if one.expires_at < oldest_lease and one.owned_tasks]
    if lost:
        one = lost[0]
        tasks = quantity(one.owned_tasks, "task")
        explanation = f"The lease of {one.id} ended at {clock(one.expires_at)}. It owned {tasks}."
        next_step = "Find out why it stopped. The other replicas take over its tasks within 15 s."
        title = f"{quantity(len(lost), 'replica does', 'replicas do')} not answer"
        yield Alert("replicas", Level.WARN, title, explanation, next_step)


# --- amux ---------------------------------------------------------------------------------------------------------


def _key_alerts(inputs: AlertInputs) -> Iterator[Alert]:
    refused, throttled = [], []
    for key in inputs.credentials:
        tasks = quantity(inputs.stats.keys.get(key.name, 0), "task")
        own = key.name != CONFIGURED
        if key.state is CredentialState.THROTTLED and own:
            throttled.append(_throttled_alert(key, tasks))
        elif key.state is CredentialState.THROTTLED:
            yield _throttled_alert(key, tasks)
        elif key.state is CredentialState.PAUSED and own:
            refused.append(_refused_own_key_alert(key, tasks))
        elif key.state is CredentialState.PAUSED:
            yield _refused_configured_key_alert(key, tasks)
    yield from _first_keys(refused, "keys", "amux refuses {}")
    yield from _first_keys(throttled, "throttled keys", "amux asks for fewer polls with {}")


def _first_keys(alerts: Sequence[Alert], key: str, title: str) -> Iterator[Alert]:
    """Yields the first alerts about keys of apps, and one alert for all others. Apps can send any number of keys."""
    yield from alerts[:MAX_KEY_ALERTS]
    if (more := len(alerts) - MAX_KEY_ALERTS) > 0:
        keys = quantity(more, "more key of an app", "more keys of apps")
        explanation = f"The list of amux keys below shows refused and throttled keys first, at most {MAX_KEYS} keys."
        yield Alert(key, Level.WARN, title.format(keys), explanation, "Do the same for each of these keys.")


def _refused_configured_key_alert(key: CredentialStatus, tasks: str) -> Alert:
    explanation = (
        f"{sentence(amux_message(key) + _since(key))} The polls of {tasks} are paused.{_next_try(key)} "
        "Until the key works, their watches can only time out."
    )
    next_step = "Set a valid AMUX_API_KEY and restart, or fix the account at amux. Then the polls resume."
    return Alert("key", Level.BAD, "amux refuses the configured key", explanation, next_step, {"state": "active"})


def _refused_own_key_alert(key: CredentialStatus, tasks: str) -> Alert:
    explanation = (
        f"{sentence(amux_message(key))} The polls of {tasks} are paused. "
        "Until the key works, their watches can only time out."
    )
    next_step = "Inform the app that sent this key. It can cancel the watch and register again with a valid key."
    title = f"amux refuses an app's own key ({_key_name(key.name)})"
    return Alert(f"key {key.name}", Level.WARN, title, explanation, next_step, {"trouble": "key"})


def _throttled_alert(key: CredentialStatus, tasks: str) -> Alert:
    explanation = f"{sentence(amux_message(key) + _since(key))} The polls of {tasks} are paused.{_next_try(key)}"
    next_step = "Nothing if it passes. If it returns, set BRIDGE_POLL_RATE_PER_SECOND below amux's limit."
    title = f"amux asks for fewer polls ({_key_name(key.name)})"
    return Alert(f"throttled {key.name}", Level.WARN, title, explanation, next_step)


def _since(key: CredentialStatus) -> str:
    return "" if key.since is None else f" (since {clock(key.since)})"


def _next_try(key: CredentialStatus) -> str:
    return "" if key.resumes_at is None else f" The next try is at {clock(key.resumes_at)}."


def _key_name(credential: str) -> str:
    return "the configured key" if credential == CONFIGURED else f"key {credential[:8]}"


def amux_message(key: CredentialStatus) -> str:
    """Returns why amux refuses a key, without a full stop."""
    return (key.message or "amux gave no reason").strip().rstrip(".")


def _routing_alerts(inputs: AlertInputs) -> Iterator[Alert]:
    reason = inputs.reason(HealthCode.NOT_AMUX)
    if reason is not None:
        explanation = f"{sentence(reason.message)} Polls continue at longer intervals. No watch ends because of this."
        next_step = "Check AMUX_BASE_URL, and the proxies between this machine and amux."
        title = "The answers do not come from amux"
        yield Alert("routing", Level.BAD, title, explanation, next_step, {"trouble": "stuck"})


def _poll_alerts(inputs: AlertInputs) -> Iterator[Alert]:
    stats = inputs.stats
    if stats.failing:
        most = stats.failing * 2 >= stats.tasks and stats.failing >= 10
        errors = "; ".join(
            f"{(stats.messages.get(code) or code).strip().rstrip('.')[:200]} ({code}, {quantity(count, 'task')})"
            for code, count in list(stats.errors.items())[:2]
        )
        explanation = f"At least two polls in a row failed. Last errors: {sentence(errors)}"
        next_step = (
            "See amux's status page. Polls continue at longer intervals; each watch ends at its deadline or before."
        )
        title = f"{quantity(stats.failing, 'task is', 'tasks are')} stuck: polls fail"
        level = Level.BAD if most else Level.WARN
        yield Alert("stuck", level, title, explanation, next_step, {"trouble": "stuck"})
    if stats.late:
        polls = quantity(stats.late, "poll has", "polls have")
        explanation = f"{polls} been due for more than 10 s without an answer."
        next_step = (
            "Raise BRIDGE_POLL_CONCURRENCY or BRIDGE_POLL_RATE_PER_SECOND, or add a replica. Check the CPU as well."
        )
        yield Alert("late", Level.BAD, "Polls are late", explanation, next_step, {"trouble": "stuck"})
        return
    lag = lag_quantile(inputs.minutes[-2:], 0.95)
    if lag is not None and lag > LATE_POLL_SECONDS:
        explanation = f"In the last two minutes, 5 % of the polls began at least {span(min(lag, 60))} late."
        next_step = (
            "Check the CPU and amux's response times. Check BRIDGE_POLL_CONCURRENCY and BRIDGE_POLL_RATE_PER_SECOND."
        )
        yield Alert("lag", Level.WARN, "Polls begin late", explanation, next_step)


def _deadline_alerts(inputs: AlertInputs) -> Iterator[Alert]:
    count = inputs.nearing_deadline
    if count:
        watches = f"{COUNTED:,} or more watches" if count >= COUNTED else quantity(count, "watch", "watches")
        title = f"{watches} {'is' if count == 1 else 'are'} near the deadline"
        explanation = "Nine tenths of the time have passed, and amux has not reported the end of the task."
        next_step = "Check their progress. An app that needs more time registers with a larger timeout_seconds."
        yield Alert("nearing", Level.NOTE, title, explanation, next_step, {"trouble": "nearing"})


_LOST_OUTCOMES: Final[Mapping[Outcome, tuple[str, str]]] = {
    Outcome.TIMED_OUT: ("timed out", "The deadline passed before amux reported the end of the task."),
    Outcome.UNAVAILABLE: ("ended as unavailable", "amux no longer gives the status of these tasks."),
}


def _lost_outcome_alerts(inputs: AlertInputs) -> Iterator[Alert]:
    counts = settled_by_outcome(inputs.minutes)
    for outcome, (title, explanation) in _LOST_OUTCOMES.items():
        if count := counts.get(outcome, 0):
            next_step = "The timeline of each watch shows its last known status. The apps got the same message."
            watches = quantity(count, "watch", "watches")
            filters = {"outcome": str(outcome)}
            yield Alert(
                str(outcome), Level.NOTE, f"{watches} {title} in the last hour", explanation, next_step, filters
            )

"""The alerts: stuck tasks, failing receivers, refused keys, a full disk and the others."""

import os
import sqlite3
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy.exc import OperationalError

from bridge.core.credential import CredentialState
from bridge.core.health import HealthCode, HealthReason
from bridge.core.model import Problem
from bridge.core.receivers import Figures, LastAnswer, Pause, ReceiverHealth
from bridge.core.receivers import Receiver as ReceiverFigures
from bridge.maintenance.health import Readiness
from bridge.polling.state import CredentialStatus
from bridge.polling.stats import PollingStats
from bridge.sandbox import Behaviour, Fault, FaultKind, Outcome
from bridge.store.dashboard_queries import Receiver, ReplicaView, StoreFacts
from bridge.store.database import cause_of
from bridge.store.records import Counts
from bridge.web.dashboard.alert import Alert, AlertInputs, Kind, Level
from bridge.web.dashboard.alerts import current_alerts
from bridge.web.dashboard.formatting import quantity, sentence, size, span
from bridge.web.dashboard.serializers import overview_json
from tests.dashboard.harness import KEY, running_bridge
from tests.ports import free_port

NOW = 1_795_446_245.0
READY = Readiness("ready", {"store": "ok", "scheduler": "ok", "drain": "ok", "amux": "ok"}, ())
NO_PROBLEMS = PollingStats(100, 0, 0, 0, 0, {}, {}, {"configured": 100}, ())
STORE = StoreFacts("SQLite", 1 << 20, (), "/data/bridge.db", 1 << 40, 1 << 39)
HEALTHY = AlertInputs(
    NOW,
    READY,
    NO_PROBLEMS,
    (),
    (),
    shared=False,
    counts=Counts(100, 0, 0),
    store=STORE,
    receivers=(),
    nearing_deadline=0,
)
LIMITED = (CredentialState.PAUSED, CredentialState.THROTTLED)
REFUSED = Problem("connection_failed", "connection refused")


def only_alert(inputs: AlertInputs) -> Alert:
    [alert] = current_alerts(inputs)
    assert alert.explanation.endswith(".")
    assert alert.next_step.endswith(".")
    return alert


def sqlite_error(code: int) -> sqlite3.Error:
    error = sqlite3.OperationalError("a message that has no meaning")
    error.sqlite_errorcode = code
    return error


def unready(message: str, code: HealthCode = HealthCode.STORE_UNWRITABLE) -> Readiness:
    return Readiness("unready", READY.checks | {"store": "failing"}, (HealthReason(code, message),))


# --- computed from values -----------------------------------------------------------------------------------------


def test_a_healthy_bridge_has_no_alert() -> None:
    assert current_alerts(HEALTHY) == []


@pytest.mark.parametrize(
    ("code", "title", "next_step"),
    [
        (HealthCode.DISK_FULL, "disk is full", "Free space on"),
        (HealthCode.DATABASE_FILE_MISSING, "file is missing", "Restore /data/bridge.db"),
        (HealthCode.STORE_UNWRITABLE, "cannot write", "Check the database"),
    ],
)
def test_a_store_that_cannot_write_has_an_alert_by_its_code(code: HealthCode, title: str, next_step: str) -> None:
    reason = "the store is not writable: something with its own words"
    inputs = replace(HEALTHY, readiness=unready(reason, code), stats=replace(NO_PROBLEMS, unwritten=3))
    alert = only_alert(inputs)
    assert alert.level is Level.BAD
    assert title in alert.title
    assert reason[1:] in alert.explanation
    assert "3 task updates wait in memory" in alert.explanation
    assert next_step in alert.next_step


@pytest.mark.parametrize(
    ("original", "code"),
    [
        (sqlite_error(sqlite3.SQLITE_FULL), HealthCode.DISK_FULL),
        (sqlite_error(sqlite3.SQLITE_READONLY), HealthCode.STORE_UNWRITABLE),
        (psycopg.errors.DiskFull("could not extend file: No space left on device"), HealthCode.DISK_FULL),
        (psycopg.OperationalError("the connection is lost"), HealthCode.STORE_UNWRITABLE),
    ],
)
def test_the_store_tells_a_full_disk_by_the_drivers_code(original: Exception, code: HealthCode) -> None:
    assert cause_of(OperationalError("", None, original)) is code


def test_a_stalled_scheduler_and_a_stop_have_their_own_alerts() -> None:
    stalled = HealthReason(HealthCode.SCHEDULER_STALLED, "the scheduler has not ticked for 9.0 s")
    draining = HealthReason(HealthCode.DRAINING, "the bridge is stopping")
    alerts = current_alerts(replace(HEALTHY, readiness=Readiness("unready", READY.checks, (stalled, draining))))
    assert [(alert.key, alert.level) for alert in alerts] == [("scheduler", Level.BAD), ("drain", Level.NOTE)]
    assert alerts[0].explanation == "The scheduler has not ticked for 9.0 s."


def test_alerts_of_one_kind_are_together_and_the_kind_with_the_most_severe_one_is_first() -> None:
    failing = Receiver("a.example:443", waiting=1, waiting_error=REFUSED)
    dead = Receiver("b.example:443", dead=1, dead_error=REFUSED)
    stats = replace(NO_PROBLEMS, failing=1, errors={"timeout": 1})
    found = current_alerts(replace(HEALTHY, stats=stats, receivers=(failing, dead), nearing_deadline=1))
    assert [(alert.kind, alert.level) for alert in found] == [
        (Kind.RECEIVERS, Level.BAD),
        (Kind.RECEIVERS, Level.WARN),
        (Kind.AMUX, Level.WARN),
        (Kind.WATCHES, Level.NOTE),
    ]


def test_every_failing_receiver_has_an_alert() -> None:
    receivers = [Receiver(f"{number}.example:443", waiting=1, waiting_error=REFUSED) for number in range(30)]
    assert len(current_alerts(replace(HEALTHY, receivers=receivers))) == 30


def test_a_full_disk_has_one_alert_and_is_not_nearly_full_as_well() -> None:
    full = unready(
        "the store is not writable: the database reports an error: database or disk is full", HealthCode.DISK_FULL
    )
    assert "disk is full" in only_alert(replace(HEALTHY, readiness=full, store=replace(STORE, free_bytes=0))).title


def test_a_disk_has_an_alert_before_it_is_full() -> None:
    assert only_alert(replace(HEALTHY, store=replace(STORE, free_bytes=100 << 20))).level is Level.WARN
    assert only_alert(replace(HEALTHY, store=replace(STORE, free_bytes=1 << 20))).level is Level.BAD


def test_a_refused_configured_key_has_an_alert_with_its_tasks() -> None:
    key = CredentialStatus(
        "configured", CredentialState.PAUSED, NOW - 60, NOW + 30, "amux refused the key: Invalid token"
    )
    alert = only_alert(replace(HEALTHY, credentials=(key,)))
    assert alert.level is Level.BAD
    assert "amux refused the key: Invalid token (since " in alert.explanation
    assert "100 tasks" in alert.explanation
    assert "AMUX_API_KEY" in alert.next_step


def test_the_refused_keys_of_apps_after_the_third_share_one_alert() -> None:
    keys = [CredentialStatus(f"{n:032}", CredentialState.PAUSED, NOW, NOW + 9, "no") for n in range(9)]
    found = current_alerts(replace(HEALTHY, credentials=keys))
    assert len(found) == 4
    assert "6 more keys of apps" in found[-1].title


def test_the_throttled_keys_of_apps_after_the_third_share_one_alert() -> None:
    keys = [CredentialStatus(f"{n:032}", CredentialState.THROTTLED, NOW, NOW + 9, "429") for n in range(1_000)]
    found = current_alerts(replace(HEALTHY, credentials=keys))
    assert len(found) == 4
    assert found[-1].title == "amux asks for fewer polls with 997 more keys of apps"


def test_the_configured_key_has_its_own_alert_beside_any_number_of_keys_of_apps() -> None:
    own = [CredentialStatus(f"{n:032}", state, NOW, NOW + 9, "no") for state in LIMITED for n in range(9)]
    for state in LIMITED:
        configured = CredentialStatus("configured", state, NOW, NOW + 9, "no")
        found = current_alerts(replace(HEALTHY, credentials=[*own, configured]))
        assert [alert.title for alert in found if "the configured key" in alert.title]
        assert len(found) == 9


def test_the_list_of_keys_is_cut_after_those_that_need_attention() -> None:
    good = [CredentialStatus(f"{n:032}", CredentialState.GOOD, None, None, None) for n in range(1_000)]
    configured = CredentialStatus("configured", CredentialState.GOOD, None, None, None)
    limited = [CredentialStatus(f"{state}", state, NOW, NOW + 9, "no") for state in reversed(LIMITED)]
    busiest = good[500].name
    stats = replace(NO_PROBLEMS, keys={busiest: 7, good[0].name: 3})
    inputs = replace(HEALTHY, credentials=[configured, *good, *limited], stats=stats)
    overview = overview_json(inputs, [], {}, [])
    assert overview["credential_count"] == 1_003
    names = [key["name"] for key in overview["credentials"]]
    assert names[:5] == ["configured", "paused", "throttled", busiest, good[0].name]
    assert len(names) == 100


def test_a_throttled_key_and_a_wrong_base_url_have_alerts() -> None:
    key = CredentialStatus("configured", CredentialState.THROTTLED, NOW - 5, NOW + 30, "Too many requests")
    assert "fewer polls" in only_alert(replace(HEALTHY, credentials=(key,))).title
    reason = "AMUX_BASE_URL looks wrong, or a proxy answers in amux's place: HTML with status 200"
    reasons = (HealthReason(HealthCode.NOT_AMUX, reason),)
    readiness = Readiness("degraded", READY.checks | {"amux": "degraded"}, reasons)
    alert = only_alert(replace(HEALTHY, readiness=readiness))
    assert "do not come from amux" in alert.title
    assert reason in alert.explanation


def test_stuck_tasks_have_an_alert_with_amuxs_message_and_a_worse_level_when_most_are_stuck() -> None:
    stats = replace(NO_PROBLEMS, failing=4, errors={"http_502": 4}, messages={"http_502": "amux answered 502"})
    alert = only_alert(replace(HEALTHY, stats=stats))
    assert (alert.level, alert.filters) == (Level.WARN, {"trouble": "stuck"})
    assert "amux answered 502 (http_502, 4 tasks)" in alert.explanation
    assert only_alert(replace(HEALTHY, stats=replace(stats, failing=60))).level is Level.BAD


def test_a_receiver_with_dead_callbacks_comes_before_one_that_fails() -> None:
    failing = Receiver("down.example:443", waiting=12, failures=5, next_at=NOW + 300, waiting_error=REFUSED)
    dead = Receiver("gone.example:443", dead=1, dead_at=NOW - 60, dead_error=Problem("gone", "410 Gone"))
    first, second = current_alerts(replace(HEALTHY, receivers=(failing, dead)))
    assert (first.level, first.resend_host) == (Level.BAD, "gone.example:443")
    assert first.title == "1 callback to gone.example:443 is dead"
    assert "ends all retries" in first.explanation
    assert second.level is Level.WARN
    assert "12 callbacks are pending, next attempt in 5 min. Error: connection refused." in second.explanation
    assert "5 attempts in a row failed" in second.explanation


@pytest.mark.parametrize(
    ("failures", "error", "level", "title"),
    [
        (0, None, Level.NOTE, "A callback to a.example:443 failed and is sent again"),
        (
            0,
            Problem("http_500", "the receiver answered 500"),
            Level.WARN,
            "a.example:443 did not accept its last callback",
        ),
        (2, REFUSED, Level.WARN, "a.example:443 did not accept its last callback"),
        (3, REFUSED, Level.WARN, "a.example:443 does not accept its callbacks"),
    ],
)
def test_the_alert_of_a_receiver_agrees_with_its_health_in_the_table(
    failures: int, error: Problem | None, level: Level, title: str
) -> None:
    waits = Receiver("a.example:443", waiting=1, failures=failures, next_at=NOW + 300, waiting_error=REFUSED)
    figures = Figures(1, 0, {}, LastAnswer(NOW, None, error))
    seen = ReceiverFigures("a.example:443", failures, figures, pending=1, dead=0, pause=None)
    alert = only_alert(replace(HEALTHY, receivers=(waits,), all_receivers=(seen,)))
    assert (alert.level, alert.title) == (level, title)
    healthy = seen.health is ReceiverHealth.HEALTHY
    assert healthy == (alert.level is Level.NOTE)
    assert healthy == ("accepts other callbacks" in alert.next_step)


def test_late_callbacks_have_an_alert_unless_their_receiver_fails() -> None:
    late = replace(HEALTHY, counts=Counts(1, 1, 0, NOW - 90))
    assert only_alert(late).title == "Callbacks are late"
    failing = Receiver("down.example:443", 1, 5, NOW - 90, REFUSED)
    assert "late" not in only_alert(replace(late, receivers=(failing,))).title


def test_a_replica_that_does_not_answer_has_an_alert_where_there_are_several() -> None:
    gone = replace(STORE, replicas=(ReplicaView("rep_a", NOW - 999, NOW - 60, 7),))
    assert current_alerts(replace(HEALTHY, store=gone)) == []
    assert "rep_a" in only_alert(replace(HEALTHY, store=gone, shared=True)).explanation


def test_a_store_that_does_not_answer_hides_only_its_own_alerts() -> None:
    no_store = replace(HEALTHY, counts=None, store=None, receivers=None, nearing_deadline=None)
    assert current_alerts(no_store) == []
    alert = only_alert(replace(no_store, readiness=unready("the store is not writable: the database does not answer")))
    assert "the database" in alert.next_step


def test_numbers_sizes_and_durations_are_formatted() -> None:
    assert [quantity(1, "watch", "watches"), quantity(2048, "task")] == ["1 watch", "2,048 tasks"]
    assert [span(0), span(59.4), span(61), span(3720), span(90_000)] == [
        "0 s",
        "59 s",
        "1 min",
        "1 h 2 min",
        "1 d 1 h",
    ]
    assert [size(12), size(5 << 30), size(1 << 60)] == ["12 B", "5.0 GiB", "1048576.0 TiB"]
    assert [sentence("no"), sentence("amux says so."), sentence("Why?")] == ["No.", "amux says so.", "Why?"]


# --- in a running bridge ------------------------------------------------------------------------------------------


async def test_a_stuck_task_has_an_alert_and_is_listed(tmp_path: Path) -> None:
    async with running_bridge(tmp_path) as bridge:
        stuck = await bridge.register(Behaviour(faults=(Fault(FaultKind.BAD_GATEWAY_HTML, times=None),)))
        await bridge.register(Behaviour(outcome=Outcome.NEVER))
        operator = await bridge.operator()
        alert = await operator.alert("stuck")
        assert alert["title"] == "1 task is stuck: polls fail"
        assert "502" in alert["explanation"]
        table = await operator.wait_for("watches", lambda rows: len(rows["items"]) == 1, "?trouble=stuck")
        assert table["items"][0]["id"] == stuck["id"]
        assert "in a row failed" in table["items"][0]["diagnosis"]["explanation"]


async def test_a_receiver_that_is_down_has_an_alert_while_its_callbacks_are_pending(tmp_path: Path) -> None:
    async with running_bridge(tmp_path, delivery_retry_delays_seconds="300") as bridge:
        port = free_port()
        await bridge.register(callback_url=f"http://127.0.0.1:{port}/hook?token=hidden")
        operator = await bridge.operator()
        alert = await operator.alert("host", f"127.0.0.1:{port} did not accept its last callback")
        assert "1 callback is pending, next attempt in" in alert["explanation"]
        assert "refused" in alert["explanation"]
        assert "hidden" not in str(alert)


async def test_a_refused_key_has_an_alert_and_is_the_diagnosis_of_its_watches(tmp_path: Path) -> None:
    async with running_bridge(tmp_path, keys=frozenset({"sk-another-0123456789"})) as bridge:
        watch = await bridge.register()
        operator = await bridge.operator()
        alert = await operator.alert("key")
        assert alert["title"] == "amux refuses the configured key"
        assert "1 task" in alert["explanation"]
        assert "AMUX_API_KEY" in alert["next_step"]
        seen = await operator.wait_for("watch", lambda one: one["diagnosis"] is not None, f"?watch={watch['id']}")
        assert "Polls are paused" in seen["diagnosis"]["explanation"]


async def test_the_watches_that_wait_for_an_apps_own_key_are_listed(tmp_path: Path) -> None:
    async with running_bridge(tmp_path, keys=frozenset({KEY})) as bridge:
        waits = await bridge.register(api_key="sk-revoked-0123456789")
        await bridge.register(Behaviour(outcome=Outcome.NEVER))
        operator = await bridge.operator()
        alert = await operator.alert("key ")
        assert alert["filters"] == {"trouble": "key"}
        table = await operator.wait_for("watches", lambda rows: len(rows["items"]) == 1, "?trouble=key")
        assert table["items"][0]["id"] == waits["id"]
        assert table["items"][0]["app"] == "shop"


async def test_a_missing_database_file_has_an_alert_until_it_is_back(tmp_path: Path) -> None:
    async with running_bridge(tmp_path) as bridge:
        operator = await bridge.operator()
        database = tmp_path / "bridge.db"
        database.rename(tmp_path / "away.db")
        await operator.alert("store", "The database file is missing")
        await operator.wait_for("overview", lambda overview: overview["receivers"] is None)  # None means unknown
        assert (await operator.wait_for("watches-failed", lambda _: True))["code"] == "store_unavailable"
        (tmp_path / "away.db").rename(database)
        await operator.wait_for("overview", lambda overview: all(one["key"] != "store" for one in overview["alerts"]))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Yields a folder with a file system of 4 MiB. The test is skipped where mounting is not allowed."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("a full disk needs a small file system, and mounting one is not allowed here")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


async def test_a_full_disk_has_an_alert_until_there_is_room(small_disk: Path) -> None:
    async with running_bridge(small_disk) as bridge:
        operator = await bridge.operator()
        filler = small_disk / "filler"
        fill(filler)
        alert = await operator.alert("store", "The disk is full: the store cannot write")
        assert "full" in alert["explanation"]
        assert f"Free space on the disk of {small_disk}" in alert["next_step"]
        filler.unlink()
        await operator.wait_for("overview", lambda overview: all(one["key"] != "store" for one in overview["alerts"]))


def fill(path: Path) -> None:
    """Writes a file until the disk is full."""
    chunk: Any = b"\0" * 4096
    with path.open("wb", buffering=0) as file:
        try:
            while file.write(chunk):
                pass
        except OSError:
            return


def test_a_paused_receiver_has_a_note_and_is_not_shown_as_failing() -> None:
    failing = Receiver("a.example:443", waiting=3, failures=5, next_at=NOW - 600, waiting_error=REFUSED)
    paused = ReceiverFigures("a.example:443", 5, Figures(), pending=3, dead=0, pause=Pause(NOW - 60, "ops"))
    alert = only_alert(replace(HEALTHY, receivers=(failing,), all_receivers=(paused,)))
    assert (alert.level, alert.title) == (Level.NOTE, "a.example:443 is paused")
    assert alert.explanation.startswith("ops paused it at ")
    assert "3 callbacks wait and use up no attempt." in alert.explanation
    dead = replace(failing, dead=1, dead_error=REFUSED)
    found = current_alerts(replace(HEALTHY, receivers=(dead,), all_receivers=(paused,)))
    assert [one.level for one in found] == [Level.BAD, Level.NOTE]
    assert "next attempt" not in found[0].explanation

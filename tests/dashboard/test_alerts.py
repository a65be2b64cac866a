"""A stuck task, a dead receiver, a refused key, a full disk and the rest: found and understood from the page alone."""

import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bridge.core.model import Problem
from bridge.maintenance.health import Readiness
from bridge.polling.state import CredentialState, CredentialStatus
from bridge.polling.stats import PollingStats
from bridge.sandbox import Behaviour, Fault, FaultKind, Outcome
from bridge.store.dashboard_queries import Receiver, ReplicaView, StoreFacts
from bridge.store.records import Counts
from bridge.web.dashboard.alerts import Alert, AlertInputs, Level, current_alerts
from bridge.web.dashboard.formatting import counted, sentence, size, span
from tests.dashboard.harness import KEY, free_port, staged

NOW = 1_795_446_245.0
READY = Readiness("ready", {"store": "ok", "scheduler": "ok", "drain": "ok", "amux": "ok"}, ())
NOTHING = PollingStats(100, 0, 0, 0, 0, {}, {}, {"configured": 100}, ())
STORE = StoreFacts("SQLite", 1 << 20, (), "/data/bridge.db", 1 << 40, 1 << 39)
WELL = AlertInputs(
    NOW, READY, NOTHING, (), (), shared=False, counts=Counts(100, 0, 0), store=STORE, receivers=(), nearing=0
)
REFUSED = Problem("connection_failed", "connection refused")


def one(facts: AlertInputs) -> Alert:
    [found] = current_alerts(facts)
    assert found.why.endswith(".")
    assert found.todo.endswith(".")
    return found


def unready(reason: str) -> Readiness:
    return Readiness("unready", READY.checks | {"store": "failing"}, (reason,))


# --- what is decided ----------------------------------------------------------------------------------------------


def test_all_well_is_no_trouble() -> None:
    assert current_alerts(WELL) == []


@pytest.mark.parametrize(
    ("reason", "title", "todo"),
    [
        ("the store is not writable: the database refuses: database or disk is full", "disk is full", "Free space on"),
        ("the store is not writable: could not extend file: No space left on device", "disk is full", "Free space on"),
        ("the store is not writable: the database refuses: the database file is gone", "gone", "Put /data/bridge.db"),
        ("the store is not writable: it did not answer within 2 s", "takes no writes", "Look at the database"),
    ],
)
def test_a_store_that_takes_no_writes_is_told_with_its_reason(reason: str, title: str, todo: str) -> None:
    found = one(replace(WELL, readiness=unready(reason), stats=replace(NOTHING, unwritten=3)))
    assert found.level is Level.BAD
    assert title in found.title
    assert reason[1:] in found.why
    assert "3 changes of tasks wait in memory" in found.why
    assert todo in found.todo


def test_a_full_disk_is_one_trouble_and_not_nearly_full_as_well() -> None:
    full = unready("the store is not writable: the database refuses: database or disk is full")
    assert "disk is full" in one(replace(WELL, readiness=full, store=replace(STORE, free_bytes=0))).title


def test_a_disk_that_fills_is_told_before_it_is_full() -> None:
    assert one(replace(WELL, store=replace(STORE, free_bytes=100 << 20))).level is Level.WARN
    assert one(replace(WELL, store=replace(STORE, free_bytes=1 << 20))).level is Level.BAD


def test_the_configured_key_refused_is_told_with_what_waits_for_it() -> None:
    key = CredentialStatus(
        "configured", CredentialState.PAUSED, NOW - 60, NOW + 30, "amux refused the key: Invalid token"
    )
    found = one(replace(WELL, credentials=(key,)))
    assert found.level is Level.BAD
    assert "amux refused the key: Invalid token (since " in found.why
    assert "100 tasks" in found.why
    assert "AMUX_API_KEY" in found.todo


def test_many_refused_keys_of_apps_are_summed_up() -> None:
    keys = [CredentialStatus(f"{n:032}", CredentialState.PAUSED, NOW, NOW + 9, "no") for n in range(9)]
    found = current_alerts(replace(WELL, credentials=keys))
    assert len(found) == 4
    assert "6 more own keys" in found[-1].title


def test_a_slowed_key_and_a_wrong_base_url_are_told() -> None:
    key = CredentialStatus("configured", CredentialState.THROTTLED, NOW - 5, NOW + 30, "Too many requests")
    assert "fewer polls" in one(replace(WELL, credentials=(key,))).title
    reason = "AMUX_BASE_URL looks wrong, or a proxy answers in amux's place: HTML with status 200"
    found = one(replace(WELL, readiness=Readiness("degraded", READY.checks | {"amux": "degraded"}, (reason,))))
    assert "not amux's" in found.title
    assert reason in found.why


def test_stuck_tasks_are_told_with_what_amux_said_and_worse_when_most_are() -> None:
    stats = replace(NOTHING, failing=4, errors={"http_502": 4}, messages={"http_502": "amux answered 502"})
    found = one(replace(WELL, stats=stats))
    assert (found.level, found.show) == (Level.WARN, {"trouble": "stuck"})
    assert "amux answered 502 (http_502, 4 tasks)" in found.why
    assert one(replace(WELL, stats=replace(stats, failing=60))).level is Level.BAD


def test_a_receiver_that_fails_and_one_with_dead_callbacks_are_told_the_dead_first() -> None:
    failing = Receiver("down.example:443", waiting=12, failures=5, next_at=NOW + 300, waiting_error=REFUSED)
    dead = Receiver("gone.example:443", dead=1, dead_at=NOW - 60, dead_error=Problem("gone", "410 Gone"))
    first, second = current_alerts(replace(WELL, receivers=(failing, dead)))
    assert (first.level, first.resend) == (Level.BAD, "gone.example:443")
    assert first.title == "1 callback to gone.example:443 is dead"
    assert "refused for good" in first.why
    assert second.level is Level.WARN
    assert "12 callbacks wait, the next try in 5 min: connection refused" in second.why
    assert "failed 5 times in a row" in second.why


def test_callbacks_are_late_unless_their_receiver_is_why() -> None:
    late = replace(WELL, counts=Counts(1, 1, 0, NOW - 90))
    assert one(late).title == "Callbacks are late"
    failing = Receiver("down.example:443", 1, 5, NOW - 90, REFUSED)
    assert "late" not in one(replace(late, receivers=(failing,))).title


def test_a_replica_that_is_gone_is_told_where_there_are_several() -> None:
    gone = replace(STORE, replicas=(ReplicaView("rep_a", NOW - 999, NOW - 60, 7),))
    assert current_alerts(replace(WELL, store=gone)) == []
    assert "rep_a" in one(replace(WELL, store=gone, shared=True)).why


def test_a_store_that_answers_nothing_leaves_the_other_troubles() -> None:
    silent = replace(WELL, counts=None, store=None, receivers=None, nearing=None)
    assert current_alerts(silent) == []
    found = one(replace(silent, readiness=unready("the store is not writable: the database does not answer")))
    assert "the database" in found.todo


def test_numbers_and_times_read_well() -> None:
    assert [counted(1, "watch", "watches"), counted(2048, "task")] == ["1 watch", "2,048 tasks"]
    assert [span(0), span(59.4), span(61), span(3720), span(90_000)] == [
        "0 s",
        "59 s",
        "1 min",
        "1 h 2 min",
        "1 d 1 h",
    ]
    assert [size(12), size(5 << 30), size(1 << 60)] == ["12 B", "5.0 GiB", "1048576.0 TiB"]
    assert [sentence("no"), sentence("amux says so."), sentence("Why?")] == ["No.", "amux says so.", "Why?"]


# --- what is seen -------------------------------------------------------------------------------------------------


async def test_a_stuck_task_is_found_and_listed(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        stuck = await stage.watch(Behaviour(faults=(Fault(FaultKind.BAD_GATEWAY_HTML, times=None),)))
        await stage.watch(Behaviour(outcome=Outcome.NEVER))
        operator = await stage.operator()
        told = await operator.trouble("stuck")
        assert told["title"] == "1 task is stuck: amux does not tell"
        assert "502" in told["why"]
        table = await operator.sees("watches", lambda rows: len(rows["items"]) == 1, "?trouble=stuck")
        assert table["items"][0]["id"] == stuck["id"]
        assert "in a row failed" in table["items"][0]["trouble"]["why"]


async def test_a_dead_receiver_is_found_while_its_callbacks_still_wait(tmp_path: Path) -> None:
    async with staged(tmp_path, delivery_retry_delays_seconds="300") as stage:
        port = free_port()
        await stage.watch(callback_url=f"http://127.0.0.1:{port}/hook?token=hidden")
        operator = await stage.operator()
        told = await operator.trouble("host")
        assert told["title"] == f"127.0.0.1:{port} does not take its callbacks"
        assert "1 callback waits, the next try in" in told["why"]
        assert "refused" in told["why"]
        assert "hidden" not in str(told)


async def test_a_refused_key_is_found_on_the_page_and_on_each_watch_that_waits(tmp_path: Path) -> None:
    async with staged(tmp_path, keys=frozenset({"sk-another-0123456789"})) as stage:
        watch = await stage.watch()
        operator = await stage.operator()
        told = await operator.trouble("key")
        assert told["title"] == "amux refuses the configured key"
        assert "1 task" in told["why"]
        assert "AMUX_API_KEY" in told["todo"]
        seen = await operator.sees("watch", lambda one: one["trouble"] is not None, f"?watch={watch['id']}")
        assert "polls rest" in seen["trouble"]["why"]


async def test_the_watches_that_wait_for_an_apps_own_key_are_listed(tmp_path: Path) -> None:
    async with staged(tmp_path, keys=frozenset({KEY})) as stage:
        waits = await stage.watch(api_key="sk-revoked-0123456789")
        await stage.watch(Behaviour(outcome=Outcome.NEVER))
        operator = await stage.operator()
        told = await operator.trouble("key ")
        assert told["show"] == {"trouble": "key"}
        table = await operator.sees("watches", lambda rows: len(rows["items"]) == 1, "?trouble=key")
        assert table["items"][0]["id"] == waits["id"]
        assert table["items"][0]["app"] == "shop"


async def test_a_page_that_is_opened_while_the_store_answers_nothing_says_so(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        operator = await stage.operator()
        database = tmp_path / "bridge.db"
        database.rename(tmp_path / "away.db")
        told = await operator.trouble("store")
        assert told["title"] == "The database file is gone"
        assert (await operator.get("/page/overview")).json["receivers"] is None  # not: every receiver is well
        assert (await operator.sees("watches-failed", lambda found: True))["code"] == "store_unavailable"
        (tmp_path / "away.db").rename(database)
        await operator.sees("overview", lambda found: not any(one["key"] == "store" for one in found["troubles"]))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB; skipped where mounting is not allowed."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("a full disk needs a small file system, and mounting one is not allowed here")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


async def test_a_full_disk_is_found_and_over_when_there_is_room(small_disk: Path) -> None:
    async with staged(small_disk) as stage:
        operator = await stage.operator()
        filler = small_disk / "filler"
        fill(filler)
        told = await operator.trouble("store")
        assert told["title"] == "The disk is full: the store takes no writes"
        assert "full" in told["why"]
        assert f"Free space on the disk of {small_disk}" in told["todo"]
        filler.unlink()
        await operator.sees("overview", lambda found: not any(one["key"] == "store" for one in found["troubles"]))


def fill(path: Path) -> None:
    """Take every byte that is left."""
    chunk: Any = b"\0" * 4096
    with path.open("wb", buffering=0) as file:
        try:
            while file.write(chunk):
                pass
        except OSError:
            return

"""Stuck watches are counted by gauges and logged, each watch once."""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from typing import Any

import pytest

from bridge.core.errors import StoreUnavailable
from bridge.maintenance import read_pace
from bridge.maintenance.health import Health
from bridge.maintenance.stuck_monitor import MAX_LOGGED_TASKS, StuckMonitor
from bridge.polling.poller import Poller
from bridge.polling.stats import FAILING_FROM
from bridge.sandbox import Behaviour, Fault, FaultKind
from bridge.store.records import RegisteredWatch, WatchQuery, WatchView
from tests.polling.harness import RUNNING, Harness
from tests.web.harness import HealthParts

BROKEN = Behaviour(queue_seconds=0, faults=(Fault(FaultKind.BAD_GATEWAY_HTML, times=None),))


class ScriptedHealth(Health):
    """Each check of the store returns the next of `errors`, and None after the last one. None means: writable."""

    def __init__(self, harness: Harness, errors: Sequence[str | None] = ()) -> None:
        parts = HealthParts()
        super().__init__(harness.store, parts, parts, parts)
        self.errors = list(errors)

    async def store_error(self) -> str | None:
        return self.errors.pop(0) if self.errors else None


def stuck_monitor(
    harness: Harness, poller: Poller, errors: Sequence[str | None] = (), clock: Callable[[], float] | None = None
) -> StuckMonitor:
    """Returns a monitor. Without a clock, its tasks are checked at each call."""
    clock = count(0.0, 15.0).__next__ if clock is None else clock
    return StuckMonitor(harness.store, harness.metrics, poller, ScriptedHealth(harness, errors), clock)


def gauge(harness: Harness, name: str, labels: Mapping[str, str] | None = None) -> float | None:
    return harness.metrics.registry.get_sample_value(f"amux_bridge_{name}", dict(labels or {}))


def stuck(harness: Harness, reason: str) -> float | None:
    return gauge(harness, "stuck_tasks", {"reason": reason})


def logged(caplog: pytest.LogCaptureFixture, event: str) -> list[dict[str, Any]]:
    records = [one for one in caplog.records if one.name == "bridge.stuck_monitor" and one.getMessage() == event]
    return [record.__dict__["bridge_fields"] for record in records]


def failures(poller: Poller, watch: RegisteredWatch) -> int:
    """Returns how many polls in a row got no record of a watch's task."""
    live = poller.live(watch.view.task.row)
    assert live is not None
    return live.failures


async def until_failing(harness: Harness, poller: Poller, *watches: RegisteredWatch) -> None:
    await harness.until(lambda: all(failures(poller, watch) >= FAILING_FROM for watch in watches))


async def until_running(harness: Harness, poller: Poller, *watches: RegisteredWatch) -> None:
    for watch in watches:
        harness.sandbox.change(watch.watch.task_id, RUNNING)
    await harness.until(lambda: not any(failures(poller, watch) for watch in watches))


async def test_a_stuck_watch_is_logged_once_with_what_it_means_and_again_when_it_ends(
    harness: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    poller = harness.poller()
    watch = await harness.register(harness.sandbox.create_task(BROKEN), poller)
    await harness.register(harness.sandbox.create_task(RUNNING), poller)
    await until_failing(harness, poller, watch)
    monitor = stuck_monitor(harness, poller)
    await monitor.check()
    await monitor.check()
    [line] = logged(caplog, "stuck")
    assert (line["watch_id"], line["task_id"], line["app"]) == (watch.watch.id, watch.watch.task_id, "app")
    assert (line["why"], line["error"], line["reason"]) == ("no_answer", "http_502", "amux answered 502")
    assert line["failures"] >= 2
    assert str(line["next_poll_at"]).endswith("Z")
    assert str(line["deadline_at"]).endswith("Z")
    assert "at its deadline" in line["means"]
    assert (stuck(harness, "no_answer"), stuck(harness, "late"), stuck(harness, "key_rests")) == (1, 0, 0)
    await until_running(harness, poller, watch)
    await monitor.check()
    await monitor.check()
    assert [line["watch_id"] for line in logged(caplog, "stuck_ended")] == [watch.watch.id]
    assert stuck(harness, "no_answer") == 0


async def test_a_watch_whose_own_key_is_refused_is_logged(harness: Harness, caplog: pytest.LogCaptureFixture) -> None:
    harness.sandbox.keys = frozenset()
    poller = harness.poller()
    watch = await harness.register(harness.sandbox.create_task(RUNNING), poller, api_key="sk-revoked")
    await harness.until(lambda: harness.metrics.registry.get_sample_value("amux_bridge_paused_credentials") == 1)
    await stuck_monitor(harness, poller).check()
    [line] = logged(caplog, "stuck")
    assert (line["watch_id"], line["why"], line["error"]) == (watch.watch.id, "key_rests", "key_refused")
    assert (stuck(harness, "no_answer"), stuck(harness, "key_rests")) == (0, 1)


async def test_many_stuck_watches_are_summed_up_in_one_line_until_their_number_doubles(
    harness: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    poller = harness.poller()
    monitor = stuck_monitor(harness, poller)
    watches: list[RegisteredWatch] = []
    for total in (MAX_LOGGED_TASKS + 1, MAX_LOGGED_TASKS + 2, 2 * MAX_LOGGED_TASKS + 2):
        while len(watches) < total:
            watches.append(await harness.register(harness.sandbox.create_task(BROKEN), poller))
        await until_failing(harness, poller, *watches)
        await monitor.check()
    assert [(line["tasks"], line["errors"]) for line in logged(caplog, "many_stuck")] == [
        (MAX_LOGGED_TASKS + 1, {"http_502": MAX_LOGGED_TASKS + 1}),
        (2 * MAX_LOGGED_TASKS + 2, {"http_502": 2 * MAX_LOGGED_TASKS + 2}),
    ]
    await until_running(harness, poller, *watches)
    await monitor.check()
    assert len(logged(caplog, "many_stuck_ended")) == 1
    assert logged(caplog, "stuck") == logged(caplog, "stuck_ended") == []


async def test_many_tasks_are_checked_less_often_than_the_store(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read_pace, "READ_PER_SECOND", 0.05)  # one task: at most every 20 s
    now = 0.0
    poller = harness.poller()
    watch = await harness.register(harness.sandbox.create_task(BROKEN), poller)
    await until_failing(harness, poller, watch)
    monitor = stuck_monitor(harness, poller, [None, "the store is not writable: disk is full"], lambda: now)
    await monitor.check()
    assert (stuck(harness, "no_answer"), gauge(harness, "store_writable")) == (1, 1)
    await until_running(harness, poller, watch)
    now = 15.0
    await monitor.check()
    assert (stuck(harness, "no_answer"), gauge(harness, "store_writable")) == (1, 0)
    now = 30.0
    await monitor.check()
    assert (stuck(harness, "no_answer"), gauge(harness, "store_writable")) == (0, 1)


async def test_tasks_are_checked_again_at_the_next_call_if_the_store_did_not_answer(
    harness: Harness, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(_: WatchQuery) -> Sequence[WatchView]:
        raise StoreUnavailable("the database does not answer")

    monkeypatch.setattr(read_pace, "READ_PER_SECOND", 0.05)
    poller = harness.poller()
    watch = await harness.register(harness.sandbox.create_task(BROKEN), poller)
    await until_failing(harness, poller, watch)
    monitor = stuck_monitor(harness, poller, clock=lambda: 0.0)
    with monkeypatch.context() as patch:
        patch.setattr(harness.store, "watches", fail)
        with pytest.raises(StoreUnavailable):
            await monitor.check()
    await monitor.check()
    await monitor.check()
    assert [line["watch_id"] for line in logged(caplog, "stuck")] == [watch.watch.id]


async def test_the_store_and_watches_near_their_deadline_have_gauges(harness: Harness) -> None:
    poller = harness.poller()
    # The gauge is not set before the first check, and no alert rule fires for that.
    assert math.isnan(gauge(harness, "store_free_bytes") or 0)
    await harness.register("task_1", age=95, lasts=100)
    await stuck_monitor(harness, poller).check()
    assert gauge(harness, "store_writable") == 1
    assert gauge(harness, "near_deadline_watches") == 1
    assert gauge(harness, "failing_receivers") == 0
    assert (gauge(harness, "store_free_bytes") or 0) > 0
    assert (gauge(harness, "store_size_bytes") or 0) > 0


async def test_a_store_that_is_not_writable_is_logged_once_and_again_when_it_recovers(
    harness: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    error = "the store is not writable: disk is full"
    monitor = stuck_monitor(harness, harness.poller(), [error, error, None])
    await monitor.check()
    assert gauge(harness, "store_writable") == 0
    await monitor.check()
    [line] = logged(caplog, "store_unwritable")
    assert line["reason"] == error
    assert "503" in line["means"]
    await monitor.check()
    assert gauge(harness, "store_writable") == 1
    assert len(logged(caplog, "store_recovered")) == 1

"""What stands still is told: by figures, and by a line for each watch, once."""

import logging
import math
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from bridge.maintenance.stuck_monitor import EACH, StuckMonitor
from bridge.polling.poller import Poller
from bridge.polling.stats import FAILING_FROM
from bridge.sandbox import Behaviour, Fault, FaultKind
from bridge.store.records import RegisteredWatch
from tests.polling.harness import (
    RUNNING,
    Rig,
    rig_fixture,  # noqa: F401  a fixture
)

BROKEN = Behaviour(queue_seconds=0, faults=(Fault(FaultKind.BAD_GATEWAY_HTML, times=None),))


async def writes() -> None:
    """Nothing is wrong with the store."""


def stuck_monitor(rig: Rig, poller: Poller, store_trouble: Callable[[], Any] = writes) -> StuckMonitor:
    return StuckMonitor(rig.store, rig.metrics, stats=poller.stats, live=poller.live, store_trouble=store_trouble)


def figure(rig: Rig, name: str, labels: Mapping[str, str] | None = None) -> float | None:
    return rig.metrics.registry.get_sample_value(f"amux_bridge_{name}", dict(labels or {}))


def stuck(rig: Rig, reason: str) -> float | None:
    return figure(rig, "stuck_tasks", {"reason": reason})


def told(caplog: pytest.LogCaptureFixture, event: str) -> list[dict[str, Any]]:
    ours = [one for one in caplog.records if one.name == "bridge.stuck_monitor" and one.getMessage() == event]
    return [one.__dict__["bridge_fields"] for one in ours]


def failures(poller: Poller, watch: RegisteredWatch) -> int:
    """How often in a row a watch's task brought no record."""
    live = poller.live(watch.task_row)
    assert live is not None
    return live.failures


async def failing(rig: Rig, poller: Poller, *watches: RegisteredWatch) -> None:
    await rig.until(lambda: all(failures(poller, watch) >= FAILING_FROM for watch in watches))


async def well(rig: Rig, poller: Poller, *watches: RegisteredWatch) -> None:
    for watch in watches:
        rig.sandbox.change(watch.watch.task_id, RUNNING)
    await rig.until(lambda: not any(failures(poller, watch) for watch in watches))


async def test_a_stuck_watch_is_told_once_with_what_it_means_and_again_when_it_is_over(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    poller = rig.poller()
    watch = await rig.register(rig.sandbox.create_task(BROKEN), poller)
    await rig.register(rig.sandbox.create_task(RUNNING), poller)
    await failing(rig, poller, watch)
    look = stuck_monitor(rig, poller)
    await look.look()
    await look.look()
    [line] = told(caplog, "stuck")
    assert (line["watch_id"], line["task_id"], line["app"]) == (watch.watch.id, watch.watch.task_id, "app")
    assert (line["why"], line["error"], line["reason"]) == ("no_answer", "http_502", "amux answered 502")
    assert line["failures"] >= 2
    assert str(line["next_poll_at"]).endswith("Z")
    assert str(line["deadline_at"]).endswith("Z")
    assert "at its deadline" in line["means"]
    assert (stuck(rig, "no_answer"), stuck(rig, "late"), stuck(rig, "key_rests")) == (1, 0, 0)
    await well(rig, poller, watch)
    await look.look()
    await look.look()
    assert [line["watch_id"] for line in told(caplog, "stuck_no_more")] == [watch.watch.id]
    assert stuck(rig, "no_answer") == 0


async def test_a_watch_whose_own_key_is_refused_is_told_too(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    rig.sandbox.keys = frozenset()
    poller = rig.poller()
    watch = await rig.register(rig.sandbox.create_task(RUNNING), poller, api_key="sk-revoked")
    await rig.until(lambda: rig.metrics.registry.get_sample_value("amux_bridge_paused_credentials") == 1)
    await stuck_monitor(rig, poller).look()
    [line] = told(caplog, "stuck")
    assert (line["watch_id"], line["why"], line["error"]) == (watch.watch.id, "key_rests", "key_refused")
    assert (stuck(rig, "no_answer"), stuck(rig, "key_rests")) == (0, 1)


async def test_many_at_once_are_summed_up_in_one_line_until_they_double(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    poller = rig.poller()
    look = stuck_monitor(rig, poller)
    watches: list[RegisteredWatch] = []
    for total in (EACH + 1, EACH + 2, 2 * EACH + 2):
        while len(watches) < total:
            watches.append(await rig.register(rig.sandbox.create_task(BROKEN), poller))
        await failing(rig, poller, *watches)
        await look.look()
    assert [(line["tasks"], line["errors"]) for line in told(caplog, "many_stuck")] == [
        (EACH + 1, {"http_502": EACH + 1}),
        (2 * EACH + 2, {"http_502": 2 * EACH + 2}),
    ]
    await well(rig, poller, *watches)
    await look.look()
    assert len(told(caplog, "many_stuck_no_more")) == 1
    assert told(caplog, "stuck") == told(caplog, "stuck_no_more") == []


async def test_the_store_and_what_nears_its_deadline_are_figures(rig: Rig) -> None:
    poller = rig.poller()
    assert math.isnan(figure(rig, "store_free_bytes") or 0)  # nobody has looked yet, and no rule fires for it
    await rig.register("task_1", age=95, lasts=100)
    await stuck_monitor(rig, poller).look()
    assert figure(rig, "store_writable") == 1
    assert figure(rig, "near_deadline_watches") == 1
    assert figure(rig, "failing_receivers") == 0
    assert (figure(rig, "store_free_bytes") or 0) > 0
    assert (figure(rig, "store_size_bytes") or 0) > 0


async def test_a_store_that_takes_no_writes_is_told_once_and_when_it_does_again(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    found: list[str | None] = [
        "the store is not writable: disk is full",
        "the store is not writable: disk is full",
        None,
    ]

    async def trouble() -> str | None:
        return found.pop(0)

    look = stuck_monitor(rig, rig.poller(), trouble)
    await look.look()
    assert figure(rig, "store_writable") == 0
    await look.look()
    [line] = told(caplog, "store_unwritable")
    assert line["reason"] == "the store is not writable: disk is full"
    assert "503" in line["means"]
    await look.look()
    assert figure(rig, "store_writable") == 1
    assert len(told(caplog, "store_recovered")) == 1

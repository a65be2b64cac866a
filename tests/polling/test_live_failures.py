"""A failure that amux reports after one answer of a vendor ends a watch only when the failure is confirmed."""

import itertools
import logging
from collections.abc import AsyncIterator

import pytest

from bridge.amux.client import AmuxClient
from bridge.core.model import Outcome, TaskStatus, WatchState
from bridge.core.schedule import PollPolicy
from bridge.polling.poller import Poller
from bridge.store.records import RegisteredWatch, TaskView
from tests.polling.harness import Harness
from tests.polling.scripted_amux import Answer, ScriptedAmux, live, row, scripted_amux

INTERVAL = 0.15
# With a backoff of 2, polls are soon 0.3 s apart. Only an unconfirmed failure is polled again after one interval.
POLICY = PollPolicy(first_delay=0.01, interval=INTERVAL, max_interval=0.3, backoff=2)
SLOW = PollPolicy(first_delay=0.01, interval=3600, max_interval=3600)
BUSY = live("failed", "vendor is busy")
VIDEO = "https://v.example/a.mp4"
TROUBLE: Answer = (502, {})


@pytest.fixture
async def scripted() -> AsyncIterator[tuple[ScriptedAmux, AmuxClient]]:
    async with scripted_amux() as both:
        yield both


async def watch_of(
    harness: Harness,
    scripted: tuple[ScriptedAmux, AmuxClient],
    *script: Answer,
    policy: PollPolicy = POLICY,
    lasts: float = 3600,
) -> tuple[Poller, RegisteredWatch]:
    amux, client = scripted
    amux.scripts["task_1"] = list(script)
    poller = harness.poller(policy, client=client)
    return poller, await harness.register("task_1", poller, lasts=lasts)


def live_task(poller: Poller, watch: RegisteredWatch) -> TaskView:
    task = poller.live(watch.view.task.row)
    assert task is not None
    return task


async def test_a_second_live_failure_an_interval_later_ends_a_watch(
    harness: Harness, scripted: tuple[ScriptedAmux, AmuxClient]
) -> None:
    poller, watch = await watch_of(harness, scripted, live("processing"), live("processing"), BUSY)
    await harness.until(lambda: poller.owned == 0)
    [data] = harness.event_data(watch)
    assert (data["status"], data["error"]) == ("failed", {"code": None, "message": "vendor is busy"})
    times = scripted[0].polled_at["task_1"]
    assert len(times) == 4
    assert INTERVAL <= times[3] - times[2] < 2 * INTERVAL


@pytest.mark.parametrize("between", [(TROUBLE,), (row("IN_PROGRESS"),), (row("IN_PROGRESS"), TROUBLE)])
async def test_an_answer_that_proves_nothing_neither_confirms_nor_clears_a_failure(
    harness: Harness, scripted: tuple[ScriptedAmux, AmuxClient], between: tuple[Answer, ...]
) -> None:
    poller, watch = await watch_of(harness, scripted, BUSY, *between, BUSY)
    await harness.until(lambda: poller.owned == 0)
    assert await harness.outcome(watch) is Outcome.FAILED
    times = scripted[0].polled_at["task_1"]
    assert len(times) == 2 + len(between)
    assert all(later - earlier >= INTERVAL for earlier, later in itertools.pairwise(times))


async def test_a_live_answer_that_runs_clears_a_failure(
    harness: Harness, scripted: tuple[ScriptedAmux, AmuxClient], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "bridge.polling")
    script = [BUSY, live("processing"), BUSY, live("processing"), BUSY, live("succeeded", url=VIDEO)]
    poller, watch = await watch_of(harness, scripted, *script)
    await harness.until(lambda: poller.owned == 0)
    [data] = harness.event_data(watch)
    assert (data["status"], data["url"]) == ("completed", VIDEO)
    lines = [record.getMessage() for record in caplog.records if "failure" in record.getMessage()]
    assert lines == ["failure_unconfirmed", "failure_cleared"] * 3


@pytest.mark.parametrize("script", [(row("FAILURE", "no"),), (BUSY, row("FAILURE", "no"))])
async def test_a_failure_in_amuxs_own_row_counts_at_once(
    harness: Harness, scripted: tuple[ScriptedAmux, AmuxClient], script: tuple[Answer, ...]
) -> None:
    poller, watch = await watch_of(harness, scripted, *script)
    await harness.until(lambda: poller.owned == 0)
    [data] = harness.event_data(watch)
    assert data["error"] == {"code": None, "message": "no"}
    assert len(scripted[0].polled_at["task_1"]) == len(script)


async def test_a_watch_shows_that_a_failure_is_being_confirmed_and_no_longer_when_it_is_cleared(
    harness: Harness, scripted: tuple[ScriptedAmux, AmuxClient]
) -> None:
    policy = PollPolicy(first_delay=0.01, interval=0.5, max_interval=0.5)
    poller, watch = await watch_of(harness, scripted, live("processing"), BUSY, live("processing"), policy=policy)
    await harness.until(lambda: live_task(poller, watch).last_error is not None)
    task = live_task(poller, watch)
    assert task.snapshot.status is TaskStatus.IN_PROGRESS
    assert task.last_error is not None
    assert (task.last_error.code, task.last_error.message) == ("failure_unconfirmed", "vendor is busy")
    assert task.last_error_at == pytest.approx(harness.store.now(), abs=1)
    assert task.next_poll_at == pytest.approx(harness.store.now() + 0.5, abs=0.4)
    assert task.failures == 0
    await harness.until(lambda: live_task(poller, watch).polls >= 3)
    await harness.until(lambda: live_task(poller, watch).last_error is None)
    assert (await harness.view(watch)).watch.state is WatchState.ACTIVE


async def test_the_store_has_an_unconfirmed_failure_too(
    harness: Harness, scripted: tuple[ScriptedAmux, AmuxClient]
) -> None:
    """Another replica, which does not own the task, shows what the store has."""
    _, watch = await watch_of(harness, scripted, BUSY, policy=SLOW)
    await harness.until(lambda: watch.watch.id in harness.announced)
    note = (await harness.view(watch)).task
    assert note.last_error is not None
    assert (note.last_error.code, note.last_error.message) == ("failure_unconfirmed", "vendor is busy")


@pytest.mark.parametrize("last", [BUSY, TROUBLE, row("IN_PROGRESS")])
async def test_a_deadline_before_the_confirmation_ends_a_watch_as_failed(
    harness: Harness, scripted: tuple[ScriptedAmux, AmuxClient], last: Answer
) -> None:
    poller, watch = await watch_of(harness, scripted, BUSY, last, policy=SLOW, lasts=1.0)
    await harness.until(lambda: live_task(poller, watch).last_error is not None)
    await harness.past_deadline()
    await poller.check_deadlines()
    await harness.until(lambda: poller.owned == 0)
    assert len(scripted[0].polled_at["task_1"]) == 2
    [data] = harness.event_data(watch)
    assert data["status"] == "failed"
    assert isinstance(data["error"], dict)
    assert data["error"]["message"].startswith("vendor is busy (not confirmed")
    assert "may still finish" in data["error"]["message"]
    view = await harness.view(watch)
    assert (view.watch.outcome, view.task.snapshot.status) == (Outcome.FAILED, TaskStatus.FAILED)


@pytest.mark.parametrize(
    ("last", "outcome"),
    [(live("processing"), Outcome.TIMED_OUT), (live("succeeded", url=VIDEO), Outcome.COMPLETED)],
)
async def test_a_last_poll_that_clears_a_failure_is_the_last_word(
    harness: Harness, scripted: tuple[ScriptedAmux, AmuxClient], last: Answer, outcome: Outcome
) -> None:
    poller, watch = await watch_of(harness, scripted, BUSY, last, policy=SLOW, lasts=1.0)
    await harness.until(lambda: live_task(poller, watch).last_error is not None)
    await harness.past_deadline()
    await poller.check_deadlines()
    await harness.until(lambda: poller.owned == 0)
    assert await harness.outcome(watch) is outcome


async def test_a_restart_begins_the_confirmation_anew(
    harness: Harness, scripted: tuple[ScriptedAmux, AmuxClient]
) -> None:
    poller, watch = await watch_of(harness, scripted, BUSY, policy=SLOW)
    await harness.until(lambda: live_task(poller, watch).last_error is not None)
    await poller.drain(5)
    harness.pollers.remove(poller)
    again = harness.poller(POLICY, client=scripted[1])
    await again.load()
    await harness.until(lambda: again.owned == 0)
    assert await harness.outcome(watch) is Outcome.FAILED
    times = scripted[0].polled_at["task_1"]
    assert len(times) == 3
    assert times[2] - times[1] >= INTERVAL


async def test_a_restart_past_the_deadline_ends_a_watch_as_failed_by_its_last_poll(
    harness: Harness, scripted: tuple[ScriptedAmux, AmuxClient]
) -> None:
    amux, client = scripted
    amux.scripts["task_1"] = [BUSY]
    watch = await harness.register("task_1", age=100, lasts=99)
    poller = harness.poller(SLOW, client=client)
    await poller.load()
    await poller.check_deadlines()
    await harness.until(lambda: poller.owned == 0)
    assert await harness.outcome(watch) is Outcome.FAILED
    assert len(amux.polled_at["task_1"]) == 1

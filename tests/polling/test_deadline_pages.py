"""Overdue watches are read in pages: which watches are read again and when, and which deadline of a task counts."""

import asyncio

import pytest

from bridge.aio.clocks import Clocks
from bridge.polling.deadlines import FULL_CHECK_SECONDS, PAGE, Deadlines
from bridge.polling.state import Credential, PolledTask
from bridge.telemetry import get_logger
from bridge.telemetry.outage_log import OutageLog
from tests.polling.harness import Harness


class Checker:
    """Checks deadlines by a clock that the test moves. Its monotonic clock is 1,000 s behind its wall clock."""

    def __init__(self, harness: Harness) -> None:
        self.now = harness.store.now()
        self.tasks: dict[str, PolledTask] = {}
        log = OutageLog(get_logger("polling"), "store_unavailable", "store_available", means="")
        clocks = Clocks(lambda: self.now - 1_000.0, lambda: self.now)
        self.deadlines = Deadlines(harness.store, self.tasks, clocks, log)

    def know(self, *rows: str) -> None:
        for row in rows:
            self.tasks[row] = PolledTask(row, f"task of {row}", Credential("name", "key"))

    async def found(self) -> set[str]:
        overdue, _ = await self.deadlines.check()
        return {task.row for task in overdue}


async def test_overdue_watches_that_fit_on_a_page_are_found_at_each_check(harness: Harness) -> None:
    checker = Checker(harness)
    rows = {(await harness.register(f"task_{number}", age=10, lasts=5)).view.task.row for number in range(3)}
    checker.know(*rows)
    for _ in range(3):
        assert await checker.found() == rows


async def test_a_long_backlog_is_read_again_after_ten_seconds_and_new_ones_at_once(harness: Harness) -> None:
    checker = Checker(harness)
    made = await asyncio.gather(*(harness.register(f"task_{number}", age=20, lasts=5) for number in range(PAGE + 1)))
    rows = {one.view.task.row for one in made}
    checker.know(*rows)
    assert await checker.found() == rows
    new = (await harness.register("task_new", age=10, lasts=9)).view.task.row
    checker.know(new)
    checker.now += FULL_CHECK_SECONDS - 1
    assert await checker.found() == {new}
    checker.now += 1
    assert await checker.found() == {*rows, new}


@pytest.mark.parametrize("first", [3.0, 6.0])
async def test_the_latest_deadline_of_a_task_counts_in_any_order(harness: Harness, first: float) -> None:
    checker = Checker(harness)
    watches = [await harness.register("task", age=10, lasts=lasts) for lasts in (first, 9.0 - first)]
    row = watches[0].view.task.row
    checker.know(row)
    await checker.found()
    latest = max(one.watch.deadline_at for one in watches)
    assert checker.tasks[row].overdue_at == pytest.approx(latest - 1_000.0, abs=0.01)
    checker.tasks[row].overdue_at = latest + 100.0  # as if a later deadline was found before
    await checker.found()
    assert checker.tasks[row].overdue_at == latest + 100.0

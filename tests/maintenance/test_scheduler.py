"""The jobs of the scheduler run by the clocks that it is given."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import count

from bridge.aio.system import SYSTEM
from bridge.maintenance.scheduler import ClockTimezone, Interval, Scheduler
from tests.waiting import SAFETY_SECONDS

YEAR_2100 = 4_102_444_800.0


def test_the_present_of_a_clock_timezone_is_that_of_its_clock() -> None:
    timezone = ClockTimezone(lambda: YEAR_2100)
    assert datetime.now(timezone) == datetime.fromtimestamp(YEAR_2100, UTC)
    assert datetime.now(timezone).tzinfo is timezone


def test_runs_that_were_missed_are_skipped_at_once() -> None:
    now, interval = datetime(2026, 11, 28, tzinfo=UTC), Interval(lambda: 5.0)
    assert interval.get_next_fire_time(None, now) == now + timedelta(seconds=5)
    assert interval.get_next_fire_time(now, now + timedelta(seconds=1)) == now + timedelta(seconds=5)
    assert interval.get_next_fire_time(now - timedelta(days=1), now) == now + timedelta(seconds=5)


def test_a_late_run_keeps_the_rhythm_of_its_interval() -> None:
    now, interval = datetime(2026, 11, 28, tzinfo=UTC), Interval(lambda: 5.0)
    assert interval.get_next_fire_time(now - timedelta(seconds=12), now) == now + timedelta(seconds=3)


async def test_jobs_of_one_interval_are_due_at_the_same_moment() -> None:
    """Jobs that are due at different moments would cost one wake-up each."""
    moments = count(YEAR_2100)  # each reading of the clock is one second later

    async def job() -> None:
        return

    scheduler = Scheduler(job, replace(SYSTEM, wall=lambda: float(next(moments))))
    scheduler.every(3600.0, "first", job)
    scheduler.every(3600.0, "second", job)
    scheduler.start()
    first, second = (one.next_run_time for one in scheduler._scheduler.get_jobs())
    await scheduler.stop()
    assert first == second


def test_an_interval_is_asked_for_before_each_run() -> None:
    now, seconds = datetime(2026, 11, 28, tzinfo=UTC), iter((0.05, 1.0))
    interval = Interval(lambda: next(seconds))
    assert interval.get_next_fire_time(now, now) == now + timedelta(seconds=0.05)
    assert interval.get_next_fire_time(now, now) == now + timedelta(seconds=1)


async def test_a_job_runs_by_the_given_clock() -> None:
    """A run in 2100 would be decades away by the system's own clock."""
    ran = asyncio.Event()

    async def job() -> None:
        ran.set()

    async def on_clock_step() -> None:
        return

    scheduler = Scheduler(on_clock_step, replace(SYSTEM, wall=lambda: YEAR_2100))
    scheduler.every(3600.0, "hourly", job, at_once=True)
    scheduler.start()
    async with asyncio.timeout(SAFETY_SECONDS):
        await ran.wait()
    await scheduler.stop()


async def test_times_are_corrected_once_more_after_the_start() -> None:
    """The clock may have been set between the correction at the start and the scheduler's first reading of it."""
    corrected = asyncio.Event()

    async def on_clock_step() -> None:
        corrected.set()

    scheduler = Scheduler(on_clock_step)
    scheduler.start()
    async with asyncio.timeout(SAFETY_SECONDS):
        await corrected.wait()
    await scheduler.stop()

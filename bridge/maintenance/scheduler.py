"""Runs jobs at intervals with APScheduler, and checks the clocks.

APScheduler uses the wall clock. If that clock were set back by a day, no job would run for a day. An asyncio task
detects this and makes all jobs due at once. `/readyz` uses the age of the last tick, by the monotonic clock.
"""

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta, tzinfo

from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.base import BaseTrigger

from bridge.aio.clocks import CLOCK_STEP_SECONDS
from bridge.aio.system import SYSTEM, System
from bridge.core.errors import BridgeError
from bridge.telemetry import get_logger
from bridge.telemetry.outage_log import OutageLog

CLOCK_CHECK_SECONDS = 1.0

_log = get_logger("scheduler")


class Interval(BaseTrigger):  # type: ignore[misc]  # 3.11 ships no types
    """An interval that skips all missed runs at once. `seconds` is called before each run and returns the interval.

    APScheduler's own trigger makes a list of all missed runs before it skips them. After a day of sleep, or a clock
    that was set forward by a day, a 50 ms job has 1.7 million of them, which blocks the loop for half a minute.
    """

    def __init__(self, seconds: Callable[[], float]) -> None:
        self._seconds = seconds

    def get_next_fire_time(self, previous_fire_time: datetime | None, now: datetime) -> datetime:
        """Returns the time of the next run: the previous run plus the interval.

        If that time has passed, missed runs are skipped: returns the first later multiple of the interval after `now`.
        """
        interval = timedelta(seconds=self._seconds())
        following = (previous_fire_time or now) + interval
        return following if following > now else following + ((now - following) // interval + 1) * interval


class ClockTimezone(tzinfo):
    """UTC with the time of a given clock (Unix seconds), for APScheduler, which calls `datetime.now(timezone)`.

    APScheduler converts no other time to this zone, because the times of all jobs are in it already.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock

    def fromutc(self, _: datetime) -> datetime:
        """Returns the given clock's time. It ignores its argument."""
        return datetime.fromtimestamp(self._clock(), UTC).replace(tzinfo=self)

    def utcoffset(self, _: datetime | None) -> timedelta:
        """Returns the offset of UTC, which is 0."""
        return timedelta(0)

    def dst(self, _: datetime | None) -> timedelta:
        """Returns 0, because UTC has no daylight saving time."""
        return timedelta(0)

    def tzname(self, _: datetime | None) -> str:
        """Returns "UTC"."""
        return "UTC"


class Scheduler:
    """Runs jobs at intervals. `on_clock_step` is called after the start, and if the wall clock may have been set.

    A job that fails is logged when it begins to fail, when the reason changes, and when it succeeds again.
    """

    def __init__(self, on_clock_step: Callable[[], Awaitable[None]], system: System = SYSTEM) -> None:
        self._on_clock_step = on_clock_step
        self._clock = system.monotonic
        self._wall_clock = system.wall
        self._timezone = ClockTimezone(system.wall)
        self._scheduler = AsyncIOScheduler(
            timezone=self._timezone,
            job_defaults={"max_instances": 1, "coalesce": True, "misfire_grace_time": None},
        )
        self._outage_logs: dict[str, OutageLog] = {}  # by the job's name
        self._last_tick = self._clock()
        self._first_offset = self._wall_clock() - self._clock()  # before any job gets a time
        # All intervals begin at this time, so jobs with the same interval run in one turn of the loop. A turn for each
        # job would cost an idle bridge a sixth of its CPU time.
        self._began = datetime.now(self._timezone)
        self._clock_task: asyncio.Task[None] | None = None
        self._stopping = False

    def every(
        self,
        seconds: float | Callable[[], float],
        name: str,
        job: Callable[[], Awaitable[object]],
        *,
        at_once: bool = False,
    ) -> None:
        """Adds a job that runs at an interval, one run at a time. Runs that become due during a long run are skipped.

        If `seconds` is a function, it is called when a run begins and returns the seconds until the next one. With
        `at_once` the first run is due at the start; otherwise it is due after one interval.
        """
        interval = Interval(seconds if callable(seconds) else lambda: seconds)
        first = self._began if at_once else interval.get_next_fire_time(self._began, datetime.now(self._timezone))
        self._scheduler.add_job(self._run, interval, args=(name, job), id=name, next_run_time=first)

    def start(self) -> None:
        """Starts the jobs and the check of the clocks on the running event loop."""
        self._scheduler.start()
        self._clock_task = asyncio.create_task(self._check_clocks(), name="scheduler-clocks")

    async def stop(self) -> None:
        """Stops the jobs and the check of the clocks. Jobs that run are cancelled."""
        self._stopping = True
        if self._clock_task is not None:
            self._clock_task.cancel()
            await asyncio.gather(self._clock_task, return_exceptions=True)
        if self._scheduler.running:
            self._scheduler.shutdown(wait=False)

    def ticked(self) -> None:
        """Records that the poll tick runs now."""
        self._last_tick = self._clock()

    def tick_age(self) -> float:
        """Returns the seconds since the last poll tick."""
        return self._clock() - self._last_tick

    async def _run(self, name: str, job: Callable[[], Awaitable[object]]) -> bool:
        """Runs a job and returns whether it succeeded. Logs the job's errors."""
        try:
            await job()
        except asyncio.CancelledError:
            if not self._stopping:
                raise
            # Cancelled by `stop`. The job ends here: if this were raised, APScheduler would log it as an error.
        except BridgeError as error:
            self._log_failure(name, str(error), logging.WARNING, None)
        except Exception as error:  # noqa: BLE001  one job's error must not end the others
            self._log_failure(name, type(error).__name__, logging.ERROR, error)
        else:
            if (outage_log := self._outage_logs.get(name)) is not None:
                outage_log.recovered(job=name)
            return True
        return False

    def _log_failure(self, name: str, reason: str, level: int, trace: Exception | None) -> None:
        outage_log = self._outage_logs.get(name)
        if outage_log is None:
            outage_log = self._outage_logs[name] = OutageLog(
                _log,
                "job_failed",
                "job_recovered",
                means="the job runs again after its interval; this line is repeated only if the reason changes",
                repeat_seconds=math.inf,
                repeat_on_new_reason=True,
            )
        outage_log.failed(reason, self._clock(), level=level, trace=trace, job=name)

    async def _check_clocks(self) -> None:
        # Also once after the start: the clock may have been set between the correction at the start and this object.
        offset, unhandled = self._first_offset, True
        while not self._stopping:
            began = self._clock()
            await asyncio.sleep(CLOCK_CHECK_SECONDS)
            late = self._clock() - began - CLOCK_CHECK_SECONDS
            new_offset = self._wall_clock() - self._clock()
            step, offset = new_offset - offset, new_offset
            if abs(step) > CLOCK_STEP_SECONDS:
                self._make_all_due(step)
            # While the process was suspended, the clock may have been set forward and back, so no step is visible.
            unhandled |= max(abs(step), late) > CLOCK_STEP_SECONDS
            # Again until it succeeds: while the store does not answer, its times cannot be corrected.
            if unhandled and await self._run("clock", self._on_clock_step):
                unhandled = False

    def _make_all_due(self, step: float) -> None:
        means = "the clock of this machine changed by `seconds`: it was set, or the machine slept; all jobs run now"
        _log.event("clock_stepped", level=logging.WARNING, seconds=round(step, 3), means=means)
        now = datetime.now(self._timezone)
        for job in self._scheduler.get_jobs():
            self._scheduler.modify_job(job.id, next_run_time=now)

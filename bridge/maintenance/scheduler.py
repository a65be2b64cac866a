"""The regular work: APScheduler's interval jobs, kept honest by a clock that nobody sets.

APScheduler goes by the wall clock: set back by a day, it would not tick for a day. A task of our own notices and
mends it, and the age of the last tick, by the monotonic clock, is what `/readyz` asks for.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.interval import IntervalTrigger

from bridge.core.errors import BridgeError
from bridge.telemetry import get_logger

LOOK_SECONDS = 1.0  # how often the clocks are compared
STEP_SECONDS = 2.0  # clocks that differ by more in one look were set; slewing moves half a millisecond a second

_log = get_logger("scheduler")


class Interval(IntervalTrigger):  # type: ignore[misc]  # 3.11 ships no types
    """An interval whose missed turns are left out at once.

    APScheduler's own names each turn since the last one before it coalesces them: after a clock set forward by a day,
    or a night asleep, those of a 50 ms job are 1.7 million, and the loop stands still for half a minute.
    """

    def get_next_fire_time(self, previous_fire_time: datetime | None, now: datetime) -> datetime:
        """The turn after the previous one, or an interval from now when that has passed."""
        following: datetime = super().get_next_fire_time(previous_fire_time, now)
        return following if following > now else now + self.interval


class Scheduler:
    """Runs jobs at intervals. `stepped` is called after the wall clock was set, with by how many seconds.

    A job that raises is told once, and once more when it works again: not at each of its turns.
    """

    def __init__(
        self,
        stepped: Callable[[float], Awaitable[None]],
        *,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._stepped = stepped
        self._clock = clock
        self._wall_clock = wall_clock
        self._scheduler = AsyncIOScheduler(
            timezone=UTC,
            job_defaults={"max_instances": 1, "coalesce": True, "misfire_grace_time": None},
        )
        self._troubles: dict[str, str] = {}
        self._last_tick = clock()
        self._watching: asyncio.Task[None] | None = None
        self._stopping = False

    def every(self, seconds: float, name: str, work: Callable[[], Awaitable[object]], *, at_once: bool = False) -> None:
        """Run `work` at an interval; one run at a time, and a turn that it takes too long for is left out."""
        first = {"next_run_time": datetime.now(UTC)} if at_once else {}
        interval = Interval(seconds=seconds, timezone=UTC)
        self._scheduler.add_job(self._run, interval, args=(name, work), id=name, **first)

    def start(self) -> None:
        """Begin, on the running loop."""
        self._scheduler.start()
        self._watching = asyncio.create_task(self._watch_clocks(), name="clockwork-clocks")

    async def stop(self) -> None:
        """End; a job that runs is cancelled."""
        self._stopping = True
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
        if self._scheduler.running:
            self._scheduler.shutdown(wait=False)

    def ticked(self) -> None:
        """Note a tick of the job that must never stop."""
        self._last_tick = self._clock()

    def tick_age(self) -> float:
        """Seconds since the last noted tick."""
        return self._clock() - self._last_tick

    async def _run(self, name: str, work: Callable[[], Awaitable[object]]) -> None:
        try:
            await work()
        except asyncio.CancelledError:
            if not self._stopping:
                raise
            # By `stop`, and the job ends here: raised on, APScheduler would log it as a fault, with its trace.
        except BridgeError as error:
            self._tell(name, str(error), None)
        except Exception as error:  # noqa: BLE001  a job's fault must not end the others; told with its trace
            self._tell(name, type(error).__name__, error)
        else:
            if self._troubles.pop(name, None) is not None:
                _log.event("job_recovered", job=name)

    def _tell(self, name: str, reason: str, trace: Exception | None) -> None:
        if self._troubles.get(name) != reason:
            self._troubles[name] = reason
            level = logging.WARNING if trace is None else logging.ERROR
            _log.event("job_failed", level=level, trace=trace, job=name, reason=reason, next="at its next turn")

    async def _watch_clocks(self) -> None:
        offset = self._wall_clock() - self._clock()
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            found = self._wall_clock() - self._clock()
            step, offset = found - offset, found
            if abs(step) > STEP_SECONDS:
                await self._mend(step)

    async def _mend(self, step: float) -> None:
        _log.event("clock_stepped", level=logging.WARNING, seconds=round(step, 3))
        for job in self._scheduler.get_jobs():
            self._scheduler.modify_job(job.id, next_run_time=datetime.now(UTC))
        await self._run("clock", lambda: self._stepped(step))

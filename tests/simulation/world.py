"""The world of one seed: it runs the plan against real bridges and checks the invariants at every step."""

import asyncio
import gc
import logging
import shutil
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from aiohttp import web_app

from bridge.service import jobs
from tests.simulation.amux import Amux
from tests.simulation.contents import Contents
from tests.simulation.database import Server, Weather, new_file
from tests.simulation.faults import Faults
from tests.simulation.feed import Feed, Reading
from tests.simulation.hosts import EPOCH, Host
from tests.simulation.invariants import Invariants
from tests.simulation.ledger import Ledger
from tests.simulation.loop import START, SimulatedLoop
from tests.simulation.plan import Plan
from tests.simulation.promptness import Promptness
from tests.simulation.receivers import Receivers
from tests.simulation.removals import Removals
from tests.simulation.replicas import APPS, ATTEMPT_SECONDS, OPERATOR, Replicas, name_of
from tests.simulation.requests import Requests
from tests.simulation.snapshot import Reader
from tests.simulation.upgrades import Upgrade, write_file
from tests.simulation.videos import Drive, Videos
from tests.simulation.violation import Violation

AFTER_SECONDS = 150.0  # after the plan's end everything must end within this time

# Ticks repeat what timers begin, and gauges are for operators. Running both less often halves the time of a seed.
_TIMES = {
    "POLL_TICK_SECONDS": 0.1,
    "DEADLINES_SECONDS": 2.0,
    "EVENT_NUMBERS_SECONDS": 3.0,
    "REBUILD_SECONDS": 5.0,
    "GAUGES_SECONDS": 60.0,
    "STUCK_MONITOR_SECONDS": 60.0,
    "SAMPLE_SECONDS": 600.0,
    "REFRESH_SECONDS": 4.0,
    "SPREAD_SECONDS": 2.0,
    "RETENTION_SWEEP_SECONDS": 6.0,
    "CONTENT_SWEEP_SECONDS": 6.0,
}
for _name, _seconds in _TIMES.items():
    setattr(jobs, _name, _seconds)


@dataclass(eq=False)
class World:
    """All parts of one seed's simulation. `run` returns when the plan is over and nothing is left to do."""

    plan: Plan
    folder: Path
    trace: list[str] = field(default_factory=list)
    tasks: list["asyncio.Task[Any]"] = field(default_factory=list)  # asyncio tasks of the plan's actions
    failure: BaseException | None = None

    def __post_init__(self) -> None:
        plan, self.random = self.plan, Random(f"{self.plan.seed} at work")
        self.loop = SimulatedLoop(self._random(), stall_share=plan.stall_share, stall_seconds=plan.stall_seconds)
        weather = {name_of(number): Weather(self._random()) for number in range(plan.replicas)}
        self.server = Server(self.folder / "bridge.db", weather, shared=plan.shared, error=plan.wall_error)
        self.server.upgrade_ends += plan.upgrade_ends
        self.server.kill = lambda host: self.faults.kill(host, 0.5)
        self.ledger = Ledger(self.loop.time, self.note)
        self.courses = {one.task_id: one for one in plan.courses}
        videos = Videos(self.loop, self._random(), plan.breaking_share)
        self.amux = Amux(
            self.loop, self._random(), self.ledger, plan.route, videos, self.courses, slow_share=plan.amux_slow
        )
        self.drives = {name: Drive(self.folder / "content" / name) for name in weather}
        self.contents = Contents(self)
        self.clock_was_set = False
        self.receivers = Receivers(self.loop, self._random(), self.ledger, ATTEMPT_SECONDS)
        self.feed = Feed(self, [Reading(app, APPS.get(app, OPERATOR)) for app in plan.readers])
        self.replicas, self.faults, self.requests = Replicas(self), Faults(self), Requests(self)
        self.troubled_at = self.loop.time()
        self._actions = {**self.faults.actions(), **self.requests.actions()}

    def _random(self) -> Random:
        return Random(self.random.getrandbits(64))

    # --- running ----------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Run the plan. Raises Violation if an invariant does not hold."""
        plan = self.plan
        shutil.rmtree(self.folder / "content", ignore_errors=True)
        if plan.inherited:
            write_file(self.server.path, plan.inherited, shared=plan.shared)
            self.ledger.inherit(one.id for one in plan.inherited)
        else:
            new_file(self.server.path)
        self._reader = Reader(self.server.path)
        retries = () if plan.retries == "none" else tuple(map(float, plan.retries.split(",")))
        self.invariants = Invariants(self, self._reader, self.ledger, retries, self.feed, Removals(self))
        if plan.inherited:
            self.invariants.begin_with(Upgrade(self))
        self._promptness = Promptness(self, self.invariants)
        self.amux.videos.on_read = self._guarded(self.contents.amux_was_asked)
        self.server.on_commit = self._guarded(self.invariants.after_commit)
        self.ledger.on_post, self.ledger.on_poll = self._guarded(self.invariants.on_post), self._guarded(self._on_poll)
        log = _ErrorLog(self)
        gc.disable()
        try:
            log.install()
            self.loop.run_until_complete(self._main())
            self._fail(*(Violation(f"the event loop reports {report}") for report in self.loop.reports))
        except RuntimeError:  # the loop was stopped by a violation
            self._fail()
            raise
        finally:
            logging.disable()
            self._tear_down()
            logging.disable(logging.NOTSET)
            log.remove()

    async def _main(self) -> None:
        for slot in self.replicas.slots:
            self.replicas.start(slot)
        self._every(1.0, self._promptness.check)
        self._every(3.0, self.requests.read_feeds)
        if self.plan.cache_bytes:
            self._every(1.0, self.contents.check_files)
        for action in self.plan.actions:
            self.loop.call_at(action.at, self._act, action.what, action.arguments)
        last = max((action.at for action in self.plan.actions), default=0.0)
        await self._until(max(START + self.plan.span, last + 1.0))
        self.note("calm")
        self.faults.end()
        end = self.loop.time() + AFTER_SECONDS
        while self.loop.time() < end and not self._is_over():
            self.requests.resume_all()
            await self._until(self.loop.time() + 1.0)
        await self._until(self.loop.time() + 4.0)  # the last events have their numbers by then
        await self._read_feed_to_its_end()
        self.invariants.after_commit()
        self.invariants.at_end()
        await asyncio.gather(*(self.replicas.stop(slot) for slot in self.replicas.slots))
        self.invariants.after_commit()

    async def _read_feed_to_its_end(self) -> None:
        """Read the feed page by page, until two reads in turn give no new event."""
        left = 2
        for _ in range(len(self.invariants.state.events) + 5):
            known = [reading.cursor for reading in self.feed.readings]
            self.requests.read_feeds()
            await self._until(self.loop.time() + 0.5)
            left = 2 if [reading.cursor for reading in self.feed.readings] != known else left - 1
            if not left:
                return

    def _is_over(self) -> bool:
        if self.faults.calm_seconds() < 1.0 or not all(one.done() for one in self.tasks):
            return False
        state = self.invariants.state
        return not state.outbox and all(row["state"] != "active" for row in state.watches.values())

    async def _until(self, moment: float) -> None:
        await asyncio.sleep(max(0.0, moment - self.loop.time()))

    def _every(self, seconds: float, check: Callable[[], None]) -> None:
        def again() -> None:
            self._guarded(check)()
            self.loop.call_later(seconds, again)

        self.loop.call_later(seconds, again)

    def _act(self, what: str, arguments: tuple[Any, ...]) -> None:
        self.note(f"{what} {' '.join(map(str, arguments))}")
        self._actions[what](*arguments)

    def _on_poll(self, task_id: str, host: Host | None) -> None:
        self._promptness.polled[task_id] = self.loop.time()
        self.invariants.on_poll(task_id, host)

    def is_disturbed(self, since: float) -> bool:
        """Return whether a process was stopped, frozen or ended since a moment."""
        return self.faults.disturbed_at >= since or any(slot.stopping for slot in self.replicas.slots)

    # --- what the parts of the world use ------------------------------------------------------------------------------

    def note(self, text: str) -> None:
        """Add a line to the trace."""
        self.trace.append(f"{self.loop.time():10.4f} {text}")

    def store_time(self) -> float:
        """Return the Unix seconds of the store's clock: the server's clock, or with SQLite the host's."""
        return EPOCH + self.loop.time() + (0.0 if self.plan.shared else self.replicas.slots[0].wall_ahead)

    def failed(self, error: BaseException) -> None:
        """Keep the first violation, and stop the loop. Raising it here would not do: the bridge could catch it."""
        if self.failure is None:
            self.failure = error
            self.note(f"VIOLATION {error}")
            self.loop.stop()

    def _fail(self, *others: BaseException) -> None:
        for error in (self.failure, *others):
            if error is not None:
                raise error

    def _guarded(self, check: Callable[..., None]) -> Callable[..., None]:
        def guarded(*arguments: Any) -> None:
            try:
                check(*arguments)
            except Exception as error:  # noqa: BLE001  a mistake in a check fails the seed too
                self.failed(error)

        return guarded

    # --- the end ------------------------------------------------------------------------------------------------------

    def _tear_down(self) -> None:
        """Drop everything. Unfinished coroutines are closed here, and what they do then is ignored."""
        self.loop.set_exception_handler(lambda _loop, _context: None)
        hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                for task in (*asyncio.all_tasks(self.loop), *self.loop.graveyard):
                    task._log_destroy_pending = False  # type: ignore[attr-defined]
                self._reader.close()
                for database in self.server.opened:
                    database.close()
                self.server.opened.clear()
                self.loop.graveyard.clear()
                self.tasks.clear()
                for drive in self.drives.values():
                    drive.process_ended()
                self.replicas.slots.clear()
                with suppress(Exception):
                    self.loop.close()
                web_app._cached_build_middleware.cache_clear()  # the cache would keep each application and its bridge
                gc.enable()
                gc.collect()
        finally:
            sys.unraisablehook = hook


class _ErrorLog(logging.Handler):
    """Turns each unexpected error that the bridge logs into a violation. Only unexpected errors have a traceback."""

    def __init__(self, world: World) -> None:
        super().__init__(logging.ERROR)
        self._world = world
        self._logger = logging.getLogger("bridge")
        self._before = self._logger.level, self._logger.propagate

    def install(self) -> None:
        """Send the bridge's errors to this handler only, and drop its other records."""
        logging.getLogger("apscheduler").setLevel(logging.CRITICAL)
        self._logger.addHandler(self)
        self._logger.setLevel(logging.ERROR)
        self._logger.propagate = False

    def remove(self) -> None:
        """Undo `install`."""
        self._logger.removeHandler(self)
        level, self._logger.propagate = self._before
        self._logger.setLevel(level)

    def emit(self, record: logging.LogRecord) -> None:
        """Report a record with a traceback as a violation."""
        if record.exc_info is not None:
            fields = getattr(record, "bridge_fields", {})
            self._world.failed(Violation(f"the bridge logs {record.getMessage()} {fields} {record.exc_info[1]!r}"))

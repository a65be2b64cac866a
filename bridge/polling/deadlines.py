"""Reads the watches whose deadline has passed, in pages, and sets the latest of these deadlines on their tasks."""

from collections.abc import Mapping, Sequence

from bridge.aio.clocks import CLOCK_STEP_SECONDS, Clocks
from bridge.core.errors import StoreUnavailable
from bridge.polling.state import PolledTask
from bridge.store.records import Overdue
from bridge.store.store import Store
from bridge.telemetry import get_logger
from bridge.telemetry.outage_log import OutageLog

PAGE = 500
# With a long backlog, a check begins where the last one ended: deadlines pass in their order, so new overdue watches
# come after that place. A full check reads all overdue watches again, also the ones that are flagged and still active.
FULL_CHECK_SECONDS = 10.0

_log = get_logger("polling")


class Deadlines:
    """Finds the overdue watches of the tasks in memory. `outage_log` is that of the ResultWriter."""

    def __init__(self, store: Store, tasks: Mapping[str, PolledTask], clocks: Clocks, outage_log: OutageLog) -> None:
        self._store = store
        self._tasks = tasks
        self._clocks = clocks
        self._outage_log = outage_log
        self._after: Overdue | None = None
        self._full_check_at = 0.0
        self._wall_ahead = clocks.unix(0.0)
        self._not_before = 0.0
        self._unknown: set[str] = set()
        self._checking = False

    async def check(self) -> tuple[list[PolledTask], bool]:
        """Return the overdue tasks, with `overdue_at` set, and whether open tasks are missing in memory.

        A task is missing if two checks found it overdue and unknown: after one check it may just have closed. A failure
        of the store is logged; the tasks that were found before it are returned.
        """
        if self._checking:
            return [], False
        self._checking = True
        overdue: dict[PolledTask, None] = {}
        missing = False
        try:
            missing = await self._read_pages(overdue)
        except StoreUnavailable as error:
            self._outage_log.failed(str(error), self._clocks.monotonic(), part="deadlines")
        else:
            self._outage_log.recovered(part="deadlines")
        finally:
            self._checking = False
        return list(overdue), missing

    async def _read_pages(self, overdue: dict[PolledTask, None]) -> bool:
        now = self._clocks.monotonic()
        self._detect_clock_step(now)
        full = self._after is None or now >= self._full_check_at
        if full:
            self._after, self._full_check_at = None, now + FULL_CHECK_SECONDS
        unknown: set[str] = set()
        page: Sequence[Overdue] = ()
        pages = 0
        while not pages or len(page) == PAGE:
            page = await self._store.overdue(self._after, PAGE)
            pages += 1
            unknown.update(row.task for row in page if not self._flag(row, overdue))
            self._after = page[-1] if page else self._after
        if full and pages == 1:
            self._after = None  # one page has all overdue watches, so the next check reads all of them again
        missing = bool(unknown & self._unknown)
        self._unknown = unknown
        return missing

    def _detect_clock_step(self, now: float) -> None:
        """Detect a wall clock that was set forward. A poll before that does not count as a last poll."""
        ahead = self._clocks.unix(0.0)
        if ahead - self._wall_ahead > CLOCK_STEP_SECONDS:
            self._not_before = now
        self._wall_ahead = ahead

    def _flag(self, row: Overdue, overdue: dict[PolledTask, None]) -> bool:
        """Set `overdue_at` of a watch's task. Return false if the task is not in memory."""
        task = self._tasks.get(row.task)
        if task is None:
            return False
        # Not before the clock was set, and not in the future. So a poll that begins from now on is a last poll.
        passed = max(self._clocks.moment(row.deadline_at), self._not_before)
        passed = min(passed, self._clocks.monotonic())
        if task.overdue_at is None or passed > task.overdue_at:
            task.set_overdue(passed)
        overdue[task] = None
        return True

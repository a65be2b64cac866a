"""Pages through the watches whose deadline has passed, and gives each known task the latest of them."""

from collections.abc import Callable, Mapping, Sequence

from bridge.aio.clocks import Clocks
from bridge.core.errors import StoreUnavailable
from bridge.polling.result_writer import StoreOutageLog
from bridge.polling.state import PolledTask
from bridge.store.records import Overdue
from bridge.store.store import Store

PAGE = 500
# While last polls of a long backlog are under way, each look begins where the last one ended: deadlines pass in their
# order, so what is new is behind. What was flagged and is still there is looked at again this often.
LOOK_AGAIN_SECONDS = 10.0
STEP_SECONDS = 2.0  # clocks that differ by more between two looks: the wall clock was set, or the machine slept


class Deadlines:
    """Looks for overdue watches of the tasks in memory."""

    def __init__(self, store: Store, tasks: Mapping[str, PolledTask], clocks: Clocks) -> None:
        self._store = store
        self._tasks = tasks
        self._clocks = clocks
        self._trouble = StoreOutageLog(
            "watches past their deadline stay active until the store tells of them, asked every second"
        )
        self._after: Overdue | None = None
        self._whole_at = 0.0
        self._wall_ahead = clocks.unix(0.0)
        self._not_before = 0.0
        self._unknown: set[str] = set()
        self._looking = False

    async def look(self, found: Callable[[list[PolledTask]], None]) -> bool:
        """Hand the overdue tasks over, each with its `overdue_at` set; true when open tasks are missing in memory.

        A task is missing when two looks have seen it overdue and unknown: one may just have been closed.
        """
        if self._looking:
            return False
        self._looking = True
        overdue: dict[PolledTask, None] = {}
        try:
            missing = await self._look(overdue)
        except StoreUnavailable as error:
            self._trouble.failed(error, self._clocks.monotonic())
            return False
        else:
            self._trouble.ended()
            return missing
        finally:
            self._looking = False
            found(list(overdue))

    async def _look(self, overdue: dict[PolledTask, None]) -> bool:
        now = self._clocks.monotonic()
        self._note_step(now)
        whole = self._after is None or now >= self._whole_at
        if whole:
            self._after, self._whole_at = None, now + LOOK_AGAIN_SECONDS
        unknown: set[str] = set()
        page: Sequence[Overdue] = ()
        pages = 0
        while not pages or len(page) == PAGE:
            page = await self._store.overdue(self._after, PAGE)
            pages += 1
            unknown.update(row.task for row in page if not self._flag(row, overdue))
            self._after = page[-1] if page else self._after
        if whole and pages == 1:
            self._after = None  # one page holds them all: so does the next look's
        missing = bool(unknown & self._unknown)
        self._unknown = unknown
        return missing

    def _note_step(self, now: float) -> None:
        """Notice a wall clock that was set forward: no poll before that was after a deadline that it jumped over."""
        ahead = self._clocks.unix(0.0)
        if ahead - self._wall_ahead > STEP_SECONDS:
            self._not_before = now
        self._wall_ahead = ahead

    def _flag(self, row: Overdue, overdue: dict[PolledTask, None]) -> bool:
        """Give a watch's task its deadline; false when the task is not in memory."""
        task = self._tasks.get(row.task)
        if task is None:
            return False
        # Not before the clock was set, nor in our future: a poll that begins from now on is the last.
        passed = max(self._clocks.moment(row.deadline_at), self._not_before)
        passed = min(passed, self._clocks.monotonic())
        if task.overdue_at is None or passed > task.overdue_at:
            task.overdue_at = passed
        overdue[task] = None
        return True

"""What stands still and makes no event of its own: told by figures, and by a line for each watch, once.

A task that amux does not tell of, a poll that is late, a key that rests: each watch that waits for it has a line of its
log that says so, and one when it is over. More than twenty at a look are one trouble, told in one line.
"""

import logging
from collections.abc import Awaitable, Callable
from operator import itemgetter
from typing import Final

from bridge.polling.state import LiveTask
from bridge.polling.stats import PollingStats
from bridge.store.dashboard_queries import WatchSearch
from bridge.store.records import WatchView
from bridge.store.store import Store
from bridge.telemetry import Metrics, get_logger, rfc3339

EACH: Final = 20  # tasks told one by one
MOST_WATCHES: Final = 100  # of those tasks: a hundred lines at a look
_MEANS: Final = {
    "no_answer": "polls go on, rarer; the watch ends when amux tells, or refuses for good, or at its deadline",
    "late": "its poll is due and has not begun or does not end; the watch ends at its deadline at the latest",
    "key_rests": "amux refuses its key or limits it: one poll at a time asks again; the watch ends at its deadline",
}

_log = get_logger("stuck_monitor")


class StuckMonitor:
    """Looks at everything that waits. `survey` and `live` are the poller's, `store_trouble` says why a write fails."""

    def __init__(
        self,
        store: Store,
        metrics: Metrics,
        *,
        stats: Callable[[int], Awaitable[PollingStats]],
        live: Callable[[str], LiveTask | None],
        store_trouble: Callable[[], Awaitable[str | None]],
    ) -> None:
        self._store = store
        self._metrics = metrics
        self._stats = stats
        self._live = live
        self._store_trouble = store_trouble
        self._refuses = False
        self._told: dict[str, list[str]] = {}  # by the row of a stuck task, the watches that were told of
        self._many = 0  # tasks in the line that summed them up, 0 while each is told

    async def look(self) -> None:
        """Set the figures and tell what is new; call it every 15 s. Raises StoreUnavailable."""
        metrics = self._metrics
        self._tell_store(await self._store_trouble())
        found = await self._stats(EACH + 1)
        for reason, count in (("no_answer", found.failing), ("late", found.late), ("key_rests", found.held)):
            metrics.stuck_tasks[reason].set(count)
        await self._tell(found)
        metrics.failing_receivers.set(await self._store.failing_receivers())
        metrics.near_deadline_watches.set(await self._store.nearing_deadline())
        facts = await self._store.facts()
        metrics.store_size_bytes.set(facts.size_bytes)
        if facts.free_bytes is not None:
            metrics.store_free_bytes.set(facts.free_bytes)

    def _tell_store(self, reason: str | None) -> None:
        self._metrics.store_writable.set(reason is None)
        if reason is not None and not self._refuses:
            means = "registrations answer 503, endings and attempts wait in memory; tried again all the time"
            _log.event("store_unwritable", level=logging.ERROR, reason=reason, means=means)
        elif reason is None and self._refuses:
            _log.event("store_recovered")
        self._refuses = reason is not None

    async def _tell(self, found: PollingStats) -> None:
        total = found.failing + found.late + found.held
        if total > EACH:
            self._tell_many(found, total)
            return
        if self._many:
            self._many = 0
            _log.event("many_stuck_no_more", tasks=total, means="those that still are stuck are told one by one")
        rows = {*found.stuck, *found.resting}
        self._tell_well(rows)
        if fresh := rows - self._told.keys():
            wanted = WatchSearch(limit=MOST_WATCHES, tasks=tuple(sorted(fresh)))
            views = await self._store.search(wanted)
            self._told |= {row: [] for row in fresh}
            for view in views:
                self._tell_stuck(view, "key_rests" if view.task.row in found.resting else "")

    def _tell_many(self, found: PollingStats, total: int) -> None:
        self._told.clear()
        if total < 2 * self._many:
            return
        self._many = total
        most = max(("no_answer", found.failing), ("late", found.late), ("key_rests", found.held), key=itemgetter(1))[0]
        _log.event(
            "many_stuck",
            level=logging.WARNING,
            tasks=total,
            no_answer=found.failing,
            late=found.late,
            key_rests=found.held,
            errors=dict(found.errors),
            means=f"{_MEANS[most]}. Told again when they double",
        )

    def _tell_stuck(self, view: WatchView, why: str) -> None:
        live = self._live(view.task.row)
        if live is None:
            return
        why = why or ("no_answer" if live.failures else "late")
        error = live.last_error if live.failures or why == "key_rests" else None
        self._told[view.task.row].append(view.watch.id)
        _log.event(
            "stuck",
            level=logging.WARNING,
            watch_id=view.watch.id,
            task_id=view.watch.task_id,
            app=view.watch.app,
            why=why,
            failures=live.failures,
            error=None if error is None else error.code,
            reason=None if error is None else error.message,
            next_poll_at=rfc3339(live.next_poll_at),
            deadline_at=rfc3339(view.watch.deadline_at),
            means=_MEANS[why],
        )

    def _tell_well(self, rows: set[str]) -> None:
        for row in self._told.keys() - rows:
            watches = self._told.pop(row)
            if self._live(row) is not None:  # else its watches have ended, which is told, or it is another's now
                for watch_id in watches:
                    _log.event("stuck_no_more", watch_id=watch_id)

"""Finds stuck watches: amux gives no answer, a poll is late, or amux refuses or throttles the key.

No event reports such watches. So gauges count their tasks. One log line is written when a watch becomes stuck, and one
when it is no longer stuck. If more than 20 tasks are stuck, they probably have a common cause, and one line sums them
up.
"""

import logging
import math
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from bridge.core.trace_context import log_fields
from bridge.maintenance.health import Health
from bridge.maintenance.read_pace import ReadPace
from bridge.polling.poller import Poller
from bridge.polling.stats import PollingStats
from bridge.store.records import WatchQuery, WatchView
from bridge.store.store import Store
from bridge.telemetry import Metrics, StuckReason, get_logger, rfc3339
from bridge.telemetry.outage_log import OutageLog

MAX_LOGGED_TASKS: Final = 20  # with more stuck tasks, one line sums them up
MAX_WATCHES: Final = 100  # watches of newly stuck tasks that one check logs
_MEANS: Final[Mapping[StuckReason, str]] = {
    StuckReason.NO_ANSWER: "the task is polled less often; the watch ends when the task ends, or at its deadline",
    StuckReason.LATE: (
        "a poll of the task is due and does not begin, or does not end; the watch may end later than it should"
    ),
    StuckReason.KEY_RESTS: (
        "amux refuses or throttles the key: one poll at a time tests the key; the watch waits until amux accepts the"
        " key, and ends at its deadline at the latest"
    ),
}

_log = get_logger("stuck_monitor")


class StuckMonitor:
    """Checks this replica's tasks and the store. Sets gauges and logs changes.

    More than 600,000 tasks are not checked at each run: see `ReadPace`.
    """

    def __init__(
        self,
        store: Store,
        metrics: Metrics,
        poller: Poller,
        health: Health,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._metrics = metrics
        self._poller = poller
        self._health = health
        self._clock = clock
        self._pace = ReadPace(clock)
        self._outage_log = OutageLog(
            _log,
            "store_unwritable",
            "store_recovered",
            means="registrations are answered with 503; results of polls and attempts wait in memory",
            repeat_seconds=math.inf,
        )
        self._logged: dict[str, list[str]] = {}  # by the row of a stuck task: its watches that have a log line
        self._summed_up = 0  # tasks in the last line that summed up; 0 while each watch has its own line

    async def check(self) -> None:
        """Sets the gauges and logs changes. Call it every 15 s. Raises StoreUnavailable."""
        metrics = self._metrics
        self._check_store(await self._health.store_error())
        if self._pace.is_due():
            await self._check_tasks()
        metrics.failing_receivers.set(await self._store.receivers.failing_count())
        metrics.near_deadline_watches.set(await self._store.dashboard.nearing_deadline())
        facts = await self._store.dashboard.facts()
        metrics.store_size_bytes.set(facts.size_bytes)
        if facts.free_bytes is not None:
            metrics.store_free_bytes.set(facts.free_bytes)

    async def _check_tasks(self) -> None:
        stats = await self._poller.stats(MAX_LOGGED_TASKS + 1)
        for reason, count in _counts(stats).items():
            self._metrics.stuck_tasks[reason].set(count)
        await self._log_changes(stats)
        self._pace.note_read(stats.tasks)

    def _check_store(self, error: str | None) -> None:
        self._metrics.store_writable.set(error is None)
        if error is None:
            self._outage_log.recovered()
        else:
            self._outage_log.failed(error, self._clock())

    async def _log_changes(self, stats: PollingStats) -> None:
        total = stats.failing + stats.late + stats.blocked
        if total > MAX_LOGGED_TASKS:
            self._log_sum(stats, total)
            return
        if self._summed_up:
            self._summed_up = 0
            _log.event("many_stuck_ended", tasks=total, means="from now on each stuck watch gets its own line")
        rows = {*stats.stuck, *stats.blocked_rows}
        self._log_ended(rows)
        if new := rows - self._logged.keys():
            views = await self._store.watches(WatchQuery(limit=MAX_WATCHES, tasks=tuple(sorted(new))))
            self._logged |= {row: [] for row in new}
            for view in views:
                self._log_stuck(view, blocked=view.task.row in stats.blocked_rows)

    def _log_sum(self, stats: PollingStats, total: int) -> None:
        self._logged.clear()
        if total < 2 * self._summed_up:
            return
        self._summed_up = total
        counts = _counts(stats)
        fields: dict[str, Any] = {reason.value: count for reason, count in counts.items()}
        most_frequent = max(counts, key=counts.__getitem__)
        _log.event(
            "many_stuck",
            level=logging.WARNING,
            tasks=total,
            **fields,
            errors=dict(stats.errors),
            means=(
                f"most of these tasks have the problem {most_frequent}: {_MEANS[most_frequent]}; the next such line is"
                " written when the number of tasks has doubled"
            ),
        )

    def _log_stuck(self, view: WatchView, *, blocked: bool) -> None:
        live = self._poller.live(view.task.row)
        if live is None:
            return
        why = StuckReason.KEY_RESTS if blocked else StuckReason.NO_ANSWER if live.failures else StuckReason.LATE
        error = live.last_error if live.failures or blocked else None
        self._logged[view.task.row].append(view.watch.id)
        _log.event(
            "stuck",
            level=logging.WARNING,
            watch_id=view.watch.id,
            task_id=view.watch.task_id,
            app=view.watch.app,
            why=why.value,
            failures=live.failures,
            error=None if error is None else error.code,
            reason=None if error is None else error.message,
            next_poll_at=rfc3339(live.next_poll_at),
            deadline_at=rfc3339(view.watch.deadline_at),
            means=_MEANS[why],
            **log_fields(view.watch.trace),
        )

    def _log_ended(self, rows: set[str]) -> None:
        for row in self._logged.keys() - rows:
            watch_ids = self._logged.pop(row)
            if self._poller.live(row) is None:
                continue  # its watches have ended, which is logged elsewhere, or another replica owns the task
            for watch_id in watch_ids:
                _log.event(
                    "stuck_ended",
                    watch_id=watch_id,
                    means="the watch is active, and its task is polled as usual again",
                )


def _counts(stats: PollingStats) -> dict[StuckReason, int]:
    """Returns the number of stuck tasks for each reason."""
    return {
        StuckReason.NO_ANSWER: stats.failing,
        StuckReason.LATE: stats.late,
        StuckReason.KEY_RESTS: stats.blocked,
    }

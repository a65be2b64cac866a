"""The jobs that run at intervals (ticks, deadlines, gauges, retention, the lease), and the work after a clock step."""

from bridge.aio.system import System
from bridge.amux.content_cache import ContentCache
from bridge.delivery.deliverer import Deliverer
from bridge.delivery.receivers import REFRESH_SECONDS, SPREAD_SECONDS, Receivers
from bridge.maintenance.gauges import StoreGauges
from bridge.maintenance.health import Health
from bridge.maintenance.operations import CHECK_SECONDS as OPERATIONS_SECONDS
from bridge.maintenance.operations import OperationsNotices
from bridge.maintenance.replica_lease import ADOPTION_SECONDS, HEARTBEAT_SECONDS, ReplicaLease
from bridge.maintenance.retention import Retention
from bridge.maintenance.scheduler import Scheduler
from bridge.maintenance.stuck_monitor import StuckMonitor
from bridge.polling.poller import Poller
from bridge.store.lease import Lease
from bridge.store.store import Store
from bridge.telemetry import Metrics, get_logger
from bridge.telemetry.history import SAMPLE_SECONDS, History
from bridge.watches.event_numbering import EventNumbering
from bridge.watches.registration import RegistrationService

# Timers of the poller and of the deliverer begin due work. The ticks find work that a timer has missed.
POLL_TICK_SECONDS = 0.05  # while polls are due that could not begin, or results wait to be written
IDLE_TICK_SECONDS = 1.0  # 20 ticks a second would take 0.6 % of a core
DEADLINES_SECONDS = 1.0
LATE_TASKS_SECONDS = 1.0
GAUGES_SECONDS = 5.0
STUCK_MONITOR_SECONDS = 15.0  # a run over 100,000 tasks takes 15 to 20 ms of a thread
RETENTION_SWEEP_SECONDS = 60.0
CONTENT_SWEEP_SECONDS = 60.0
REBUILD_SECONDS = 1.0
EVENT_NUMBERS_SECONDS = 1.0  # for the events of a replica that died; own commits are numbered at once
CLASSES_SECONDS = 30.0  # a crash loses the ends of this time from the histories of classes

_log = get_logger("runtime")


class Jobs:
    """The scheduler and its jobs. `replica_lease` is None with SQLite, `content_cache` is None if it is disabled."""

    def __init__(  # noqa: PLR0913  the parts that the jobs call
        self,
        store: Store,
        poller: Poller,
        deliverer: Deliverer,
        *,
        history: History,
        metrics: Metrics,
        event_numbering: EventNumbering,
        lease: Lease,
        replica_lease: ReplicaLease | None,
        content_cache: ContentCache | None,
        receivers: Receivers,
        operations: OperationsNotices,
        registration: RegistrationService,
        system: System,
    ) -> None:
        self._store = store
        self._poller = poller
        self._deliverer = deliverer
        self._history = history
        self._metrics = metrics
        self._event_numbering = event_numbering
        self._lease = lease
        self._replica_lease = replica_lease
        self._content_cache = content_cache
        self._receivers = receivers
        self._operations = operations
        self._registration = registration
        self._monotonic = system.monotonic
        self._has_due_work = False
        self.scheduler = Scheduler(self._on_clock_step, system)

    def schedule(self, health: Health, retention_seconds: float) -> None:
        """Adds all jobs to the scheduler. Call it before the scheduler starts."""
        retention = Retention(self._store, health, retention_seconds=retention_seconds)
        gauges = StoreGauges(self._store, self._metrics, self._monotonic)
        stuck_monitor = StuckMonitor(self._store, self._metrics, self._poller, health, self._monotonic)
        scheduler = self.scheduler
        scheduler.every(self._poll_tick_seconds, "poll_tick", self._poll_tick)
        scheduler.every(IDLE_TICK_SECONDS, "delivery_tick", self._delivery_tick)
        # At once: a watch that is overdue at the start gets a last poll, and the poller must know this before the poll.
        scheduler.every(DEADLINES_SECONDS, "deadlines", self._check_deadlines, at_once=True)
        scheduler.every(LATE_TASKS_SECONDS, "late_tasks", self._registration.poll_late_tasks)
        scheduler.every(GAUGES_SECONDS, "gauges", gauges.update, at_once=True)
        scheduler.every(STUCK_MONITOR_SECONDS, "stuck_monitor", stuck_monitor.check, at_once=True)
        scheduler.every(RETENTION_SWEEP_SECONDS, "retention", lambda: self._delete_old(retention))
        scheduler.every(CONTENT_SWEEP_SECONDS, "content_sweep", self._sweep_content, at_once=True)
        scheduler.every(REFRESH_SECONDS, "receivers", self._receivers.refresh, at_once=True)
        scheduler.every(SPREAD_SECONDS, "resumed_receivers", self._receivers.spread)
        if self._operations.enabled:
            scheduler.every(OPERATIONS_SECONDS, "operations", self._operations.check)
        scheduler.every(REBUILD_SECONDS, "poll_schedules", self._poller.classes.rebuild)
        scheduler.every(CLASSES_SECONDS, "class_histories", self._poller.classes.synchronize)
        scheduler.every(SAMPLE_SECONDS, "history", self._history.sample, at_once=True)
        if self._replica_lease is not None:
            scheduler.every(HEARTBEAT_SECONDS, "heartbeat", self._replica_lease.renew)
            scheduler.every(ADOPTION_SECONDS, "adoption", self._replica_lease.adopt, at_once=True)
            numbering = self._event_numbering
            scheduler.every(EVENT_NUMBERS_SECONDS, "event_numbers", numbering.number_committed, at_once=True)
        self._metrics.scheduler_tick_age_seconds.set_function(scheduler.tick_age)
        self._metrics.owned_tasks.set_function(lambda: self._poller.owned)

    def _poll_tick_seconds(self) -> float:
        """Returns the seconds until the next tick: 0.05 while work is due, else 1 or less if the lease ends before."""
        left = self._lease.seconds_left()
        return POLL_TICK_SECONDS if self._has_due_work else min(max(left, POLL_TICK_SECONDS), IDLE_TICK_SECONDS)

    async def _poll_tick(self) -> None:
        self.scheduler.ticked()
        if self._replica_lease is not None:
            self._replica_lease.check_expiry()
        self._has_due_work = self._poller.tick()

    async def _check_deadlines(self) -> None:
        """Checks deadlines while the lease is valid. The lease may end meanwhile, so it is checked again afterwards."""
        if self._lease.is_valid():
            await self._poller.check_deadlines()
            if self._replica_lease is not None:
                self._replica_lease.check_expiry()

    async def _delivery_tick(self) -> None:
        self._deliverer.tick()

    async def _delete_old(self, retention: Retention) -> None:
        await retention.sweep()
        await self._store.receivers.delete_old_figures()
        await self._sweep_content()

    async def _sweep_content(self) -> None:
        """Removes the videos of watches that the retention of any replica has deleted."""
        if self._content_cache is not None:
            await self._content_cache.sweep(self._store.existing)

    async def _on_clock_step(self) -> None:
        await correct_times(self._store)
        self._deliverer.wake()


async def correct_times(store: Store) -> None:
    """Corrects due times and deadlines that are too far in the future because the clock was set back.

    Raises StoreUnavailable.
    """
    if rows := await store.correct_future_times():
        means = "these due times and deadlines were too late, because the clock had been set back"
        _log.event("times_corrected", rows=rows, means=means)

"""The composition root: builds every part of the bridge from the settings, connects the parts, starts and drains them.

The order matters. Opening goes from the store up to the HTTP listener, so that no request meets a part that is not
ready. Stopping refuses new requests first, then ends polls and deliveries, and closes the store last.
"""

import asyncio
import logging
import socket
import time
from collections.abc import Callable
from contextlib import AsyncExitStack

from aiohttp import web

from bridge import __version__
from bridge.aio.clocks import running_seconds
from bridge.aio.proxy_connector import proxy_of
from bridge.amux.client import AmuxClient
from bridge.amux.proxy import AmuxProxy
from bridge.callback.guard import Guard, Resolver, SystemResolver
from bridge.callback.sender import Sender
from bridge.callback.tls import receiver_tls
from bridge.core.errors import BridgeError
from bridge.core.links import content_link
from bridge.core.model import Watch
from bridge.core.schedule import PollPolicy, RetryPolicy
from bridge.core.signing import Signer, parse_secret
from bridge.core.targets import TargetPolicy
from bridge.delivery.claimer import QUERY_SECONDS as DELIVERY_TICK_SECONDS
from bridge.delivery.deliverer import LEASE_MARGIN, Deliverer
from bridge.maintenance.health import Health
from bridge.maintenance.replica_lease import ADOPTION_SECONDS, HEARTBEAT_SECONDS, ReplicaLease
from bridge.maintenance.retention import Retention
from bridge.maintenance.scheduler import Scheduler
from bridge.maintenance.stuck_monitor import StuckMonitor
from bridge.polling.poller import Poller
from bridge.service.sockets import bind, own_addresses
from bridge.settings.parsers import local_url
from bridge.settings.settings import Settings
from bridge.store.open import open_store
from bridge.store.records import CONFIGURED, TaskRow
from bridge.store.store import Store
from bridge.telemetry import REDACTOR, Metrics, get_logger
from bridge.telemetry.history import SAMPLE_SECONDS, History
from bridge.watches.change_notifier import ChangeNotifier
from bridge.watches.registration import RegistrationService, TimeoutLimits
from bridge.web.app import make_app, make_runner
from bridge.web.auth import Access
from bridge.web.context import AppContext, DropIn
from bridge.web.dashboard.context import DashboardContext
from bridge.web.dashboard.sessions import KEY_PURPOSE as PAGE_KEY_PURPOSE
from bridge.web.dashboard.sessions import Sessions

USER_AGENT = f"amux-bridge/{__version__}"
POLL_TICK_SECONDS = 0.05
DEADLINES_SECONDS = 1.0
LATE_SECONDS = 1.0
GAUGES_SECONDS = 5.0
STUCK_MONITOR_SECONDS = 15.0  # a run over 100,000 tasks takes 30 ms of a thread
RETENTION_SECONDS = 60.0
POLLS_SHARE = 0.75  # of the drain time, for polls in progress and their writes; the rest is for deliveries
HAND_OVER_SECONDS = 2.0  # for polls in progress where other replicas wait: they need not wait for a slow amux
REQUESTS_SHARE = 0.25  # of the drain time, for open requests
LISTEN_BACKLOG = 1024  # connections that the kernel accepts before the bridge does
LINK_PURPOSE = "content link"

_log = get_logger("runtime")


class Runtime:
    """One running bridge. `url` is its URL on this machine."""

    def __init__(self, settings: Settings, resolve: Resolver | None = None) -> None:
        self._settings = settings
        self._resolve = resolve
        self._closing = AsyncExitStack()
        self._drain_seconds = settings.drain_timeout_seconds
        self._late_tasks: list[TaskRow] = []
        self._replica_lease: ReplicaLease | None = None
        self.metrics = Metrics()
        self.url = ""

    @classmethod
    async def start(cls, settings: Settings, *, resolve: Resolver | None = None) -> "Runtime":
        """Opens everything and serves. `resolve` replaces the system's resolver for the hosts of callback URLs.

        Raises BadSetting or StoreUnavailable; everything that was opened is then closed again.
        """
        runtime = cls(settings, resolve)
        try:
            await runtime._open()
        except BaseException:
            await runtime._closing.aclose()
            raise
        return runtime

    async def stop(self) -> None:
        """Stops the bridge within the drain timeout.

        Refuses new work, finishes and records work in progress, hands the tasks over to other replicas, and closes
        everything.
        """
        started_at = time.monotonic()
        _log.event("draining", seconds=self._drain_seconds)
        self._health.draining = True
        self._change_notifier.end()
        await asyncio.gather(self._end_requests(started_at), self._hand_over_tasks())
        await self._deliverer.drain(self._remaining_seconds(started_at))
        await self._scheduler.stop()
        try:
            await self._store.leave()
        except BridgeError as error:
            _log.event("lease_release_failed", level=logging.WARNING, reason=str(error), next="the lease expires")
        await self._closing.aclose()
        _log.event("stopped", seconds=round(time.monotonic() - started_at, 3))

    async def _end_requests(self, started_at: float) -> None:
        await self._runner.cleanup()
        await self._proxy.finish(self._remaining_seconds(started_at) / 2)
        await self._registration.finish()

    async def _hand_over_tasks(self) -> None:
        """Ends the polls in progress and releases the lease.

        Other replicas can then poll this replica's tasks at once, even while a slow receiver holds a delivery.
        """
        seconds = self._drain_seconds * POLLS_SHARE
        if self._replica_lease is None:
            await self._poller.drain(seconds)
        else:
            await self._poller.drain(min(seconds, HAND_OVER_SECONDS))
            try:
                await self._replica_lease.leave()
            except BridgeError as error:
                _log.event("lease_release_failed", level=logging.WARNING, reason=str(error), next="at the end")

    def _remaining_seconds(self, started_at: float) -> float:
        return max(0.1, self._drain_seconds - (time.monotonic() - started_at))

    # --- opening --------------------------------------------------------------------------------------------------

    async def _open(self) -> None:
        settings = self._settings
        # Before the store, whose opening may wait: a bad file must stop the start at once.
        self._receiver_tls = receiver_tls(
            settings.callback_client_certificate, settings.callback_client_key, settings.callback_ca_file
        )
        sockets = bind(settings.host, settings.port)
        for bound in sockets:
            self._closing.callback(bound.close)
        port = int(sockets[0].getsockname()[1])
        self.url = local_url(settings.host, port)
        self._store = await self._open_store()
        self._closing.push_async_callback(self._store.close)
        await self._correct_times()  # the clock may have been set back while no bridge was running
        signer = await self._make_signer()
        guard = self._make_guard(port)
        self._sender = self._make_sender(guard)
        self._closing.push_async_callback(self._sender.close)
        self._client = AmuxClient(
            settings.amux_base_url,
            user_agent=USER_AGENT,
            timeout_seconds=settings.poll_request_timeout_seconds,
            wall_clock=self._store.now,
            proxy=proxy_of(settings.amux_proxy),
        )
        self._closing.push_async_callback(self._client.close)
        self._change_notifier = ChangeNotifier(self._store)
        self._deliverer = self._make_deliverer(signer)
        self._poller = self._make_poller()
        self._registration = self._make_registration(guard)
        if self._store.shared:
            self._replica_lease = ReplicaLease(self._store, self._poller, self._deliverer)
        self._proxy = AmuxProxy(self._client, configured_key=self._configured_key)
        self._history = History(self.metrics, self._store.now)
        self._scheduler = Scheduler(self._on_clock_step)
        self._health = Health(
            self._store,
            tick_age=self._scheduler.tick_age,
            degraded=self._poller.degraded,
            shortage=self._deliverer.shortage,
        )
        self._schedule_jobs()
        if self._replica_lease is None:  # with a lease, adoption loads them: by then another replica may own them
            self._store.on_late_task = self._late_tasks.append
        await self._deliverer.start()
        await self._poller.start()
        self._scheduler.start()
        await self._listen(self._make_app_context(guard, signer), sockets)
        _log.event("listening", url=self.url, host=settings.host, port=port, version=__version__)

    async def _open_store(self) -> Store:
        settings = self._settings
        return await open_store(
            settings.database_url,
            settings.encryption_keys,
            self.metrics,
            max_active_watches=settings.max_active_watches,
            delivery_lease_seconds=settings.delivery_timeout_seconds + LEASE_MARGIN,
            wait_seconds=settings.database_wait_seconds,
        )

    async def _make_signer(self) -> Signer:
        settings = self._settings
        if settings.signing_secrets:
            return Signer(settings.signing_secrets, settings.signing_key)
        own = await self._store.own_signing_secret()
        REDACTOR.add(own)
        return Signer([parse_secret(own)], settings.signing_key)

    def _make_guard(self, port: int) -> Guard:
        settings = self._settings
        policy = TargetPolicy(
            allow_networks=settings.callback_allow_networks,
            allow_hosts=settings.callback_allow_hosts,
            allow_private_hosts=settings.callback_allow_private_hosts,
            ports=settings.callback_ports,
            https_only=settings.callback_https_only,
            own_port=port,
            own_addresses=own_addresses(),
        )
        if self._resolve is not None:
            return Guard(policy, self._resolve)
        system = SystemResolver()
        self._closing.callback(system.close)
        return Guard(policy, system)

    def _make_sender(self, guard: Guard) -> Sender:
        settings = self._settings
        return Sender(
            guard,
            user_agent=USER_AGENT,
            timeout_seconds=settings.delivery_timeout_seconds,
            ssl_context=self._receiver_tls,
            has_client_certificate=settings.callback_client_certificate is not None,
            proxy=proxy_of(settings.callback_proxy),
        )

    def _make_deliverer(self, signer: Signer) -> Deliverer:
        settings = self._settings
        return Deliverer(
            self._store,
            self._sender,
            signer,
            policy=RetryPolicy(settings.delivery_retry_delays_seconds),
            announce=self._change_notifier.announce,
            metrics=self.metrics,
            concurrency=settings.delivery_concurrency,
            per_host=settings.delivery_concurrency_per_host,
            attempt_seconds=settings.delivery_timeout_seconds,
            clock=running_seconds,
            may_send=lambda: self._replica_lease is None or self._replica_lease.is_valid(),
        )

    def _make_poller(self) -> Poller:
        settings = self._settings
        return Poller(
            self._store,
            self._client,
            self._deliverer,
            self._change_notifier,
            policy=PollPolicy(
                settings.poll_first_delay_seconds,
                settings.poll_interval_seconds,
                settings.poll_max_interval_seconds,
                settings.poll_backoff,
            ),
            configured_key=self._configured_key,
            content_url=self._content_url(),
            metrics=self.metrics,
            concurrency=settings.poll_concurrency,
            rate_per_second=settings.poll_rate_per_second,
        )

    def _make_registration(self, guard: Guard) -> RegistrationService:
        settings = self._settings
        return RegistrationService(
            self._store,
            guard,
            self._poller,
            self._deliverer,
            self._change_notifier,
            metrics=self.metrics,
            configured_key=self._configured_key,
            timeouts=TimeoutLimits(settings.watch_timeout_seconds, settings.watch_max_timeout_seconds),
        )

    def _configured_key(self) -> str | None:
        key = self._settings.amux_api_key
        return None if key is None else key.get_secret_value()

    def _content_url(self) -> Callable[[Watch, float], str | None]:
        """Returns what makes a completed video's `content_url`: a signed link to this bridge, or amux's own route."""
        settings, key = self._settings, self._store.cipher.key(LINK_PURPOSE)
        public = settings.public_url
        if public is None:
            return lambda watch, _: f"{settings.amux_base_url}/v1/videos/{watch.task_id}/content"
        return lambda watch, at: content_link(public, watch.id, int(at + settings.content_link_seconds), key)

    def _make_app_context(self, guard: Guard, signer: Signer) -> AppContext:
        settings = self._settings
        return AppContext(
            store=self._store,
            registration=self._registration,
            poller=self._poller,
            deliverer=self._deliverer,
            guard=guard,
            sender=self._sender,
            change_notifier=self._change_notifier,
            metrics=self.metrics,
            health=self._health,
            access=Access(settings.tokens, settings.operator_tokens, settings.public_url),
            signer=signer,
            link_key=self._store.cipher.key(LINK_PURPOSE),
            proxy=self._proxy,
            drop_in=DropIn() if settings.drop_in else None,
            public_url=settings.public_url,
        )

    def _make_dashboard_context(self) -> DashboardContext:
        settings, key = self._settings, self._store.cipher.key(PAGE_KEY_PURPOSE)
        return DashboardContext(
            sessions=Sessions(key, settings.operator_tokens, settings.tokens, now=self._store.now),
            history=self._history,
            poller=self._poller,
            public_url=settings.public_url,
            version=__version__,
        )

    async def _listen(self, services: AppContext, sockets: list[socket.socket]) -> None:
        app = make_app(services, self._make_dashboard_context())
        self._runner = make_runner(app, shutdown_seconds=max(0.1, self._drain_seconds * REQUESTS_SHARE))
        await self._runner.setup()
        self._closing.push_async_callback(self._runner.cleanup)
        for bound in sockets:
            await web.SockSite(self._runner, bound, backlog=LISTEN_BACKLOG).start()

    # --- regular work ---------------------------------------------------------------------------------------------

    def _schedule_jobs(self) -> None:
        retention = Retention(self._store, self._health, retention_seconds=self._settings.retention_seconds)
        stuck_monitor = StuckMonitor(self._store, self.metrics, self._poller, self._health)
        scheduler = self._scheduler
        scheduler.every(POLL_TICK_SECONDS, "poll_tick", self._poll_tick)
        scheduler.every(DELIVERY_TICK_SECONDS, "delivery_tick", self._delivery_tick)
        # At once: a watch that is overdue at the start gets one poll, and the poller must know it before that poll.
        scheduler.every(DEADLINES_SECONDS, "deadlines", self._poller.check_deadlines, at_once=True)
        scheduler.every(LATE_SECONDS, "late_tasks", self._poll_late_tasks)
        scheduler.every(GAUGES_SECONDS, "gauges", self._update_gauges, at_once=True)
        scheduler.every(STUCK_MONITOR_SECONDS, "stuck_monitor", stuck_monitor.check, at_once=True)
        scheduler.every(RETENTION_SECONDS, "retention", retention.sweep)
        scheduler.every(SAMPLE_SECONDS, "history", self._history.sample, at_once=True)
        if self._replica_lease is not None:
            scheduler.every(HEARTBEAT_SECONDS, "heartbeat", self._replica_lease.renew)
            scheduler.every(ADOPTION_SECONDS, "adoption", self._replica_lease.adopt, at_once=True)
        self.metrics.scheduler_tick_age_seconds.set_function(scheduler.tick_age)
        self.metrics.owned_tasks.set_function(lambda: self._poller.owned)
        self._closing.push_async_callback(scheduler.stop)

    async def _poll_tick(self) -> None:
        self._scheduler.ticked()
        if self._replica_lease is not None:
            self._replica_lease.check_expiry()
        self._poller.tick()

    async def _delivery_tick(self) -> None:
        self._deliverer.tick()

    async def _poll_late_tasks(self) -> None:
        """Polls tasks whose registration was committed after its request had been answered with 503."""
        if not self._late_tasks:
            return
        rows = list(self._late_tasks)
        keys = await self._store.keys_of(sorted({row.credential for row in rows} - {CONFIGURED}))
        del self._late_tasks[: len(rows)]
        for row in rows:
            self._poller.add(row, keys.get(row.credential))

    async def _update_gauges(self) -> None:
        counts = await self._store.counts()
        self.metrics.active_watches.set(counts.active_watches)
        self.metrics.pending_deliveries.set(counts.pending_deliveries)
        self.metrics.dead_deliveries.set(counts.dead_deliveries)

    async def _on_clock_step(self, seconds: float) -> None:
        if seconds < 0:
            await self._correct_times()
        self._deliverer.wake()

    async def _correct_times(self) -> None:
        """Corrects due times and deadlines that are too far in the future because the clock was set back."""
        if rows := await self._store.correct_future_times():
            _log.event("times_corrected", rows=rows)

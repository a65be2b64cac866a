"""The composition root: builds all parts of the bridge from the settings, connects them, and starts and drains them.

The order matters. A start opens the store first and the HTTP listener last, so that no request finds a part that is not
ready. A stop refuses new work first, then ends polls and deliveries. The listener stays open for probes and readers
until this is done. The store is closed last.
"""

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

from aiohttp import web

from bridge import USER_AGENT, __version__
from bridge.aio.collector import collector_off
from bridge.aio.proxy_connector import proxy_of
from bridge.amux.proxy import AmuxProxy
from bridge.callback.guard import LOOK_UPS_AT_ONCE, Guard, SystemResolver
from bridge.callback.sender import Sender
from bridge.callback.tls import receiver_tls
from bridge.core.errors import BridgeError
from bridge.core.links import content_link
from bridge.core.model import Watch
from bridge.core.schedule import PollPolicy, RetryPolicy
from bridge.core.signing import Signer, parse_secret
from bridge.delivery.claimer import claim_seconds
from bridge.delivery.deliverer import Deliverer
from bridge.maintenance.health import Health
from bridge.maintenance.replica_lease import ReplicaLease
from bridge.polling.poller import Poller
from bridge.service.adapters import ADAPTERS, Adapters
from bridge.service.content import open_content_cache
from bridge.service.jobs import Jobs, correct_times
from bridge.service.operations import open_receivers
from bridge.service.sockets import port_of
from bridge.service.targets import target_policy
from bridge.settings.batches import batch_policy
from bridge.settings.client import local_url
from bridge.settings.settings import Settings
from bridge.store.lease import Lease
from bridge.store.open import open_store
from bridge.store.store import Store
from bridge.telemetry import REDACTOR, Metrics, get_logger
from bridge.telemetry.history import History
from bridge.watches.change_notifier import ChangeNotifier
from bridge.watches.event_numbering import EventNumbering
from bridge.watches.registration import RegistrationService, TimeoutLimits
from bridge.web.app import make_app, make_probes_app
from bridge.web.auth import Access
from bridge.web.context import AppContext, DropIn
from bridge.web.dashboard.context import DashboardContext
from bridge.web.dashboard.sessions import KEY_PURPOSE as PAGE_KEY_PURPOSE
from bridge.web.dashboard.sessions import Sessions
from bridge.web.rate_limits import PingLimits
from bridge.web.server import ApiRunner, make_runner

POLLS_SHARE = 0.75  # of the drain time, for polls in progress and their writes; the rest is for deliveries
HAND_OVER_SECONDS = 2.0  # for polls in progress, if other replicas wait for the tasks: amux may be slow
REQUESTS_SHARE = 0.25  # of the drain time, for open requests
LISTEN_BACKLOG = 1024  # connections that the kernel accepts before the bridge does
LINK_PURPOSE = "content link"

_log = get_logger("runtime")


class Runtime:
    """One running bridge. `url` is its URL on this machine, `probes_url` that of the second listener, if any."""

    def __init__(self, settings: Settings, adapters: Adapters = ADAPTERS) -> None:
        self._settings = settings
        self._adapters = adapters
        self._system = adapters.system
        self._closing = AsyncExitStack()
        key = settings.amux_api_key
        self._configured_key = None if key is None else key.get_secret_value()
        self._drain_seconds = settings.drain_timeout_seconds
        self._lease = Lease(self._system.running)
        self._replica_lease: ReplicaLease | None = None
        self._runners: list[ApiRunner] = []
        self.metrics = Metrics()
        self.url = ""
        self.probes_url = ""

    @classmethod
    async def start(cls, settings: Settings, adapters: Adapters = ADAPTERS) -> "Runtime":
        """Builds a bridge, starts it, and returns it when it serves.

        Raises BadSetting or StoreUnavailable if the bridge cannot start. Everything is closed before that.
        """
        runtime = cls(settings, adapters)
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
        started_at = self._system.monotonic()
        _log.event("draining", seconds=self._drain_seconds)
        self._health.draining = True
        self._change_notifier.end()
        self._event_numbering.notifier.end()
        await asyncio.gather(self._end_registrations(started_at), self._hand_over_tasks())
        await self._deliverer.drain(self._remaining_seconds(started_at))
        await self._scheduler.stop()
        await _release_lease(self._leave(), "other replicas adopt the tasks of this one when its lease expires")
        for runner in self._runners:
            runner.shutdown_seconds = min(runner.shutdown_seconds, self._remaining_seconds(started_at))
        await self._closing.aclose()
        _log.event("stopped", seconds=round(self._system.monotonic() - started_at, 3))

    async def _end_registrations(self, started_at: float) -> None:
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
            await _release_lease(self._replica_lease.leave(), "the release is tried again at the end of the stop")

    async def _leave(self) -> None:
        """Writes data that are only in memory, and releases all tasks and claims. Raises StoreUnavailable."""
        await self._poller.classes.synchronize()
        await self._receivers.write_figures()
        await self._store.leave()

    def _remaining_seconds(self, started_at: float) -> float:
        return max(0.1, self._drain_seconds - (self._system.monotonic() - started_at))

    # --- opening --------------------------------------------------------------------------------------------------

    async def _open(self) -> None:
        settings = self._settings
        # Before the store, because its opening may wait: a bad file must stop the start at once.
        self._receiver_tls = receiver_tls(
            settings.callback_client_certificate, settings.callback_client_key, settings.callback_ca_file
        )
        sockets = self._adapters.bind(settings.host, settings.port, "BRIDGE_")
        for bound in sockets:
            self._closing.callback(bound.close)
        port = port_of(sockets)
        self.url = local_url(settings.host, port)
        probe_sockets: list[socket.socket] = []
        if settings.metrics_port is not None:
            probe_sockets = self._adapters.bind(settings.metrics_host, settings.metrics_port, "BRIDGE_METRICS_")
            for bound in probe_sockets:
                self._closing.callback(bound.close)
            self.probes_url = local_url(settings.metrics_host, port_of(probe_sockets))
        self._store = await self._open_store()
        self._closing.push_async_callback(self._store.close)
        await correct_times(self._store)  # the clock may have been set back while no bridge was running
        signer = await self._make_signer()
        guard = self._make_guard(frozenset(port_of(one) for one in (sockets, probe_sockets) if one))
        self._sender = self._make_sender(guard)
        self._closing.push_async_callback(self._sender.close)
        self._client = self._adapters.amux_client(
            settings.amux_base_url,
            user_agent=USER_AGENT,
            timeout_seconds=settings.poll_request_timeout_seconds,
            clock=self._system.monotonic,
            wall_clock=self._store.now,
            proxy=proxy_of(settings.amux_proxy),
        )
        self._closing.push_async_callback(self._client.close)
        self._change_notifier = ChangeNotifier(self._store)
        self._event_numbering = EventNumbering(self._store.feed, ChangeNotifier(self._store.feed))
        self._closing.push_async_callback(self._event_numbering.close)
        self._deliverer = self._make_deliverer(signer)
        self._poller = self._make_poller()
        self._receivers, operations = await open_receivers(
            settings, self._store, guard, (self._poller, self._deliverer, self.metrics), self._closing
        )
        self._registration = self._make_registration(guard)
        if self._store.shared:
            self._replica_lease = ReplicaLease(self._store, self._poller, self._deliverer, self._lease)
        self._proxy = AmuxProxy(self._client, configured_key=self._configured_key)
        self._content_cache = await open_content_cache(settings, self._store, self.metrics, self._adapters)
        if self._content_cache is not None:
            self._closing.push_async_callback(self._content_cache.close)
        self._history = History(self.metrics, self._store.now)
        jobs = Jobs(
            self._store,
            self._poller,
            self._deliverer,
            history=self._history,
            metrics=self.metrics,
            event_numbering=self._event_numbering,
            lease=self._lease,
            replica_lease=self._replica_lease,
            content_cache=self._content_cache,
            receivers=self._receivers,
            operations=operations,
            registration=self._registration,
            system=self._system,
        )
        self._scheduler = jobs.scheduler
        self._health = Health(self._store, self._scheduler, self._poller, self._deliverer, clock=self._system.monotonic)
        jobs.schedule(self._health, settings.retention_seconds)
        self._closing.push_async_callback(self._scheduler.stop)
        await self._deliverer.start()
        await self._poller.classes.load()
        with collector_off():
            await self._poller.load()
        self._scheduler.start()
        context = self._make_app_context(guard, signer)
        await self._listen(make_app(context, self._make_dashboard_context()), sockets)
        if probe_sockets:
            await self._listen(make_probes_app(context), probe_sockets)
            _log.event("listening_for_probes", url=self.probes_url, host=",".join(settings.metrics_host))
        _log.event("listening", url=self.url, host=",".join(settings.host), port=port, version=__version__)

    async def _open_store(self) -> Store:
        settings = self._settings
        return await open_store(
            settings.database_url,
            settings.encryption_keys,
            self.metrics,
            max_active_watches=settings.max_active_watches,
            max_active_watches_per_app=settings.max_active_watches_per_app,
            delivery_lease_seconds=claim_seconds(settings.delivery_timeout_seconds),
            wait_seconds=settings.database_wait_seconds,
            system=self._system,
            connect=self._adapters.connect,
        )

    async def _make_signer(self) -> Signer:
        settings = self._settings
        if settings.signing_secrets:
            return Signer(settings.signing_secrets, settings.signing_key)
        own = await self._store.own_signing_secret()
        REDACTOR.add(own)
        return Signer([parse_secret(own)], settings.signing_key)

    def _make_guard(self, own_ports: frozenset[int]) -> Guard:
        resolve = self._adapters.resolve
        if resolve is None:
            system_resolver = SystemResolver(self._system.threads(LOOK_UPS_AT_ONCE, "bridge-dns"))
            self._closing.push_async_callback(system_resolver.close)
            resolve = system_resolver
        return Guard(target_policy(self._settings, own_ports), resolve, clock=self._system.monotonic)

    def _make_sender(self, guard: Guard) -> Sender:
        settings = self._settings
        return self._adapters.sender(
            guard,
            user_agent=USER_AGENT,
            timeout_seconds=settings.delivery_timeout_seconds,
            clock=self._system.monotonic,
            wall_clock=self._store.now,
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
            self._change_notifier,
            self._lease,
            policy=RetryPolicy(settings.delivery_retry_delays_seconds),
            metrics=self.metrics,
            concurrency=settings.delivery_concurrency,
            per_host=settings.delivery_concurrency_per_host,
            attempt_seconds=settings.delivery_timeout_seconds,
            system=self._system,
        )

    def _make_poller(self) -> Poller:
        settings = self._settings
        background = self._system.threads(1, "bridge-background")
        self._closing.push_async_callback(background.close, 1.0)
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
            background=background,
            rate_per_second=settings.poll_rate_per_second,
            learn=settings.poll_learn,
            system=self._system,
            batch=batch_policy(settings),
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
            system=self._system,
        )

    def _content_url(self) -> Callable[[Watch, float], str | None]:
        """Returns the function that makes `content_url`: a signed link to this bridge, or amux's own route."""
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
            event_numbering=self._event_numbering,
            metrics=self.metrics,
            health=self._health,
            access=Access(settings.tokens, settings.operator_tokens, settings.public_url),
            signer=signer,
            receivers=self._receivers,
            link_key=self._store.cipher.key(LINK_PURPOSE),
            proxy=self._proxy,
            content_cache=self._content_cache,
            drop_in=DropIn() if settings.drop_in else None,
            public_url=settings.public_url,
            system=self._system,
            ping_limits=PingLimits(self._system.monotonic),
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

    async def _listen(self, app: web.Application, sockets: list[socket.socket]) -> None:
        runner = make_runner(app, shutdown_seconds=max(0.1, self._drain_seconds * REQUESTS_SHARE))
        await runner.setup()
        self._runners.append(runner)
        self._closing.push_async_callback(runner.cleanup)
        for bound in sockets:
            await web.SockSite(runner, bound, backlog=LISTEN_BACKLOG).start()


async def _release_lease(release: Awaitable[None], means: str) -> None:
    """Awaits the release of the lease. Logs an error of the store; `means` is what happens then."""
    try:
        await release
    except BridgeError as error:
        _log.event("lease_release_failed", level=logging.WARNING, reason=str(error), means=means)

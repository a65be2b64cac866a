"""Claims due deliveries from the outbox, for each host as many as have room, and releases claims that are not used."""

import asyncio
import logging
import math
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Protocol

from bridge.aio.retry_queue import store_pause
from bridge.core.errors import StoreUnavailable
from bridge.core.model import PendingDelivery
from bridge.delivery.fairness import HostQueue, HostQueues
from bridge.store.due_deliveries import COUNTED_PER_HOST
from bridge.store.store import Store
from bridge.telemetry import get_logger
from bridge.telemetry.outage_log import OutageLog

_log = get_logger("delivery")

QUERY_SECONDS = 0.25  # between two queries while deliveries are due
PAUSE_PER_QUERY = 20  # a pause is at least 20 times as long as the query: queries take at most 5 % of one reader's time
LONGEST_PAUSE = 5.0  # seconds: a delivery may become due without a call, after another replica's death or a lost claim


def claim_seconds(attempt_seconds: float) -> float:
    """Returns how long a claim lasts; `attempt_seconds` is the sender's time limit for one attempt.

    A claim lasts 15 s longer than an attempt: 4 s for the call that claims, 5 s for the record of the attempt, and 6 s
    for waiting in memory, where a host's queue has only as many deliveries as the host receives in 5 s. After the crash
    of a replica, the deliveries that it had claimed wait for the end of their claims: 30 s with attempts of 15 s.
    """
    return attempt_seconds + 15.0


class ClaimCallbacks(Protocol):
    """Gets the claimed deliveries: the Deliverer."""

    def is_open(self) -> bool:
        """Whether deliveries may be claimed now."""

    def accept(self, deliveries: Sequence[PendingDelivery], claim_started: float, /) -> None:
        """Takes claimed deliveries. `claim_started` is the monotonic time before the claim."""


class Claimer:
    """Claims due deliveries, and releases claims. `clock` is monotonic, in seconds."""

    def __init__(
        self,
        store: Store,
        hosts: HostQueues,
        callbacks: ClaimCallbacks,
        *,
        lease_seconds: float,
        clock: Callable[[], float],
    ) -> None:
        self._store = store
        self._hosts = hosts
        self._callbacks = callbacks
        self._lease_seconds = lease_seconds
        self._clock = clock
        # By host: how many were due and unclaimed at the last query, minus the ones that were claimed since.
        self._due_counts: dict[str, int] = {}
        self._to_release: list[PendingDelivery] = []
        self._requested = True
        self._query_at = clock()
        self._paused_until = clock()
        self._outage = OutageLog(
            _log,
            "outbox_unavailable",
            "outbox_available",
            means="due deliveries stay pending; the database is asked for them again every few seconds",
            repeat_seconds=math.inf,
        )
        self._timer: asyncio.TimerHandle | None = None
        self.due = asyncio.Event()  # set when there is something to do

    @property
    def releasing(self) -> int:
        """The number of claims that are not released yet."""
        return len(self._to_release)

    def request_query(self) -> None:
        """Makes `work` query the outbox at once, because a delivery has become due."""
        self._requested = True
        self.due.set()

    def note_due_at(self, at: float) -> None:
        """Notes that a delivery will be due at `at` (Unix seconds)."""
        moment = self._clock() + max(0.0, at - self._store.now())
        if moment < self._query_at:
            self._query_at = moment
            self._set_timer()

    def note_room(self, host: HostQueue) -> None:
        """Notes that a slot of this host has become free."""
        if self._due_counts.get(host.name) and self._hosts.wants_more(host) and self._clock() >= self._paused_until:
            self.due.set()

    def release(self, deliveries: Sequence[PendingDelivery]) -> None:
        """Releases claims soon: the deliveries are due again at once, for this replica or another."""
        if deliveries:
            self._to_release += deliveries
            self.due.set()

    def stop(self) -> None:
        """Stops the timer. Afterwards only calls lead to queries."""
        if self._timer is not None:
            self._timer.cancel()

    def tick(self) -> None:
        """Sets `due` if there is something to do. Call it about once a second; between the calls a timer does it."""
        now = self._clock()
        pending = self._requested or self._to_release or self._due_counts or now >= self._query_at
        if pending and now >= self._paused_until:
            self.due.set()

    async def work(self) -> None:
        """Releases, queries, and claims as long as there is room. Pauses when the store does not answer."""
        try:
            await self._release()
            if self._callbacks.is_open():
                await self._query()
            while self._callbacks.is_open() and (room := self._hosts.plan(self._due_counts)):
                await self._claim(room)
        except StoreUnavailable as error:
            self._pause(error)
        else:
            self._outage.recovered()
        # Not 0: a query that is due but not allowed now would make the timer fire at once.
        self._set_timer(QUERY_SECONDS)

    def _set_timer(self, shortest: float = 0.0) -> None:
        self.stop()
        seconds = max(self._query_at, self._paused_until) - self._clock()
        self._timer = asyncio.get_running_loop().call_later(max(seconds, shortest), self.tick)

    async def _release(self) -> None:
        deliveries = self._to_release[:]
        if not deliveries:
            return
        try:
            await self._store.release(deliveries)
        finally:
            # After an error the deliveries are due when their claims end, so they need not be kept here.
            del self._to_release[: len(deliveries)]
        for delivery in deliveries:
            if delivery.host not in self._hosts.paused:
                self._due_counts[delivery.host] = self._due_counts.get(delivery.host, 0) + 1

    async def _query(self) -> None:
        requested, started = self._requested, self._clock()
        if not requested and started < self._query_at:
            return
        self._requested = False
        self._query_at = started + LONGEST_PAUSE  # `note_due_at` may set an earlier time during the query
        if requested or self._due_counts or await self._due_in() <= 0:
            counts = await self._store.due_hosts()
            # A full count means "at least": claim until a claim returns fewer than requested.
            self._due_counts = {host: due if due < COUNTED_PER_HOST else sys.maxsize for host, due in counts.items()}
        if self._due_counts:
            now = self._clock()
            pause = max(QUERY_SECONDS, PAUSE_PER_QUERY * (now - started))
        else:
            now, pause = self._clock(), await self._due_in()
        self._query_at = min(self._query_at, now + max(0.0, pause))

    async def _due_in(self) -> float:
        """Returns the seconds until a delivery is due, at most five. Zero or less: one is due."""
        next_due_at = await self._store.next_due_at()
        return LONGEST_PAUSE if next_due_at is None else min(LONGEST_PAUSE, next_due_at - self._store.now())

    async def _claim(self, room: dict[str, int]) -> None:
        claim_started = self._clock()
        claimed = await self._store.claim(room, self._lease_seconds)
        counts = Counter(delivery.host for delivery in claimed)
        for host, requested in room.items():
            self._due_counts[host] -= counts[host]
            if counts[host] < requested or self._due_counts[host] <= 0:
                del self._due_counts[host]  # no more is due, or another replica has claimed the rest
        self._callbacks.accept(claimed, claim_started)

    def _pause(self, error: StoreUnavailable) -> None:
        now = self._clock()
        self._paused_until = now + store_pause(self._outage.failures + 1)
        self._requested = True
        self._outage.failed(str(error), now, level=logging.WARNING)

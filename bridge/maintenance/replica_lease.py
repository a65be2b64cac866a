"""The lease of this replica: renews it, adopts tasks without an owner, and stops all work before the lease ends."""

import logging
from collections.abc import Sequence

from bridge.core.errors import LostClaim, StoreUnavailable
from bridge.delivery.deliverer import Deliverer
from bridge.polling.credentials import load_keys
from bridge.polling.poller import Poller
from bridge.store.lease import Lease
from bridge.store.records import TaskView
from bridge.store.replicas import LEASE_SECONDS, LEAVING, Replica
from bridge.store.store import Store
from bridge.telemetry import get_logger

HEARTBEAT_SECONDS = 2.5  # two heartbeats may fail before the lease ends
# A dead replica's tasks are polled again within 14 s: the lease, one adoption interval, and the time over which the
# first polls are spread. Tasks that another replica hands over wait for one adoption interval.
ADOPTION_SECONDS = 1.0
MARGIN_SECONDS = 1.0  # work stops this long before the lease's end, so that a request that has begun is sent by then
HEARTBEATS_PER_CLOCK_CHECK = 10  # the clocks are compared every 25 s, in which they drift by less than 1 ms
ADOPTION_BATCH = 500

_log = get_logger("replica_lease")


class ReplicaLease:
    """Renews this replica's lease and adopts tasks. When the lease ends, polling and sending stop."""

    def __init__(self, store: Store, poller: Poller, deliverer: Deliverer, lease: Lease) -> None:
        self._store = store
        self._poller = poller
        self._deliverer = deliverer
        self._lease = lease
        lease.until = store.replica.joined_at + LEASE_SECONDS - MARGIN_SECONDS  # not from now: the start may take long
        self._heartbeats = 0
        self._unconfirmed_writes = store.unconfirmed_writes
        self._leaving = False

    async def leave(self) -> None:
        """Gives up all tasks, so that other replicas adopt them. From now on this replica gets no tasks.

        Raises StoreUnavailable.
        """
        self._leaving = True
        await self._store.hand_over()

    def check_expiry(self) -> None:
        """Stops polling and sending when the lease is about to end. Call it first at each tick."""
        if self._lease.ended and self._poller.owned:
            self._poller.forget_all()  # tasks that were registered since the end; a valid lease loads or adopts them
        if not self._lease.ended and not self._lease.is_valid():
            self._expire()
            _log.event(
                "lease_expired",
                level=logging.WARNING,
                replica=self._store.replica.id,
                means="this replica polls and sends nothing until it renews its lease; other replicas adopt its tasks",
            )

    async def renew(self) -> None:
        """Renews the lease. If another replica has ended it, joins again under a new id. Raises StoreUnavailable."""
        self._store.drop_hung_connections()
        before = self._lease.clock()  # the lease begins at the time before the renewal was sent
        try:
            await self._store.renew(LEAVING if self._leaving else self._poller.owned)
        except LostClaim:
            await self._rejoin()
        had_ended = self._lease.ended
        self._lease.until = before + LEASE_SECONDS - MARGIN_SECONDS
        if had_ended:
            self._unconfirmed_writes = -1
            _log.event("lease_renewed", replica=self._store.replica.id, means="this replica polls and sends again")
            await self._load_unconfirmed()
        self._heartbeats += 1
        if self._heartbeats % HEARTBEATS_PER_CLOCK_CHECK == 0:
            await self._store.synchronize()

    async def adopt(self) -> None:
        """Adopts tasks without a live owner, and loads own tasks after writes with an unknown result.

        Raises StoreUnavailable.
        """
        rows: Sequence[TaskView] | None = None
        while not (self._lease.ended or self._leaving) and (rows is None or len(rows) >= ADOPTION_BATCH):
            replica = self._store.replica
            try:
                rows = await self._store.adopt(ADOPTION_BATCH)
            except LostClaim:
                return  # the next renewal rejoins
            await self._poll_adopted(rows, replica)
        await self._load_unconfirmed()

    async def _poll_adopted(self, rows: Sequence[TaskView], replica: Replica) -> None:
        for row in rows:
            if row.closed:  # its last watch was cancelled, perhaps at another replica
                self._poller.drop(row.row)
        rows = [row for row in rows if not row.closed]
        if not rows:
            return
        try:
            with self._poller.noting_dropped() as dropped:
                keys = await load_keys(self._store, rows)
        except StoreUnavailable:
            self._unconfirmed_writes = -1  # this replica owns the tasks now, so they must be loaded later
            raise
        if self._lease.ended or self._store.replica is not replica:
            return  # the lease ended meanwhile; tasks that this replica still owns are loaded with the others
        for row in rows:
            if row.row not in dropped:
                self._poller.add(row, keys.get(row.credential))
        _log.event(
            "tasks_adopted",
            replica=replica.id,
            count=len(rows),
            means="these tasks had no live owner; this replica polls them from now on",
        )

    async def _load_unconfirmed(self) -> None:
        """Loads the own tasks after a write with an unknown result, because the write may have added a task."""
        unconfirmed_writes = self._store.unconfirmed_writes
        if unconfirmed_writes == self._unconfirmed_writes or self._leaving:
            return
        await self._poller.load()
        self._unconfirmed_writes = unconfirmed_writes
        if self._lease.ended:
            self._expire()  # the lease ended meanwhile, so the loaded tasks may have another owner

    async def _rejoin(self) -> None:
        old = self._store.replica.id
        if not self._lease.ended:
            self._expire()
        await self._store.rejoin()
        self._expire()  # drops work that was claimed under the old id meanwhile
        _log.event(
            "replica_rejoined",
            level=logging.WARNING,
            previous_replica=old,
            replica=self._store.replica.id,
            means="the lease of the previous id had ended; this process polls and sends under the new id",
        )

    def _expire(self) -> None:
        self._lease.end()
        self._poller.forget_all()
        self._deliverer.release_waiting()

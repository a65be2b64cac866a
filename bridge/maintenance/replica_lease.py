"""One replica among several: renewing its lease, taking over what nobody polls, stopping in time when it is cut off."""

import logging
from collections.abc import Awaitable, Callable, Sequence

from bridge.aio.clocks import running_seconds
from bridge.core.errors import LostClaim, StoreUnavailable
from bridge.store.records import CONFIGURED, TaskRow
from bridge.store.replicas import LEASE_SECONDS, LEAVING, Replica
from bridge.store.store import Store
from bridge.telemetry import get_logger

BEAT_SECONDS = 2.5  # two beats may fail before the lease ends
# A dead replica's tasks are polled again within its lease, one look and what the first polls are spread over: 14 s.
# What is handed over or given to this replica waits for one look.
LOOK_SECONDS = 1.0
MARGIN_SECONDS = 1.0  # before the lease's end: a poll or a POST that begins now has left by then
COMPARE_EVERY = 10  # beats between two comparisons of the clocks: 25 s, in which none drifts by a millisecond
ADOPTED_AT_ONCE = 500

_log = get_logger("replica_lease")


class ReplicaLease:
    """Keeps this replica's claim, and takes what is free.

    `owned` counts the tasks that are polled here, `take` is given one more with its own amux key, `lapse` stops
    polling and sending and forgets, `resume` loads what the database says is ours and memory lacks. `clock` runs while
    the machine sleeps.
    """

    def __init__(  # noqa: PLR0913  what it tells the rooms around it
        self,
        store: Store,
        *,
        owned: Callable[[], int],
        take: Callable[[TaskRow, str | None], None],
        lapse: Callable[[], None],
        resume: Callable[[], Awaitable[None]],
        clock: Callable[[], float] = running_seconds,
    ) -> None:
        self._store = store
        self._owned = owned
        self._take = take
        self._lapse = lapse
        self._resume = resume
        self._clock = clock
        self._good_until = clock() + LEASE_SECONDS - MARGIN_SECONDS
        self._beats = 0
        self._unconfirmed_writes = store.unconfirmed_writes
        self._leaving = False
        self.lapsed = False

    def is_certain(self) -> bool:
        """Whether the lease holds at this moment: whoever was frozen may come by here before the next tick."""
        return not self.lapsed and self._clock() < self._good_until

    async def leave(self) -> None:
        """Take nothing more, be given nothing more, and hand every task over. Raises StoreUnavailable."""
        self._leaving = True
        await self._store.hand_over()

    def check(self) -> None:
        """Stop when the lease is about to end, before anything else is begun; for every tick."""
        if not self.lapsed and self._clock() >= self._good_until:
            self.lapsed = True
            self._lapse()
            _log.event(
                "lease_lapsed",
                level=logging.WARNING,
                replica=self._store.replica.id,
                next="polls and sends nothing until the database answers; others take its tasks over",
            )

    async def beat(self) -> None:
        """Renew the lease; join anew when another has taken it over. Raises StoreUnavailable."""
        self._store.drop_hung_connections()
        before = self._clock()  # the lease counts from before the message left
        try:
            await self._store.renew(LEAVING if self._leaving else self._owned())
        except LostClaim:
            await self._rejoin()
        self._good_until = before + LEASE_SECONDS - MARGIN_SECONDS
        if self.lapsed:
            self.lapsed = False
            self._unconfirmed_writes = -1
            _log.event("lease_renewed", replica=self._store.replica.id)
            await self._load_doubtful()
        self._beats += 1
        if self._beats % COMPARE_EVERY == 0:
            await self._store.synchronize()

    async def look(self) -> None:
        """Take over tasks that nobody polls, and look at those of ours that others changed. Raises StoreUnavailable."""
        found: Sequence[TaskRow] | None = None
        while not (self.lapsed or self._leaving) and (found is None or len(found) >= ADOPTED_AT_ONCE):
            replica = self._store.replica
            try:
                found = await self._store.adopt(ADOPTED_AT_ONCE)
            except LostClaim:
                return  # the next beat joins anew
            await self._take_all(found, replica)
        await self._load_doubtful()

    async def _take_all(self, found: Sequence[TaskRow], replica: Replica) -> None:
        if not found:
            return
        try:
            keys = await self._store.keys_of(sorted({row.credential for row in found} - {CONFIGURED}))
        except StoreUnavailable:
            self._unconfirmed_writes = -1  # they are ours by now, and nobody would look at them again
            raise
        if self.lapsed or self._store.replica is not replica:
            return  # lost meanwhile; what is still ours is loaded with the rest
        for row in found:
            self._take(row, keys.get(row.credential))
        _log.event("tasks_taken", replica=replica.id, count=len(found))

    async def _load_doubtful(self) -> None:
        """After a write whose end is not known, load the own tasks: one may be ours without our having heard of it."""
        unconfirmed_writes = self._store.unconfirmed_writes
        if unconfirmed_writes == self._unconfirmed_writes or self._leaving:
            return
        await self._resume()
        self._unconfirmed_writes = unconfirmed_writes
        if self.lapsed:
            self._lapse()  # meanwhile: what was just loaded is not certain

    async def _rejoin(self) -> None:
        old = self._store.replica.id
        if not self.lapsed:
            self.lapsed = True
            self._lapse()
        await self._store.rejoin()
        _log.event("rejoined", level=logging.WARNING, old=old, replica=self._store.replica.id)

"""One replica among several: renewing its lease, taking over what nobody polls, stopping in time when it is cut off."""

import logging
from collections.abc import Awaitable, Callable

from bridge.core.errors import LostClaim
from bridge.store.database import running_seconds
from bridge.store.records import CONFIGURED, TaskRow
from bridge.store.replicas import LEASE_SECONDS
from bridge.store.store import Store
from bridge.telemetry import get_logger

BEAT_SECONDS = 2.5  # two beats may fail before the lease ends
LOOK_SECONDS = 2.0  # a dead replica's tasks are polled again within its lease and one look: 11 s
MARGIN_SECONDS = 1.0  # before the lease's end: a poll or a POST that begins now has left by then
COMPARE_EVERY = 10  # beats between two comparisons of the clocks: 25 s, in which none drifts by a millisecond
ADOPTED_AT_ONCE = 500

_log = get_logger("membership")


class Membership:
    """Keeps this replica's claim, and takes what is free.

    `owned` counts the tasks that are polled here, `take` is given one more with its own amux key, `lapse` stops
    polling and sending and forgets, `resume` begins again with what the database says is ours. `clock` runs while
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
        self.lapsed = False

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
        before = self._clock()  # the lease counts from before the message left
        try:
            await self._store.renew(self._owned())
        except LostClaim:
            await self._rejoin()
        self._good_until = before + LEASE_SECONDS - MARGIN_SECONDS
        if self.lapsed:
            self.lapsed = False
            await self._resume()
            _log.event("lease_renewed", replica=self._store.replica.id)
        self._beats += 1
        if self._beats % COMPARE_EVERY == 0:
            await self._store.synchronize()

    async def look(self) -> None:
        """Take over tasks that nobody polls, and look at those of ours that others changed. Raises StoreUnavailable."""
        if self.lapsed:
            return
        while True:
            try:
                found = await self._store.adopt(ADOPTED_AT_ONCE)
            except LostClaim:
                return  # the next beat joins anew
            keys = await self._store.keys_of(sorted({row.credential for row in found} - {CONFIGURED})) if found else {}
            for row in found:
                self._take(row, keys.get(row.credential))
            if found:
                _log.event("tasks_taken", replica=self._store.replica.id, count=len(found))
            if len(found) < ADOPTED_AT_ONCE:
                return

    async def _rejoin(self) -> None:
        old = self._store.replica.id
        if not self.lapsed:
            self.lapsed = True
            self._lapse()
        await self._store.rejoin()
        _log.event("rejoined", level=logging.WARNING, old=old, replica=self._store.replica.id)

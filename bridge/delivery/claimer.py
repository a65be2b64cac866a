"""The outbox's backlog: what is due there, claimed host by host as there is room, and claims given back."""

import asyncio
import logging
import sys
from collections import Counter
from collections.abc import Callable, Sequence

from bridge.core.errors import StoreUnavailable
from bridge.core.model import PendingDelivery
from bridge.delivery.fairness import HostQueue, HostQueues
from bridge.store.outbox import COUNTED_PER_HOST
from bridge.store.store import Store
from bridge.telemetry import get_logger

_log = get_logger("delivery")

LOOK_SECONDS = 0.25  # between looks while something is due; each waits for room only
LOOK_SHARE = 20  # and at least this often its own duration: at most a twentieth of one reader
LONGEST_SLEEP = 5.0  # seconds: another replica's death, or a claim whose answer was lost, makes due without a word
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 5.0  # seconds after a store that did not answer


class Claimer:
    """Claims what is due, and gives back what cannot be sent.

    `accept` takes what was claimed, with the monotonic time before the claim; `open` says whether to claim at all.
    """

    def __init__(  # noqa: PLR0913  a shell's collaborators and limits
        self,
        store: Store,
        hosts: HostQueues,
        *,
        accept: Callable[[Sequence[PendingDelivery], float], None],
        is_open: Callable[[], bool],
        lease_seconds: float,
        clock: Callable[[], float],
    ) -> None:
        self._store = store
        self._hosts = hosts
        self._accept = accept
        self._is_open = is_open
        self._lease_seconds = lease_seconds
        self._clock = clock
        self._known: dict[str, int] = {}  # due and unclaimed, as of the last look, less what was claimed since
        self._returns: list[PendingDelivery] = []
        self._asked = True
        self._look_at = clock()
        self._rest_until = clock()
        self._troubles = 0
        self.due = asyncio.Event()  # there is work

    @property
    def returning(self) -> int:
        """Claims on their way back to the outbox."""
        return len(self._returns)

    def look(self) -> None:
        """Something became due: look at once, whatever was known."""
        self._asked = True
        self.due.set()

    def due_at(self, at: float) -> None:
        """A delivery of ours will be due at `at` (Unix seconds)."""
        self._look_at = min(self._look_at, self._clock() + max(0.0, at - self._store.now()))

    def room_for(self, host: HostQueue) -> None:
        """A slot of this host became free."""
        if self._known.get(host.name) and self._hosts.wants_more(host) and self._clock() >= self._rest_until:
            self.due.set()

    def give_back(self, owed: Sequence[PendingDelivery]) -> None:
        """Release claims: due again at once, for this replica or another."""
        if owed:
            self._returns += owed
            self.due.set()

    def tick(self) -> None:
        """Work if there is any."""
        now = self._clock()
        if now >= self._rest_until and (self._asked or self._returns or self._known or now >= self._look_at):
            self.due.set()

    async def work(self) -> None:
        """Give back, look, and claim as long as there is room; a store that does not answer is left alone a while."""
        try:
            await self._release()
            if self._is_open():
                await self._look_around()
            while self._is_open() and (room := self._hosts.plan(self._known)):
                await self._claim(room)
        except StoreUnavailable as error:
            self._rest(error)
        else:
            self._troubles = 0

    async def _release(self) -> None:
        returns = self._returns[:]
        if not returns:
            return
        try:
            await self._store.release(returns)
        finally:
            # Where it failed they are due at their claims' end: no reason to keep them.
            del self._returns[: len(returns)]
        for one in returns:
            self._known[one.host] = self._known.get(one.host, 0) + 1

    async def _look_around(self) -> None:
        asked, began = self._asked, self._clock()
        if not asked and began < self._look_at:
            return
        self._asked = False
        self._look_at = began + LONGEST_SLEEP  # what becomes known while we look brings it forward
        if asked or self._known or await self._due_in() <= 0:
            found = await self._store.due_hosts()
            # A full count says "at least": claim until a claim comes back short.
            self._known = {host: due if due < COUNTED_PER_HOST else sys.maxsize for host, due in found.items()}
        if self._known:
            now = self._clock()
            pause = max(LOOK_SECONDS, LOOK_SHARE * (now - began))
        else:
            now, pause = self._clock(), await self._due_in()
        self._look_at = min(self._look_at, now + max(0.0, pause))

    async def _due_in(self) -> float:
        """Seconds until something is due, at most five; negative: it is."""
        next_due_at = await self._store.next_due_at()
        return LONGEST_SLEEP if next_due_at is None else min(LONGEST_SLEEP, next_due_at - self._store.now())

    async def _claim(self, room: dict[str, int]) -> None:
        before = self._clock()
        claimed = await self._store.claim(room, self._lease_seconds)
        got = Counter(one.host for one in claimed)
        for host, wanted in room.items():
            self._known[host] -= got[host]
            if got[host] < wanted or self._known[host] <= 0:
                del self._known[host]  # no more is due, or others took it
        self._accept(claimed, before)

    def _rest(self, error: StoreUnavailable) -> None:
        pause = min(FIRST_PAUSE * 2.0 ** min(self._troubles, 8), LONGEST_PAUSE)
        self._rest_until = self._clock() + pause
        self._asked = True
        if not self._troubles:
            _log.event(
                "backlog_unread",
                level=logging.WARNING,
                reason=str(error),
                means="deliveries that are due stay owed; asked again every few seconds",
            )
        self._troubles += 1

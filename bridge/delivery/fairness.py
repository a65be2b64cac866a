"""Fairness between hosts: who may begin an attempt, who may wait in memory, and how much to claim. Pure.

Three rules keep a slow or dead host from delaying another's callback:
1. A host has at most `per_host` attempts at a time, and one while it fails (a probe).
2. Hosts that are less sure to answer share a part of the slots only, the failing ones half of them.
3. The fuller the slots, the fewer a host may have. Where nothing is known of a host it is as many, above its first, as
   there are free slots for each taken one: of 128, one new host alone has 8, and 70 that hang leave room for another.
   Hosts that answer share more freely: 16 busy ones have 5 or more each, one never more than half of all.
Among hosts that may begin, the one that began longest ago is next.
"""

from collections import OrderedDict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from functools import lru_cache

from bridge.core.delivery import FAILURES_UNTIL_PROBING, attempts_at_a_time
from bridge.core.model import PendingDelivery

READY_OF_ONE_HOST = 256  # claimed and waiting in memory: at 4,000 a second a claim each 60 ms, not one for each
READY_OF_NEW_HOST = 64  # not known to answer: a batch of settlements, and not more than a hanging host may hold up
READY_IN_ALL = 2_000  # at most 20 KB each: 40 MB, and 1-2 MB as payloads are
READY_SHARE = 4  # a host's line is at most this part of the room that is left
READY_SECONDS = 5.0  # no more than a host takes in this time, or what waits outlives its lease
PACE_SHARE = 0.2  # of the newest attempt in a host's average duration: ten attempts forget a slow moment
HOSTS_IN_A_CLAIM = 128
HOSTS_REMEMBERED = 10_000  # 300 bytes each; those that fail are kept beyond


class HostHealth(IntEnum):
    """How sure a host is to answer; larger is worse."""

    PROVEN = 0  # its last attempt was answered
    NEW = 1  # nothing is known since the start
    DOUBTED = 2  # failed, not yet three times in a row
    FAILING = 3  # asked by one attempt at a time


SHARES: Mapping[HostHealth, float] = {
    HostHealth.PROVEN: 1.0,
    HostHealth.NEW: 7 / 8,
    HostHealth.DOUBTED: 3 / 4,
    HostHealth.FAILING: 1 / 2,
}
"""The part of all slots that hosts of a standing, and of every worse one, hold at most together."""

_FAILURES = (0, 0, 1, FAILURES_UNTIL_PROBING)  # in a row, the fewest of each standing


@dataclass(slots=True, eq=False)
class ClaimedDelivery:
    """A delivery that we have a lease on. A new claim of the same delivery replaces `owed` in place.

    `begins_before` (monotonic seconds) is when an attempt must have begun to be over and recorded within the lease.
    """

    owed: PendingDelivery
    begins_before: float


@dataclass(slots=True, eq=False)
class HostQueue:
    """One receiver, by name and port. `turn` grows with each attempt that begins anywhere; `pace` is in seconds."""

    name: str
    failures: int = 0
    standing: HostHealth = HostHealth.NEW
    busy: int = 0
    turn: int = 0
    pace: float = 0.0
    waiting: deque[ClaimedDelivery] = field(default_factory=deque)

    @property
    def idle(self) -> bool:
        """Whether nothing of it is under way or waiting."""
        return not self.busy and not self.waiting


class HostQueues:
    """Every host's slots and its deliveries that wait for one; `concurrency` and `per_host` are at least 1."""

    def __init__(self, concurrency: int, per_host: int) -> None:
        self._per_host = per_host
        self._limits = [attempts_at_a_time(_FAILURES[standing], per_host) for standing in HostHealth]
        # A proven host's next attempt needs so many free slots for each that it has: 8 of 128, so that one has its 8.
        self._reserve = max(1, concurrency // (2 * per_host))
        self._pools = [max(1, int(concurrency * SHARES[standing])) for standing in HostHealth]
        # Asked as each attempt begins and ends, of few numbers: adding up took a tenth of an attempt.
        self._most = lru_cache(maxsize=4_096)(self._add_up)
        self._busy = [0] * len(HostHealth)  # slots held, by the standing of who holds them
        self._hosts: dict[str, HostQueue] = {}
        self._ring: OrderedDict[str, HostQueue] = OrderedDict()  # those with something waiting, the next in turn first
        self._turns = 0
        self._none_may = False  # the last look found nothing to begin, and nothing has changed since
        self.ready = 0

    @property
    def busy(self) -> int:
        """Attempts under way."""
        return sum(self._busy)

    def load(self, failures: Mapping[str, int]) -> None:
        """Know how often in a row hosts failed before this process began."""
        for name, count in failures.items():
            if count:
                self._judge(self.get(name), count)

    def get(self, name: str) -> HostQueue:
        """The host of that name and port."""
        host = self._hosts.get(name)
        if host is None:
            host = self._hosts[name] = HostQueue(name)
        return host

    # --- slots ----------------------------------------------------------------------------------------------------

    def may_begin(self, host: HostQueue) -> bool:
        """Whether another attempt of this host may begin now."""
        return host.busy < self._most(tuple(self._busy))[host.standing]

    def begin(self, host: HostQueue) -> None:
        """Take a slot."""
        self._turns += 1
        host.turn = self._turns
        host.busy += 1
        self._busy[host.standing] += 1

    def end(self, host: HostQueue, failures: int, seconds: float, *, answered: bool) -> None:
        """Give the slot of an attempt that took `seconds` back; `failures` in a row with it."""
        host.busy -= 1
        self._busy[host.standing] -= 1
        host.pace += (seconds - host.pace) * (PACE_SHARE if host.pace else 1.0)
        self._judge(host, failures, answered=answered)

    # --- waiting --------------------------------------------------------------------------------------------------

    def may_wait(self, host: HostQueue) -> bool:
        """Whether one more delivery may wait for this host."""
        return len(host.waiting) < min(self._patience(host), _line(READY_IN_ALL - self.ready))

    def put(self, host: HostQueue, held: ClaimedDelivery) -> None:
        """Let a delivery wait, last in its host's line."""
        host.waiting.append(held)
        self._none_may = False
        self._ring[host.name] = host
        self.ready += 1

    def next(self) -> tuple[HostQueue, ClaimedDelivery] | None:
        """Take the next delivery whose host may begin an attempt; the host goes to the end of the ring."""
        if self._none_may:
            return None  # three of four calls: each attempt asks as it ends, is recorded and leaves its worker
        most: list[int] | None = None
        for host in self._ring.values():
            if host.busy >= self._limits[host.standing]:
                continue  # the usual case, decided without adding anything up
            most = most or self._most(tuple(self._busy))
            if host.busy < most[host.standing]:
                held = host.waiting.popleft()
                self.ready -= 1
                if host.waiting:
                    self._ring.move_to_end(host.name)
                else:
                    del self._ring[host.name]
                return host, held
        self._none_may = True
        return None

    def take(self, held: ClaimedDelivery) -> bool:
        """Take one delivery out of its host's line; whether it was there."""
        host = self.get(held.owed.host)
        if held not in host.waiting:
            return False
        host.waiting.remove(held)
        self.ready -= 1
        if not host.waiting:
            del self._ring[host.name]
        return True

    def take_waiting(self, host: HostQueue) -> list[ClaimedDelivery]:
        """Take all that waits for one host."""
        taken = list(host.waiting)
        host.waiting.clear()
        self._ring.pop(host.name, None)
        self.ready -= len(taken)
        return taken

    def take_all_waiting(self) -> list[ClaimedDelivery]:
        """Take all that waits."""
        return [held for host in list(self._ring.values()) for held in self.take_waiting(host)]

    def take_late(self, now: float) -> list[ClaimedDelivery]:
        """Take what has waited too long to begin at `now` (monotonic seconds)."""
        late: list[ClaimedDelivery] = []
        for host in list(self._ring.values()):
            if any(held.begins_before <= now for held in host.waiting):
                for held in self.take_waiting(host):
                    if held.begins_before <= now:
                        late.append(held)
                    else:
                        self.put(host, held)
        return late

    # --- claiming -------------------------------------------------------------------------------------------------

    def wants_more(self, host: HostQueue) -> bool:
        """Whether a claim for this host is worth its transaction: half of its waiting room is empty."""
        if host.standing is HostHealth.FAILING:
            return not host.waiting and self.may_begin(host)
        return len(host.waiting) * 2 <= self._patience(host)

    def plan(self, due: Mapping[str, int]) -> dict[str, int]:
        """How many due deliveries to claim for each host: what may begin now, and what may wait behind it.

        Hosts that began longest ago come first; one that finds every slot taken has one delivery wait, so that the
        ring knows of it (a failing one has none: its next probe is chosen here). At most 128 hosts.
        """
        busy, free = list(self._busy), READY_IN_ALL - self.ready
        room: dict[str, int] = {}
        for host in sorted(map(self.get, due), key=lambda one: one.turn):
            if len(room) == HOSTS_IN_A_CLAIM:
                break
            if not self.wants_more(host):
                continue
            begin = max(0, self._most(tuple(busy))[host.standing] - host.busy - len(host.waiting))
            begin = min(begin, due[host.name])
            patience = self._patience(host) if begin or host.busy else min(1, self._patience(host))
            wait = min(due[host.name] - begin, max(0, min(patience, _line(free)) - len(host.waiting)))
            if begin + wait:
                room[host.name] = begin + wait
                busy[host.standing] += begin
                free -= wait
        return room

    def forget_idle(self) -> None:
        """Keep memory bounded: forget healthy hosts without work, those that were asked longest ago first."""
        if len(self._hosts) > HOSTS_REMEMBERED:
            idle = [host for host in self._hosts.values() if host.idle and not host.failures]
            for host in sorted(idle, key=lambda one: one.turn)[: len(self._hosts) - HOSTS_REMEMBERED // 2]:
                del self._hosts[host.name]

    # --- rules ----------------------------------------------------------------------------------------------------

    def _add_up(self, busy: tuple[int, ...]) -> list[int]:
        """How many attempts a host of each standing may have under way at most, for the slots that are held."""
        below = sum(busy)
        free = self._pools[0]
        most: list[int] = []
        for pool, held, limit in zip(self._pools, busy, self._limits, strict=True):
            free = min(free, pool - below)
            below -= held
            if free <= 0:
                most.append(0)
            elif not most:  # the proven
                most.append(min(limit, (free - 1) // self._reserve + 1))
            else:
                most.append(min(limit, free // (pool - free) + 1) if pool > free else limit)
        return most

    def _patience(self, host: HostQueue) -> int:
        """How many deliveries may wait for a host: what it takes in five seconds, as far as that is known."""
        match host.standing:
            case HostHealth.FAILING:
                return 0
            case HostHealth.DOUBTED:
                return self._per_host
            case HostHealth.NEW:
                return READY_OF_NEW_HOST
        by_pace = self._per_host * READY_SECONDS / max(host.pace, 0.001)
        return max(1, int(min(READY_OF_ONE_HOST, by_pace)))

    def _judge(self, host: HostQueue, failures: int, *, answered: bool = False) -> None:
        host.failures = failures
        if failures >= FAILURES_UNTIL_PROBING:
            standing = HostHealth.FAILING
        elif failures:
            standing = HostHealth.DOUBTED
        elif answered or host.standing is not HostHealth.NEW:
            standing = HostHealth.PROVEN
        else:
            standing = HostHealth.NEW
        self._none_may = False
        self._busy[host.standing] -= host.busy
        self._busy[standing] += host.busy
        host.standing = standing


def _line(free: int) -> int:
    """How many may wait for one host while there is room for `free` more: no host takes the others' room."""
    return -(-free // READY_SHARE)

"""Fairness between hosts: which may start an attempt, how many deliveries wait in memory, how many to claim. Pure.

Three rules keep a slow or dead host from delaying the callbacks of another:
1. A host has at most `per_host` attempts at a time, and one at a time while it is failing (a probe).
2. Hosts that are less likely to answer share only a part of the slots. Failing hosts share half of them.
3. The fuller the slots, the fewer a host may have. A host of unknown health may have, beyond its first, as many as
   there are free slots for each taken one: of 128 slots, one new host alone has 8, and 70 hosts that hang leave room
   for another. Healthy hosts share more freely: 16 busy ones have 5 or more each, and one has never more than half.
Among the hosts that may start an attempt, the one that started its last attempt the longest ago is next.
"""

from collections import OrderedDict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from functools import lru_cache

from bridge.core.delivery import FAILURES_UNTIL_PROBING, attempts_at_a_time
from bridge.core.model import PendingDelivery

# How many claimed deliveries wait in memory.
WAITING_PER_HOST = 256  # at 4,000 a second this is one claim each 60 ms, not one for each delivery
WAITING_PER_NEW_HOST = 64  # a batch of settlements, and no more than a host that hangs may hold up
WAITING_IN_ALL = 2_000  # at most 20 KB each: 40 MB; with payloads of the usual size 1-2 MB
WAITING_SHARE = 4  # a host's queue is at most this part of the room that is left
WAITING_SECONDS = 5.0  # no more than a host receives in this time: otherwise the leases end before the attempts start
DURATION_WEIGHT = 0.2  # of the newest attempt in a host's average duration: after ten attempts a slow one has no effect
HOSTS_PER_CLAIM = 128
HOSTS_REMEMBERED = 10_000  # 300 bytes each; failing hosts are kept beyond this number


class HostHealth(IntEnum):
    """How likely a host is to answer. A larger value is worse."""

    HEALTHY = 0  # it answered its last attempt
    UNKNOWN = 1  # no attempt since the start has shown anything
    DOUBTFUL = 2  # its last attempt failed, and fewer than three in a row have failed
    FAILING = 3  # three or more in a row have failed; it gets one attempt at a time


SHARES: Mapping[HostHealth, float] = {
    HostHealth.HEALTHY: 1.0,
    HostHealth.UNKNOWN: 7 / 8,
    HostHealth.DOUBTFUL: 3 / 4,
    HostHealth.FAILING: 1 / 2,
}
"""The part of all slots that the hosts of this health and of every worse one have together, at most."""

_FEWEST_FAILURES = (0, 0, 1, FAILURES_UNTIL_PROBING)  # in a row, by health


@dataclass(slots=True, eq=False)
class ClaimedDelivery:
    """A delivery that this replica has a lease on. A new claim of the same delivery replaces `delivery` in place.

    An attempt must start before `begins_before` (monotonic seconds), so that it ends and is recorded within the lease.
    `started_at` is when it started (Unix seconds). `due_again`: since then the delivery has become due once more.
    """

    delivery: PendingDelivery
    begins_before: float
    started_at: float | None = None
    due_again: bool = False


@dataclass(slots=True, eq=False)
class HostQueue:
    """One receiver, by name and port, and the deliveries that wait for it.

    `turn` is the number of its last attempt among the attempts of all hosts. `average_seconds` is the moving average
    of its attempts' durations, 0 before the first.
    """

    name: str
    failures: int = 0
    health: HostHealth = HostHealth.UNKNOWN
    busy: int = 0
    turn: int = 0
    average_seconds: float = 0.0
    waiting: deque[ClaimedDelivery] = field(default_factory=deque)

    @property
    def idle(self) -> bool:
        """Whether the host has no attempt under way and no delivery waiting."""
        return not self.busy and not self.waiting


class HostQueues:
    """The slots and queues of all hosts. `concurrency` and `per_host` are at least 1."""

    def __init__(self, concurrency: int, per_host: int) -> None:
        self._per_host = per_host
        self._limits = [attempts_at_a_time(_FEWEST_FAILURES[health], per_host) for health in HostHealth]
        # A healthy host's next attempt needs this many free slots for each that it has: 8 of 128, so that one has 8.
        self._reserve = max(1, concurrency // (2 * per_host))
        self._pools = [max(1, int(concurrency * SHARES[health])) for health in HostHealth]
        # Cached, because it is needed as each attempt starts and ends, for few different numbers: without the cache
        # it took a tenth of an attempt.
        self._max_attempts = lru_cache(maxsize=4_096)(self._compute_max_attempts)
        self._busy = [0] * len(HostHealth)  # taken slots, by the health of the hosts that have them
        self._hosts: dict[str, HostQueue] = {}
        self._ring: OrderedDict[str, HostQueue] = OrderedDict()  # hosts with waiting deliveries, the next in turn first
        self._turns = 0
        self.paused: frozenset[str] = frozenset()  # by an operator: nothing is claimed for them, and nothing waits here
        self._nothing_may_begin = False  # the last search found nothing that may start, and nothing has changed since
        self.ready = 0

    @property
    def busy(self) -> int:
        """The number of attempts under way."""
        return sum(self._busy)

    def load(self, failures: Mapping[str, int]) -> None:
        """Sets how often in a row hosts had failed before this process started."""
        for name, count in failures.items():
            if count:
                self._set_failures(self.get(name), count, answered=False)

    def get(self, name: str) -> HostQueue:
        """Returns the host of that name and port."""
        host = self._hosts.get(name)
        if host is None:
            host = self._hosts[name] = HostQueue(name)
        return host

    # --- slots ----------------------------------------------------------------------------------------------------

    def may_begin(self, host: HostQueue) -> bool:
        """Whether another attempt of this host may start now."""
        return host.name not in self.paused and host.busy < self._max_attempts(tuple(self._busy))[host.health]

    def begin(self, host: HostQueue) -> None:
        """Takes a slot for the host."""
        self._turns += 1
        host.turn = self._turns
        host.busy += 1
        self._busy[host.health] += 1

    def end(self, host: HostQueue, failures: int, seconds: float, *, answered: bool) -> None:
        """Frees the slot of an attempt that took `seconds`. `failures` is how many in a row failed, with this one."""
        host.busy -= 1
        self._busy[host.health] -= 1
        host.average_seconds += (seconds - host.average_seconds) * (DURATION_WEIGHT if host.average_seconds else 1.0)
        self._set_failures(host, failures, answered=answered)

    def abandon(self, host: HostQueue) -> None:
        """Frees the slot of an attempt that was not made. It shows nothing about the host."""
        host.busy -= 1
        self._busy[host.health] -= 1
        self._nothing_may_begin = False

    # --- waiting --------------------------------------------------------------------------------------------------

    def may_wait(self, host: HostQueue) -> bool:
        """Whether one more delivery may wait for this host."""
        if host.name in self.paused:
            return False
        return len(host.waiting) < min(self._max_waiting(host), _host_share(WAITING_IN_ALL - self.ready))

    def put(self, host: HostQueue, claimed: ClaimedDelivery) -> None:
        """Adds a delivery at the end of its host's queue."""
        host.waiting.append(claimed)
        self._nothing_may_begin = False
        self._ring[host.name] = host
        self.ready += 1

    def next(self) -> tuple[HostQueue, ClaimedDelivery] | None:
        """Removes and returns the next delivery whose host may start an attempt. The host goes to the ring's end."""
        if self._nothing_may_begin:
            return None  # three of four calls: one is made when an attempt ends, is recorded and leaves its worker
        limits: list[int] | None = None
        for host in self._ring.values():
            if host.busy >= self._limits[host.health]:
                continue  # the usual case, decided without the sums
            limits = limits or self._max_attempts(tuple(self._busy))
            if host.busy < limits[host.health]:
                claimed = host.waiting.popleft()
                self.ready -= 1
                if host.waiting:
                    self._ring.move_to_end(host.name)
                else:
                    del self._ring[host.name]
                return host, claimed
        self._nothing_may_begin = True
        return None

    def remove(self, claimed: ClaimedDelivery) -> bool:
        """Removes one delivery from its host's queue. Returns whether it was there."""
        host = self.get(claimed.delivery.host)
        if claimed not in host.waiting:
            return False
        host.waiting.remove(claimed)
        self.ready -= 1
        if not host.waiting:
            del self._ring[host.name]
        return True

    def remove_waiting(self, host: HostQueue) -> list[ClaimedDelivery]:
        """Removes and returns all deliveries that wait for one host."""
        removed = list(host.waiting)
        host.waiting.clear()
        self._ring.pop(host.name, None)
        self.ready -= len(removed)
        return removed

    def remove_all_waiting(self) -> list[ClaimedDelivery]:
        """Removes and returns all waiting deliveries."""
        return [claimed for host in list(self._ring.values()) for claimed in self.remove_waiting(host)]

    def remove_late(self, now: float) -> list[ClaimedDelivery]:
        """Removes and returns the deliveries that have waited too long to start at `now` (monotonic seconds)."""
        late: list[ClaimedDelivery] = []
        for host in list(self._ring.values()):
            if any(claimed.begins_before <= now for claimed in host.waiting):
                for claimed in self.remove_waiting(host):
                    if claimed.begins_before <= now:
                        late.append(claimed)
                    else:
                        self.put(host, claimed)
        return late

    # --- claiming -------------------------------------------------------------------------------------------------

    def wants_more(self, host: HostQueue) -> bool:
        """Whether a claim for this host is worth its transaction: its queue is at most half full."""
        if host.name in self.paused:
            return False
        if host.health is HostHealth.FAILING:
            return not host.waiting and self.may_begin(host)
        return len(host.waiting) * 2 <= self._max_waiting(host)

    def plan(self, due: Mapping[str, int]) -> dict[str, int]:
        """Returns how many due deliveries to claim for each host: those that may start now, and those that may wait.

        The hosts that started an attempt the longest ago come first, at most 128 hosts. A host that finds every slot
        taken gets one waiting delivery, so that it has a place in the ring. A failing host gets none: its next probe is
        chosen here.
        """
        busy, free = list(self._busy), WAITING_IN_ALL - self.ready
        room: dict[str, int] = {}
        for host in sorted(map(self.get, due), key=lambda host: host.turn):
            if len(room) == HOSTS_PER_CLAIM:
                break
            if not self.wants_more(host):
                continue
            begin = max(0, self._max_attempts(tuple(busy))[host.health] - host.busy - len(host.waiting))
            begin = min(begin, due[host.name])
            most = self._max_waiting(host) if begin or host.busy else min(1, self._max_waiting(host))
            wait = min(due[host.name] - begin, max(0, min(most, _host_share(free)) - len(host.waiting)))
            if begin + wait:
                room[host.name] = begin + wait
                busy[host.health] += begin
                free -= wait
        return room

    def forget_idle(self) -> None:
        """Limits the memory: forgets idle hosts without failures, those with the oldest attempts first."""
        if len(self._hosts) > HOSTS_REMEMBERED:
            idle = [host for host in self._hosts.values() if host.idle and not host.failures]
            for host in sorted(idle, key=lambda host: host.turn)[: len(self._hosts) - HOSTS_REMEMBERED // 2]:
                del self._hosts[host.name]

    # --- rules ----------------------------------------------------------------------------------------------------

    def _compute_max_attempts(self, busy: tuple[int, ...]) -> list[int]:
        """Returns, by health, how many attempts a host may have under way. `busy` are the taken slots by health."""
        taken = sum(busy)
        free = self._pools[0]
        most: list[int] = []
        for pool, busy_here, limit in zip(self._pools, busy, self._limits, strict=True):
            free = min(free, pool - taken)
            taken -= busy_here
            if free <= 0:
                most.append(0)
            elif not most:  # healthy hosts
                most.append(min(limit, (free - 1) // self._reserve + 1))
            else:
                most.append(min(limit, free // (pool - free) + 1) if pool > free else limit)
        return most

    def _max_waiting(self, host: HostQueue) -> int:
        """Returns how many deliveries may wait for a host: what it receives in five seconds, as far as is known."""
        match host.health:
            case HostHealth.FAILING:
                return 0
            case HostHealth.DOUBTFUL:
                return self._per_host
            case HostHealth.UNKNOWN:
                return WAITING_PER_NEW_HOST
        received = self._per_host * WAITING_SECONDS / max(host.average_seconds, 0.001)
        return max(1, int(min(WAITING_PER_HOST, received)))

    def _set_failures(self, host: HostQueue, failures: int, *, answered: bool) -> None:
        host.failures = failures
        if failures >= FAILURES_UNTIL_PROBING:
            health = HostHealth.FAILING
        elif failures:
            health = HostHealth.DOUBTFUL
        elif answered or host.health is not HostHealth.UNKNOWN:
            health = HostHealth.HEALTHY
        else:
            health = HostHealth.UNKNOWN
        self._nothing_may_begin = False
        self._busy[host.health] -= host.busy
        self._busy[health] += host.busy
        host.health = health


def _host_share(free: int) -> int:
    """Returns how many may wait for one host while there is room for `free` more: no host takes all of the room."""
    return -(-free // WAITING_SHARE)

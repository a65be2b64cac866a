"""The queues of all hosts: which host may start an attempt, and how many deliveries wait or are claimed. Pure.

The next attempt goes to the host whose last attempt is the oldest, among the hosts that may start one.
`core/fairness.py` decides how many attempts and waiting deliveries a host may have.
"""

from collections import OrderedDict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from bridge.core.fairness import POOLS, SlotPolicy, waiting_share
from bridge.core.model import PendingDelivery
from bridge.core.receivers import ReceiverHealth, health_of

WAITING_IN_ALL = 2_000  # claimed deliveries in memory, at most 20 KB each: 40 MB; with usual payloads 1-2 MB
DURATION_WEIGHT = 0.2  # weight of the newest attempt in a host's average: a slow attempt has no effect after ten others
HOSTS_PER_CLAIM = 128
HOSTS_REMEMBERED = 10_000  # 300 bytes each; failing hosts are kept beyond this number


@dataclass(slots=True, eq=False)
class ClaimedDelivery:
    """A delivery that this replica has claimed. A new claim of the same delivery replaces `delivery` in this object.

    An attempt must start before `begins_before` (monotonic seconds), so that it ends and is recorded within the claim.
    `started_at` is when it started (Unix seconds). `due_again`: the delivery has become due again since then.
    """

    delivery: PendingDelivery
    begins_before: float
    started_at: float | None = None
    due_again: bool = False


@dataclass(slots=True, eq=False)
class HostQueue:
    """One receiver, by name and port, and the deliveries that wait for it.

    `pool` is the number of its health. `turn` is the number of its last attempt among the attempts of all hosts.
    `average_seconds` is the moving average of its attempts' durations, 0 before the first.
    """

    name: str
    failures: int = 0
    health: ReceiverHealth = ReceiverHealth.UNKNOWN
    pool: int = POOLS[ReceiverHealth.UNKNOWN]
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
        self._policy = SlotPolicy(concurrency, per_host)
        self._limits = self._policy.limits
        # Cached, because it is computed at each start and end of an attempt, with few different arguments. Without the
        # cache it took a tenth of an attempt.
        self._max_attempts = lru_cache(maxsize=4_096)(self._policy.max_attempts)
        self._busy = [0] * len(POOLS)  # taken slots, by the health of the hosts that have them
        self._hosts: dict[str, HostQueue] = {}
        self._ring: OrderedDict[str, HostQueue] = OrderedDict()  # hosts with waiting deliveries, the next in turn first
        self._turns = 0
        self.paused: frozenset[str] = frozenset()  # hosts that an operator paused: no deliveries are claimed or wait
        self._nothing_may_begin = False  # the last search found no delivery, and nothing has changed since then
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
        """Returns the host of that name and port. Adds it if it is new."""
        host = self._hosts.get(name)
        if host is None:
            host = self._hosts[name] = HostQueue(name)
        return host

    # --- slots ----------------------------------------------------------------------------------------------------

    def may_begin(self, host: HostQueue) -> bool:
        """Whether another attempt of this host may start now."""
        return host.name not in self.paused and host.busy < self._max_attempts(tuple(self._busy))[host.pool]

    def begin(self, host: HostQueue) -> None:
        """Takes a slot for the host."""
        self._turns += 1
        host.turn = self._turns
        host.busy += 1
        self._busy[host.pool] += 1

    def end(self, host: HostQueue, failures: int, seconds: float, *, answered: bool) -> None:
        """Frees the slot of an attempt that took `seconds`. `failures` is how many in a row failed, with this one."""
        host.busy -= 1
        self._busy[host.pool] -= 1
        host.average_seconds += (seconds - host.average_seconds) * (DURATION_WEIGHT if host.average_seconds else 1.0)
        self._set_failures(host, failures, answered=answered)

    def abandon(self, host: HostQueue) -> None:
        """Frees the slot of an attempt that was not made. It shows nothing about the host."""
        host.busy -= 1
        self._busy[host.pool] -= 1
        self._nothing_may_begin = False

    # --- waiting --------------------------------------------------------------------------------------------------

    def may_wait(self, host: HostQueue) -> bool:
        """Whether one more delivery may wait for this host."""
        if host.name in self.paused:
            return False
        return len(host.waiting) < min(self._max_waiting(host), waiting_share(WAITING_IN_ALL - self.ready))

    def put(self, host: HostQueue, claimed: ClaimedDelivery) -> None:
        """Adds a delivery at the end of its host's queue."""
        host.waiting.append(claimed)
        self._nothing_may_begin = False
        self._ring[host.name] = host
        self.ready += 1

    def next(self) -> tuple[HostQueue, ClaimedDelivery] | None:
        """Removes and returns the next delivery whose host may start an attempt. The host goes to the ring's end."""
        if self._nothing_may_begin:
            return None  # true for three of four calls: an attempt leads to several calls, for example at its record
        limits: list[int] | None = None
        for host in self._ring.values():
            if host.busy >= self._limits[host.pool]:
                continue  # the usual case, without computing the limits
            limits = limits or self._max_attempts(tuple(self._busy))
            if host.busy < limits[host.pool]:
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
        if host.health is ReceiverHealth.FAILING:
            return not host.waiting and self.may_begin(host)
        return len(host.waiting) * 2 <= self._max_waiting(host)

    def plan(self, due: Mapping[str, int]) -> dict[str, int]:
        """Returns how many due deliveries to claim for each host: as many as may start now, and as many as may wait.

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
            begin = max(0, self._max_attempts(tuple(busy))[host.pool] - host.busy - len(host.waiting))
            begin = min(begin, due[host.name])
            most = self._max_waiting(host) if begin or host.busy else min(1, self._max_waiting(host))
            wait = min(due[host.name] - begin, max(0, min(most, waiting_share(free)) - len(host.waiting)))
            if begin + wait:
                room[host.name] = begin + wait
                busy[host.pool] += begin
                free -= wait
        return room

    def forget_idle(self) -> None:
        """Limits the memory: forgets idle hosts without failures, those with the oldest attempts first."""
        if len(self._hosts) > HOSTS_REMEMBERED:
            idle = [host for host in self._hosts.values() if host.idle and not host.failures]
            for host in sorted(idle, key=lambda host: host.turn)[: len(self._hosts) - HOSTS_REMEMBERED // 2]:
                del self._hosts[host.name]

    def _max_waiting(self, host: HostQueue) -> int:
        return self._policy.max_waiting(host.health, host.average_seconds)

    def _set_failures(self, host: HostQueue, failures: int, *, answered: bool) -> None:
        """Sets the health of a host and moves its slots. A host that has answered once is never unknown again."""
        host.failures = failures
        known = answered or host.health is not ReceiverHealth.UNKNOWN
        health = health_of(failures, answered=True if known else None)
        self._nothing_may_begin = False
        if health is not host.health:
            host.health = health
            self._busy[host.pool] -= host.busy
            host.pool = POOLS[health]
            self._busy[host.pool] += host.busy

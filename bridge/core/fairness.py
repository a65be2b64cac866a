"""Fairness between receivers: how many attempts each may have at a time, and how many deliveries may wait for it.

Three rules keep a slow or dead receiver from delaying the callbacks of another:
1. A receiver has at most `per_host` attempts at a time, and one at a time while it is failing (a probe).
2. Receivers that are less likely to answer share only a part of the slots. Failing ones share half of them.
3. The fewer slots are free, the fewer a receiver may have. A receiver of unknown health may have one slot, and as many
   more as the number of free slots divided by the number of taken ones. Of 128 slots, a single new receiver has 8, and
   70 receivers that do not answer leave room for another. Healthy receivers may have more: 16 busy ones have 5 or more
   each, and one never has more than half.
"""

from collections.abc import Mapping

from bridge.core.receivers import ReceiverHealth

# How many claimed deliveries wait in memory.
WAITING_PER_HOST = 256  # at 4,000 a second this is one claim each 60 ms, not one for each delivery
WAITING_PER_NEW_HOST = 64  # a batch of settlements, and few enough if the host does not answer
WAITING_SHARE = 4  # a host's queue is at most a quarter of the room that is left
WAITING_SECONDS = 5.0  # a queue has what a host receives in this time: leases must not end before the attempts start

SHARES: Mapping[ReceiverHealth, float] = {
    ReceiverHealth.HEALTHY: 1.0,
    ReceiverHealth.UNKNOWN: 7 / 8,
    ReceiverHealth.DOUBTFUL: 3 / 4,
    ReceiverHealth.FAILING: 1 / 2,
}
"""The largest part of all slots that the receivers of this health and of every worse one have together."""

POOLS: Mapping[ReceiverHealth, int] = {health: number for number, health in enumerate(SHARES)}
"""The index of each health in lists with one entry for each health, best first."""


class SlotPolicy:
    """The rules for `concurrency` slots and at most `per_host` attempts to one receiver at a time, both at least 1."""

    __slots__ = ("_pools", "_reserve", "limits", "per_host")

    def __init__(self, concurrency: int, per_host: int) -> None:
        self.per_host = per_host
        self.limits = [attempts_at_a_time(health, per_host) for health in POOLS]
        # A healthy host's next attempt needs this many free slots for each slot that the host has: 8, with 128 slots in
        # all and 8 for each host.
        self._reserve = max(1, concurrency // (2 * per_host))
        self._pools = [max(1, int(concurrency * share)) for share in SHARES.values()]

    def max_attempts(self, busy: tuple[int, ...]) -> list[int]:
        """Returns, by health, how many attempts a receiver may have. `busy` are the taken slots by health."""
        taken = sum(busy)
        free = self._pools[0]
        most: list[int] = []
        for pool, busy_here, limit in zip(self._pools, busy, self.limits, strict=True):
            free = min(free, pool - taken)
            taken -= busy_here
            if free <= 0:
                most.append(0)
            elif not most:  # healthy hosts
                most.append(min(limit, (free - 1) // self._reserve + 1))
            else:
                most.append(min(limit, free // (pool - free) + 1) if pool > free else limit)
        return most

    def max_waiting(self, health: ReceiverHealth, average_seconds: float) -> int:
        """Returns how many deliveries may wait for a receiver: what it receives in five seconds, as far as is known.

        `average_seconds` is how long its attempts take.
        """
        match health:
            case ReceiverHealth.FAILING:
                return 0
            case ReceiverHealth.DOUBTFUL:
                return self.per_host
            case ReceiverHealth.UNKNOWN:
                return WAITING_PER_NEW_HOST
        received = self.per_host * WAITING_SECONDS / max(average_seconds, 0.001)
        return max(1, int(min(WAITING_PER_HOST, received)))


def attempts_at_a_time(health: ReceiverHealth, limit: int) -> int:
    """Returns how many attempts to one receiver may run at a time: `limit`, or 1 (a probe) while it is failing."""
    return 1 if health is ReceiverHealth.FAILING else limit


def waiting_share(free: int) -> int:
    """Returns how many deliveries may wait for one host while there is room for `free` more: a quarter of the room."""
    return -(-free // WAITING_SHARE)

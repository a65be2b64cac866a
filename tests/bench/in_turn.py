"""Measures several bridges in turn. So a processor or a disk that changes its speed meanwhile affects them all."""

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

from tests.bench.bridge_process import Bridge
from tests.bench.harness import Bench
from tests.bench.load import register
from tests.bench.processes import Child, Meter, Usage, machines_cpu
from tests.bench.upstream import counts_of


@contextmanager
def alone(bridge: Bridge, bridges: Iterable[Bridge]) -> Iterator[None]:
    """Halts the other bridges while the block runs."""
    with ExitStack() as halted:
        for other in bridges:
            if other is not bridge:
                halted.enter_context(other.halted())
        yield


class Registering:
    """Registrations of new tasks at one bridge by some connections, each of which waits for its answer.

    `polling` is the CPU seconds that reading tasks and the regular jobs took meanwhile. It is the number of tasks that
    were read, times the CPU of a read in a time without registrations (`wait`). `disturbance` is the share of a core
    that other programs took: they delay the callers and the stand-in, so the bridge waits.
    """

    def __init__(self, bridge: Bridge, amux: Child, connections: int) -> None:
        self.bridge = bridge
        self._amux = amux
        self._connections = connections
        self._quiet, self._quiet_reads = Usage(1.0, 0.0), 0
        self._reads = self._watches = 0
        self._wall = self._cpu = self._others = 0.0
        self._waits: list[float] = []

    def wait(self, seconds: float) -> None:
        """Measures what the bridge takes while nothing is registered."""
        meter, reads = self.bridge.meter(), counts_of(self._amux).reads
        time.sleep(seconds)
        self._quiet, self._quiet_reads = meter.read(), counts_of(self._amux).reads - reads

    def register(self, warm: float, seconds: float, run: str) -> None:
        """Registers for `warm` seconds without measuring, then for `seconds`, which are measured."""
        register(self.bridge.url, self._connections, warm, f"warm {run}")
        meter, reads = self.bridge.meter(), counts_of(self._amux).reads
        upstreams, machines = self._amux.meter(), Meter(machines_cpu)
        done = register(self.bridge.url, self._connections, seconds, run)
        used = meter.read()
        self._others += machines.read().cpu - used.cpu - upstreams.read().cpu - done.usage.cpu
        self._reads += counts_of(self._amux).reads - reads
        self._watches += done.watches
        self._wall += used.wall
        self._cpu += used.cpu
        self._waits = sorted([*self._waits, *done.waits])

    @property
    def polling(self) -> float:
        if self._quiet_reads:
            return self._quiet.cpu * self._reads / self._quiet_reads
        return self._quiet.share * self._wall

    @property
    def each(self) -> float:
        """The CPU microseconds of a registration, without the polling."""
        return (self._cpu - self.polling) / self._watches * 1e6

    @property
    def seconds_each(self) -> float:
        """The mean seconds from one registration to the next."""
        return self._wall / self._watches

    @property
    def disturbance(self) -> float:
        return max(self._others / self._wall, 0.0)

    @property
    def shares(self) -> str:
        """The reads, the share of the core that the polling took, and the share that all work took."""
        ours = f"{self.polling / self._wall:.0%} of a core, {self._cpu / self._wall:.0%} in all"
        return f"{self._reads / self._wall:,.0f} reads a second, {ours}; other programs {self.disturbance:.0%}"

    def __str__(self) -> str:
        last = len(self._waits) - 1
        waits = ", ".join(f"{name} {self._waits[int(share * last)] * 1000:.1f}" for name, share in _SHARES)
        return f"{1 / self.seconds_each:,.0f} a second, waits {waits} ms"


_SHARES = (("p50", 0.5), ("p99", 0.99), ("longest", 1.0))


def register_in_turns(bench: Bench, sides: Sequence[Registering]) -> None:
    """Registers at each bridge in turn, while the others are halted."""
    for turn in range(bench.pick(1, 2, 10)):
        for side in sides:
            with alone(side.bridge, [other.bridge for other in sides]):
                # A halted bridge is late, and reads more than usual until it is on time again.
                time.sleep(bench.pick(0.1, 1.0, 3.0))
                if turn == 0:
                    side.wait(bench.pick(0.2, 15.0, 15.0))
                side.register(bench.pick(0.2, 1.0, 2.0), bench.pick(0.5, 3.0, 4.0), f"turn {turn}")

"""A million watches in one process: the start, the memory, a whole round of polls, new registrations, and ends."""

import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack

from tests.bench.bridge_process import NEVER, Bridge, every
from tests.bench.harness import Bench, wait_until
from tests.bench.lag import SETTLEMENTS, Lag
from tests.bench.load import register
from tests.bench.processes import Child, Meter, Usage, machines_cpu
from tests.bench.receiver import start_receivers
from tests.bench.seeding import random_task_ids
from tests.bench.table import Row
from tests.bench.upstream import Ends, counts_of, upstream

MILLION = 1_000_000
MOST_BYTES = 1e9
MOST_START_SECONDS = 12.0
MOST_ROUND_SECONDS = 30.0
MOST_SLOWER = 1.3
ENDS_A_SECOND = 300
MOST_SECONDS_TO_STORE = 1.0
HOSTS = 16
CONNECTIONS = 8


def run(bench: Bench) -> Iterator[Row]:
    """Measures what a million watches cost, and how much they slow down a registration. Without `--full` fewer."""
    watches = bench.pick(2_000, 100_000, MILLION)
    with upstream(batch=True, watch_stalls=False) as amux, start_receivers(HOSTS) as receivers:
        database = bench.seeds.file(active=_tasks(watches, receivers.ready_message.urls()))
        copy = database.with_suffix(".unread")
        shutil.copyfile(database, copy)
        # The new watches are not polled during the run, so the same tasks are polled from its beginning to its end.
        settings = {"amux_base_url": str(amux.ready_message), "poll_first_delay_seconds": NEVER}
        with (
            Bridge(bench.folder, bench.seeds.file(), settings) as empty,
            Bridge(bench.folder, database, settings) as bridge,
        ):
            started = bridge.cpu() - empty.cpu()
            what = f"start with {watches:,}: load and spread, CPU seconds more than with none"
            target = MOST_START_SECONDS if watches == MILLION else None
            yield Row("million", what, f"{started:.2f} s", measured=started, target=target, unit=" s")
            wait_until(lambda: counts_of(amux).tasks >= watches, 600, "every task read once")
            yield from _round(bench, bridge, amux, watches)
            with Bridge(bench.folder, copy, {**settings, **every(float(NEVER)), "amux_batch": "off"}) as unread:
                sides = [Registering(one, amux) for one in (bridge, empty, unread)]
                _register_in_turns(bench, sides)
            yield from _registering(watches, *sides)
            for _ in range(bench.pick(1, 1, 3)):
                yield _ends(bench, bridge, amux, watches)


def _tasks(watches: int, urls: Sequence[str]) -> list[str]:
    return [f"{task} {urls[place % len(urls)]}" for place, task in enumerate(random_task_ids(watches))]


def _round(bench: Bench, bridge: Bridge, amux: Child, watches: int) -> Iterator[Row]:
    """Measures a round in which every task is read once: its time and its CPU. Yields the RSS too."""
    amux.ask("reset")
    meter, upstreams, began, reads = bridge.meter(), amux.meter(), time.monotonic(), counts_of(amux).reads
    wait_until(lambda: counts_of(amux).tasks >= watches, 600, "a whole round")
    took, used, reads = time.monotonic() - began, meter.read(), counts_of(amux).reads - reads
    bench.helper("million", amux, upstreams.read())
    cost = f"{used.cpu / reads * 1e6:.1f} µs of CPU a task, {used.share:.0%} of a core"
    what = f"{watches:,} watches: a whole round"
    yield Row("million", what, cost, measured=took, target=MOST_ROUND_SECONDS, unit=" s")
    rss = bridge.rss()
    cells = f"{watches:,} watches: RSS", f"{rss / watches:,.0f} bytes each"
    yield Row("million", *cells, measured=rss / 1e6, target=MOST_BYTES / 1e6, unit=" MB")


class Registering:
    """Registrations of new tasks at one bridge, with 8 connections, each of which waits for its answer.

    `polling` is the CPU seconds that reading tasks and the regular jobs took meanwhile. It is the number of tasks that
    were read, times the CPU of a read in a time without registrations (`wait`). `disturbance` is the share of a core
    that other programs took: they delay the callers and the stand-in, so the bridge waits.
    """

    def __init__(self, bridge: Bridge, amux: Child) -> None:
        self.bridge = bridge
        self._amux = amux
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
        register(self.bridge.url, CONNECTIONS, warm, f"warm {run}")
        meter, reads = self.bridge.meter(), counts_of(self._amux).reads
        upstreams, machines = self._amux.meter(), Meter(machines_cpu)
        done = register(self.bridge.url, CONNECTIONS, seconds, run)
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
        """The share of the core that the polling took, and the share that all work took."""
        ours = f"{self.polling / self._wall:.0%} of a core, {self._cpu / self._wall:.0%} in all"
        return f"{ours}; other programs {self.disturbance:.0%}"

    def __str__(self) -> str:
        last = len(self._waits) - 1
        waits = ", ".join(f"{name} {self._waits[int(share * last)] * 1000:.1f}" for name, share in _SHARES)
        return f"{1 / self.seconds_each:,.0f} a second, waits {waits} ms"


_SHARES = (("p50", 0.5), ("p99", 0.99), ("longest", 1.0))


def _register_in_turns(bench: Bench, sides: Sequence[Registering]) -> None:
    """Registers at each bridge in turn, while the others are halted. So a disk that becomes slower affects them all."""
    for turn in range(bench.pick(1, 2, 5)):
        for side in sides:
            with ExitStack() as halted:
                for other in sides:
                    if other is not side:
                        halted.enter_context(other.bridge.halted())
                if turn == 0:
                    time.sleep(bench.pick(0.1, 1.0, 3.0))  # until the reads that were late are done
                    side.wait(bench.pick(0.2, 15.0, 15.0))
                side.register(bench.pick(0.2, 1.0, 2.0), bench.pick(0.5, 3.0, 4.0), f"turn {turn}")


def _registering(watches: int, beside: Registering, empty: Registering, unread: Registering) -> Iterator[Row]:
    what = f"registering beside {watches:,} watches, compared with none"
    many, less = (f"{one.each:.0f} µs" for one in (beside, empty))
    yield Row("million", f"{what}: CPU without the polling", many, less, beside.each / empty.each, MOST_SLOWER)
    yield _by_the_wall_clock(what, beside, empty, MOST_SLOWER)
    yield _by_the_wall_clock(f"{what}, of which the reads", beside, unread)
    yield _by_the_wall_clock(f"{what}, of which the larger file", unread, empty)
    yield Row("million", f"{what}: the polling and the regular jobs meanwhile", beside.shares, empty.shares)


def _by_the_wall_clock(what: str, one: Registering, other: Registering, target: float | None = None) -> Row:
    ratio = one.seconds_each / other.seconds_each
    return Row("million", f"{what}: by the wall clock, one core", str(one), str(other), ratio, target)


def _ends(bench: Bench, bridge: Bridge, amux: Child, watches: int) -> Row:
    """Measures the time from amux's answer with an end to the stored event, by the bridge's own metric."""
    rate = bench.pick(20, 100, ENDS_A_SECOND)
    amux.ask(Ends(rate))
    time.sleep(bench.pick(0.5, 5.0, 10.0))
    before, meter = Lag.read(bridge, SETTLEMENTS), bridge.meter()
    time.sleep(bench.pick(1.0, 10.0, 60.0))
    used, ends = meter.read(), Lag.read(bridge, SETTLEMENTS).since(before)
    amux.ask(Ends(0.0))
    middle, late = (ends.interpolated(share) for share in (0.5, 0.99))
    what = f"{watches:,} watches, {ends.count / used.wall:.0f} ends a second: from the answer to the stored event, p99"
    cell = f"p50 {middle:.2g} s, {used.share:.0%} of a core"
    return Row("million", what, cell, measured=late, target=MOST_SECONDS_TO_STORE, unit=" s")

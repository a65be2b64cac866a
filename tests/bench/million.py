"""A million watches in one process: the start, the memory, a whole round, registering beside them, and ends."""

import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from tests.bench.bridge_process import NEVER, Bridge, every
from tests.bench.harness import Bench, wait_until
from tests.bench.lag import SETTLEMENTS, Lag
from tests.bench.load import Registered, register
from tests.bench.processes import Child, Usage
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
    """With `--full` a million watches, else fewer: what they take, and what they add to a registration."""
    watches = bench.pick(2_000, 100_000, MILLION)
    with upstream(batch=True, watch_stalls=False) as amux, start_receivers(HOSTS) as receivers:
        # The new watches are not polled during the run: what is polled is the same from its beginning to its end.
        settings = {"amux_base_url": str(amux.ready_message), "poll_first_delay_seconds": NEVER}
        with Bridge(bench.folder, bench.seeds.file(), settings) as bridge:
            start, alone = bridge.cpu(), Registering.measure(bench, bridge, amux, "alone")
        amux.ask("reset")
        database = bench.seeds.file(active=_tasks(watches, receivers.ready_message.urls()))
        unread = _unread(bench, database, amux, settings)
        amux.ask("reset")
        with Bridge(bench.folder, database, settings) as bridge:
            started = bridge.cpu() - start
            what = f"start with {watches:,}: load and spread, CPU seconds more than with none"
            target = MOST_START_SECONDS if watches == MILLION else None
            yield Row("million", what, f"{started:.2f} s", measured=started, target=target, unit=" s")
            wait_until(lambda: counts_of(amux).tasks >= watches, 600, "every task read once")
            yield from _round(bench, bridge, amux, watches)
            yield from _registering(watches, Registering.measure(bench, bridge, amux, "beside"), alone, unread)
            for _ in range(bench.pick(1, 1, 3)):
                yield _ends(bench, bridge, amux, watches)


def _tasks(watches: int, urls: Sequence[str]) -> list[str]:
    return [f"{task} {urls[place % len(urls)]}" for place, task in enumerate(random_task_ids(watches))]


def _round(bench: Bench, bridge: Bridge, amux: Child, watches: int) -> Iterator[Row]:
    """A whole round of recorded tasks: how long it takes, and its CPU. The rows have the RSS too."""
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


@dataclass(frozen=True)
class Registering:
    """Registrations of new tasks for some seconds, with 8 connections, each of which waits for its answer.

    `usage` is the bridge's, with all its threads. `polling` is the part of its CPU seconds that reading the watches
    and the regular jobs took: the tasks that were read meanwhile, at the cost of a task in the 15 s before, in which
    nothing was registered and every regular job ran once.
    """

    done: Registered
    usage: Usage
    polling: float

    @classmethod
    def measure(cls, bench: Bench, bridge: Bridge, amux: Child, run: str) -> Self:
        register(bridge.url, CONNECTIONS, bench.pick(0.2, 1.0, 3.0), f"warm {run}")
        meter, reads = bridge.meter(), counts_of(amux).reads
        time.sleep(bench.pick(0.2, 15.0, 15.0))
        quiet, quiet_reads = meter.read(), counts_of(amux).reads - reads
        meter, reads = bridge.meter(), counts_of(amux).reads
        done = register(bridge.url, CONNECTIONS, bench.pick(0.5, 5.0, 15.0), run)
        usage, reads = meter.read(), counts_of(amux).reads - reads
        polling = quiet.cpu * reads / quiet_reads if quiet_reads else quiet.share * usage.wall
        return cls(done, usage, polling)

    @property
    def each(self) -> float:
        """The CPU microseconds of a registration, without the polling."""
        return (self.usage.cpu - self.polling) / self.done.watches * 1e6

    @property
    def seconds_each(self) -> float:
        """From one registration to the next."""
        return self.usage.wall / self.done.watches

    def __str__(self) -> str:
        waits = ", ".join(f"{name} {self.done.wait(share) * 1000:.1f}" for name, share in _SHARES)
        return f"{1 / self.seconds_each:,.0f} a second, waits {waits} ms"


_SHARES = (("p50", 0.5), ("p99", 0.99), ("longest", 1.0))


def _unread(bench: Bench, database: Path, amux: Child, settings: Mapping[str, str]) -> Registering:
    """Measures a bridge with the same watches that does not read them: what the size of the file costs alone."""
    copy = database.with_suffix(".unread")
    shutil.copyfile(database, copy)
    with Bridge(bench.folder, copy, {**settings, **every(float(NEVER)), "amux_batch": "off"}) as bridge:
        return Registering.measure(bench, bridge, amux, "unread")


def _registering(watches: int, beside: Registering, alone: Registering, unread: Registering) -> Iterator[Row]:
    what = f"registering beside {watches:,} watches, compared with none"
    many, less = (f"{one.each:.0f} µs" for one in (beside, alone))
    yield Row("million", f"{what}: CPU without the polling", many, less, beside.each / alone.each, MOST_SLOWER)
    yield _by_the_wall_clock(what, beside, alone, MOST_SLOWER)
    yield _by_the_wall_clock(f"{what}, of which the reads", beside, unread)
    yield _by_the_wall_clock(f"{what}, of which the larger file", unread, alone)
    many, less = (
        f"{one.polling / one.usage.wall:.0%} of a core, {one.usage.share:.0%} in all" for one in (beside, alone)
    )
    yield Row("million", f"{what}: the polling and the regular jobs meanwhile", many, less)


def _by_the_wall_clock(what: str, one: Registering, other: Registering, target: float | None = None) -> Row:
    ratio = one.seconds_each / other.seconds_each
    return Row("million", f"{what}: by the wall clock, one core", str(one), str(other), ratio, target)


def _ends(bench: Bench, bridge: Bridge, amux: Child, watches: int) -> Row:
    """How long an end takes from the answer to the stored event, at a rate of ends, by the bridge's own metric."""
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

"""Both lanes side by side: what a watch costs in each, for us and for amux, and how late its end is seen.

The single lane is the same bridge with `AMUX_BATCH=off`. A lane that does not keep up has longer delays.
"""

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from math import inf
from statistics import fmean

from tests.bench.bridge_process import Bridge
from tests.bench.harness import Bench, wait_until
from tests.bench.load import register
from tests.bench.processes import Child
from tests.bench.receiver import start_receivers
from tests.bench.table import Row
from tests.bench.upstream import Ends, counts_of, upstream

FEWER_REQUESTS = 1 / 8
MILLION = 1_000_000
MOST_BYTES = 1e9
MOST_START_SECONDS = 12.0
MOST_ROUND_SECONDS = 30.0
MOST_SLOWER = 1.3
ENDS_A_SECOND = 300
MOST_SECONDS_TO_STORE = 1.0
HOSTS = 16


@dataclass(frozen=True)
class Costs:
    """Of one watch in a minute: requests, bytes of answers, CPU milliseconds of the bridge and of the stand-in.

    `delay` is the mean time in seconds from a task's end to the poll that saw it, `late` how many ends no poll saw.
    """

    requests: float
    received: float
    ours: float
    upstreams: float
    delay: float
    late: int


def run(bench: Bench) -> Iterator[Row]:
    """100 to 100,000 watches in both lanes, with `--full` a million, and then what a million takes."""
    counts = bench.pick([20], [100, 10_000, 100_000], [100, 10_000, 100_000, MILLION])
    with upstream(batch=True, watch_stalls=False) as amux:
        for watches in counts:
            batch, single = (_costs(bench, amux, watches, lane) for lane in ("auto", "off"))
            yield from _compared(f"{watches:,} watches", batch, single)
        if bench.size:
            yield from _many(bench, amux, counts[-1])


def _compared(name: str, batch: Costs, single: Costs) -> Iterator[Row]:
    def row(what: str, unit: str, of_batch: float, of_single: float, target: float | None = None) -> Row:
        ratio = of_batch / of_single if of_single else 0.0
        cells = f"{of_batch:.3g} {unit}", f"{of_single:.3g} {unit} (single)"
        return Row("batch", f"{name}: {what}", *cells, measured=ratio, target=target)

    yield row("requests a watch and minute", "", batch.requests, single.requests, FEWER_REQUESTS)
    yield row("answers a watch and minute", "B", batch.received, single.received)
    yield row("CPU of the bridge a watch and minute", "ms", batch.ours, single.ours)
    yield row(
        "CPU of the stand-in a watch and minute",
        "ms",
        batch.upstreams,
        single.upstreams,
        1.0 if single.requests else None,
    )
    yield row("from a task's end to its poll, mean", "s", batch.delay, single.delay, 1.0)
    yield Row("batch", f"{name}: ends not seen 30 s later", f"{batch.late}", f"{single.late} (single)")


def _costs(bench: Bench, amux: Child, watches: int, lane: str) -> Costs:
    """Measures one lane: first warm, then for a while in which some tasks end."""
    warm, seconds = bench.pick((2.0, 2.0), (15.0, 20.0), (20.0, 60.0))
    ends = min(watches // 2, 200)
    ready = time.time() + warm + watches / 50_000 + 15.0  # the start of a million takes some seconds
    names = [f"task_{number}-{int((ready + seconds * number / ends) * 1000)}" for number in range(ends)]
    names += [f"task_{number}" for number in range(ends, watches)]
    database = bench.seeds.file(active=names)
    amux.ask("reset")
    with Bridge(bench.folder, database, {"amux_base_url": str(amux.ready_message), "amux_batch": lane}) as bridge:
        time.sleep(max(ready - time.time(), 0.0))
        meter, upstreams, before = bridge.meter(), amux.meter(), counts_of(amux)
        time.sleep(seconds)
        ours, theirs, after = meter.read(), upstreams.read(), counts_of(amux)
        _wait_for_ends(amux, ends)
        delays = counts_of(amux, "delays").delays
    bench.helper("batch", amux, theirs)
    bench.log(f"batch: {watches:,} watches, {lane}: {after.reads - before.reads:,} reads in {ours.wall:.0f} s")
    each = 60.0 / ours.wall / watches
    requests, sent = after.requests - before.requests, after.sent - before.sent
    cpu = (ours.cpu * 1000 * each, theirs.cpu * 1000 * each)
    return Costs(requests * each, sent * each, *cpu, fmean(delays) if delays else 0.0, ends - len(delays))


def _wait_for_ends(amux: Child, ends: int) -> None:
    until = time.monotonic() + 30.0
    while time.monotonic() < until and len(counts_of(amux, "delays").delays) < ends:
        time.sleep(0.2)


def _many(bench: Bench, amux: Child, watches: int) -> Iterator[Row]:
    """Very many watches: the start, the memory, a whole round, registering beside them, and ends."""
    few = 1_000
    settings = {"amux_base_url": str(amux.ready_message)}
    with Bridge(bench.folder, bench.seeds.file(active=[f"few_{n}" for n in range(few)]), settings) as bridge:
        start, alone = bridge.cpu(), _registrations(bench, bridge, "alone")
    amux.ask("reset")
    with start_receivers(HOSTS) as receivers:
        urls = receivers.ready_message.urls()
        database = bench.seeds.file(active=[f"task_{n:032d} {urls[n % HOSTS]}" for n in range(watches)])
        with Bridge(bench.folder, database, settings) as bridge:
            started = bridge.cpu() - start
            what = f"start with {watches:,}: load and spread, CPU seconds more than with {few:,}"
            target = MOST_START_SECONDS if watches == MILLION else None
            yield Row("batch", what, f"{started:.2f} s", measured=started, target=target, unit=" s")
            wait_until(lambda: counts_of(amux).tasks >= watches, 600, "every task read once")
            yield from _round(bench, bridge, amux, watches)
            beside = _registrations(bench, bridge, "beside")
            yield from _registering(watches, few, beside, alone)
            yield _ends(bench, bridge, amux, watches)


def _round(bench: Bench, bridge: Bridge, amux: Child, watches: int) -> Iterator[Row]:
    """A whole round of recorded tasks: how long it takes, and its CPU. The rows have the RSS too."""
    amux.ask("reset")
    meter, upstreams, began, reads = bridge.meter(), amux.meter(), time.monotonic(), counts_of(amux).reads
    wait_until(lambda: counts_of(amux).tasks >= watches, 600, "a whole round")
    took, used, reads = time.monotonic() - began, meter.read(), counts_of(amux).reads - reads
    bench.helper("batch", amux, upstreams.read())
    cost = f"{used.cpu / reads * 1e6:.1f} µs of CPU a task, {used.share:.0%} of a core"
    what = f"{watches:,} watches: a whole round"
    yield Row("batch", what, cost, measured=took, target=MOST_ROUND_SECONDS, unit=" s")
    rss = bridge.rss()
    cells = f"{watches:,} watches: RSS", f"{rss / watches:,.0f} bytes each"
    yield Row("batch", *cells, measured=rss / 1e6, target=MOST_BYTES / 1e6, unit=" MB")


@dataclass(frozen=True)
class Registering:
    """What a registration took, with 8 connections, in microseconds.

    `wall`: from one to the next. `cpu`: the CPU of the bridge for it. `left`: the share of a core that polls leave.
    """

    wall: float
    cpu: float
    left: float
    longest: float

    @property
    def on_a_core(self) -> float:
        return self.cpu / self.left


def _registrations(bench: Bench, bridge: Bridge, run: str) -> Registering:
    register(bridge.url, 8, bench.pick(0.2, 1.0, 3.0), f"warm{run}")
    meter = bridge.meter()
    time.sleep(bench.pick(0.2, 3.0, 10.0))
    polls = meter.read().share
    meter = bridge.meter()
    done = register(bridge.url, 8, bench.pick(0.5, 4.0, 10.0), run)
    used = meter.read()
    each = 1e6 / done.watches
    return Registering(done.usage.wall * each, (used.cpu - polls * used.wall) * each, 1.0 - polls, done.longest)


def _registering(watches: int, few: int, beside: Registering, alone: Registering) -> Iterator[Row]:
    what = f"registering beside {watches:,} watches, compared with {few:,}"
    many, less = (f"{one.wall:.0f} µs, longest {one.longest * 1000:.0f} ms" for one in (beside, alone))
    yield Row("batch", f"{what}: by the wall clock, 8 connections", many, less, beside.wall / alone.wall)
    many, less = (f"{one.cpu:.0f} µs of CPU, {one.left:.0%} of a core left" for one in (beside, alone))
    ratio = beside.on_a_core / alone.on_a_core
    yield Row("batch", f"{what}: by CPU, on a core of its own", many, less, ratio, MOST_SLOWER)


def _ends(bench: Bench, bridge: Bridge, amux: Child, watches: int) -> Row:
    """How long an end takes from the answer to the stored event, at a rate of ends, by the bridge's own metric."""
    rate = bench.pick(20, 100, ENDS_A_SECOND)
    amux.ask(Ends(rate))
    time.sleep(bench.pick(0.5, 5.0, 10.0))
    before, meter = bridge.metrics(), bridge.meter()
    time.sleep(bench.pick(1.0, 10.0, 60.0))
    used, after = meter.read(), bridge.metrics()
    amux.ask(Ends(0.0))
    counts = _settled(after, before)
    ends = counts[-1][1]
    middle, late = (_quantile(counts, share) for share in (0.5, 0.99))
    what = f"{watches:,} watches, {ends / used.wall:.0f} ends a second: from the answer to the stored event, p99"
    cell = f"p50 {middle:.2g} s, {used.share:.0%} of a core"
    return Row("batch", what, cell, measured=late, target=MOST_SECONDS_TO_STORE, unit=" s")


def _settled(after: dict[str, float], before: dict[str, float]) -> list[tuple[float, float]]:
    """The buckets of the stage "settled": the upper bound, and how many ends were at most as long."""
    found = (re.fullmatch(r'amux_bridge_stage_seconds_bucket\{le="(.+)",stage="settled"\}', name) for name in after)
    return sorted((float(one[1]), after[one[0]] - before[one[0]]) for one in found if one)


def _quantile(buckets: list[tuple[float, float]], share: float) -> float:
    """Returns a quantile, by the line through the bucket's bounds."""
    wanted, lower, below = share * buckets[-1][1], 0.0, 0.0
    for upper, count in buckets:
        if count >= wanted and count > below:
            return lower if upper == inf else lower + (upper - lower) * (wanted - below) / (count - below)
        lower, below = upper, count
    return 0.0

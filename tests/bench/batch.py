"""Both lanes side by side: what a watch costs in each, for us and for amux, and how late its end is seen.

The single lane is the same bridge with `AMUX_BATCH=off`. A lane that does not keep up has longer delays.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import fmean

from tests.bench.bridge_process import Bridge
from tests.bench.harness import Bench, wait_until
from tests.bench.load import register
from tests.bench.processes import Child
from tests.bench.table import Row
from tests.bench.upstream import counts_of, upstream

FEWER_REQUESTS = 1 / 8
MILLION = 1_000_000
MOST_BYTES = 1e9
MOST_START_SECONDS = 12.0
MOST_ROUND_SECONDS = 30.0
MOST_SLOWER = 1.3


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
    with upstream(batch=True) as amux:
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
    yield row("CPU of the stand-in a watch and minute", "ms", batch.upstreams, single.upstreams)
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
    """The start, the memory and a whole round of very many watches, and registering beside them."""
    few = 1_000
    settings = {"amux_base_url": str(amux.ready_message)}
    with Bridge(bench.folder, bench.seeds.file(active=[f"few_{n}" for n in range(few)]), settings) as bridge:
        start, alone = bridge.cpu(), _registrations(bench, bridge, "alone")
    amux.ask("reset")
    with Bridge(bench.folder, bench.seeds.file(active=[f"task_{n:032d}" for n in range(watches)]), settings) as bridge:
        started = bridge.cpu() - start
        what = f"start with {watches:,}: load and spread, CPU seconds more than with {few:,}"
        target = MOST_START_SECONDS if watches == MILLION else None
        yield Row("batch", what, f"{started:.2f} s", measured=started, target=target, unit=" s")
        wait_until(lambda: counts_of(amux).tasks >= watches, 300, "every task read once")
        amux.ask("reset")
        began = time.monotonic()
        wait_until(lambda: counts_of(amux).tasks >= watches, 300, "a whole round")
        took = time.monotonic() - began
        what = f"{watches:,} watches: a whole round"
        yield Row("batch", what, f"{took:.1f} s", measured=took, target=MOST_ROUND_SECONDS, unit=" s")
        rss = bridge.rss()
        what = f"{watches:,} watches: RSS"
        yield Row(
            "batch", what, f"{rss / watches:,.0f} bytes each", measured=rss / 1e6, target=MOST_BYTES / 1e6, unit=" MB"
        )
        beside = _registrations(bench, bridge, "beside")
        what = f"registering one by one beside {watches:,} watches: CPU and waits, compared with {few:,}"
        yield Row("batch", what, f"{beside:.0f} µs", f"{alone:.0f} µs", beside / alone, MOST_SLOWER)


def _registrations(bench: Bench, bridge: Bridge, run: str) -> float:
    """Returns the microseconds from one registration to the next, with 8 connections."""
    done = register(bridge.url, 8, bench.pick(0.5, 4.0, 10.0), run)
    return done.usage.wall / done.watches * 1e6

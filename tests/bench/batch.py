"""Compares the two lanes: what a watch costs in each, for the bridge and for amux, and how late its end is seen.

The single lane is the same bridge with `AMUX_BATCH=off`. A lane that does not keep up sees ends late, and some not
within the 30 s after the measurement. So each delay counts as at most 30 s, and an unseen end counts as 30 s. Without
the unseen ends the mean of such a lane would be too small.
"""

import time
from collections.abc import Iterator
from statistics import fmean

from tests.bench.bridge_process import Bridge
from tests.bench.harness import Bench
from tests.bench.lanes_picture import Costs, Sides, lanes_picture, lanes_table
from tests.bench.processes import Child
from tests.bench.table import Row
from tests.bench.upstream import counts_of, upstream

FEWER_REQUESTS = 1 / 8
WAITED_SECONDS = 30.0


def run(bench: Bench) -> Iterator[Row]:
    """Measures 100 to 100,000 watches in both lanes, with `--full` also a million. Writes a table and a picture too."""
    counts = bench.pick([20], [100, 10_000, 100_000], [100, 10_000, 100_000, 1_000_000])
    sides: list[Sides] = []
    with upstream(batch=True, watch_stalls=False) as amux:
        for watches in counts:
            batch, single = (_costs(bench, amux, watches, lane) for lane in ("auto", "off"))
            sides.append(Sides(watches, batch, single))
            yield from _compared(f"{watches:,} watches", batch, single)
            if bench.pictures is not None:
                (bench.pictures / "lanes.md").write_text(lanes_table(sides))
                (bench.pictures / "lanes.svg").write_text(lanes_picture(sides))


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
    yield row("from a task's end to its poll, at most 30 s, mean", "s", batch.delay, single.delay, 1.0)
    yield Row("batch", f"{name}: ends not seen 30 s later", f"{batch.late}", f"{single.late} (single)")


def _costs(bench: Bench, amux: Child, watches: int, lane: str) -> Costs:
    """Measures one lane, after a warm-up, for a while in which some tasks end."""
    warm, seconds = bench.pick((2.0, 2.0), (15.0, 20.0), (15.0, 40.0))
    ends = min(watches // 2, 200)
    ready = time.time() + warm + watches / 50_000 + 15.0  # the start of a million takes some seconds
    names = _names(watches, ends, ready, seconds)
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
    late = ends - len(delays)
    counted = [min(delay, WAITED_SECONDS) for delay in delays] + [WAITED_SECONDS] * late
    return Costs(requests * each, sent * each, *cpu, fmean(counted), late)


def _names(watches: int, ends: int, ready: float, seconds: float) -> list[str]:
    """Returns ids of tasks. `ends` of the tasks end one after another within `seconds` from `ready`.

    They are spread evenly over the list. A batch reads neighbours, so one batch would see all ends that are neighbours.
    """
    names = [f"task_{number}" for number in range(watches)]
    for number in range(ends):
        # The order is mixed: a round of batches goes through the list in order. 7,919 is a prime number.
        place = number * 7_919 % ends * (watches // ends)
        names[place] += f"-{int((ready + seconds * number / ends) * 1000)}"
    return names


def _wait_for_ends(amux: Child, ends: int) -> None:
    until = time.monotonic() + WAITED_SECONDS
    while time.monotonic() < until and len(counts_of(amux, "delays").delays) < ends:
        time.sleep(0.2)

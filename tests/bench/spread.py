"""Polls are spread: no bursts after a restart, and the limits on rate and concurrency, as amux sees them."""

import time
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from math import floor

from tests.bench.bridge_process import Bridge, every
from tests.bench.harness import Bench
from tests.bench.processes import Child
from tests.bench.table import Row
from tests.bench.upstream import Counts, counts_of, upstream

MOST_PEAK = 2.0
BINS = 60  # equal parts of the measured time: with the default times each is one second


def run(bench: Bench) -> Iterator[Row]:
    """Measures a restart while polls go on, then more due polls than the rate and the concurrency allow."""
    yield from _restart(bench)
    yield from _rate(bench)
    yield from _concurrency(bench)


def _restart(bench: Bench) -> Iterator[Row]:
    """Uses the default times, or all of them shortened by one factor, and restarts the bridge."""
    scale = bench.pick(0.05, 0.4, 1.0)
    watches = bench.pick(200, 1_500, 20_000)
    settings = {
        "poll_first_delay_seconds": str(5 * scale),
        "poll_interval_seconds": str(5 * scale),
        "poll_max_interval_seconds": str(15 * scale),
    }
    database = bench.seeds.file(active=[f"task_{number}" for number in range(watches)])
    with upstream() as amux:
        settings["amux_base_url"] = str(amux.ready_message)
        with Bridge(bench.folder, database, settings):
            time.sleep(20 * scale)
        amux.ask("reset")
        began = time.monotonic()
        with Bridge(bench.folder, database, settings) as bridge:
            began += bridge.started_in
            time.sleep(60 * scale)
            seen = counts_of(amux, "arrivals")
    bins = [0] * BINS
    for at in seen.arrivals:
        if 0 <= (number := floor((at - began) / scale)) < BINS:
            bins[number] += 1
    mean = sum(bins) / BINS
    what = f"{60 * scale:g} s after a restart, {watches:,} watches: busiest of 60 parts compared with their mean"
    cell = f"{max(bins)} polls"
    yield Row("spread", what, cell, f"{mean:.0f} (mean)", max(bins) / mean, MOST_PEAK)


def _rate(bench: Bench) -> Iterator[Row]:
    """Counts the polls of the busiest second, wherever it begins, when more polls are due than the rate allows."""
    limit, seconds = bench.pick(20, 50, 200), bench.pick(3.0, 8.0, 60.0)
    with upstream() as amux:
        seen = _observe(bench, amux, {"poll_rate_per_second": str(limit), **every(0.1)}, limit * 2, seconds)
    # The upstream records requests late, and closer together, if its loop was blocked when they arrived.
    window = 1.0 - min(seen.stall, 0.5)
    most = busiest(seen.arrivals, window)
    what = f"BRIDGE_POLL_RATE_PER_SECOND={limit}: busiest {window:.2f} s"
    yield Row("spread", what, f"{most} polls", measured=float(most), target=float(limit))
    reached = len(seen.arrivals) / seconds
    yield Row(
        "spread", "the same: the share of the rate that is used", f"{reached:.1f}/s", f"{limit}/s", reached / limit
    )


def _concurrency(bench: Bench) -> Iterator[Row]:
    """Counts the most polls at a time, when more polls are due than the concurrency allows."""
    limit = bench.pick(4, 16, 256)
    with upstream(delay=0.1) as amux:
        seconds = bench.pick(1.0, 4.0, 20.0)
        seen = _observe(bench, amux, {"poll_concurrency": str(limit), **every(0.05)}, limit * 4, seconds)
    most = seen.most_at_a_time
    what = f"BRIDGE_POLL_CONCURRENCY={limit}: most at a time"
    yield Row("spread", what, f"{most} polls", measured=float(most), target=float(limit))


def _observe(bench: Bench, amux: Child, settings: dict[str, str], watches: int, seconds: float) -> Counts:
    database = bench.seeds.file(active=[f"task_{number}" for number in range(watches)])
    with Bridge(bench.folder, database, {"amux_base_url": str(amux.ready_message), **settings}):
        amux.ask("reset")
        time.sleep(seconds)
        return counts_of(amux, "arrivals")


def busiest(moments: Sequence[float], seconds: float) -> int:
    """Returns how many moments lie in the busiest span of `seconds`, wherever it begins."""
    return max((bisect_right(moments, at + seconds) - first for first, at in enumerate(moments)), default=0)

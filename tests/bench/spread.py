"""Spreading: no bursts after a restart, and the two limits on polls, as amux sees them."""

import time
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from math import floor

from tests.bench.processes import Child
from tests.bench.stage import Stage
from tests.bench.subject import Bridge, every
from tests.bench.table import Row
from tests.bench.upstream import Counted, counted, upstream

MOST_PEAK = 2.0
BINS = 60  # of the trace: a minute's seconds with the default times, a shorter one's parts with shorter times


def run(stage: Stage) -> Iterator[Row]:
    """A restart in the middle of it all; then a rate and a concurrency that would be passed if they could."""
    yield from _restart(stage)
    yield from _rate(stage)
    yield from _concurrency(stage)


def _restart(stage: Stage) -> Iterator[Row]:
    """The default times, or all of them shorter by one factor; registered in one go, then started anew."""
    scale = stage.pick(0.05, 0.4, 1.0)
    watches = stage.pick(200, 1_500, 20_000)
    settings = {
        "poll_first_delay_seconds": str(5 * scale),
        "poll_interval_seconds": str(5 * scale),
        "poll_max_interval_seconds": str(15 * scale),
    }
    database = stage.seeds.file(active=[f"task_{number}" for number in range(watches)])
    with upstream() as amux:
        settings["amux_base_url"] = str(amux.greeting)
        with Bridge(stage.folder, database, settings):
            time.sleep(20 * scale)
        amux.ask("forget")
        began = time.monotonic()
        with Bridge(stage.folder, database, settings) as bridge:
            began += bridge.started_in
            time.sleep(60 * scale)
            seen = counted(amux, "arrivals")
    bins = [0] * BINS
    for at in seen.arrivals:
        if 0 <= (number := floor((at - began) / scale)) < BINS:
            bins[number] += 1
    mean = sum(bins) / BINS
    what = f"{60 * scale:g} s after a restart, {watches:,} watches: busiest of 60 parts beside their mean"
    told = f"{max(bins)} polls"
    yield Row("spread", what, told, f"{mean:.0f} (mean)", max(bins) / mean, MOST_PEAK)


def _rate(stage: Stage) -> Iterator[Row]:
    """More is due than may be asked: the busiest second, wherever it begins."""
    limit, seconds = stage.pick(20, 50, 200), stage.pick(3.0, 8.0, 60.0)
    with upstream() as amux:
        seen = _seen(stage, amux, {"poll_rate_per_second": str(limit), **every(0.1)}, limit * 2, seconds)
    # What comes while the stand-in does not look seems to come later than it did, and closer together.
    sure = 1.0 - min(seen.stall, 0.5)
    most = busiest(seen.arrivals, sure)
    what = f"BRIDGE_POLL_RATE_PER_SECOND={limit}: busiest {sure:.2f} s"
    yield Row("spread", what, f"{most} polls", measured=float(most), target=float(limit))
    reached = len(seen.arrivals) / seconds
    yield Row("spread", "the same: how much of it is used", f"{reached:.1f}/s", f"{limit}/s", reached / limit)


def _concurrency(stage: Stage) -> Iterator[Row]:
    """More is due than may be under way."""
    limit = stage.pick(4, 16, 256)
    with upstream(delay=0.1) as amux:
        seconds = stage.pick(1.0, 4.0, 20.0)
        seen = _seen(stage, amux, {"poll_concurrency": str(limit), **every(0.05)}, limit * 4, seconds)
    most = seen.most_at_a_time
    what = f"BRIDGE_POLL_CONCURRENCY={limit}: most at a time"
    yield Row("spread", what, f"{most} polls", measured=float(most), target=float(limit))


def _seen(stage: Stage, amux: Child, settings: dict[str, str], watches: int, seconds: float) -> Counted:
    database = stage.seeds.file(active=[f"task_{number}" for number in range(watches)])
    with Bridge(stage.folder, database, {"amux_base_url": str(amux.greeting), **settings}):
        amux.ask("forget")
        time.sleep(seconds)
        return counted(amux, "arrivals")


def busiest(moments: Sequence[float], seconds: float) -> int:
    """How many fall into the busiest span of so many seconds, wherever it begins."""
    return max((bisect_right(moments, at + seconds) - first for first, at in enumerate(moments)), default=0)

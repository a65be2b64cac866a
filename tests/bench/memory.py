"""Memory: the bytes of each further active watch, loaded or registered. Also the time of a start with many watches."""

from collections.abc import Iterator

from tests.bench.bridge_process import POLLS_NOTHING, Bridge, every
from tests.bench.harness import Bench, wait_until
from tests.bench.load import register
from tests.bench.table import Row
from tests.bench.upstream import counts_of, upstream

MOST_BYTES = 1_200.0
MOST_SECONDS = 3.0
FEW = 1_000


def run(bench: Bench) -> Iterator[Row]:
    """Starts with few watches and with many, then registers more."""
    many = bench.pick(2_000, 100_000, 100_000)
    with upstream() as amux:
        settings = {"amux_base_url": str(amux.ready_message), **every(60.0)}
        small = _started(bench, FEW, settings, 0)
        large = _started(bench, FEW + many, settings, bench.pick(100, 1_000, 20_000))
        bench.log(f"memory: {counts_of(amux).requests:,} polls in all")
    started = large.cpu - small.cpu
    what = f"start with {many:,} active: load and schedule, CPU seconds more than with {FEW:,}"
    yield Row("memory", what, f"{started:.2f} s", measured=started, target=MOST_SECONDS, unit=" s")
    wall = f"{large.wall:.2f} s"
    yield Row("memory", "the same by the wall clock, from fork to serving", wall, f"{small.wall:.2f} s with {FEW:,}")
    each = (large.rss - small.rss) / many
    yield _row(f"each of {many:,} active, loaded at the start: RSS", each)
    with Bridge(bench.folder, bench.seeds.file(), POLLS_NOTHING) as bridge:
        seconds = bench.pick(0.5, 5.0, 20.0)
        register(bridge.url, 2, seconds / 3, "warm", 500)
        before = bridge.rss()
        added = register(bridge.url, 2, seconds, "more", 500)
        yield _row(f"each of {added.watches:,} more that are registered: RSS", (bridge.rss() - before) / added.watches)


class _Start:
    """A start: the CPU and wall-clock seconds from the fork to serving, and the RSS after some polls."""

    def __init__(self, bridge: Bridge) -> None:
        self.cpu = bridge.cpu()
        self.wall = bridge.started_in
        self.rss = 0


def _started(bench: Bench, watches: int, settings: dict[str, str], polls: int) -> _Start:
    database = bench.seeds.file(active=[f"task_{number}" for number in range(watches)])
    with Bridge(bench.folder, database, settings, **bench.profile(f"start-{watches}")) as bridge:
        start = _Start(bridge)
        metrics = bridge.metrics
        wait_until(
            lambda: metrics()['amux_bridge_polls_total{lane="single",result="seen"}'] >= polls, 120, "some polls"
        )
        start.rss = bridge.rss()
    return start


def _row(what: str, each: float) -> Row:
    return Row("memory", what, f"{each:,.0f} bytes", measured=each, target=MOST_BYTES, unit=" B")

"""Memory: what each further active watch takes, loaded or registered; and how long the start of many takes."""

from collections.abc import Iterator

from tests.bench.load import register
from tests.bench.stage import Stage, until
from tests.bench.subject import POLLS_NOTHING, Bridge, every
from tests.bench.table import Row
from tests.bench.upstream import counted, upstream

MOST_BYTES = 1_200.0
MOST_SECONDS = 3.0
FEW = 1_000


def run(stage: Stage) -> Iterator[Row]:
    """A start with few watches and one with many; then some that are registered."""
    many = stage.pick(2_000, 100_000, 100_000)
    with upstream() as amux:
        settings = {"amux_base_url": str(amux.greeting), **every(60.0)}
        small = _started(stage, FEW, settings, 0)
        large = _started(stage, FEW + many, settings, stage.pick(100, 1_000, 20_000))
        stage.say(f"memory: {counted(amux).requests:,} polls in all")
    started = large.cpu - small.cpu
    what = f"start with {many:,} active: load and spread, CPU seconds more than with {FEW:,}"
    yield Row("memory", what, f"{started:.2f} s", measured=started, target=MOST_SECONDS, unit=" s")
    wall = f"{large.wall:.2f} s"
    yield Row("memory", "the same by the wall clock, from fork to serving", wall, f"{small.wall:.2f} s with {FEW:,}")
    each = (large.rss - small.rss) / many
    yield _row(f"each of {many:,} active, loaded at the start: RSS", each)
    with Bridge(stage.folder, stage.seeds.file(), POLLS_NOTHING) as bridge:
        seconds = stage.pick(0.5, 5.0, 20.0)
        register(bridge.url, 2, seconds / 3, "warm", 500)
        before = bridge.rss()
        told = register(bridge.url, 2, seconds, "more", 500)
        yield _row(f"each of {told.watches:,} more that are registered: RSS", (bridge.rss() - before) / told.watches)


class _Start:
    """What a start took: CPU and wall seconds from the fork to serving, and RSS once some polls were made."""

    def __init__(self, bridge: Bridge) -> None:
        self.cpu = bridge.cpu()
        self.wall = bridge.started_in
        self.rss = 0


def _started(stage: Stage, watches: int, settings: dict[str, str], polls: int) -> _Start:
    database = stage.seeds.file(active=[f"task_{number}" for number in range(watches)])
    with Bridge(stage.folder, database, settings, **stage.profile(f"start-{watches}")) as bridge:
        start = _Start(bridge)
        metrics = bridge.metrics
        until(lambda: metrics()['amux_bridge_polls_total{result="seen"}'] >= polls, 120, "some polls")
        start.rss = bridge.rss()
    return start


def _row(what: str, each: float) -> Row:
    return Row("memory", what, f"{each:,.0f} bytes", measured=each, target=MOST_BYTES, unit=" B")

"""Flatness: what a poll, a registration and a delivery cost with few rows in the database and with very many.

Polls go at one rate in both: the interval grows with the number of watches.
"""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from tests.bench.bare_loop import Done
from tests.bench.lag import Lag
from tests.bench.load import register
from tests.bench.processes import Child
from tests.bench.receiver import Ports, receiver
from tests.bench.stage import Stage, until
from tests.bench.subject import NEVER, Bridge, ask, every
from tests.bench.table import Row
from tests.bench.upstream import counted, upstream

FEW = 1_000
MOST_GROWTH = 1.2
LATE_SECONDS = 0.25


@dataclass(frozen=True)
class Costs:
    """CPU µs of one."""

    poll: float
    registration: float
    delivery: float


def run(stage: Stage) -> Iterator[Row]:
    """The same work on a small database and on a large one; then retention on the large one."""
    active, settled = stage.pick(2_000, 20_000, 100_000), stage.pick(1_000, 100_000, 1_000_000)
    rate = stage.pick(50.0, 60.0, 500.0)
    with upstream() as amux, receiver(16) as there:
        few = _costs(stage, amux, there, FEW, 0, rate)
        many = _costs(stage, amux, there, active, settled, rate)
        for name in ("poll", "registration", "delivery"):
            small, large = getattr(few, name), getattr(many, name)
            what = f"{name}: {active:,} active and {settled:,} settled beside {FEW:,} and 0"
            yield Row("flat", what, f"{large:.0f} µs", f"{small:.0f} µs (few)", large / small, MOST_GROWTH)
        yield from _retention(stage, amux, settled, rate)


def _costs(  # noqa: PLR0917  a measurement has these numbers
    stage: Stage, amux: Child, there: Child, active: int, settled: int, rate: float
) -> Costs:
    """Each kind of work by itself while polls go on; what the polls cost is known by then."""
    ports: Ports = there.greeting
    seconds, dead, idle = stage.pick(1.0, 8.0, 20.0), stage.pick(100, 1_000, 4_000), stage.idle
    urls = [f"{url}/{number}" for number, url in enumerate(ports.urls())]
    database = stage.seeds.file(
        active=[f"task_{number}" for number in range(active)],
        settled=settled,
        dead=[urls[number % len(urls)] for number in range(dead)],
    )
    # What is registered here is not polled: with few watches it would be many times those that are.
    settings = {"amux_base_url": str(amux.greeting), **every(active / rate), "poll_first_delay_seconds": NEVER}
    with Bridge(stage.folder, database, settings) as bridge:
        time.sleep(1.0)
        meter, before = bridge.meter(), counted(amux).requests
        time.sleep(seconds)
        poll = Done(counted(amux).requests - before, meter.read()).less(idle).microseconds
        meter, before = bridge.meter(), counted(amux).requests
        registered = register(bridge.url, 64, seconds / 2, f"flat{active}x").watches
        spent = meter.read()
        others = idle * spent.wall + (counted(amux).requests - before) * poll / 1e6
        registration = (spent.cpu - others) / registered * 1e6
        there.ask("forget")
        meter, before = bridge.meter(), counted(amux).requests
        ask(bridge.url, "POST", "/deliveries/retry", {"state": "dead"})
        until(lambda: int(there.ask("count")) >= dead, 120, "every dead delivery sent again")
        spent = meter.read()
        others = idle * spent.wall + (counted(amux).requests - before) * poll / 1e6
    return Costs(poll, registration, (spent.cpu - others) / dead * 1e6)


def _retention(stage: Stage, amux: Child, settled: int, rate: float) -> Iterator[Row]:
    """All that was settled long ago is deleted while polls go on."""
    rows = min(settled, stage.pick(1_000, 10_000, 1_000_000))
    active = int(rate * 4)
    database = stage.seeds.file(active=[f"task_{number}" for number in range(active)], settled=rows)
    settings = {"amux_base_url": str(amux.greeting), "retention_seconds": "86400", **every(4.0)}
    with Bridge(stage.folder, database, settings, retention=1.0) as bridge:
        began, before = time.monotonic(), Lag.read(bridge)
        until(lambda: not _any_settled(database), 1_800, "the last settled watch deleted")
        seconds, late = time.monotonic() - began, Lag.read(bridge).since(before)
    what = f"retention of {rows:,} in {seconds:.0f} s: polls over 250 ms late"
    told = f"p99 <= {late.quantile(0.99):g} s"
    yield Row("flat", what, told, measured=100 * late.share_over(LATE_SECONDS), target=1.0, unit=" %")


def _any_settled(database: Path) -> bool:
    with closing(sqlite3.connect(database)) as connection:
        return connection.execute("SELECT 1 FROM watches WHERE ended_at IS NOT NULL LIMIT 1").fetchone() is not None

"""Growth: what a poll, a registration and a delivery cost with few rows in the database and with very many.

The rate of polls is the same in both cases, because the interval grows with the number of watches.
"""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from tests.bench.bare_loop import Work
from tests.bench.bridge_process import NEVER, Bridge, ask, every
from tests.bench.harness import Bench, wait_until
from tests.bench.lag import Lag
from tests.bench.load import register
from tests.bench.processes import Child
from tests.bench.receiver import Ports, start_receivers
from tests.bench.table import Row
from tests.bench.upstream import counts_of, upstream

FEW = 1_000
MOST_GROWTH = 1.2
LATE_SECONDS = 0.25


@dataclass(frozen=True)
class Costs:
    """CPU µs of each kind of work."""

    poll: float
    registration: float
    delivery: float


def run(bench: Bench) -> Iterator[Row]:
    """Measures the same work on a small and on a large database, then retention."""
    active, settled = bench.pick(2_000, 20_000, 100_000), bench.pick(1_000, 100_000, 1_000_000)
    rate = bench.pick(50.0, 60.0, 500.0)
    with upstream() as amux, start_receivers(16) as receivers:
        few = _costs(bench, amux, receivers, FEW, 0, rate)
        many = _costs(bench, amux, receivers, active, settled, rate)
        for name in ("poll", "registration", "delivery"):
            small, large = getattr(few, name), getattr(many, name)
            what = f"{name}: {active:,} active and {settled:,} settled, compared with {FEW:,} and 0"
            yield Row("flat", what, f"{large:.0f} µs", f"{small:.0f} µs (few)", large / small, MOST_GROWTH)
        yield from _retention(bench, amux, settled, rate)


def _costs(  # noqa: PLR0917  the numbers of a measurement
    bench: Bench, amux: Child, receivers: Child, active: int, settled: int, rate: float
) -> Costs:
    """Measures polls alone, then registrations and then deliveries while polls go on. Subtracts the polls' cost."""
    ports: Ports = receivers.ready_message
    seconds, dead, idle = bench.pick(1.0, 8.0, 20.0), bench.pick(100, 1_000, 4_000), bench.idle
    urls = [f"{url}/{number}" for number, url in enumerate(ports.urls())]
    database = bench.seeds.file(
        active=[f"task_{number}" for number in range(active)],
        settled=settled,
        dead=[urls[number % len(urls)] for number in range(dead)],
    )
    # New watches are not polled: there would be many times more of them than of the few watches.
    settings = {"amux_base_url": str(amux.ready_message), **every(active / rate), "poll_first_delay_seconds": NEVER}
    with Bridge(bench.folder, database, settings) as bridge:
        time.sleep(1.0)
        meter, before = bridge.meter(), counts_of(amux).requests
        time.sleep(seconds)
        poll = Work(counts_of(amux).requests - before, meter.read()).without_idle(idle).microseconds
        meter, before = bridge.meter(), counts_of(amux).requests
        registered = register(bridge.url, 64, seconds / 2, f"flat{active}x").watches
        usage = meter.read()
        others = idle * usage.wall + (counts_of(amux).requests - before) * poll / 1e6
        registration = (usage.cpu - others) / registered * 1e6
        receivers.ask("reset")
        meter, before = bridge.meter(), counts_of(amux).requests
        ask(bridge.url, "POST", "/deliveries/retry", {"state": "dead"})
        wait_until(lambda: int(receivers.ask("count")) >= dead, 120, "every dead delivery sent again")
        usage = meter.read()
        others = idle * usage.wall + (counts_of(amux).requests - before) * poll / 1e6
    return Costs(poll, registration, (usage.cpu - others) / dead * 1e6)


def _retention(bench: Bench, amux: Child, settled: int, rate: float) -> Iterator[Row]:
    """Measures how late polls are while retention deletes all watches that settled long ago."""
    rows = min(settled, bench.pick(1_000, 10_000, 1_000_000))
    active = int(rate * 4)
    database = bench.seeds.file(active=[f"task_{number}" for number in range(active)], settled=rows)
    settings = {"amux_base_url": str(amux.ready_message), "retention_seconds": "86400", **every(4.0)}
    with Bridge(bench.folder, database, settings, retention=1.0) as bridge:
        began, before = time.monotonic(), Lag.read(bridge)
        wait_until(lambda: not _any_settled(database), 1_800, "the last settled watch deleted")
        seconds, late = time.monotonic() - began, Lag.read(bridge).since(before)
    what = f"retention of {rows:,} in {seconds:.0f} s: polls over 250 ms late"
    cell = f"p99 <= {late.quantile(0.99):g} s"
    yield Row("flat", what, cell, measured=100 * late.share_over(LATE_SECONDS), target=1.0, unit=" %")


def _any_settled(database: Path) -> bool:
    with closing(sqlite3.connect(database)) as connection:
        return connection.execute("SELECT 1 FROM watches WHERE ended_at IS NOT NULL LIMIT 1").fetchone() is not None

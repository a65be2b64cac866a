"""Growth: what a poll, a registration and a delivery cost with few rows in the database and with very many.

The rate of polls is the same in both cases, because the interval grows with the number of watches. The bridges are
measured in turn. Jobs that read all watches do not run meanwhile: they have a row of their own.
"""

import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path

from tests.bench.bare_loop import Rounds, Work
from tests.bench.bridge_process import NEVER, Bridge, ask, every
from tests.bench.harness import Bench, wait_until
from tests.bench.in_turn import Registering, alone, register_in_turns
from tests.bench.lag import Lag
from tests.bench.processes import Child
from tests.bench.receiver import Ports, start_receivers
from tests.bench.table import Row
from tests.bench.upstream import counts_of, upstream

FEW = 1_000
RATE = 500.0  # polls a second
CONNECTIONS = 64
MOST_GROWTH = 1.2
LATE_SECONDS = 0.25
NO_JOBS: Mapping[str, float] = {"gauges": float(NEVER), "stuck_monitor": float(NEVER)}


def run(bench: Bench) -> Iterator[Row]:
    """Measures the same work on a small and on a large database, then retention."""
    active, settled = bench.pick(2_000, 20_000, 100_000), bench.pick(1_000, 100_000, 1_000_000)
    with upstream() as amux, start_receivers(16) as receivers:
        few = _Side(bench, amux, receivers, FEW, 0)
        many = _Side(bench, amux, receivers, active, settled)
        large, small = (f"{side.jobs():.2%} of a core" for side in (many, few))
        yield Row("flat", f"regular jobs: {many}", large, small)
        yield from _compare(bench, few, many)
        yield from _retention(bench, amux, settled)


class _Side:
    """A database, and what the work of bridges with it costs."""

    def __init__(self, bench: Bench, amux: Child, receivers: Child, active: int, settled: int) -> None:
        self._bench, self.amux, self._receivers = bench, amux, receivers
        self.active, self._settled, self._dead = active, settled, bench.pick(100, 1_000, 10_000)
        ports: Ports = receivers.ready_message
        urls = [f"{url}/{number}" for number, url in enumerate(ports.urls())]
        self._database = bench.seeds.file(
            active=[f"task_{number}" for number in range(active)],
            settled=settled,
            dead=[urls[number % len(urls)] for number in range(self._dead)],
        )
        self._idle = bench.idle
        self.polls = Rounds()

    def __str__(self) -> str:
        return f"{self.active:,} active and {self._settled:,} settled, compared with {FEW:,} and 0"

    def start(self, interval: float | None = None, hooks: Mapping[str, float] = NO_JOBS) -> Bridge:
        """Starts a bridge, and waits until the work of its start is done."""
        settings = {
            "amux_base_url": str(self.amux.ready_message),
            **every(self.active / RATE if interval is None else interval),
            # New watches are not polled: there would be many times more of them than of the few watches.
            "poll_first_delay_seconds": NEVER,
            "poll_request_timeout_seconds": "600",  # a halted bridge must not count its pause as a time-out of amux
        }
        bridge = Bridge(self._bench.folder, self._database, settings, **hooks)
        time.sleep(self._bench.pick(0.5, 4.0, 4.0))
        return bridge

    def jobs(self) -> float:
        """Measures the share of a core that a bridge takes that polls nothing. Its slowest job runs every 15 s."""
        with self.start(float(NEVER), hooks={}) as bridge:
            meter = bridge.meter()
            time.sleep(self._bench.pick(1.0, 15.0, 45.0))
            return meter.read().share

    def poll(self, bridge: Bridge) -> None:
        """Measures polls alone."""
        time.sleep(self._bench.pick(0.5, 2.0, 2.0))  # until the polls that were late are done
        meter, before = bridge.meter(), counts_of(self.amux).requests
        time.sleep(self._bench.pick(1.0, 4.0, 6.0))
        work = Work(counts_of(self.amux).requests - before, meter.read())
        self.polls.add(work.without_idle(self._idle))

    def deliver(self, bridge: Bridge) -> float:
        """Measures deliveries while polls go on. Returns the CPU µs of a delivery, without the polls."""
        time.sleep(self._bench.pick(0.5, 2.0, 3.0))
        self._receivers.ask("reset")
        meter, before = bridge.meter(), counts_of(self.amux).requests
        ask(bridge.url, "POST", "/deliveries/retry", {"state": "dead"})
        wait_until(lambda: int(self._receivers.ask("count")) >= self._dead, 120, "every dead delivery sent again")
        work = Work(self._dead, meter.read()).without_idle(self._idle)
        polls = counts_of(self.amux).requests - before
        return work.microseconds - polls / self._dead * self.polls.microseconds


def _compare(bench: Bench, few: _Side, many: _Side) -> Iterator[Row]:
    """Compares polls, registrations and deliveries.

    Polls are compared in the first round of reads after the start of the many, in which each task is read for the first
    time, and in the second round. Each turn starts a new bridge with few watches. After a halt, all its tasks would be
    due at once, and would be polled together from then on, which is cheaper.
    """
    amux = many.amux
    amux.ask("reset")
    with many.start() as large:
        yield _polls(bench, few, many, large, "first")
        wait_until(lambda: counts_of(amux).tasks >= many.active, 600, "every task read once")
        yield _polls(bench, few, many, large, "second")
        with few.start() as small:
            sides = [Registering(bridge, amux, CONNECTIONS) for bridge in (small, large)]
            register_in_turns(bench, sides)
            yield _row("registration", many, *(side.each for side in sides))
            costs = []
            for bridge, side in ((small, few), (large, many)):
                with alone(bridge, (small, large)):
                    costs.append(side.deliver(bridge))
            yield _row("delivery", many, *costs)


def _polls(bench: Bench, few: _Side, many: _Side, large: Bridge, name: str) -> Row:
    few.polls, many.polls = Rounds(), Rounds()
    for _ in range(bench.pick(1, 2, 6)):
        with large.halted(), few.start() as small:
            few.poll(small)
        many.poll(large)
    return _row(f"poll, {name} round", many, few.polls.microseconds, many.polls.microseconds)


def _row(what: str, many: _Side, small: float, large: float) -> Row:
    return Row("flat", f"{what}: {many}", f"{large:.0f} µs", f"{small:.0f} µs (few)", large / small, MOST_GROWTH)


def _retention(bench: Bench, amux: Child, settled: int) -> Iterator[Row]:
    """Measures how late polls are while retention deletes all watches that settled long ago."""
    rows = min(settled, bench.pick(1_000, 10_000, 1_000_000))
    active = int(RATE * 4)
    database = bench.seeds.file(active=[f"task_{number}" for number in range(active)], settled=rows)
    settings = {"amux_base_url": str(amux.ready_message), "retention_seconds": "86400", **every(4.0)}
    with Bridge(bench.folder, database, settings, retention_sweep=1.0) as bridge:
        began, before = time.monotonic(), Lag.read(bridge)
        wait_until(lambda: not _any_settled(database), 1_800, "the last settled watch deleted")
        seconds, late = time.monotonic() - began, Lag.read(bridge).since(before)
    what = f"retention of {rows:,} in {seconds:.0f} s: polls over 250 ms late"
    cell = f"p99 <= {late.quantile(0.99):g} s"
    yield Row("flat", what, cell, measured=100 * late.share_over(LATE_SECONDS), target=1.0, unit=" %")


def _any_settled(database: Path) -> bool:
    with closing(sqlite3.connect(database)) as connection:
        return connection.execute("SELECT 1 FROM watches WHERE ended_at IS NOT NULL LIMIT 1").fetchone() is not None

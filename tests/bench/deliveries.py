"""Callbacks: their rate compared with a bare loop, how soon they begin, and whether a hanging host delays others."""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from tests.bench import bare_loop
from tests.bench.bare_loop import Rounds, Work
from tests.bench.bridge_process import POLLS_NOTHING, Bridge, every
from tests.bench.harness import Bench, wait_until
from tests.bench.processes import Child
from tests.bench.receiver import Ports, start_receivers, url_of
from tests.bench.seeding import payload
from tests.bench.table import Row
from tests.bench.upstream import upstream

HOSTS = 16  # eight attempts at a time for each host use the whole default concurrency
GOOD_HOSTS = 50
PROMISED_RATE = 300.0
PROMISED_SHARE = 0.04  # of the bare loop's rate: 300 a second of 7,500


def run(bench: Bench) -> Iterator[Row]:
    """Measures the rate, then the delays, then the delays with a hanging host."""
    with start_receivers(HOSTS) as receivers:
        bare, row = _rate(bench, receivers)
        yield row
    rate = min(PROMISED_RATE, PROMISED_SHARE * bare.rate)
    with start_receivers(GOOD_HOSTS, 1) as receivers:
        ports: Ports = receivers.ready_message
        alone = _latencies(bench, receivers, ports.urls(), rate)
        yield from _delays(f"{rate:.0f} completions a second", alone, 0.015, 0.1)
        # The hanging host gets one delivery in fifty-one.
        mixed = _latencies(bench, receivers, [*ports.urls(), url_of(ports.hanging[0])], rate)
        yield from _delays(f"{GOOD_HOSTS} good hosts and one that hangs", mixed, None, 0.25)
        times = _quantile(mixed, 0.99) / _quantile(alone, 0.99)
        yield Row(
            "deliveries", "the same p99, divided by the p99 without the hanging host", "", measured=times, target=1.5
        )


def _rate(bench: Bench, receivers: Child) -> tuple[Rounds, Row]:
    """Measures how fast pending deliveries are sent. The bare loop runs before and after."""
    ports: Ports = receivers.ready_message
    seconds, backlog = bench.pick(0.5, 3.0, 5.0), bench.pick(200, 4_000, 40_000)
    bare = Rounds()
    for _ in range(bench.pick(1, 2, 3)):
        bare.add(bare_loop.posts(ports.urls(), 8 * HOSTS, seconds, payload()))
    receivers.ask("reset")
    urls = ports.urls()
    database = bench.seeds.file(pending=[urls[number % HOSTS] for number in range(backlog)])
    with Bridge(bench.folder, database, POLLS_NOTHING, **bench.profile("deliveries")) as bridge:
        meter, helper, before = bridge.meter(), receivers.meter(), int(receivers.ask("count"))
        wait_until(lambda: int(receivers.ask("count")) >= backlog, 120, "every delivery sent")
        done = Work(backlog - before, meter.read()).without_idle(bench.idle)
        bench.helper("deliveries", receivers, helper.read())
    bare.add(bare_loop.posts(ports.urls(), 8 * HOSTS, seconds, payload()))
    ratio = bare.microseconds / done.microseconds
    cell = f"{done.microseconds:.0f} µs"
    what = f"{backlog:,} to {HOSTS} hosts: rate by CPU time"
    return bare, Row("deliveries", what, cell, f"{bare.microseconds:.0f} µs", ratio, 0.6, at_least=True)


def _latencies(bench: Bench, receivers: Child, urls: list[str], rate: float) -> list[float]:
    """Returns the sorted seconds from each settlement to its callback's first byte, for good hosts only.

    Every task is completed before its first poll, and first polls are spread evenly over one interval.
    """
    seconds = bench.pick(1.0, 10.0, 30.0)
    tasks = max(len(urls), int(rate * seconds))
    receivers.ask("reset")
    active = [f"task_x{number}-1000 {urls[number % len(urls)]}" for number in range(tasks)]
    database = bench.seeds.file(active=active)
    answered = sum(not one.endswith(urls[-1]) for one in active)
    expected = answered if len(urls) > GOOD_HOSTS else tasks
    with upstream() as amux:
        settings = {"amux_base_url": str(amux.ready_message), **every(seconds)}
        with Bridge(bench.folder, database, settings, **bench.profile("latency")):
            wait_until(lambda: int(receivers.ask("count")) >= expected, 10 * seconds + 60, "every callback")
            time.sleep(0.2)
    arrived: dict[str, float] = receivers.ask("arrivals")
    settled = settled_at(database)
    return sorted(at - settled[name] for name, at in arrived.items())


def settled_at(database: Path) -> dict[str, float]:
    """Returns when the watch of each delivery settled, by delivery id, in Unix seconds."""
    query = "SELECT id, created_at FROM deliveries"
    with closing(sqlite3.connect(database)) as connection:
        return dict(connection.execute(query).fetchall())


def _quantile(seconds: list[float], share: float) -> float:
    return seconds[min(len(seconds) - 1, int(share * len(seconds)))]


def _delays(what: str, seconds: list[float], p50: float | None, p99: float) -> Iterator[Row]:
    for share, target in ((0.5, p50), (0.99, p99)):
        measured = 1000 * _quantile(seconds, share)
        limit = None if target is None else 1000 * target
        name = f"{what}: settlement to first byte, p{share * 100:.0f}"
        yield Row("deliveries", name, f"{measured:.1f} ms", measured=measured, target=limit, unit=" ms")

"""Callbacks: their rate beside a bare signed POST loop, how soon they begin, and what a hanging host does to others."""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from tests.bench import bare_loop
from tests.bench.bare_loop import Done, Rounds
from tests.bench.processes import Child
from tests.bench.receiver import Ports, receiver, url_of
from tests.bench.seeding import payload
from tests.bench.stage import Stage, until
from tests.bench.subject import POLLS_NOTHING, Bridge, every
from tests.bench.table import Row
from tests.bench.upstream import upstream

HOSTS = 16  # times eight at a time each: every slot of the default
GOOD_HOSTS = 50
PROMISED_RATE = 300.0
PROMISED_SHARE = 0.04  # of the bare loop's rate: what 300 a second are of 7,500


def run(stage: Stage) -> Iterator[Row]:
    """The rate, then the clock, then the clock with a hanging host."""
    with receiver(HOSTS) as there:
        bare, row = _rate(stage, there)
        yield row
    rate = min(PROMISED_RATE, PROMISED_SHARE * bare.rate)
    with receiver(GOOD_HOSTS, 1) as there:
        ports: Ports = there.greeting
        alone = _latencies(stage, there, ports.urls(), rate)
        yield from _clock(f"{rate:.0f} completions a second", alone, 0.015, 0.1)
        # One in fifty: what a hanging host of fifty-one gets.
        mixed = _latencies(stage, there, [*ports.urls(), url_of(ports.hanging[0])], rate)
        yield from _clock(f"{GOOD_HOSTS} good hosts beside one that hangs", mixed, None, 0.25)
        times = _at(mixed, 0.99) / _at(alone, 0.99)
        yield Row("deliveries", "the same, in times of without it, p99", "", measured=times, target=1.5)


def _rate(stage: Stage, there: Child) -> tuple[Rounds, Row]:
    """A backlog of owed deliveries, sent as fast as it goes; the bare loop before and after."""
    ports: Ports = there.greeting
    seconds, backlog = stage.pick(0.5, 3.0, 5.0), stage.pick(200, 4_000, 40_000)
    bare = Rounds()
    for _ in range(stage.pick(1, 2, 3)):
        bare.add(bare_loop.posts(ports.urls(), 8 * HOSTS, seconds, payload()))
    there.ask("forget")
    urls = ports.urls()
    database = stage.seeds.file(pending=[urls[number % HOSTS] for number in range(backlog)])
    with Bridge(stage.folder, database, POLLS_NOTHING, **stage.profile("deliveries")) as bridge:
        meter, helper, before = bridge.meter(), there.meter(), int(there.ask("count"))
        until(lambda: int(there.ask("count")) >= backlog, 120, "every delivery sent")
        done = Done(backlog - before, meter.read()).less(stage.idle)
        stage.helper("deliveries", there, helper.read())
    bare.add(bare_loop.posts(ports.urls(), 8 * HOSTS, seconds, payload()))
    ratio = bare.microseconds / done.microseconds
    told = f"{done.microseconds:.0f} µs"
    what = f"{backlog:,} to {HOSTS} hosts: rate by CPU time"
    return bare, Row("deliveries", what, told, f"{bare.microseconds:.0f} µs", ratio, 0.6, at_least=True)


def _latencies(stage: Stage, there: Child, urls: list[str], rate: float) -> list[float]:
    """Seconds from each settlement to its callback's first byte, sorted; of good hosts only.

    Every task is completed already at its first poll, and first polls are spread evenly over one interval.
    """
    seconds = stage.pick(1.0, 10.0, 30.0)
    tasks = max(len(urls), int(rate * seconds))
    there.ask("forget")
    active = [f"task_x{number}-1000 {urls[number % len(urls)]}" for number in range(tasks)]
    database = stage.seeds.file(active=active)
    answered = sum(not one.endswith(urls[-1]) for one in active)
    expected = answered if len(urls) > GOOD_HOSTS else tasks
    with upstream() as amux:
        settings = {"amux_base_url": str(amux.greeting), **every(seconds)}
        with Bridge(stage.folder, database, settings, **stage.profile("latency")):
            until(lambda: int(there.ask("count")) >= expected, 10 * seconds + 60, "every callback")
            time.sleep(0.2)
    arrived: dict[str, float] = there.ask("arrivals")
    settled = _settled_at(database)
    return sorted(at - settled[name] for name, at in arrived.items())


def _settled_at(database: Path) -> dict[str, float]:
    """When each owed event's watch settled, Unix seconds."""
    question = "SELECT id, created_at FROM deliveries"
    with closing(sqlite3.connect(database)) as connection:
        return dict(connection.execute(question).fetchall())


def _at(seconds: list[float], share: float) -> float:
    return seconds[min(len(seconds) - 1, int(share * len(seconds)))]


def _clock(what: str, seconds: list[float], p50: float | None, p99: float) -> Iterator[Row]:
    for share, target in ((0.5, p50), (0.99, p99)):
        measured = 1000 * _at(seconds, share)
        limit = None if target is None else 1000 * target
        name = f"{what}: settlement to first byte, p{share * 100:.0f}"
        yield Row("deliveries", name, f"{measured:.1f} ms", measured=measured, target=limit, unit=" ms")

"""An ordinary day: whole lives of watches at 20 to 300 ends a second, and a bridge that has nothing to do.

A life is a registration, about four polls, the settlement and the delivery. The bare bridge does the same work with
aiohttp alone and stores nothing. Both get the same watches at the same rate. The CPU of the process is given by thread:
the event loop, the busiest other thread (SQLite's writer), and the rest. `--rates 20` runs that rate only.

The parts of a life are also measured one by one: the bare bridge, plain sqlite3 for the same rows (`least.py`), and the
rest (`parts.py`). A part costs more when it runs alone than in a bridge that does several at a time.
docs/performance.md has the figures.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import Array
from pathlib import Path

from tests.bench.bridge_process import POLLS_NOTHING, Bridge, every
from tests.bench.deliveries import settled_at
from tests.bench.harness import Bench, wait_until
from tests.bench.lag import FIRST_ATTEMPTS, Lag
from tests.bench.least import least_lives
from tests.bench.life import bare_bridge
from tests.bench.load import register_evenly
from tests.bench.parts import parts_of_a_life
from tests.bench.postgres import database_meter, server
from tests.bench.processes import MEASURED, Child, ThreadTimes, run_once
from tests.bench.receiver import Ports, start_receivers
from tests.bench.seeding import payload
from tests.bench.syncs import SyncCount
from tests.bench.table import Row
from tests.bench.upstream import counts_of, upstream
from tests.databases import NoServer, PostgresServer

RATES = (20, 100, 300)
TRACED_UNTIL = 100  # ends a second: strace stops each system call, and at 300 the bridge would fall behind
PARTS_UNTIL = 100  # ends a second: at 300 the parts of lives follow each other, and none of them runs alone
HOSTS = 16
POLL_SECONDS = 1.0
LIFE_SECONDS = 3.5  # a task ends between its third and its fourth poll
TARGETS = {20: 3.5, 100: 2.7}  # milliseconds of a life, with SQLite
DELAYS = {0.5: 15.0, 0.99: 100.0}  # milliseconds from a settlement to the first byte at the receiver, by quantile
IDLE_TARGET = 0.3  # per cent of a core
LAST_WAIT_TARGET = 100.0  # milliseconds
FEW_TARGET = 1.0  # per cent of a core above its polls
FEW_WATCHES = 1_000


@dataclass(frozen=True)
class Life:
    """What a life cost one process: milliseconds of CPU by thread, the polls of a task, and KiB written.

    `waits` are the times from the settlements to the first attempts.
    """

    loop: float
    writer: float
    rest: float
    polls: float
    written: float
    waits: Lag | None = None

    @property
    def total(self) -> float:
        return self.loop + self.writer + self.rest

    def __str__(self) -> str:
        return f"{self.total:.2f} ms ({self.loop:.2f} + {self.writer:.2f} + {self.rest:.2f})"


@dataclass(frozen=True)
class _World:
    """What all processes of a run share."""

    bench: Bench
    amux: Child
    receivers: Child

    def settings(self) -> dict[str, str]:
        return {"amux_base_url": str(self.amux.ready_message), **every(POLL_SECONDS)}


def run(bench: Bench) -> Iterator[Row]:
    """Measures an idle bridge, then lives at each rate with SQLite, then with PostgreSQL."""
    if not bench.rates:
        yield from _idle(bench)
    rates = bench.rates or RATES[: bench.pick(1, 3, 3)]
    with upstream() as amux, start_receivers(HOSTS) as receivers:
        world = _World(bench, amux, receivers)
        bare = {rate: _bare(world, rate) for rate in rates}
        for rate in rates:
            yield from _with_sqlite(world, rate, bare[rate])
        try:
            with server() as started:
                for rate in rates:
                    life = _bridge(world, rate, started.migrated())
                    yield from _rows(rate, "PostgreSQL", life, bare[rate], None)
                    yield _postgres_counts(world, started, rate)
        except NoServer as missing:
            yield Row("day", f"PostgreSQL: skipped, {missing}", "")


# --- lives ------------------------------------------------------------------------------------------------------------


def _with_sqlite(world: _World, rate: int, bare: Life) -> Iterator[Row]:
    database = world.bench.seeds.file()
    life = _bridge(world, rate, database)
    yield from _rows(rate, "SQLite", life, bare, TARGETS.get(rate))
    yield from _delays(rate, database, world.receivers.ask("arrivals"))
    yield _counts(world, rate, life)
    least, row = _least(world.bench, rate)
    yield row
    if rate <= PARTS_UNTIL:
        yield from _part_rows(world, rate, life.total, {"the bare bridge": bare.total, "plain sqlite3": least})


def _rows(rate: int, kind: str, life: Life, bare: Life, target: float | None) -> Iterator[Row]:
    what = f"{rate} ends a second, {kind}: CPU of a life (loop + writer + rest)"
    yield Row("day", what, str(life), str(bare), life.total, target, unit=" ms")
    yield Row(
        "day",
        "the same, as a multiple of the bare bridge's",
        f"{life.polls:.1f} polls",
        f"{bare.polls:.1f} polls",
        life.total / bare.total,
    )
    if life.waits is not None:
        p50, p99 = (1000 * life.waits.quantile(share) for share in (0.5, 0.99))
        cell = f"mean {1000 * life.waits.mean:.1f} ms, p50 <= {p50:g} ms"
        what = "the same: from the settlement to the first attempt, p99"
        yield Row("day", what, cell, measured=p99, target=LAST_WAIT_TARGET, unit=" ms")


def _delays(rate: int, database: Path, arrivals: dict[str, float]) -> Iterator[Row]:
    settled = settled_at(database)
    seconds = sorted(at - settled[name] for name, at in arrivals.items())
    for share, target in DELAYS.items():
        measured = 1000 * seconds[int(share * (len(seconds) - 1))]
        what = f"{rate} ends a second, SQLite: settlement to first byte, p{100 * share:.0f}"
        yield Row("day", what, f"{measured:.1f} ms", measured=measured, target=target, unit=" ms")


def _part_rows(world: _World, rate: int, total: float, floors: dict[str, float]) -> Iterator[Row]:
    """Yields the CPU of each part of a life. Each part runs alone, with cold caches, so the sum may be more."""
    seconds = world.bench.pick(0.3, 4.0, 15.0)
    parts = floors | parts_of_a_life(str(world.amux.ready_message), rate, seconds, world.bench.folder)
    parts["what is left: the difference from the whole"] = total - sum(parts.values())
    for name, milliseconds in parts.items():
        yield Row("day", f"{rate} ends a second, of a life: {name}", f"{milliseconds:.2f} ms")


def _bridge(world: _World, rate: int, database: Path | str) -> Life:
    with Bridge(world.bench.folder, database, world.settings(), **world.bench.profile(f"day-{rate}")) as bridge:
        return _measure(world, bridge, bridge.url, rate)


def _bare(world: _World, rate: int) -> Life:
    with bare_bridge(str(world.amux.ready_message), [POLL_SECONDS] * 8, payload()) as bare:
        return _measure(world, bare, str(bare.ready_message), rate)


def _counts(world: _World, rate: int, life: Life) -> Row:
    """Counts statements, commits and syncs of a life, in a separate run, because counting costs time."""
    counts = Array("q", 2)
    syncs: list[int | None] = []
    with Bridge(world.bench.folder, world.bench.seeds.file(), world.settings(), counts=counts) as bridge:
        sync_count = SyncCount(bridge.pid, world.bench.folder / "syncs.txt")

        def read() -> list[int]:
            syncs.append(sync_count.stop())
            if rate <= TRACED_UNTIL:
                sync_count.start()
            return [counts[0], counts[1]]

        seconds = world.bench.pick(1.0, 5.0, 10.0)
        (statements, commits), ended, _ = _lives(world, bridge.url, rate, seconds, read)
        sync_count.stop()
    fsyncs = "fsyncs not counted" if syncs[-1] is None else f"{syncs[-1] / ended:.2f} fsyncs"
    cell = f"{statements / ended:.1f} statements, {commits / ended:.2f} commits, {fsyncs}, {life.written / 4:.1f} pages"
    return Row("day", f"{rate} ends a second, SQLite: of a life", cell)


def _postgres_counts(world: _World, started: PostgresServer, rate: int) -> Row:
    """Measures the statements and the commits of a life, by the server's counts, and the server's CPU."""
    url, seconds = started.migrated(), world.bench.pick(1.0, 5.0, 10.0)
    with (
        Bridge(world.bench.folder, url, world.settings()) as bridge,
        database_meter(started, url) as everything,
        database_meter(started, url, "COMMIT%") as commits,
        database_meter(started, url, "SET LOCAL%") as limits,
    ):

        def read() -> list[int]:
            _, cost = everything.read()
            counted = [int(meter.read()[1].statements) for meter in (commits, limits)]
            return [int(cost.statements), int(cost.cpu * 1e6), *counted]

        (statements, microseconds, committed, set_limits), ended, _ = _lives(world, bridge.url, rate, seconds, read)
    sent = (statements - set_limits) / ended  # BEGIN and the limits of the transaction are one message
    cell = f"{sent:.1f} statements, {committed / ended:.2f} commits, {microseconds / 1000 / ended:.2f} ms of the server"
    return Row("day", f"{rate} ends a second, PostgreSQL: of a life, each statement a round trip", cell)


def _least(bench: Bench, rate: int) -> tuple[float, Row]:
    """Returns the milliseconds of CPU that SQLite alone takes for the rows of a life, and the row of the table."""
    seconds = bench.pick(1.0, 10.0, 30.0)
    cpu, pages, statements, commits = run_once(MEASURED, least_lives, bench.seeds.file(), rate, seconds, payload())
    cell = f"{cpu:.2f} ms, {pages:.1f} pages, {statements:.0f} statements, {commits:.0f} commits"
    what = "the same rows by plain sqlite3, those of each life in commits of their own"
    return cpu, Row("day", what, cell)


def _measure(world: _World, process: Child, url: str, rate: int) -> Life:
    threads: list[ThreadTimes] = []
    waits: list[Lag] = []

    def read() -> list[int]:
        if not threads:
            read_waits()
        threads.append(process.threads())
        written = process.written()
        if len(threads) == 2:
            read_waits()
        return [written]

    def read_waits() -> None:  # called outside of the measured time, because it takes CPU
        if isinstance(process, Bridge):
            waits.append(Lag.read(process, FIRST_ATTEMPTS))

    (written,), ended, polls = _lives(world, url, rate, world.bench.pick(1.0, 10.0, 30.0), read)
    used = threads[1].since(threads[0])
    writer = max(used.others.values(), default=0.0)
    rest = sum(used.others.values()) - writer
    loop, writer, rest = (1000 * seconds / ended for seconds in (used.main, writer, rest))
    waited = waits[1].since(waits[0]) if waits else None
    return Life(loop, writer, rest, polls / ended, written / ended / 1024, waited)


def _lives(
    world: _World, url: str, rate: int, seconds: float, read: Callable[[], Sequence[int]]
) -> tuple[list[int], int, int]:
    """Registers evenly. Returns the growth of what `read` returns, the ends and the polls, all since the warm-up."""
    ports: Ports = world.receivers.ready_message
    world.receivers.ask("reset")
    warm = LIFE_SECONDS + 3 * POLL_SECONDS
    watches = int(rate * (warm + seconds))
    with register_evenly(url, rate, warm + seconds, LIFE_SECONDS, ports.urls()) as client:
        time.sleep(warm)
        before, ended, polls = read(), int(world.receivers.ask("count")), counts_of(world.amux).requests
        time.sleep(seconds)
        grown = [now - then for now, then in zip(read(), before, strict=True)]
        ended, polls = int(world.receivers.ask("count")) - ended, counts_of(world.amux).requests - polls
        wait_until(lambda: int(client.ask("count")) >= watches, 60, "every watch registered")
    wait_until(lambda: int(world.receivers.ask("count")) >= watches, 60, "every callback")
    return grown, max(ended, 1), polls


# --- idle -------------------------------------------------------------------------------------------------------------


def _idle(bench: Bench) -> Iterator[Row]:
    """Measures a bridge without watches, and one with watches that it does not poll in this time."""
    for watches, target in ((0, IDLE_TARGET), (FEW_WATCHES, FEW_TARGET)):
        database = bench.seeds.file(active=[f"task_{number}" for number in range(watches)])
        with Bridge(bench.folder, database, POLLS_NOTHING) as bridge:
            time.sleep(bench.pick(0.2, 3.0, 5.0))
            meter = bridge.meter()
            time.sleep(bench.pick(1.0, 15.0, 60.0))
            share = 100 * meter.read().share
            what = f"{watches:,} active watches, nothing due: share of a core"
            yield Row("day", what, f"{bridge.rss() / 1e6:.0f} MB", measured=share, target=target, unit=" %")

"""A million watches in one process: the start, the memory, a whole round of polls, new registrations, and ends."""

import shutil
import time
from collections.abc import Iterator, Sequence

from tests.bench.bridge_process import NEVER, Bridge, every
from tests.bench.harness import Bench, wait_until
from tests.bench.in_turn import Registering, register_in_turns
from tests.bench.lag import SETTLEMENTS, Lag
from tests.bench.processes import Child
from tests.bench.receiver import start_receivers
from tests.bench.seeding import random_task_ids
from tests.bench.table import Row
from tests.bench.upstream import Ends, NewProgress, counts_of, upstream

MILLION = 1_000_000
MOST_BYTES = 1e9
MOST_START_SECONDS = 12.0
MOST_ROUND_SECONDS = 30.0
MOST_SLOWER = 1.3
ENDS_A_SECOND = 300
MOST_SECONDS_TO_STORE = 1.0
HOSTS = 16
CONNECTIONS = 8
LONGEST_HALT = "600"  # seconds


def run(bench: Bench) -> Iterator[Row]:
    """Measures what a million watches cost, and how much they slow down a registration. Without `--full` fewer."""
    watches = bench.pick(2_000, 100_000, MILLION)
    with upstream(batch=True, watch_stalls=False) as amux, start_receivers(HOSTS) as receivers:
        database = bench.seeds.file(active=_tasks(watches, receivers.ready_message.urls()))
        copy, described = database.with_suffix(".unread"), bench.seeds.described(database)
        shutil.copyfile(database, copy)
        # The new watches are not polled during the run, so the same tasks are polled from its beginning to its end. A
        # bridge is halted for longer than the default time limit of a poll. If a batch ended with a time-out then, the
        # bridge would read its tasks singly for a while, and nearly nothing could be registered.
        settings = {
            "amux_base_url": str(amux.ready_message),
            "poll_first_delay_seconds": NEVER,
            "poll_request_timeout_seconds": LONGEST_HALT,
        }
        with (
            Bridge(bench.folder, bench.seeds.file(), settings) as empty,
            Bridge(bench.folder, database, settings) as bridge,
        ):
            cpu_of_none = empty.cpu()
            yield _start(watches, "not described by amux yet", bridge, cpu_of_none)
            wait_until(lambda: counts_of(amux).tasks >= watches, 600, "every task read once")
            yield from _round(bench, bridge, amux, watches)
            yield from _reads(bench, bridge, amux)
            with Bridge(bench.folder, copy, {**settings, **every(float(NEVER)), "amux_batch": "off"}) as unread:
                sides = [Registering(one, amux, CONNECTIONS) for one in (bridge, empty, unread)]
                register_in_turns(bench, sides)
            yield from _registering(watches, *sides)
            for _ in range(bench.pick(1, 1, 3)):
                yield _ends(bench, bridge, amux, watches)
        with Bridge(bench.folder, described, settings) as bridge:
            yield _start(watches, "described by amux", bridge, cpu_of_none)


def _tasks(watches: int, urls: Sequence[str]) -> list[str]:
    return [f"{task} {urls[place % len(urls)]}" for place, task in enumerate(random_task_ids(watches))]


def _start(watches: int, which: str, bridge: Bridge, cpu_of_none: float) -> Row:
    started = bridge.cpu() - cpu_of_none
    what = f"start with {watches:,} tasks, {which}: load and spread, CPU seconds more than with none"
    target = MOST_START_SECONDS if watches == MILLION else None
    cell = f"RSS {bridge.rss() / 1e6:,.0f} MB"
    return Row("million", what, cell, measured=started, target=target, unit=" s")


def _round(bench: Bench, bridge: Bridge, amux: Child, watches: int) -> Iterator[Row]:
    """Measures a round in which every task is read once: its time and its CPU. Yields the RSS too."""
    amux.ask("reset")
    meter, upstreams, began, reads = bridge.meter(), amux.meter(), time.monotonic(), counts_of(amux).reads
    wait_until(lambda: counts_of(amux).tasks >= watches, 600, "a whole round")
    took, used, reads = time.monotonic() - began, meter.read(), counts_of(amux).reads - reads
    bench.helper("million", amux, upstreams.read())
    cost = f"{used.cpu / reads * 1e6:.1f} µs of CPU a task, {used.share:.0%} of a core"
    what = f"{watches:,} watches: a whole round"
    yield Row("million", what, cost, measured=took, target=MOST_ROUND_SECONDS, unit=" s")
    rss = bridge.rss()
    cells = f"{watches:,} watches: RSS", f"{rss / watches:,.0f} bytes each"
    yield Row("million", *cells, measured=rss / 1e6, target=MOST_BYTES / 1e6, unit=" MB")


def _reads(bench: Bench, bridge: Bridge, amux: Child) -> Iterator[Row]:
    """Measures the CPU of reads whose answers are all new, and of reads as amux answers: nearly all are as before."""
    for always, which in ((True, "each record has a new progress"), (False, "one task a second has a new progress")):
        amux.ask(NewProgress(always))
        # The first round after a change of the stand-in is another one than those that follow.
        before = counts_of(amux).reads
        wait_until(lambda: counts_of(amux).reads - before >= counts_of(amux).tasks, 600, "a round")  # noqa: B023
        meter, reads = bridge.meter(), counts_of(amux).reads
        time.sleep(bench.pick(0.2, 5.0, 15.0))
        used, reads = meter.read(), counts_of(amux).reads - reads
        cell = f"{used.cpu / max(reads, 1) * 1e6:.1f} µs of CPU a task, {used.share:.0%} of a core"
        yield Row("million", f"{reads / used.wall:,.0f} reads a second, {which}", cell)


def _registering(watches: int, beside: Registering, empty: Registering, unread: Registering) -> Iterator[Row]:
    what = f"registering beside {watches:,} watches, compared with none"
    many, less = (f"{one.each:.0f} µs" for one in (beside, empty))
    yield Row("million", f"{what}: CPU without the polling", many, less, beside.each / empty.each, MOST_SLOWER)
    yield _by_the_wall_clock(what, beside, empty, MOST_SLOWER)
    yield _by_the_wall_clock(f"{what}, of which the reads", beside, unread)
    yield _by_the_wall_clock(f"{what}, of which the larger file", unread, empty)
    yield Row("million", f"{what}: the polling and the regular jobs meanwhile", beside.shares, empty.shares)


def _by_the_wall_clock(what: str, one: Registering, other: Registering, target: float | None = None) -> Row:
    ratio = one.seconds_each / other.seconds_each
    return Row("million", f"{what}: by the wall clock, one core", str(one), str(other), ratio, target)


def _ends(bench: Bench, bridge: Bridge, amux: Child, watches: int) -> Row:
    """Measures the time from amux's answer with an end to the stored event, by the bridge's own metric."""
    rate = bench.pick(20, 100, ENDS_A_SECOND)
    amux.ask(Ends(rate))
    time.sleep(bench.pick(0.5, 5.0, 10.0))
    before, meter = Lag.read(bridge, SETTLEMENTS), bridge.meter()
    time.sleep(bench.pick(1.0, 10.0, 60.0))
    used, ends = meter.read(), Lag.read(bridge, SETTLEMENTS).since(before)
    amux.ask(Ends(0.0))
    middle, late = (ends.interpolated(share) for share in (0.5, 0.99))
    what = f"{watches:,} watches, {ends.count / used.wall:.0f} ends a second: from the answer to the stored event, p99"
    cell = f"p50 {middle:.2g} s, {used.share:.0%} of a core"
    return Row("million", what, cell, measured=late, target=MOST_SECONDS_TO_STORE, unit=" s")

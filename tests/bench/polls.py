"""Polls of running tasks: their CPU time compared with a bare loop, how late they are, and what overload does."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

from tests.bench import bare_loop
from tests.bench.bare_loop import Rounds, Work
from tests.bench.bridge_process import Bridge, every
from tests.bench.certificate import certificate
from tests.bench.harness import Bench, wait_until
from tests.bench.lag import Lag
from tests.bench.processes import Child
from tests.bench.table import Row
from tests.bench.upstream import counts_of, upstream

ALWAYS_DUE_SECONDS = 0.01  # polls cannot keep up with an interval this short, so every worker is always busy
TASKS_PER_WORKER = 4
PROMISED_SHARE = 0.48  # of the bare loop's rate: 50,000 watches at 8 s need 6,250 of its 13,000 polls a second
LATE_SECONDS = 0.25
PACES = (100, 1_250, 6_000)  # polls a second
PACED_SECONDS = 5.0  # between two polls of a task
PACED_TARGET = 1.25


@dataclass(frozen=True)
class Comparison:
    """The bridge and the bare loop, measured in turn in one run."""

    bridge: Rounds
    bare: Rounds

    def row(self, what: str) -> Row:
        ratio = self.bridge.microseconds / self.bare.microseconds
        return Row("polls", what, f"{self.bridge.microseconds:.0f} µs", f"{self.bare.microseconds:.0f} µs", ratio, 1.5)


def run(bench: Bench) -> Iterator[Row]:
    """Measures three kinds of upstream, usual rates, the lag at the promised rate, and overload."""
    ticks = bench.idle
    yield Row("polls", "nothing to do: share of a core", f"{ticks:.1%}")
    with upstream() as instant:
        found = _compare(bench, instant, "instant", 64)
        yield found.row("instant upstream, 64 at a time: CPU a poll")
        yield from _paced(bench, instant)
        yield from _on_time(bench, instant, found)
        yield from _overload(bench, instant, found)
    many = bench.pick(64, 1024, 1024)
    with upstream(delay=0.1) as slow:
        yield _compare(bench, slow, "slow", many).row(f"upstream of 100 ms, {many} at a time: CPU a poll")
    made = certificate(bench.folder)
    with upstream(certificate=made) as secure:
        yield _compare(bench, secure, "tls", 64, authority=made[0]).row("over TLS, 64 at a time: CPU a poll")


def _compare(bench: Bench, amux: Child, name: str, concurrency: int, authority: str | None = None) -> Comparison:
    """Measures the bridge and the bare loop in turn, both with every worker busy."""
    rounds, seconds, idle = bench.pick(1, 5, 7), bench.pick(0.5, 1.5, 4.0), bench.idle
    hooks = bench.profile(f"polls-{name}") | ({} if authority is None else {"certificate": authority})
    database = bench.seeds.file(active=[f"task_{number}" for number in range(concurrency * TASKS_PER_WORKER)])
    settings = {
        "amux_base_url": str(amux.ready_message),
        "poll_concurrency": str(concurrency),
        "poll_request_timeout_seconds": "600",  # a halted bridge must not count its pause as a time-out of amux
        **every(ALWAYS_DUE_SECONDS),
    }
    bare, bridge = Rounds(), Rounds()
    with Bridge(bench.folder, database, settings, **hooks) as bridge_process:
        _warm(amux, concurrency)
        for _ in range(rounds):
            with bridge_process.halted():
                bare.add(bare_loop.polls(str(amux.ready_message), concurrency, seconds, authority))
            _warm(amux, concurrency)
            meter, helper, before = bridge_process.meter(), amux.meter(), counts_of(amux).requests
            time.sleep(seconds)
            bridge.add(Work(counts_of(amux).requests - before, meter.read()).without_idle(idle))
            bench.helper("polls", amux, helper.read())
    return Comparison(bridge, bare)


def _warm(amux: Child, concurrency: int) -> None:
    """Waits until each worker has polled about once, so that its connection is open."""
    enough = counts_of(amux).requests + concurrency
    wait_until(lambda: counts_of(amux).requests >= enough, 60, "a poll for each worker")


def _paced(bench: Bench, amux: Child) -> Iterator[Row]:
    """Compares the bridge with the bare loop at usual rates. The bridge's figures include its ticks."""
    seconds, interval = bench.pick(1.0, 8.0, 30.0), bench.pick(1.0, PACED_SECONDS, PACED_SECONDS)
    for pace in PACES[: bench.pick(1, 3, 3)]:
        tasks = int(pace * interval)
        bare = bare_loop.paced_polls(str(amux.ready_message), tasks, interval, seconds)
        database = bench.seeds.file(active=[f"task_{number}" for number in range(tasks)])
        settings = {"amux_base_url": str(amux.ready_message), **every(interval)}
        with Bridge(bench.folder, database, settings, **bench.profile(f"polls-{pace}")) as bridge_process:
            time.sleep(interval * 1.2)
            meter, asked = bridge_process.meter(), counts_of(amux).requests
            time.sleep(seconds)
            done = Work(counts_of(amux).requests - asked, meter.read())
        what = f"{pace:,} polls a second, {tasks:,} watches: CPU a poll"
        cells = f"{done.microseconds:.0f} µs", f"{bare.microseconds:.0f} µs"
        yield Row("polls", what, *cells, done.microseconds / bare.microseconds, PACED_TARGET)


def _on_time(bench: Bench, amux: Child, found: Comparison) -> Iterator[Row]:
    """Measures the lag at a rate that is a share of the bare loop's rate, because other load slows both."""
    interval, seconds = bench.pick(1.0, 8.0, 8.0), bench.pick(1.0, 8.0, 30.0)
    watches = min(50_000, int(PROMISED_SHARE * found.bare.rate * interval))
    database = bench.seeds.file(active=[f"task_{number}" for number in range(watches)])
    settings = {"amux_base_url": str(amux.ready_message), **every(interval)}
    with Bridge(bench.folder, database, settings, **bench.profile("polls-paced")) as bridge_process:
        time.sleep(interval * 1.2)
        before, meter, asked = Lag.read(bridge_process), bridge_process.meter(), counts_of(amux).requests
        time.sleep(seconds)
        done = Work(counts_of(amux).requests - asked, meter.read()).without_idle(bench.idle)
        late = Lag.read(bridge_process).since(before)
    what = f"{watches:,} watches at {interval:g} s: polls over 250 ms late"
    cell = f"p99 <= {late.quantile(0.99):g} s"
    yield Row("polls", what, cell, measured=100 * late.share_over(LATE_SECONDS), target=1.0, unit=" %")
    ratio = done.microseconds / found.bare.microseconds
    yield Row(
        "polls",
        f"the same, {done.rate:.0f} a second: CPU a poll",
        f"{done.microseconds:.0f} µs",
        f"{found.bare.microseconds:.0f} µs, always busy",
        ratio,
    )


def _overload(bench: Bench, amux: Child, found: Comparison) -> Iterator[Row]:
    """Checks that twice as many watches as the bridge can poll in time are all still polled, the oldest due first."""
    interval, rounds = bench.pick(0.5, 3.0, 8.0), 2
    watches = int(2 * found.bridge.rate * interval)
    fair = 2 * interval
    database = bench.seeds.file(active=[f"task_{number}" for number in range(watches)])
    with Bridge(
        bench.folder, database, {"amux_base_url": str(amux.ready_message), **every(interval)}
    ) as bridge_process:
        time.sleep(fair)
        before = Lag.read(bridge_process)
        amux.ask("reset")
        began = time.monotonic()
        wait_until(lambda: counts_of(amux).tasks == watches, 20 * fair, "every task polled")
        once = time.monotonic() - began
        time.sleep(once * (rounds - 1))
        seen, late = counts_of(amux), Lag.read(bridge_process).since(before)
    lost = watches - seen.tasks
    what = f"twice the load, {watches:,} watches: tasks not polled"
    yield Row("polls", what, f"each within {once:.1f} s", measured=float(lost), target=0.0)
    cell = f"mean lag {late.mean:.1f} s"
    yield Row(
        "polls",
        "the same: longest gap between two polls of a task, in mean gaps",
        cell,
        measured=seen.widest_gap / once,
        target=2.0,
    )

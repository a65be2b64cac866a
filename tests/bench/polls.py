"""A poll that says "still running": its CPU time beside the bare loop's, how late polls are, and what overload does."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

from tests.bench import bare_loop
from tests.bench.bare_loop import Done, Rounds
from tests.bench.certificate import certificate
from tests.bench.lag import Lag
from tests.bench.processes import Child
from tests.bench.stage import Stage, until
from tests.bench.subject import Bridge, every
from tests.bench.table import Row
from tests.bench.upstream import counted, upstream

ALWAYS_DUE_SECONDS = 0.01  # an interval that no bridge keeps: every worker is busy all the time
TASKS_PER_WORKER = 4
PROMISED_SHARE = 0.48  # of the bare loop's rate: what 50,000 watches at 8 s are of 13,000 polls a second
LATE_SECONDS = 0.25


@dataclass(frozen=True)
class Beside:
    """The bridge and the bare loop, measured in turn in one run."""

    bridge: Rounds
    bare: Rounds

    def row(self, what: str) -> Row:
        ratio = self.bridge.microseconds / self.bare.microseconds
        return Row("polls", what, f"{self.bridge.microseconds:.0f} µs", f"{self.bare.microseconds:.0f} µs", ratio, 1.5)


def run(stage: Stage) -> Iterator[Row]:
    """Three kinds of upstream, then the clock, then too much."""
    ticks = stage.idle
    yield Row("polls", "nothing to do: share of a core", f"{ticks:.1%}")
    with upstream() as instant:
        found = _beside(stage, instant, "instant", 64)
        yield found.row("instant upstream, 64 at a time: CPU a poll")
        yield from _on_time(stage, instant, found)
        yield from _overload(stage, instant, found)
    many = stage.pick(64, 1024, 1024)
    with upstream(delay=0.1) as slow:
        yield _beside(stage, slow, "slow", many).row(f"upstream of 100 ms, {many} at a time: CPU a poll")
    made = certificate(stage.folder)
    with upstream(certificate=made) as secure:
        yield _beside(stage, secure, "tls", 64, authority=made[0]).row("over TLS, 64 at a time: CPU a poll")


def _beside(stage: Stage, amux: Child, name: str, concurrency: int, authority: str | None = None) -> Beside:
    """The bridge and the bare loop in turn, both with every worker busy."""
    rounds, seconds, idle = stage.pick(1, 5, 7), stage.pick(0.5, 1.5, 4.0), stage.idle
    hooks = stage.profile(f"polls-{name}") | ({} if authority is None else {"certificate": authority})
    database = stage.seeds.file(active=[f"task_{number}" for number in range(concurrency * TASKS_PER_WORKER)])
    settings = {
        "amux_base_url": str(amux.greeting),
        "poll_concurrency": str(concurrency),
        "poll_request_timeout_seconds": "600",  # a halted bridge must not take its halt for amux's silence
        **every(ALWAYS_DUE_SECONDS),
    }
    bare, bridge = Rounds(), Rounds()
    with Bridge(stage.folder, database, settings, **hooks) as subject:
        _warm(amux, concurrency)
        for _ in range(rounds):
            with subject.halted():
                bare.add(bare_loop.polls(str(amux.greeting), concurrency, seconds, authority))
            _warm(amux, concurrency)
            meter, helper, before = subject.meter(), amux.meter(), counted(amux).requests
            time.sleep(seconds)
            bridge.add(Done(counted(amux).requests - before, meter.read()).less(idle))
            stage.helper("polls", amux, helper.read())
    return Beside(bridge, bare)


def _warm(amux: Child, concurrency: int) -> None:
    """Wait until each worker has polled about once: its connection is there."""
    enough = counted(amux).requests + concurrency
    until(lambda: counted(amux).requests >= enough, 60, "a poll for each worker")


def _on_time(stage: Stage, amux: Child, found: Beside) -> Iterator[Row]:
    """Polls at the promised share of what the bare loop does, by the wall clock: whoever shares the core slows both."""
    interval, seconds = stage.pick(1.0, 8.0, 8.0), stage.pick(1.0, 8.0, 30.0)
    watches = min(50_000, int(PROMISED_SHARE * found.bare.rate * interval))
    database = stage.seeds.file(active=[f"task_{number}" for number in range(watches)])
    settings = {"amux_base_url": str(amux.greeting), **every(interval)}
    with Bridge(stage.folder, database, settings, **stage.profile("polls-paced")) as subject:
        time.sleep(interval * 1.2)
        before, meter, asked = Lag.read(subject), subject.meter(), counted(amux).requests
        time.sleep(seconds)
        done = Done(counted(amux).requests - asked, meter.read()).less(stage.idle)
        late = Lag.read(subject).since(before)
    what = f"{watches:,} watches at {interval:g} s: polls over 250 ms late"
    told = f"p99 <= {late.quantile(0.99):g} s"
    yield Row("polls", what, told, measured=100 * late.share_over(LATE_SECONDS), target=1.0, unit=" %")
    ratio = done.microseconds / found.bare.microseconds
    yield Row(
        "polls",
        f"the same, {done.rate:.0f} a second: CPU a poll",
        f"{done.microseconds:.0f} µs",
        f"{found.bare.microseconds:.0f} µs, always busy",
        ratio,
    )


def _overload(stage: Stage, amux: Child, found: Beside) -> Iterator[Row]:
    """Twice as many watches as the bridge can carry: each is still asked about, the oldest due first."""
    interval, rounds = stage.pick(0.5, 3.0, 8.0), 2
    watches = int(2 * found.bridge.rate * interval)
    fair = 2 * interval
    database = stage.seeds.file(active=[f"task_{number}" for number in range(watches)])
    with Bridge(stage.folder, database, {"amux_base_url": str(amux.greeting), **every(interval)}) as subject:
        time.sleep(fair)
        before = Lag.read(subject)
        amux.ask("forget")
        began = time.monotonic()
        until(lambda: counted(amux).tasks == watches, 20 * fair, "every task asked about")
        once = time.monotonic() - began
        time.sleep(once * (rounds - 1))
        seen, late = counted(amux), Lag.read(subject).since(before)
    lost = watches - seen.tasks
    what = f"twice the load, {watches:,} watches: those not asked about"
    yield Row("polls", what, f"each within {once:.1f} s", measured=float(lost), target=0.0)
    told = f"mean lag {late.mean:.1f} s"
    yield Row("polls", "the same: longest gap of one, in mean gaps", told, measured=seen.widest_gap / once, target=2.0)

"""Registrations, compared with a handler that validates the same body with the same model and stores nothing.

A third server does the least work that stores a registration durably. It shows how much of the difference is storing.
"""

from collections.abc import Iterator

from tests.bench import bare_loop
from tests.bench.bare_loop import Rounds, Work
from tests.bench.bridge_process import POLLS_NOTHING, Bridge
from tests.bench.harness import Bench
from tests.bench.least import storing_handler
from tests.bench.load import Registered, register
from tests.bench.processes import Child
from tests.bench.table import Row

CONNECTIONS = 64
BATCH = 500
BATCHES_AT_A_TIME = 2


def run(bench: Bench) -> Iterator[Row]:
    """Measures single registrations in turn with both handlers, then batches of 500."""
    rounds, seconds, idle = bench.pick(1, 5, 7), bench.pick(0.5, 1.5, 4.0), bench.idle
    bare, least, single, batched, longest = Rounds(), Rounds(), Rounds(), Rounds(), 0.0
    with (
        bare_loop.handler() as handler,
        storing_handler(bench.seeds.file()) as storing,
        Bridge(bench.folder, bench.seeds.file(), POLLS_NOTHING, **bench.profile("registrations")) as bridge,
    ):
        _measured(bridge, bridge.url, seconds / 3, "warm")
        for turn in range(rounds):
            with bridge.halted():
                bare.add(_measured(handler, str(handler.ready_message), seconds, f"bare{turn}x")[0])
                least.add(_measured(storing, str(storing.ready_message), seconds, f"least{turn}x")[0])
            done, result = _measured(bridge, bridge.url, seconds, f"one{turn}x")
            single.add(done.without_idle(idle))
            longest = max(longest, result.wait(1.0))
            bench.log(f"registrations: the client took {result.usage.share:.0%} of a core")
        for turn in range(rounds):
            batched.add(_measured(bridge, bridge.url, seconds, f"many{turn}x", BATCH)[0].without_idle(idle))
    yield _row("a handler that only stores, with plain sqlite3: rate by CPU time", least, bare, None)
    yield _row(f"{CONNECTIONS} at a time: rate by CPU time", single, bare, 0.45)
    yield Row(
        "registrations",
        "the same: rate by the wall clock, longest answer",
        f"{single.rate:.0f}/s, {longest * 1000:.0f} ms",
        f"{bare.rate:.0f}/s",
        single.rate / bare.rate,
    )
    yield _row(f"batches of {BATCH}: rate compared with the bare handler's", batched, bare, None)
    yield _row(f"batches of {BATCH}: rate compared with single ones", batched, single, 4.0)


def _measured(server: Child, url: str, seconds: float, run_name: str, batch: int = 1) -> tuple[Work, Registered]:
    meter = server.meter()
    result = register(url, CONNECTIONS if batch == 1 else BATCHES_AT_A_TIME, seconds, run_name, batch)
    return Work(result.watches, meter.read()), result


def _row(what: str, bridge: Rounds, bare: Rounds, target: float | None) -> Row:
    ratio = bare.microseconds / bridge.microseconds
    cell = f"{bridge.microseconds:.0f} µs"
    return Row("registrations", what, cell, f"{bare.microseconds:.0f} µs", ratio, target, at_least=True)

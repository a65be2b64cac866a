"""Registrations: durable ones beside a handler that validates the same body by the same model and stores nothing.

Between the two stands the least that is durable: it says how much of the way is the store's.
"""

from collections.abc import Iterator

from tests.bench import bare_loop
from tests.bench.bare_loop import Done, Rounds
from tests.bench.least import storing_handler
from tests.bench.load import Registered, register
from tests.bench.processes import Child
from tests.bench.stage import Stage
from tests.bench.subject import POLLS_NOTHING, Bridge
from tests.bench.table import Row

CONNECTIONS = 64
BATCH = 500
BATCHES_AT_A_TIME = 2


def run(stage: Stage) -> Iterator[Row]:
    """One by one, then by 500; both handlers in turn with the first."""
    rounds, seconds, idle = stage.pick(1, 5, 7), stage.pick(0.5, 1.5, 4.0), stage.idle
    bare, least, single, batched, longest = Rounds(), Rounds(), Rounds(), Rounds(), 0.0
    with (
        bare_loop.handler() as handler,
        storing_handler(stage.seeds.file()) as storing,
        Bridge(stage.folder, stage.seeds.file(), POLLS_NOTHING, **stage.profile("registrations")) as bridge,
    ):
        _measured(bridge, bridge.url, seconds / 3, "warm")
        for turn in range(rounds):
            with bridge.halted():
                bare.add(_measured(handler, str(handler.greeting), seconds, f"bare{turn}x")[0])
                least.add(_measured(storing, str(storing.greeting), seconds, f"least{turn}x")[0])
            done, told = _measured(bridge, bridge.url, seconds, f"one{turn}x")
            single.add(done.less(idle))
            longest = max(longest, told.longest)
            stage.say(f"registrations: the client took {told.spent.share:.0%} of a core")
        for turn in range(rounds):
            batched.add(_measured(bridge, bridge.url, seconds, f"many{turn}x", BATCH)[0].less(idle))
    yield _row("a handler that stores by hand and does nothing else: rate by CPU time", least, bare, None)
    yield _row(f"{CONNECTIONS} at a time: rate by CPU time", single, bare, 0.45)
    yield Row(
        "registrations",
        "the same: rate by the wall clock, longest answer",
        f"{single.rate:.0f}/s, {longest * 1000:.0f} ms",
        f"{bare.rate:.0f}/s",
        single.rate / bare.rate,
    )
    yield _row(f"batches of {BATCH}: rate beside the bare handler's", batched, bare, None)
    yield _row(f"batches of {BATCH}: rate beside single ones'", batched, single, 4.0)


def _measured(server: Child, url: str, seconds: float, run_name: str, batch: int = 1) -> tuple[Done, Registered]:
    meter = server.meter()
    told = register(url, CONNECTIONS if batch == 1 else BATCHES_AT_A_TIME, seconds, run_name, batch)
    return Done(told.watches, meter.read()), told


def _row(what: str, bridge: Rounds, bare: Rounds, target: float | None) -> Row:
    ratio = bare.microseconds / bridge.microseconds
    told = f"{bridge.microseconds:.0f} µs"
    return Row("registrations", what, told, f"{bare.microseconds:.0f} µs", ratio, target, at_least=True)

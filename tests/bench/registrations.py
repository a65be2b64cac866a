"""Registrations: durable ones beside a handler that validates the same body by the same model and stores nothing."""

from collections.abc import Iterator

import bare_loop
from bare_loop import NOTHING, Done
from load import Registered, register
from processes import Child
from stage import Stage
from subject import POLLS_NOTHING, Bridge
from table import Row

CONNECTIONS = 64
BATCH = 500
BATCHES_AT_A_TIME = 4


def run(stage: Stage) -> Iterator[Row]:
    """One by one, then by 500; the bare handler in turn with the first."""
    rounds, seconds = stage.pick(1, 3, 5), stage.pick(0.5, 2.0, 4.0)
    bare = single = batched = NOTHING
    longest = 0.0
    with (
        bare_loop.handler() as handler,
        Bridge(stage.folder, stage.seeds.file(), POLLS_NOTHING, **stage.profile("registrations")) as bridge,
    ):
        _measured(bridge, str(bridge.greeting), 0.3, "warm")
        for turn in range(rounds):
            with bridge.halted():
                done, _ = _measured(handler, str(handler.greeting), seconds, f"bare{turn}x")
                bare = bare.plus(done)
            done, told = _measured(bridge, str(bridge.greeting), seconds, f"one{turn}x")
            single, longest = single.plus(done), max(longest, told.longest)
            stage.say(f"registrations: the client took {told.spent.share:.0%} of a core")
        for turn in range(rounds):
            done, _ = _measured(bridge, str(bridge.greeting), seconds, f"many{turn}x", BATCH)
            batched = batched.plus(done)
    single, batched = single.less(stage.idle), batched.less(stage.idle)
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


def _row(what: str, bridge: Done, bare: Done, target: float | None) -> Row:
    ratio = bare.microseconds / bridge.microseconds
    told = f"{bridge.microseconds:.0f} µs"
    return Row("registrations", what, told, f"{bare.microseconds:.0f} µs", ratio, target, at_least=True)

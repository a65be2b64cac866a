"""What PostgreSQL does for a watch's whole life, by its own count: registered, polled, settled, delivered, recorded.

One life at a time, so that no two share a transaction: under load they do, and each costs less. What replicas ask
with nothing to do is measured by itself and taken off.
"""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import median

from tests.bench.postgres import ELSEWHERE, Cost, accounts, fill, server
from tests.bench.processes import OTHERS, Child
from tests.bench.receiver import Ports, receiver
from tests.bench.stage import Stage, until
from tests.bench.subject import POLLS_NOTHING, Bridge, ask
from tests.bench.table import Row
from tests.bench.upstream import upstream
from tests.databases import NoServer, PostgresServer

STATEMENTS = 25.0  # of a life with one status in between: four transactions; tests/store/test_statements.py names each
SLACK = 1.02  # what replicas ask by themselves comes once a second: now and then once more than was taken off
MOST_GROWTH = 1.4
RUNS_SECONDS = 0.12  # a task: long enough to be seen running, at the first tick or the second
FEW = 100
SELDOM = 86_400.0
ALONE = dict.fromkeys(("look", "deadlines", "gauges", "lookout"), SELDOM)
"""What else a replica asks now and then: no part of a life, and measured by itself."""
QUICK = {
    "poll_first_delay_seconds": "0.02",
    "poll_interval_seconds": "0.05",
    "poll_max_interval_seconds": "0.05",
}


@dataclass(frozen=True)
class _Case:
    replicas: int
    active: int

    def __str__(self) -> str:
        return f"{self.replicas} {'replica' if self.replicas == 1 else 'replicas'}, {self.active:,} active"


def run(stage: Stage) -> Iterator[Row]:
    """A life's cost with more replicas and more active watches; then a heartbeat's with more tasks."""
    many = stage.pick(1_000, 20_000, 100_000)
    try:
        with server() as started, upstream() as amux, receiver(1) as there:
            cases = [_Case(1, FEW), _Case(2, FEW), _Case(4, FEW), _Case(4, many)]
            costs = {case: _life(stage, started, amux, there, case) for case in cases}
            yield from _lives(costs)
            yield from _heartbeats(stage, started, many)
    except NoServer as missing:
        yield Row("cost", f"left out: {missing}", "")


def _life(stage: Stage, on: PostgresServer, amux: Child, there: Child, case: _Case) -> Cost:
    """What one life costs: the times of the best of some rounds, for others use the machine as well."""
    rounds, lives, url = stage.pick(1, 5, 9), stage.pick(5, 6, 40), on.migrated()
    fill(url, [f"task_{number}" for number in range(case.active)], ELSEWHERE)
    settings = {"amux_base_url": str(amux.greeting), **QUICK}
    done: list[Cost] = []
    with ExitStack() as stack:
        bridges = [
            stack.enter_context(Bridge(stage.folder, url, settings, core=OTHERS[place % len(OTHERS)], **ALONE))
            for place in range(case.replicas)
        ]
        # The fifth time a statement is prepared, the tenth it is planned for good.
        _live(bridges, there, 10 * case.replicas)
        with accounts(on, url) as idle:
            time.sleep(stage.pick(1.0, 2.0, 10.0))
            seconds, waiting = idle.read()
        for _ in range(rounds):
            with accounts(on, url) as busy:
                _live(bridges, there, lives)
                time.sleep(0.1)  # the last attempt is recorded
                spent, cost = busy.read()
            done.append(cost.less(waiting, spent / seconds).each(lives))
    statements = median(cost.statements for cost in done)
    return Cost(statements, min(cost.busy for cost in done), min(cost.cpu for cost in done))


def _live(bridges: list[Bridge], there: Child, lives: int) -> None:
    """So many watches' whole lives, one after another, at each bridge in turn."""
    ports: Ports = there.greeting
    [url] = ports.urls()
    there.ask("forget")
    for number in range(lives):
        now = time.time()
        task = f"task_{now:.6f}-{(now + RUNS_SECONDS) * 1000:.0f}"
        ask(bridges[number % len(bridges)].url, "POST", "/watch", {"task_id": task, "callback_url": url})
        end = time.monotonic() + 30
        while int(there.ask("count")) <= number:
            if time.monotonic() > end:
                raise RuntimeError("a watch has no callback")
            time.sleep(0.002)


def _lives(costs: dict[_Case, Cost]) -> Iterator[Row]:
    (first, alone), *others = costs.items()
    for case, cost in costs.items():
        what = f"a watch's life, {case}: statements"
        yield Row("cost", what, f"{cost.statements:.1f}", measured=cost.statements, target=STATEMENTS * SLACK)
    yield Row("cost", f"the same, {first}: time of statements, and CPU of all its processes", _told(alone))
    for case, cost in others:
        what = f"the same, {case}: time of statements, CPU"
        yield Row("cost", what, _told(cost), f"{alone.busy * 1e6:.0f} µs (first)", cost.busy / alone.busy, MOST_GROWTH)


def _told(cost: Cost) -> str:
    return f"{cost.busy * 1e6:.0f} µs, {cost.cpu * 1e6:.0f} µs"


# --- heartbeats ---------------------------------------------------------------------------------------------------


def _heartbeats(stage: Stage, on: PostgresServer, many: int) -> Iterator[Row]:
    beats: dict[int, float] = {}
    rest: dict[int, Cost] = {}
    for tasks in (FEW, many):
        beats[tasks], rest[tasks] = _at_rest(stage, on, tasks)
    what = f"a heartbeat with {many:,} tasks beside {FEW}: time of its statement"
    yield _beside(what, beats[many], beats[FEW])
    what = f"all that a replica asks by itself in a second, {many:,} tasks beside {FEW}"
    yield _beside(what, rest[many].busy, rest[FEW].busy)
    yield Row("cost", "the same: statements, CPU of PostgreSQL", f"{rest[many].statements:.0f}, {_told(rest[many])}")


def _beside(what: str, many: float, few: float) -> Row:
    return Row("cost", what, f"{many * 1e6:.0f} µs", f"{few * 1e6:.0f} µs (few)", many / few, MOST_GROWTH)


def _at_rest(stage: Stage, on: PostgresServer, tasks: int) -> tuple[float, Cost]:
    """Seconds that a heartbeat's statement takes, and what a replica with so many tasks asks for in a second."""
    url = on.migrated()
    fill(url, [f"task_{number}" for number in range(tasks)], None)
    with Bridge(stage.folder, url, POLLS_NOTHING, gauges=SELDOM, stuck_monitor=SELDOM, beat=0.05) as bridge:
        until(lambda: bridge.metrics()["amux_bridge_owned_tasks"] == tasks, 120, "every task taken")
        time.sleep(1.0)
        with accounts(on, url, "UPDATE replicas%") as beats, accounts(on, url) as rest:
            time.sleep(stage.pick(1.0, 4.0, 20.0))
            _, beat = beats.read()
            seconds, all_of_it = rest.read()
    return beat.each(beat.statements).busy, all_of_it.each(seconds)

"""What one watch costs PostgreSQL, by the server's own statistics, from its registration to the recorded attempt.

The watches run one at a time, so that no two share a transaction. Under load watches share transactions, and each costs
less. The statements of idle replicas are measured separately and subtracted.
"""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import median

from tests.bench.bridge_process import POLLS_NOTHING, Bridge, ask
from tests.bench.harness import Bench, wait_until
from tests.bench.postgres import ELSEWHERE, Cost, database_meter, fill, server
from tests.bench.processes import OTHERS, Child
from tests.bench.receiver import Ports, start_receivers
from tests.bench.table import Row
from tests.bench.upstream import upstream
from tests.databases import NoServer, PostgresServer

STATEMENTS = 25.0  # of a watch with one status change: four transactions; tests/store/test_statements.py lists them
SLACK = 1.02  # idle replicas send statements once a second, and sometimes send more of them than were subtracted
MOST_GROWTH = 1.4
RUNS_SECONDS = 0.12  # a task runs so long that its first or second poll finds it running
FEW = 100
SELDOM = 86_400.0
NO_PERIODIC_WORK = dict.fromkeys(("adoption", "deadlines", "gauges", "stuck_monitor"), SELDOM)
"""Jobs of a replica that run almost never in this measurement, because they are no part of a watch's cost."""
FAST_POLLS = {
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


def run(bench: Bench) -> Iterator[Row]:
    """Measures a watch with more replicas and more active watches, then a heartbeat with more tasks."""
    many = bench.pick(1_000, 20_000, 100_000)
    try:
        with server() as started, upstream() as amux, start_receivers(1) as receivers:
            cases = [_Case(1, FEW), _Case(2, FEW), _Case(4, FEW), _Case(4, many)]
            costs = {case: _watch_cost(bench, started, amux, receivers, case) for case in cases}
            yield from _watch_rows(costs)
            yield from _heartbeats(bench, started, many)
    except NoServer as missing:
        yield Row("cost", f"skipped: {missing}", "")


def _watch_cost(bench: Bench, on: PostgresServer, amux: Child, receivers: Child, case: _Case) -> Cost:
    """Returns the cost of one watch. Each time is the shortest of all rounds: other programs disturb some rounds."""
    rounds, watches, url = bench.pick(1, 5, 9), bench.pick(5, 6, 40), on.migrated()
    fill(url, [f"task_{number}" for number in range(case.active)], ELSEWHERE)
    settings = {"amux_base_url": str(amux.ready_message), **FAST_POLLS}
    costs: list[Cost] = []
    with ExitStack() as stack:
        bridges = [
            stack.enter_context(
                Bridge(bench.folder, url, settings, core=OTHERS[place % len(OTHERS)], **NO_PERIODIC_WORK)
            )
            for place in range(case.replicas)
        ]
        # A statement is prepared at its fifth use, and its plan becomes final at the tenth.
        _complete_watches(bridges, receivers, 10 * case.replicas)
        with database_meter(on, url) as idle:
            time.sleep(bench.pick(1.0, 2.0, 10.0))
            idle_seconds, idle_cost = idle.read()
        for _ in range(rounds):
            with database_meter(on, url) as busy:
                _complete_watches(bridges, receivers, watches)
                time.sleep(0.1)  # until the last attempt is recorded
                busy_seconds, cost = busy.read()
            costs.append(cost.less(idle_cost, busy_seconds / idle_seconds).each(watches))
    statements = median(cost.statements for cost in costs)
    return Cost(statements, min(cost.busy for cost in costs), min(cost.cpu for cost in costs))


def _complete_watches(bridges: list[Bridge], receivers: Child, count: int) -> None:
    """Registers watches one after another, at each bridge in turn, and waits for the callback of each."""
    ports: Ports = receivers.ready_message
    [url] = ports.urls()
    receivers.ask("reset")
    for number in range(count):
        now = time.time()
        task = f"task_{now:.6f}-{(now + RUNS_SECONDS) * 1000:.0f}"
        ask(bridges[number % len(bridges)].url, "POST", "/watch", {"task_id": task, "callback_url": url})
        end = time.monotonic() + 30
        while int(receivers.ask("count")) <= number:
            if time.monotonic() > end:
                raise RuntimeError("a watch has no callback")
            time.sleep(0.002)


def _watch_rows(costs: dict[_Case, Cost]) -> Iterator[Row]:
    (first, alone), *others = costs.items()
    for case, cost in costs.items():
        what = f"one watch, {case}: statements"
        yield Row("cost", what, f"{cost.statements:.1f}", measured=cost.statements, target=STATEMENTS * SLACK)
    yield Row("cost", f"the same, {first}: time of statements, and CPU of all its processes", _cell(alone))
    for case, cost in others:
        what = f"the same, {case}: time of statements, CPU"
        yield Row("cost", what, _cell(cost), f"{alone.busy * 1e6:.0f} µs (first)", cost.busy / alone.busy, MOST_GROWTH)


def _cell(cost: Cost) -> str:
    return f"{cost.busy * 1e6:.0f} µs, {cost.cpu * 1e6:.0f} µs"


# --- heartbeats ---------------------------------------------------------------------------------------------------


def _heartbeats(bench: Bench, on: PostgresServer, many: int) -> Iterator[Row]:
    beats: dict[int, float] = {}
    idle: dict[int, Cost] = {}
    for tasks in (FEW, many):
        beats[tasks], idle[tasks] = _idle_cost(bench, on, tasks)
    what = f"a heartbeat with {many:,} tasks and with {FEW}: time of its statement"
    yield _growth(what, beats[many], beats[FEW])
    what = f"all statements of an idle replica in a second, {many:,} tasks and {FEW}"
    yield _growth(what, idle[many].busy, idle[FEW].busy)
    yield Row("cost", "the same: statements, CPU of PostgreSQL", f"{idle[many].statements:.0f}, {_cell(idle[many])}")


def _growth(what: str, many: float, few: float) -> Row:
    return Row("cost", what, f"{many * 1e6:.0f} µs", f"{few * 1e6:.0f} µs (few)", many / few, MOST_GROWTH)


def _idle_cost(bench: Bench, on: PostgresServer, tasks: int) -> tuple[float, Cost]:
    """Returns the seconds of a heartbeat's statement, and the cost of a second of an idle replica."""
    url = on.migrated()
    fill(url, [f"task_{number}" for number in range(tasks)], None)
    with Bridge(bench.folder, url, POLLS_NOTHING, gauges=SELDOM, stuck_monitor=SELDOM, heartbeat=0.05) as bridge:
        wait_until(lambda: bridge.metrics()["amux_bridge_owned_tasks"] == tasks, 120, "every task owned")
        time.sleep(1.0)
        with database_meter(on, url, "UPDATE replicas%") as beats, database_meter(on, url) as everything:
            time.sleep(bench.pick(1.0, 4.0, 20.0))
            _, beat = beats.read()
            seconds, total = everything.read()
    return beat.each(beat.statements).busy, total.each(seconds)

"""1, 2 and 4 replicas on one PostgreSQL: how many polls they make together, and how many watches they complete.

With more than two cores the replicas use all but the last, and PostgreSQL uses any. With two cores the replicas share
one, so more replicas do not increase the rate. The cost of a watch is compared at the same fixed rate for each replica.
At full speed a commit of a single replica would hold more watches than a commit of one of four, and cost less a watch.
"""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from tests.bench.bridge_process import Bridge, ask, every
from tests.bench.harness import Bench, wait_until
from tests.bench.load import register
from tests.bench.postgres import Cost, database_meter, server
from tests.bench.processes import OTHERS, Child
from tests.bench.receiver import Ports, start_receivers
from tests.bench.seeding import CALLBACK
from tests.bench.table import Row
from tests.bench.upstream import counts_of, upstream
from tests.databases import NoServer, PostgresServer

REPLICAS = (1, 2, 4)
DELAY_SECONDS = 0.3  # the delay of amux's answers and CONCURRENCY limit the polls a second of one replica
CONCURRENCY = 64
CONNECTIONS = 48  # of apps, to all replicas together
PROMISED_SHARE = 0.8  # of the product of one replica's rate and the number of replicas
MOST_GROWTH = 1.4
ROUND_SECONDS = 0.25
WATCHES_PER_ROUND = 10  # at each replica


@dataclass(frozen=True)
class _Done:
    """Polls or watches a second, and the CPU µs of each in the replicas and in PostgreSQL."""

    rate: float
    replicas: float
    database: float

    @property
    def total(self) -> float:
        return self.replicas + self.database


def run(bench: Bench) -> Iterator[Row]:
    """Measures polls, then complete watches."""
    try:
        with server() as started:
            with upstream(delay=DELAY_SECONDS) as slow:
                yield from _poll_rows({count: _polls(bench, started, slow, count) for count in REPLICAS})
            with upstream() as instant, start_receivers(1) as receivers:
                yield from _watch_rows(
                    {count: _watches(bench, started, instant, receivers, count) for count in REPLICAS}
                )
    except NoServer as missing:
        yield Row("replicas", f"skipped: {missing}", "")


@contextmanager
def _running_replicas(bench: Bench, url: str, count: int, settings: dict[str, str]) -> Iterator[list[Bridge]]:
    with ExitStack() as stack:
        yield [
            stack.enter_context(Bridge(bench.folder, url, settings, core=OTHERS[place % len(OTHERS)]))
            for place in range(count)
        ]


# --- polls --------------------------------------------------------------------------------------------------------


def _polls(bench: Bench, on: PostgresServer, amux: Child, count: int) -> _Done:
    """Measures polls. Every replica has more due tasks than it may poll at a time, all registered at that replica."""
    seconds, url = bench.pick(1.0, 3.0, 20.0), on.migrated()
    settings = {"amux_base_url": str(amux.ready_message), "poll_concurrency": str(CONCURRENCY), **every(0.05)}
    with _running_replicas(bench, url, count, settings) as bridges:
        for place, bridge in enumerate(bridges):
            tasks = [f"task_{count}x{place}x{number}" for number in range(4 * CONCURRENCY)]
            _register(bridge, tasks, CALLBACK)
        wait_until(lambda: all(bridge.metrics()["amux_bridge_owned_tasks"] for bridge in bridges), 30, "tasks for all")
        time.sleep(1.0)
        with database_meter(on, url) as database:
            meters, before = [bridge.meter() for bridge in bridges], counts_of(amux).requests
            time.sleep(seconds)
            done = counts_of(amux).requests - before
            usages = [meter.read() for meter in meters]
            _, cost = database.read()
    own = sum(usage.cpu for usage in usages) / done * 1e6
    return _Done(done / usages[0].wall, own, cost.cpu / done * 1e6)


def _register(bridge: Bridge, tasks: list[str], callback: str) -> None:
    """Registers tasks in one batch."""
    watches = [{"task_id": task, "callback_url": callback} for task in tasks]
    answer = json.loads(ask(bridge.url, "POST", "/watch/batch", {"watches": watches}))
    if {result["status"] for result in answer["results"]} != {201}:
        raise RuntimeError(f"refused: {answer}")


def _poll_rows(found: dict[int, _Done]) -> Iterator[Row]:
    alone = found[1]
    for count, done in found.items():
        what = f"polls, {_named(count)} of {CONCURRENCY} at a time: compared with one times the number"
        ratio = done.rate / alone.rate / count
        yield Row("replicas", what, f"{done.rate:.0f}/s", f"{alone.rate:.0f}/s (1)", ratio, PROMISED_SHARE, True)
        what = "the same: CPU a poll, and PostgreSQL's"
        yield Row("replicas", what, _cell(done), f"{alone.total:.0f} µs (1)", done.total / alone.total)


# --- complete watches ---------------------------------------------------------------------------------------------


def _watches(bench: Bench, on: PostgresServer, amux: Child, receivers: Child, count: int) -> _Done:
    """Measures whole watches, first at a fixed rate, then at full speed. Their first poll finds a completed task."""
    ports: Ports = receivers.ready_message
    seconds, url = bench.pick(0.5, 3.0, 20.0), on.migrated()
    settings = {"amux_base_url": str(amux.ready_message), "delivery_concurrency_per_host": "64", **every(0.2)}
    with _running_replicas(bench, url, count, settings) as bridges:
        _at_full_speed(receivers, bridges, bench.pick(0.2, 1.0, 2.0), f"warm{count}-", ports.good[0])
        idle = _measure(on, url, bridges, lambda: time.sleep(bench.pick(0.5, 2.0, 10.0)))
        rounds, callback = bench.pick(2, 12, 80), receivers.ready_message.urls()[0]
        paced = _measure(on, url, bridges, lambda: _at_fixed_rate(receivers, bridges, rounds, callback))
        watches = rounds * WATCHES_PER_ROUND * count
        replicas = (paced.replicas - idle.replicas * paced.seconds / idle.seconds) / watches * 1e6
        database = paced.cost.less(idle.cost, paced.seconds / idle.seconds).each(watches)
        began = time.monotonic()
        done = _at_full_speed(receivers, bridges, seconds, f"run{count}-", ports.good[0])
        rate = done / (time.monotonic() - began)
    bench.log(
        f"replicas: {count}: {database.statements:.1f} statements a watch"
        f" at {WATCHES_PER_ROUND / ROUND_SECONDS:.0f}/s for each"
    )
    return _Done(rate, replicas, database.cpu * 1e6)


@dataclass(frozen=True)
class _Measurement:
    """A measurement: its seconds, the CPU seconds of all replicas in it, and the cost of the database."""

    seconds: float
    replicas: float
    cost: Cost


def _measure(on: PostgresServer, url: str, bridges: list[Bridge], action: Callable[[], object]) -> _Measurement:
    with database_meter(on, url) as database:
        meters = [bridge.meter() for bridge in bridges]
        action()
        replicas = sum(meter.read().cpu for meter in meters)
        seconds, cost = database.read()
    return _Measurement(seconds, replicas, cost)


def _at_fixed_rate(receivers: Child, bridges: list[Bridge], rounds: int, callback: str) -> None:
    """Registers a few watches at every replica in each round, and waits for all callbacks."""
    receivers.ask("reset")
    began = time.monotonic()
    for number_of_round in range(rounds):
        time.sleep(max(0.0, began + number_of_round * ROUND_SECONDS - time.monotonic()))
        for place, bridge in enumerate(bridges):
            _register(
                bridge,
                [
                    f"task_p{len(bridges)}x{number_of_round}x{place}x{number}-1000"
                    for number in range(WATCHES_PER_ROUND)
                ],
                callback,
            )
    wait_until(lambda: int(receivers.ask("count")) >= rounds * WATCHES_PER_ROUND * len(bridges), 60, "every callback")
    time.sleep(0.1)  # until the last attempts are recorded


def _at_full_speed(receivers: Child, bridges: list[Bridge], seconds: float, run_name: str, port: int) -> int:
    """Registers watches for some seconds, waits for all callbacks, and returns the number of watches."""
    receivers.ask("reset")
    registered = register([bridge.url for bridge in bridges], CONNECTIONS, seconds, run_name, port=port).watches
    wait_until(lambda: int(receivers.ask("count")) >= registered, 120, "every callback")
    return registered


def _watch_rows(found: dict[int, _Done]) -> Iterator[Row]:
    alone = found[1]
    for count, done in found.items():
        what = f"complete watches, {_named(count)}, {CONNECTIONS} apps: registered to delivered"
        yield Row("replicas", what, f"{done.rate:.0f}/s", f"{alone.rate:.0f}/s (1)", done.rate / alone.rate)
        what = (
            f"{_named(count)} at {WATCHES_PER_ROUND / ROUND_SECONDS:.0f} a second each: CPU a watch, and PostgreSQL's"
        )
        ratio, limit = done.total / alone.total, None if count == 1 else MOST_GROWTH
        yield Row("replicas", what, _cell(done), f"{alone.total:.0f} µs (1)", ratio, limit)


def _named(count: int) -> str:
    return f"{count} {'replica' if count == 1 else 'replicas'}"


def _cell(done: _Done) -> str:
    return f"{done.replicas:.0f} + {done.database:.0f} µs"

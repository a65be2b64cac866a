"""1, 2 and 4 replicas on one PostgreSQL: what they poll together, and how many whole watches they see through.

Where there are more than two cores the replicas share out all but the last, PostgreSQL takes any; with two they have
one between them, and more of them do no more in a second. A watch's cost is compared at one pace for each replica: as
fast as it goes, one replica's commits are fuller than four's, and each watch in them is cheaper.
"""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from tests.bench.load import register
from tests.bench.postgres import Cost, accounts, server
from tests.bench.processes import OTHERS, Child
from tests.bench.receiver import Ports, receiver
from tests.bench.seeding import CALLBACK
from tests.bench.stage import Stage, until
from tests.bench.subject import Bridge, ask, every
from tests.bench.table import Row
from tests.bench.upstream import counted, upstream
from tests.databases import NoServer, PostgresServer

REPLICAS = (1, 2, 4)
DELAY_SECONDS = 0.3  # of amux's answers: with a limit on polls under way it bounds what one replica can ask
CONCURRENCY = 64
CONNECTIONS = 48  # of apps, to all replicas together
PROMISED_SHARE = 0.8  # of so many times one replica's polls
MOST_GROWTH = 1.4
PACE_SECONDS = 0.25
PACED = 10  # watches at each replica, each pace


@dataclass(frozen=True)
class _Done:
    """How much in a second, and what one of it takes: CPU µs of the replicas, and of PostgreSQL."""

    rate: float
    replicas: float
    database: float

    @property
    def together(self) -> float:
        return self.replicas + self.database


def run(stage: Stage) -> Iterator[Row]:
    """Polls, then whole watches."""
    try:
        with server() as started:
            with upstream(delay=DELAY_SECONDS) as slow:
                yield from _poll_rows({count: _polls(stage, started, slow, count) for count in REPLICAS})
            with upstream() as instant, receiver(1) as there:
                yield from _watch_rows({count: _watches(stage, started, instant, there, count) for count in REPLICAS})
    except NoServer as missing:
        yield Row("replicas", f"left out: {missing}", "")


@contextmanager
def _crowd(stage: Stage, url: str, count: int, settings: dict[str, str]) -> Iterator[list[Bridge]]:
    with ExitStack() as stack:
        yield [
            stack.enter_context(Bridge(stage.folder, url, settings, core=OTHERS[place % len(OTHERS)]))
            for place in range(count)
        ]


# --- polls --------------------------------------------------------------------------------------------------------


def _polls(stage: Stage, on: PostgresServer, amux: Child, count: int) -> _Done:
    """Every replica has more due than it may ask for at a time; each registers its own, which it then polls."""
    seconds, url = stage.pick(1.0, 3.0, 20.0), on.migrated()
    settings = {"amux_base_url": str(amux.greeting), "poll_concurrency": str(CONCURRENCY), **every(0.05)}
    with _crowd(stage, url, count, settings) as bridges:
        for place, bridge in enumerate(bridges):
            tasks = [f"task_{count}x{place}x{number}" for number in range(4 * CONCURRENCY)]
            _register(bridge, tasks, CALLBACK)
        until(lambda: all(bridge.metrics()["amux_bridge_owned_tasks"] for bridge in bridges), 30, "tasks for all")
        time.sleep(1.0)
        with accounts(on, url) as database:
            meters, before = [bridge.meter() for bridge in bridges], counted(amux).requests
            time.sleep(seconds)
            done = counted(amux).requests - before
            spent = [meter.read() for meter in meters]
            _, cost = database.read()
    own = sum(each.cpu for each in spent) / done * 1e6
    return _Done(done / spent[0].wall, own, cost.cpu / done * 1e6)


def _register(bridge: Bridge, tasks: list[str], callback: str) -> None:
    """In one request: so many that a batch holds them."""
    watches = [{"task_id": task, "callback_url": callback} for task in tasks]
    answer = json.loads(ask(bridge.url, "POST", "/watch/batch", {"watches": watches}))
    if {result["status"] for result in answer["results"]} != {201}:
        raise RuntimeError(f"refused: {answer}")


def _poll_rows(found: dict[int, _Done]) -> Iterator[Row]:
    alone = found[1]
    for count, done in found.items():
        what = f"polls, {_named(count)} of {CONCURRENCY} at a time: in so many times one's"
        ratio = done.rate / alone.rate / count
        yield Row("replicas", what, f"{done.rate:.0f}/s", f"{alone.rate:.0f}/s (1)", ratio, PROMISED_SHARE, True)
        what = "the same: CPU a poll, and PostgreSQL's"
        yield Row("replicas", what, _told(done), f"{alone.together:.0f} µs (1)", done.together / alone.together)


# --- whole watches ------------------------------------------------------------------------------------------------


def _watches(stage: Stage, on: PostgresServer, amux: Child, there: Child, count: int) -> _Done:
    """Each completed at its first poll: first at one pace, then as fast as answers come."""
    ports: Ports = there.greeting
    seconds, url = stage.pick(0.5, 3.0, 20.0), on.migrated()
    settings = {"amux_base_url": str(amux.greeting), "delivery_concurrency_per_host": "64", **every(0.2)}
    with _crowd(stage, url, count, settings) as bridges:
        _seen_through(there, bridges, stage.pick(0.2, 1.0, 2.0), f"warm{count}-", ports.good[0])
        rest = _spent(on, url, bridges, lambda: time.sleep(stage.pick(0.5, 2.0, 10.0)))
        paces, told = stage.pick(2, 12, 80), there.greeting.urls()[0]
        paced = _spent(on, url, bridges, lambda: _paced(there, bridges, paces, told))
        watches = paces * PACED * count
        replicas = (paced.replicas - rest.replicas * paced.seconds / rest.seconds) / watches * 1e6
        database = paced.cost.less(rest.cost, paced.seconds / rest.seconds).each(watches)
        began = time.monotonic()
        done = _seen_through(there, bridges, seconds, f"run{count}-", ports.good[0])
        rate = done / (time.monotonic() - began)
    stage.say(
        f"replicas: {count}: {database.statements:.1f} statements a watch at {PACED / PACE_SECONDS:.0f}/s for each"
    )
    return _Done(rate, replicas, database.cpu * 1e6)


@dataclass(frozen=True)
class _Spent:
    """In so many seconds: CPU seconds of all replicas, and what the database did."""

    seconds: float
    replicas: float
    cost: Cost


def _spent(on: PostgresServer, url: str, bridges: list[Bridge], work: Callable[[], object]) -> _Spent:
    with accounts(on, url) as database:
        meters = [bridge.meter() for bridge in bridges]
        work()
        replicas = sum(meter.read().cpu for meter in meters)
        seconds, cost = database.read()
    return _Spent(seconds, replicas, cost)


def _paced(there: Child, bridges: list[Bridge], paces: int, callback: str) -> None:
    """A few watches at every replica, again and again; until each has had its callback."""
    there.ask("forget")
    began = time.monotonic()
    for pace in range(paces):
        time.sleep(max(0.0, began + pace * PACE_SECONDS - time.monotonic()))
        for place, bridge in enumerate(bridges):
            _register(
                bridge, [f"task_p{len(bridges)}x{pace}x{place}x{number}-1000" for number in range(PACED)], callback
            )
    until(lambda: int(there.ask("count")) >= paces * PACED * len(bridges), 60, "every callback")
    time.sleep(0.1)  # the last attempts are recorded


def _seen_through(there: Child, bridges: list[Bridge], seconds: float, run_name: str, port: int) -> int:
    """How many were registered, once each has had its callback. A task whose name ends in `-` and a number is over."""
    there.ask("forget")
    registered = register([bridge.url for bridge in bridges], CONNECTIONS, seconds, run_name, port=port).watches
    until(lambda: int(there.ask("count")) >= registered, 120, "every callback")
    return registered


def _watch_rows(found: dict[int, _Done]) -> Iterator[Row]:
    alone = found[1]
    for count, done in found.items():
        what = f"whole watches, {_named(count)}, {CONNECTIONS} apps: registered to delivered"
        yield Row("replicas", what, f"{done.rate:.0f}/s", f"{alone.rate:.0f}/s (1)", done.rate / alone.rate)
        what = f"{_named(count)} at {PACED / PACE_SECONDS:.0f} a second each: CPU a watch, and PostgreSQL's"
        ratio, limit = done.together / alone.together, None if count == 1 else MOST_GROWTH
        yield Row("replicas", what, _told(done), f"{alone.together:.0f} µs (1)", ratio, limit)


def _named(count: int) -> str:
    return f"{count} {'replica' if count == 1 else 'replicas'}"


def _told(done: _Done) -> str:
    return f"{done.replicas:.0f} + {done.database:.0f} µs"

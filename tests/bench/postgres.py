"""A PostgreSQL server with durable settings, on all cores. Meters read its statements, and the CPU of its processes."""

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice

import psycopg

from tests.bench.processes import LOADING, OTHERS
from tests.bench.seeding import active_rows
from tests.databases import PostgresServer, running_server

SETTINGS = (
    "shared_preload_libraries=pg_stat_statements",
    "pg_stat_statements.track_planning=on",
    "max_connections=200",
)
ELSEWHERE = "rep_elsewhere"
"""The id of a replica that does not run, but owns tasks. Its lease never expires."""
_AT_ONCE = 5_000

_STATEMENTS = """
    SELECT coalesce(sum(calls), 0), coalesce(sum(total_exec_time + total_plan_time), 0)
    FROM pg_stat_statements JOIN pg_database ON pg_database.oid = dbid
    WHERE datname = %s AND query LIKE %s
"""
_PROCESSES = "SELECT pid FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND backend_type <> 'autovacuum worker'"


@dataclass(frozen=True)
class Cost:
    """The cost of a database: its number of statements, their time, and the CPU time of its processes, in seconds."""

    statements: float
    busy: float
    cpu: float

    def less(self, other: "Cost", times: float = 1.0) -> "Cost":
        return Cost(
            self.statements - times * other.statements, self.busy - times * other.busy, self.cpu - times * other.cpu
        )

    def each(self, count: float) -> "Cost":
        """Returns the cost divided by `count`."""
        return Cost(self.statements / count, self.busy / count, self.cpu / count)


class DatabaseMeter:
    """Measures one database from now on. `like` selects statements by their text. The CPU time is of all processes."""

    def __init__(self, server: PostgresServer, url: str, like: str = "%") -> None:
        self._parameters = url.rpartition("/")[2], like
        self._connection = psycopg.connect(server.url("postgres"), autocommit=True)
        self._start = time.monotonic(), self._statements(), self._cpu()

    def read(self) -> tuple[float, Cost]:
        """Returns the seconds since the start and the cost in them."""
        began, (statements, busy), cpu = self._start
        seconds, (statements_now, busy_now) = time.monotonic() - began, self._statements()
        used = sum(seconds_now - cpu.get(pid, 0.0) for pid, seconds_now in self._cpu().items())
        return seconds, Cost(statements_now - statements, busy_now - busy, used)

    def close(self) -> None:
        self._connection.close()

    def _statements(self) -> tuple[float, float]:
        row = self._connection.execute(_STATEMENTS, self._parameters).fetchone()
        assert row is not None
        return float(row[0]), float(row[1]) / 1000

    def _cpu(self) -> dict[int, float]:
        """Returns the CPU seconds of each process. Python lacks clock_getcpuclockid, so the clock's id is computed."""
        pids = [row[0] for row in self._connection.execute(_PROCESSES)]
        return {pid: time.clock_gettime(~pid << 3 | 2) for pid in pids}


@contextmanager
def server() -> Iterator[PostgresServer]:
    """Runs a server. Raises NoServer if PostgreSQL is not installed."""
    os.sched_setaffinity(0, {*OTHERS, LOADING})
    try:
        with running_server(SETTINGS) as started:
            os.sched_setaffinity(0, {LOADING})
            started.execute("CREATE EXTENSION pg_stat_statements")
            yield started
    finally:
        os.sched_setaffinity(0, {LOADING})


@contextmanager
def database_meter(on: PostgresServer, url: str, like: str = "%") -> Iterator[DatabaseMeter]:
    """Measures a database while the block runs."""
    meter = DatabaseMeter(on, url, like)
    try:
        yield meter
    finally:
        meter.close()


def fill(url: str, tasks: Sequence[str], owner: str | None) -> None:
    """Inserts an active watch for each task, owned by no replica (None) or by a replica that does not run."""
    with psycopg.connect(url) as connection:
        if owner is not None:
            connection.execute(
                "INSERT INTO replicas (id, epoch, started_at, expires_at, owned_tasks, probed)"
                " VALUES (%s, 1, 0, 'infinity', -1, 0)",
                (owner,),
            )
        rows = active_rows(tasks, owner)
        while part := list(islice(rows, _AT_ONCE)):
            for table in ("tasks", "watches"):
                those = [row for name, row in part if name == table]
                copy = f"COPY {table} ({', '.join(those[0])}) FROM STDIN"
                with connection.cursor().copy(copy.encode()) as copying:
                    for row in those:
                        copying.write_row(list(row.values()))
        connection.commit()
        connection.execute("ANALYZE")

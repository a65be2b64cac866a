"""PostgreSQL as a service has it, durable, on all cores; it counts its statements, and its processes are measured."""

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
"""A replica that owns tasks, lives for ever, takes none and polls nothing."""
_AT_ONCE = 5_000

_STATEMENTS = """
    SELECT coalesce(sum(calls), 0), coalesce(sum(total_exec_time + total_plan_time), 0)
    FROM pg_stat_statements JOIN pg_database ON pg_database.oid = dbid
    WHERE datname = %s AND query LIKE %s
"""
_PROCESSES = "SELECT pid FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND backend_type <> 'autovacuum worker'"


@dataclass(frozen=True)
class Cost:
    """What a database did: statements, their time, and its processes' CPU time, both in seconds."""

    statements: float
    busy: float
    cpu: float

    def less(self, other: "Cost", times: float = 1.0) -> "Cost":
        return Cost(
            self.statements - times * other.statements, self.busy - times * other.busy, self.cpu - times * other.cpu
        )

    def each(self, count: float) -> "Cost":
        """Of one of so many."""
        return Cost(self.statements / count, self.busy / count, self.cpu / count)


class Accounts:
    """One database's costs since it was made; `like` chooses statements by their text, not the CPU time."""

    def __init__(self, server: PostgresServer, url: str, like: str = "%") -> None:
        self._wanted = url.rpartition("/")[2], like
        self._connection = psycopg.connect(server.url("postgres"), autocommit=True)
        self._began = time.monotonic(), self._statements(), self._cpu()

    def read(self) -> tuple[float, Cost]:
        """Seconds, and the cost in them."""
        began, (statements, busy), cpu = self._began
        seconds, (statements_now, busy_now) = time.monotonic() - began, self._statements()
        used = sum(spent - cpu.get(pid, 0.0) for pid, spent in self._cpu().items())
        return seconds, Cost(statements_now - statements, busy_now - busy, used)

    def close(self) -> None:
        self._connection.close()

    def _statements(self) -> tuple[float, float]:
        row = self._connection.execute(_STATEMENTS, self._wanted).fetchone()
        assert row is not None
        return float(row[0]), float(row[1]) / 1000

    def _cpu(self) -> dict[int, float]:
        """Seconds of each process, by the kernel's clock (clock_getcpuclockid, which Python has not)."""
        pids = [row[0] for row in self._connection.execute(_PROCESSES)]
        return {pid: time.clock_gettime(~pid << 3 | 2) for pid in pids}


@contextmanager
def server() -> Iterator[PostgresServer]:
    """A server; raises NoServer where there is none."""
    os.sched_setaffinity(0, {*OTHERS, LOADING})
    try:
        with running_server(SETTINGS) as started:
            os.sched_setaffinity(0, {LOADING})
            started.execute("CREATE EXTENSION pg_stat_statements")
            yield started
    finally:
        os.sched_setaffinity(0, {LOADING})


@contextmanager
def accounts(on: PostgresServer, url: str, like: str = "%") -> Iterator[Accounts]:
    """Costs from here on."""
    made = Accounts(on, url, like)
    try:
        yield made
    finally:
        made.close()


def fill(url: str, tasks: Sequence[str], owner: str | None) -> None:
    """An active watch for each task; nobody's, or a replica's that is elsewhere."""
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

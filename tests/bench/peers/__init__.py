"""Compares the bridge with the same life of a watch on two job queues: pg-boss with PostgreSQL, and BullMQ with Redis.

`life.mjs` is such a service in less than 150 lines. It has what the queues give (delays, retries, durable jobs) and no
more: see docs/performance.md. Node, npm and Redis must be installed. The packages come from npm.
"""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.bench.bridge_process import Bridge, every
from tests.bench.day import LIFE_SECONDS, POLL_SECONDS
from tests.bench.harness import Bench, wait_until
from tests.bench.load import register_evenly
from tests.bench.postgres import database_meter, server
from tests.bench.processes import LOADING, MEASURED, OTHERS, Child
from tests.bench.receiver import Ports, start_receivers
from tests.bench.table import Row
from tests.bench.upstream import counts_of, upstream
from tests.databases import NoServer, PostgresServer

RATE = 100
HERE = Path(__file__).parent
PROGRAMS = ("node", "npm", "redis-server")
# The delay of a job. pg-boss looks for due jobs every 0.5 s: with 0.7 s a task is polled about four times too.
DELAYS = {"pg-boss": 0.7, "BullMQ": POLL_SECONDS}
# As BullMQ recommends. A crash of the machine can lose the last second; with `always` Redis fell behind at this rate.
REDIS = ("--appendonly", "yes", "--appendfsync", "everysec", "--save", "", "--bind", "127.0.0.1")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Program:
    """A running program that is not written in Python, with its CPU seconds and its resident memory."""

    def __init__(self, core: set[int], *command: str, cwd: Path | None = None) -> None:
        self._process = subprocess.Popen(
            command,
            cwd=cwd,
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: os.sched_setaffinity(0, core),  # noqa: PLW1509  no thread of the bench holds a lock
        )
        assert self._process.stdout is not None
        self.first_line = self._process.stdout.readline().strip()

    def cpu(self) -> float:
        return time.clock_gettime(~self._process.pid << 3 | 2)

    def rss(self) -> int:
        return int(Path(f"/proc/{self._process.pid}/statm").read_text().split()[1]) * _PAGE_BYTES

    def stop(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


@dataclass(frozen=True)
class _Cost:
    """What a life costs: CPU milliseconds of the process and of its server, and requests to amux."""

    process: float
    server: float
    polls: float

    @property
    def total(self) -> float:
        return self.process + self.server

    def __str__(self) -> str:
        return f"{self.total:.2f} ms ({self.process:.2f} + {self.server:.2f}), {self.polls:.2f} requests"


@dataclass(frozen=True)
class _Waiting:
    """MiB of the process and of its server with many waiting jobs, and the CPU seconds of a start with them."""

    process: float
    server: str
    seconds: str

    def __str__(self) -> str:
        return f"{self.process:.0f} MiB + {self.server}; start {self.seconds} of CPU"


def run(bench: Bench) -> Iterator[Row]:
    """Measures whole lives at 100 ends a second, then many jobs that wait."""
    if missing := [name for name in PROGRAMS if shutil.which(name) is None]:
        yield Row("peers", f"skipped: {', '.join(missing)} not installed", "")
        return
    try:
        with ExitStack() as stack:
            postgres = stack.enter_context(server())
            packages = _installed(bench)
            yield from _lives(bench, packages, postgres)
            yield from _waiting(bench, packages, postgres)
    except NoServer as absent:
        yield Row("peers", f"skipped: {absent}", "")
    except subprocess.CalledProcessError as failed:
        yield Row("peers", f"skipped: npm cannot install the packages ({failed.returncode})", "")


def _installed(bench: Bench) -> Path:
    """Installs the packages into a folder of this run, and returns the folder."""
    folder = bench.folder / "peers"
    folder.mkdir()
    for name in ("package.json", "life.mjs"):
        shutil.copy(HERE / name, folder)
    command = ["npm", "install", "--no-package-lock", "--no-audit", "--no-fund", "--ignore-scripts", "--silent"]
    subprocess.run(command, cwd=folder, check=True, timeout=300, stdout=subprocess.DEVNULL)
    return folder


# --- lives ------------------------------------------------------------------------------------------------------------


def _lives(bench: Bench, packages: Path, postgres: PostgresServer) -> Iterator[Row]:
    with upstream() as amux, start_receivers(16) as receivers:
        measure = partial(_cost, bench, amux, receivers)
        settings = {"amux_base_url": str(amux.ready_message), **every(POLL_SECONDS)}
        with Bridge(bench.folder, bench.seeds.file(), settings) as bridge:
            on_sqlite = measure(bridge.url, bridge.cpu, lambda: 0.0)
        url = postgres.migrated()
        with Bridge(bench.folder, url, settings) as bridge, _postgres_cpu(postgres, url) as database:
            on_postgres = measure(bridge.url, bridge.cpu, database)
        yield _row("the bridge on SQLite (right: on PostgreSQL)", on_sqlite, on_postgres)
        with upstream(batch=True) as batching:
            batches = settings | {"amux_base_url": str(batching.ready_message)}
            with Bridge(bench.folder, bench.seeds.file(), batches) as bridge:
                in_batches = _cost(bench, batching, receivers, bridge.url, bridge.cpu, lambda: 0.0)
        yield _row("on SQLite, tasks read in batches (right: singly)", in_batches, on_sqlite)
        url = postgres.empty()
        with _service(packages, "pg-boss", url, amux) as app, _postgres_cpu(postgres, url) as database:
            yield _row("on PostgreSQL (right: pg-boss)", on_postgres, measure(app.first_line, app.cpu, database))
        with _redis(bench, "lives") as (redis, url), _service(packages, "BullMQ", url, amux) as app:
            yield _row("on SQLite (right: BullMQ)", on_sqlite, measure(app.first_line, app.cpu, redis.cpu))


def _row(what: str, ours: _Cost, theirs: _Cost) -> Row:
    text = f"{RATE} ends a second: CPU of a life, process + its server: {what}"
    return Row("peers", text, str(ours), str(theirs), ours.total / theirs.total)


def _cost(  # noqa: PLR0917  what all measurements share
    bench: Bench, amux: Child, receivers: Child, url: str, process: Callable[[], float], other: Callable[[], float]
) -> _Cost:
    """Measures whole lives, from the first registration to the last callback, after a warm-up."""
    _live(receivers, url, bench.pick(0.5, 3.0, 5.0))
    began = process(), other(), counts_of(amux).requests
    ended = _live(receivers, url, bench.pick(1.0, 15.0, 60.0))
    grown = [now - then for now, then in zip((process(), other(), counts_of(amux).requests), began, strict=True)]
    own, servers, polls = (each / ended for each in grown)
    return _Cost(1000 * own, 1000 * servers, polls)


def _live(receivers: Child, url: str, seconds: float) -> int:
    """Registers evenly for some seconds, waits for every callback, and returns the number of watches."""
    ports: Ports = receivers.ready_message
    receivers.ask("reset")
    watches = int(RATE * seconds)
    with register_evenly(url, RATE, seconds, LIFE_SECONDS, ports.urls()):
        wait_until(lambda: int(receivers.ask("count")) >= watches, 300, "every callback")
    return watches


@contextmanager
def _postgres_cpu(postgres: PostgresServer, url: str) -> Iterator[Callable[[], float]]:
    with database_meter(postgres, url) as meter:
        yield lambda: meter.read()[1].cpu


@contextmanager
def _service(packages: Path, kind: str, url: str, amux: Child | None) -> Iterator[Program]:
    base_url = "http://127.0.0.1:9" if amux is None else str(amux.ready_message)
    delay = f"{DELAYS[kind] * 1000:.0f}"
    program = Program({MEASURED}, "node", "life.mjs", kind, url, base_url, delay, cwd=packages)
    try:
        yield program
    finally:
        program.stop()


@contextmanager
def _redis(bench: Bench, name: str) -> Iterator[tuple[Program, str]]:
    folder = bench.folder / f"redis-{name}"
    folder.mkdir(exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = Program({*OTHERS, LOADING}, "redis-server", "--port", str(port), "--dir", str(folder), *REDIS)
    try:
        wait_until(partial(_answers, port), 120, "Redis")
        yield program, f"redis://127.0.0.1:{port}"
    finally:
        program.stop()


def _answers(port: int) -> bool:
    """Returns whether Redis has loaded its data. Until then PING gets an error."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(64).startswith(b"+PONG")
    except OSError:
        return False


# --- jobs that wait ---------------------------------------------------------------------------------------------------


def _waiting(bench: Bench, packages: Path, postgres: PostgresServer) -> Iterator[Row]:
    many = bench.pick(500, 100_000, 1_000_000)
    database = bench.seeds.file(active=[f"task_{number:032d}" for number in range(many)])
    with upstream(batch=True) as amux:
        settings = {"amux_base_url": str(amux.ready_message)}
        with Bridge(bench.folder, database, settings) as bridge:
            size = f"{database.stat().st_size / 2**20:.0f} MiB of file"
            ours = _Waiting(bridge.rss() / 2**20, size, f"{bridge.cpu():.1f} s")
    yield Row(
        "peers",
        f"{many:,} wait: memory, and a start (right: pg-boss)",
        str(ours),
        str(_pg_boss(packages, postgres, many)),
    )
    yield Row("peers", "the same (right: BullMQ)", str(ours), str(_bullmq(bench, packages, many)))


def _fill(packages: Path, kind: str, url: str, many: int) -> None:
    subprocess.run(["node", "life.mjs", kind, url, "fill", str(many)], cwd=packages, check=True, timeout=1_800)


def _pg_boss(packages: Path, postgres: PostgresServer, many: int) -> _Waiting:
    url = postgres.empty()
    _fill(packages, "pg-boss", url, many)
    with _service(packages, "pg-boss", url, None) as app:
        [(size,)] = postgres.execute("SELECT pg_database_size(current_database())", database=url.rpartition("/")[2])
        return _Waiting(app.rss() / 2**20, f"{size / 2**20:.0f} MiB of files", f"{app.cpu():.1f} s")


def _bullmq(bench: Bench, packages: Path, many: int) -> _Waiting:
    with _redis(bench, "waiting") as (_, url):
        _fill(packages, "BullMQ", url, many)
    with _redis(bench, "waiting") as (redis, url):
        loaded = redis.cpu()
        with _service(packages, "BullMQ", url, None) as app:
            start = f"{app.cpu():.1f} s, Redis {loaded:.1f} s"
            return _Waiting(app.rss() / 2**20, f"{redis.rss() / 2**20:.0f} MiB of Redis", start)

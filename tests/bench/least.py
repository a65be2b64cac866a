"""The least work that stores a registration durably, and the least that stores all rows of a watch's life.

A registration is measured with a bare handler and plain sqlite3 with group commit. It has no tokens, no search for an
equal watch, no limits, no fingerprints, no log, no metrics, no polls, and a short answer. A life is measured with plain
sqlite3 alone.
"""

import asyncio
import sqlite3
import threading
import time
from itertools import count
from multiprocessing.connection import Connection
from pathlib import Path

import orjson
from aiohttp import web

from bridge.store.database import CHECKPOINT_PAGES
from bridge.store.group_commit import COMMIT_DELAY_SECONDS, FILL_AT_MOST_SECONDS, FILL_FROM, FILL_TURNS
from bridge.store.row_mapping import digest
from bridge.web.api.request_models import WatchRequestBody
from tests.bench.bare_loop import listen
from tests.bench.processes import MEASURED, Child, own_cpu, own_written, serve

Row = tuple[tuple[object, ...], tuple[object, ...], "asyncio.Future[None]"]

_TASK = """
INSERT INTO tasks (id, key, task_id, credential, status, polls, owner, news, wants_status, opened_at)
VALUES (?, ?, ?, 'configured', 'unknown', 0, 'local', 0, 0, ?)
"""
_WATCH = """
INSERT INTO watches (id, app, task, task_id, callback_url, host, endpoint, events, context, options, state, created_at,
                     deadline_at, timeout_seconds, header_names)
VALUES (?, 'bench', ?, ?, ?, 'localhost:9', ?, 'video.completed', ?, ?, 'active', ?, ?, 3600.0, '')
"""

_STATUS = "UPDATE tasks SET status = 'in_progress', polls = 1, last_polled_at = ?, next_poll_at = ? WHERE id = ?"
_END = (
    "UPDATE watches SET state = 'settled', outcome = 'completed', ended_at = ? WHERE id = ? AND state = 'active'",
    """
    INSERT INTO events (watch_id, type, terminal, created_at, payload, app, number)
    VALUES (?, 'video.completed', 1, ?, ?, 'bench', ?)
    """,
    "INSERT INTO outbox (id, host, due_at, set_at, lease, holder) VALUES (?, 'localhost:9', ?, ?, 'lease', 'local')",
    """
    INSERT INTO deliveries (id, watch_id, type, state, attempts, round_attempts, created_at, next_attempt_at)
    VALUES (?, ?, 'video.completed', 'pending', 0, 0, ?, ?)
    """,
    "UPDATE tasks SET status = 'completed', closed_at = ?, polls = 4, last_polled_at = ?, url = ? WHERE id = ?",
)
_ATTEMPT = (
    "DELETE FROM outbox WHERE id = ? AND lease = 'lease'",
    "INSERT INTO attempts (delivery_id, started_at, duration_seconds, status_code, body) VALUES (?, ?, 0.1, 200, '')",
    "UPDATE deliveries SET state = 'delivered', attempts = 1, delivered_at = ?, next_attempt_at = NULL WHERE id = ?",
)


async def least_lives(database: Path, rate: float, seconds: float, payload: bytes) -> tuple[float, float, float, float]:
    """Writes lives evenly by plain sqlite3. Returns a life's milliseconds of CPU, pages written, statements, commits.

    A life has two commits. At rates at which a registration and an end come within 5 ms of each other, it has one. A
    write that can wait is in a commit of another life: the status in that of a later registration, the attempt in that
    of the next end.
    """
    connection = sqlite3.connect(database, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
    statements = commits = 0
    together = 1 / rate <= 2 * COMMIT_DELAY_SECONDS

    def commit(*parts: tuple[str, tuple[object, ...]]) -> None:
        nonlocal statements, commits
        connection.execute("BEGIN IMMEDIATE")
        for statement, parameters in parts:
            connection.execute(statement, parameters)
        connection.execute("COMMIT")
        statements += 2 + len(parts)
        commits += 1

    lives = int(rate * seconds)
    warm = int(rate) + 2
    began, cpu, written = time.monotonic(), 0.0, 0
    for number in range(warm + lives):
        if number == warm:
            cpu, written, statements, commits = own_cpu(), own_written(), 0, 0
        now, url = time.time(), "http://localhost:9/hooks/video"
        registered, ended, sent = number, number - warm // 2, number - warm // 2 - 1
        name, key = f"{registered:026d}", digest("configured", str(registered))
        watch = (name, name, name, url, digest("bench", name, url), b"{}", b"o" * 16, now, now + 3600.0)
        status = [(_STATUS, (now, now, f"{registered - 2:026d}"))]
        registration = (_TASK, (name, key, name, now)), (_WATCH, watch), *status
        if not together:
            commit(*registration)
            registration = ()
        await asyncio.sleep(max(0.0, began + (number + 0.5) / rate - time.monotonic()))
        name, before = f"{ended:026d}", f"{sent:026d}"
        ends = (
            (now, name),
            (name, now, payload, number),
            (name, now, now),
            (name, name, now, now),
            (now, now, url, name),
        )
        attempt = (before,), (before, now), (now, before)
        commit(*registration, *zip(_END, ends, strict=True), *zip(_ATTEMPT, attempt, strict=True))
        await asyncio.sleep(max(0.0, began + (number + 1) / rate - time.monotonic()))
    cpu, pages = own_cpu() - cpu, (own_written() - written) / 4096
    connection.close()
    return 1000 * cpu / lives, pages / lives, statements / lives, commits / lives


def storing_handler(database: Path) -> Child:
    """Starts a server that validates and stores registrations."""
    return Child(MEASURED, _serve, database)


class _Writer:
    """One thread and one connection. Each commit covers all waiting rows."""

    def __init__(self, database: Path, loop: asyncio.AbstractEventLoop) -> None:
        self._connection = sqlite3.connect(database, isolation_level=None, check_same_thread=False)
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = FULL")
        self._connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
        self._loop = loop
        self._waiting: list[Row] = []
        self._wake = threading.Condition()
        threading.Thread(target=self._run, daemon=True).start()

    def put(self, row: Row) -> None:
        with self._wake:
            self._waiting.append(row)
            self._wake.notify()

    def _run(self) -> None:
        execute, execute_many = self._connection.execute, self._connection.executemany
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._waiting)
                batch, self._waiting = self._waiting, []
            began = time.perf_counter()
            execute("BEGIN IMMEDIATE")
            execute_many(_TASK, [task for task, _, _ in batch])
            execute_many(_WATCH, [watch for _, watch, _ in batch])
            execute("COMMIT")
            self._loop.call_soon_threadsafe(_done, [future for _, _, future in batch])
            if len(batch) >= FILL_FROM:  # as the bridge's own writer does
                time.sleep(min(FILL_TURNS * (time.perf_counter() - began), FILL_AT_MOST_SECONDS))


def _done(futures: "list[asyncio.Future[None]]") -> None:
    for future in futures:
        future.set_result(None)


def _serve(pipe: Connection, database: Path) -> None:
    numbers = count(time.time_ns())

    async def start() -> str:
        loop = asyncio.get_running_loop()
        writer = _Writer(database, loop)

        async def register(request: web.Request) -> web.Response:
            request_body = WatchRequestBody.read(orjson.loads(await request.read()))
            name, now, stored = str(next(numbers)), time.time(), loop.create_future()
            key = digest("configured", request_body.task_id)
            endpoint = digest("bench", request_body.task_id, request_body.callback_url)
            watch = (name, name, request_body.task_id, request_body.callback_url, endpoint)
            rest = orjson.dumps(request_body.context), b"o" * 16, now, now + 3600.0
            writer.put(((name, key, request_body.task_id, now), (*watch, *rest), stored))
            await stored
            body = orjson.dumps({"task_id": request_body.task_id, "callback_url": request_body.callback_url})
            return web.Response(body=body, status=201, content_type="application/json")

        return await listen(register)

    serve(pipe, start, lambda question: question)

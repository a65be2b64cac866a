"""The lowest possible cost of a durable registration: a bare handler, and plain sqlite3 with group commit.

It has no tokens, no search for an equal watch, no limits, no fingerprints, no log, no metrics, no polls, and a short
answer.
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

from bridge.store.group_commit import GATHER_AT_MOST_SECONDS, GATHER_FROM, GATHER_TURNS
from bridge.store.row_mapping import digest
from bridge.web.api.request_models import WatchRequestBody
from tests.bench.bare_loop import listen
from tests.bench.processes import MEASURED, Child, serve

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


def storing_handler(database: Path) -> Child:
    """Starts a server that validates and stores registrations."""
    return Child(MEASURED, _serve, database)


class _Writer:
    """One thread and one connection. Each commit covers all waiting rows."""

    def __init__(self, database: Path, loop: asyncio.AbstractEventLoop) -> None:
        self._connection = sqlite3.connect(database, isolation_level=None, check_same_thread=False)
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = FULL")
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
            if len(batch) >= GATHER_FROM:  # as the bridge's own writer does
                time.sleep(min(GATHER_TURNS * (time.perf_counter() - began), GATHER_AT_MOST_SECONDS))


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

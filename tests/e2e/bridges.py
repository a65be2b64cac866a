"""Whole bridges for the end-to-end tests: in this process, or in another process that can be killed.

Tests use both kinds through `Bridge`. The settings are `FAST_SETTINGS`; a test overrides them with texts, as in
environment variables. A test passes the URL of the database, so it can run on SQLite and on PostgreSQL.
"""

import asyncio
import atexit
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import aiohttp
import orjson

from bridge.service.runtime import Runtime
from bridge.settings.settings import env_name, load
from bridge.store.database import connect
from tests.e2e.receiver import SECRET
from tests.waiting import HELD_SECONDS, SAFETY_SECONDS
from tests.working_time import working_seconds

APP = {"Authorization": "Bearer app-token-1234"}
OTHER_APP = {"Authorization": "Bearer other-token-1234"}
OPERATOR = {"Authorization": "Bearer operator-token-1234"}
ROOT = Path(__file__).parents[2]

# Short times: what takes minutes in a real service takes seconds here. Callbacks to loopback are allowed.
FAST_SETTINGS: Mapping[str, str] = {
    "host": "127.0.0.1",
    "port": "0",
    "amux_api_key": "sk-configured-0123456789",
    "encryption_keys": "ZTJlLWUyZS1lMmUtZTJlLWUyZS1lMmUtZTJlLWUyZS0=",
    "tokens": "shop:app-token-1234,lab:other-token-1234",
    "operator_tokens": "ops:operator-token-1234",
    "signing_secrets": SECRET,
    "callback_allow_networks": "127.0.0.0/8",
    "poll_first_delay_seconds": "0.05",
    "poll_interval_seconds": "0.1",
    "poll_max_interval_seconds": "0.3",
    "delivery_retry_delays_seconds": "0.1,0.2,0.4,0.8,1.6,3,3,3,3,3,3,3",
    "delivery_timeout_seconds": "20",
    "drain_timeout_seconds": "10",
}

# A hook for processes on PostgreSQL, where other replicas take over a dead replica's tasks when its lease expires. The
# lease lasts 3 s instead of 9 s, and heartbeats and margins are proportionally shorter. Do not use it in tests that
# measure the default times.
SHORT_LEASE_SECONDS = 3.0
SHORT_LEASE: Mapping[str, Any] = {"lease": SHORT_LEASE_SECONDS}


@dataclass
class Answer:
    """An answer of the API with its whole body. `seconds` is its duration without the delays of a busy machine."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    seconds: float

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)


@dataclass
class Bridge:
    """A client of the API of one bridge."""

    url: str
    session: aiohttp.ClientSession

    async def ask(self, method: str, path: str, **options: Any) -> Answer:
        """Sends one request as the app `shop`, unless `headers` has another token."""
        started = working_seconds()
        options["headers"] = {**APP, **(options.pop("headers", None) or {})}
        async with self.session.request(method, self.url + path, **options) as response:
            return Answer(response.status, response.headers, await response.read(), working_seconds() - started)

    async def get(self, path: str, **options: Any) -> Any:
        answer = await self.ask("GET", path, **options)
        assert answer.status == 200, answer
        return answer.json

    async def register(self, task_id: str, callback_url: str, **fields: Any) -> str:
        """Registers a watch and returns its id. `fields` are further fields of the body."""
        body = {"task_id": task_id, "callback_url": callback_url, **fields}
        answer = await self.ask("POST", "/watch", json=body)
        assert answer.status == 201, answer
        return str(answer.json["id"])

    async def register_many(self, tasks: Iterable[str], callback_url: str, **fields: Any) -> list[str]:
        """Registers watches, 500 in each request. Returns their ids in order."""
        bodies = [{"task_id": task, "callback_url": callback_url, **fields} for task in tasks]
        found: list[str] = []
        for first in range(0, len(bodies), 500):
            answer = await self.ask("POST", "/watch/batch", json={"watches": bodies[first : first + 500]})
            assert answer.status == 200, answer
            results = answer.json["results"]
            assert {result["status"] for result in results} == {201}, results[:3]
            found += [result["watch"]["id"] for result in results]
        return found

    async def watch(self, watch_id: str, wait_seconds: float = 0) -> Any:
        return await self.get(f"/watch/{watch_id}", params={"wait_seconds": str(wait_seconds)})

    async def final(self, watch_id: str) -> Any:
        """Waits until a watch is no longer active, for up to 50 s, and returns it."""
        watch = await self.watch(watch_id, HELD_SECONDS)
        assert watch["state"] != "active", watch
        return watch

    async def ready(self) -> Answer:
        return await self.ask("GET", "/readyz")

    async def unready(self, reason: str) -> Answer:
        """Waits until the bridge is not ready and its reasons contain this text. Its first reasons may differ."""

        def says_so(answer: Answer) -> bool:
            return answer.status == 503 and reason in " ".join(answer.json["reasons"])

        return await self.until("GET", "/readyz", says_so)

    async def until(self, method: str, path: str, condition: Callable[[Answer], bool]) -> Answer:
        """Repeats a request until its answer meets a condition, because no signal announces it. Returns the answer."""
        answer = None
        try:
            async with asyncio.timeout(SAFETY_SECONDS):
                while True:
                    answer = await self.ask(method, path)
                    if condition(answer):
                        return answer
                    await asyncio.sleep(0.02)  # a pause between requests, not a wait for an effect
        except TimeoutError:
            raise AssertionError(f"{method} {path} stayed at {answer}") from None


@asynccontextmanager
async def connect_to(url: str) -> AsyncIterator[Bridge]:
    """Yields a client of the bridge at a URL."""
    connector = aiohttp.TCPConnector(limit=50)
    timeout = aiohttp.ClientTimeout(total=SAFETY_SECONDS)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        yield Bridge(url, session)


# --- databases ----------------------------------------------------------------------------------------------------


def rows(database_url: str, query: str, **parameters: Any) -> list[Any]:
    """Returns the rows of a query. The connection is the test's own."""
    from sqlalchemy import text

    database = connect(database_url)
    try:
        return list(database.read(lambda connection: connection.execute(text(query), parameters).all()))
    finally:
        database.close()


def change(database_url: str, statement: str, **parameters: Any) -> None:
    """Executes a statement that changes a database. The connection is the test's own."""
    from sqlalchemy import text

    database = connect(database_url)
    try:
        database.transaction(lambda connection: connection.execute(text(statement), parameters))
    finally:
        database.close()


def check_all_delivered(database_url: str, watch_ids: Iterable[str]) -> None:
    """Checks that these watches settled with one terminal event each, and that every delivery succeeded."""
    expected = set(watch_ids)
    states = {row.id: row.state for row in rows(database_url, "SELECT id, state FROM watches")}
    assert {watch_id: states.get(watch_id) for watch_id in expected} == dict.fromkeys(expected, "settled")
    check_nothing_stuck(database_url)
    # A delivery of a status event may be pending when the watch ends, because a dead replica had claimed it. The end
    # of the watch supersedes it.
    undelivered = rows(
        database_url,
        "SELECT id, state, error FROM deliveries WHERE state <> 'delivered' "
        "AND NOT (type IN ('video.queued', 'video.in_progress') AND state = 'dead' AND error LIKE '%superseded%')",
    )
    assert undelivered == [], undelivered


def check_nothing_stuck(database_url: str) -> None:
    """Checks that only settled watches have a terminal event, one each, and that the other tables agree with that."""
    ends = rows(
        database_url,
        "SELECT watches.id, watches.state, count(events.type) AS ends FROM watches LEFT JOIN events"
        " ON events.watch_id = watches.id AND events.terminal GROUP BY watches.id, watches.state",
    )
    assert [row for row in ends if row.ends != (1 if row.state == "settled" else 0)] == []
    # The outbox has exactly the pending deliveries.
    pending = {row.id for row in rows(database_url, "SELECT id FROM deliveries WHERE state = 'pending'")}
    assert pending == {row.id for row in rows(database_url, "SELECT id FROM outbox")}
    stranded = rows(
        database_url,
        "SELECT id FROM tasks WHERE closed_at IS NULL"
        " AND NOT EXISTS (SELECT 1 FROM watches WHERE watches.task = tasks.id AND watches.state = 'active')",
    )
    orphans = rows(
        database_url,
        "SELECT watches.id FROM watches JOIN tasks ON tasks.id = watches.task"
        " WHERE watches.state = 'active' AND tasks.closed_at IS NOT NULL",
    )
    attempts = rows(
        database_url,
        "SELECT deliveries.id FROM deliveries WHERE attempts <>"
        " (SELECT count(*) FROM attempts WHERE attempts.delivery_id = deliveries.id)",
    )
    assert (stranded, orphans, attempts) == ([], [], [])


# --- in this process ----------------------------------------------------------------------------------------------


@asynccontextmanager
async def runtime(database_url: str, amux_url: str, **settings: str) -> AsyncIterator[Bridge]:
    """Runs a bridge on this event loop, yields a client of it, and drains it at the end."""
    texts = {**FAST_SETTINGS, "database_url": database_url, "amux_base_url": amux_url, **settings}
    started = await Runtime.start(load(None, **texts))
    try:
        async with connect_to(started.url) as bridge:
            yield bridge
    finally:
        await started.stop()


# --- processes ----------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class Process:
    """A bridge in another process. `lines` are its log lines, parsed; `raw` are all lines that it wrote, as text."""

    pid: int
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    lines: list[Any] = field(default_factory=list)
    code: int | None = None
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    _reading: asyncio.Task[None] | None = None
    raw: list[str] = field(default_factory=list)

    def start_reading(self) -> None:
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        while line := await self.reader.readline():
            text = line.decode(errors="replace").rstrip("\n")
            if text:
                self.raw.append(text)
                self._parse(text)
            self._changed.set()
        self._changed.set()

    def _parse(self, text: str) -> None:
        try:
            line = json.loads(text)
        except ValueError:
            return
        if isinstance(line, dict):
            self.lines.append(line)
            if line.get("event") == "exited":
                self.code = line["code"]

    async def wait_for_log(self, event: str, times: int = 1, **fields: object) -> Any:
        """Waits for the `times`-th log line of an event, and returns it. Fails if the process ends first."""

        def found() -> list[Any]:
            return [line for line in self.lines if line.get("event") == event and fields.items() <= line.items()]

        await self._until(lambda: len(found()) >= times or self.code is not None, f"{event} {fields or ''}")
        assert len(found()) >= times, f"the process ended ({self.code}) before {event}:\n" + "\n".join(self.raw[-20:])
        return found()[times - 1]

    async def wait_for_exit(self) -> int:
        """Waits until the process ends, and returns its exit code. A negative code is the signal that killed it."""
        await self._until(lambda: self.code is not None, "its exit")
        assert self.code is not None
        return self.code

    async def _until(self, condition: Callable[[], bool], what: str) -> None:
        try:
            async with asyncio.timeout(SAFETY_SECONDS):
                while not condition():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise AssertionError(f"waited for {what}:\n" + "\n".join(self.raw[-20:])) from None

    def signal(self, number: int) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)

    async def kill(self) -> None:
        """Sends SIGKILL and waits for the exit."""
        self.signal(signal.SIGKILL)
        assert await self.wait_for_exit() == -signal.SIGKILL

    async def close(self) -> None:
        if self.code is None:
            self.signal(signal.SIGKILL)
            await self.wait_for_exit()
        if self._reading is not None:
            await self._reading
        self.writer.close()
        with suppress(ConnectionError):
            await self.writer.wait_closed()

    def resident_bytes(self) -> int:
        """Returns how much memory of the process is in RAM now."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def check_no_exceptions(self) -> None:
        """Checks that the log has no traceback and no line that is not JSON."""
        not_json = [line for line in self.raw if not line.startswith("{")]
        traces = [line for line in self.lines if "trace" in line or line.get("level") == "critical"]
        assert not (not_json or traces), "\n".join([*not_json, *map(str, traces)])


@cache
def _temporary_folder() -> str:
    """Makes the temporary folder of all bridges. On PostgreSQL, a killed bridge leaves its folder of videos there."""
    folder = TemporaryDirectory(prefix="bridge-e2e-")
    atexit.register(folder.cleanup)
    return folder.name


@cache
def _launcher() -> int:
    """Starts the launcher, once for all tests, and returns its port. The launcher ends when its stdin is closed."""
    command = [sys.executable, "-W", "error", "-m", "tests.e2e.launch"]
    launcher = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert launcher.stdin is not None
    assert launcher.stdout is not None

    def end() -> None:
        launcher.stdin.close()  # type: ignore[union-attr]
        launcher.wait()
        launcher.stdout.close()  # type: ignore[union-attr]

    atexit.register(end)
    return int(launcher.stdout.readline())


@asynccontextmanager
async def process(
    database_url: str, amux_url: str, hooks: Mapping[str, Any] | None = None, /, **settings: Any
) -> AsyncIterator[Process]:
    """Starts a bridge in another process, and kills it at the end if it still runs. `launch.py` defines the hooks."""
    texts = {**FAST_SETTINGS, "database_url": database_url, "amux_base_url": amux_url, **settings}
    environment = {"TMPDIR": _temporary_folder(), **{env_name(name): value for name, value in texts.items()}}
    port = await asyncio.to_thread(_launcher)
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
    writer.write(json.dumps({"env": environment, "hooks": dict(hooks or {})}).encode() + b"\n")
    forked = json.loads(await reader.readline())
    launched = Process(forked["pid"], reader, writer)
    launched.start_reading()
    try:
        yield launched
    finally:
        await launched.close()


@asynccontextmanager
async def serving(
    database_url: str, amux_url: str, hooks: Mapping[str, Any] | None = None, /, **settings: Any
) -> AsyncIterator[tuple[Process, Bridge]]:
    """Starts a bridge in another process and waits until it listens. Yields the process and its API."""
    async with process(database_url, amux_url, hooks, **settings) as launched:
        listening = await launched.wait_for_log("listening")
        async with connect_to(listening["url"]) as bridge:
            yield launched, bridge

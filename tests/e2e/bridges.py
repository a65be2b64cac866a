"""Whole bridges for the tests from outside: one in this process, one in a process of its own that can be killed.

Both have one face, `Bridge`. Their settings are the real ones with short times; `settings` overrides are texts, as an
environment would give them. The database is a URL, so that any test can be run on either.
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
from typing import Any

import aiohttp
import orjson

from bridge.service.runtime import Runtime
from bridge.settings import settings as reading
from bridge.store.database import connect
from tests.e2e.receiver import SAFETY_SECONDS, SECRET

APP = {"Authorization": "Bearer app-token-1234"}
OTHER_APP = {"Authorization": "Bearer other-token-1234"}
OPERATOR = {"Authorization": "Bearer operator-token-1234"}
ROOT = Path(__file__).parents[2]

# Times are short, so that what takes minutes is over in seconds; nothing else differs from a service's.
SHORT: Mapping[str, str] = {
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
    "delivery_timeout_seconds": "5",
    "drain_timeout_seconds": "10",
}

# A hook for processes on PostgreSQL, where a dead one's tasks are taken over when its lease has ended: 3 s instead of
# 9, and beats, looks and margin shorter by the same measure. For tests that are not about how long it takes.
SHORT_LEASE_SECONDS = 3.0
SHORT_LEASE: Mapping[str, Any] = {"lease": SHORT_LEASE_SECONDS}


@dataclass
class Answer:
    """An answer of the API, read."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    seconds: float

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)


@dataclass
class Bridge:
    """A bridge as an app, a receiver's owner and an operator see it."""

    url: str
    session: aiohttp.ClientSession

    async def ask(self, method: str, path: str, **options: Any) -> Answer:
        """One request as app `shop`, unless `headers` says otherwise."""
        clock = asyncio.get_running_loop().time
        began = clock()
        options["headers"] = {**APP, **(options.pop("headers", None) or {})}
        async with self.session.request(method, self.url + path, **options) as response:
            return Answer(response.status, response.headers, await response.read(), clock() - began)

    async def get(self, path: str, **options: Any) -> Any:
        answer = await self.ask("GET", path, **options)
        assert answer.status == 200, answer
        return answer.json

    async def register(self, task_id: str, callback_url: str, **fields: Any) -> str:
        """Register a watch; its id. `answer` fields aside, all go into the body."""
        body = {"task_id": task_id, "callback_url": callback_url, **fields}
        answer = await self.ask("POST", "/watch", json=body)
        assert answer.status == 201, answer
        return str(answer.json["id"])

    async def register_many(self, tasks: Iterable[str], callback_url: str, **fields: Any) -> list[str]:
        """Register watches, 500 to a request; their ids in order."""
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
        """A watch once it is final."""
        watch = await self.watch(watch_id, SAFETY_SECONDS)
        assert watch["state"] != "active", watch
        return watch

    async def ready(self) -> Answer:
        return await self.ask("GET", "/readyz")

    async def until(self, method: str, path: str, wanted: Callable[[Answer], bool]) -> Answer:
        """Ask again and again until an answer is as wanted: for what nobody announces."""
        answer = None
        try:
            async with asyncio.timeout(SAFETY_SECONDS):
                while True:
                    answer = await self.ask(method, path)
                    if wanted(answer):
                        return answer
                    await asyncio.sleep(0.02)  # a pause between questions, not a wait for an effect
        except TimeoutError:
            raise AssertionError(f"{method} {path} stayed at {answer}") from None


@asynccontextmanager
async def asking(url: str) -> AsyncIterator[Bridge]:
    """A bridge at a URL."""
    connector = aiohttp.TCPConnector(limit=50)
    timeout = aiohttp.ClientTimeout(total=90)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        yield Bridge(url, session)


# --- databases ----------------------------------------------------------------------------------------------------


def rows(database_url: str, question: str, **given: Any) -> list[Any]:
    """What a database answers, beside the service."""
    from sqlalchemy import text

    database = connect(database_url)
    try:
        return list(database.read(lambda connection: connection.execute(text(question), given).all()))
    finally:
        database.close()


def change(database_url: str, statement: str, **given: Any) -> None:
    """Change a database beside the service."""
    from sqlalchemy import text

    database = connect(database_url)
    try:
        database.transaction(lambda connection: connection.execute(text(statement), given))
    finally:
        database.close()


def check_all_ended(database_url: str, watch_ids: Iterable[str]) -> None:
    """Every watch settled with exactly one terminal event, delivered; nothing is pending, no task is left open."""
    wanted = set(watch_ids)
    states = {row.id: row.state for row in rows(database_url, "SELECT id, state FROM watches")}
    assert {watch_id: states.get(watch_id) for watch_id in wanted} == dict.fromkeys(wanted, "settled")
    check_nothing_stuck(database_url)
    # A status event that a dead replica had claimed may be overtaken by the watch's end: it is superseded, as promised.
    undelivered = rows(
        database_url,
        "SELECT id, state, error FROM deliveries WHERE state <> 'delivered' "
        "AND NOT (type IN ('video.queued', 'video.in_progress') AND state = 'dead' AND error LIKE '%superseded%')",
    )
    assert undelivered == [], undelivered


def check_nothing_stuck(database_url: str) -> None:
    """One terminal event for each settled watch and none for others; nothing owed is lost, or left over."""
    ends = rows(
        database_url,
        "SELECT watches.id, watches.state, count(events.type) AS ends FROM watches LEFT JOIN events"
        " ON events.watch_id = watches.id AND events.terminal GROUP BY watches.id, watches.state",
    )
    assert [row for row in ends if row.ends != (1 if row.state == "settled" else 0)] == []
    # The outbox holds exactly what is pending, and a watch that ended owes no more than its terminal event.
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
    """A bridge on this loop; drained at the end."""
    given = {**SHORT, "database_url": database_url, "amux_base_url": amux_url, **settings}
    started = await Runtime.start(reading.load(None, **given))
    try:
        async with asking(started.url) as bridge:
            yield bridge
    finally:
        await started.stop()


# --- processes ----------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class Process:
    """A bridge in a process of its own. `lines` are its log's, as they came."""

    pid: int
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    lines: list[Any] = field(default_factory=list)
    code: int | None = None
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    _reading: asyncio.Task[None] | None = None
    raw: list[str] = field(default_factory=list)

    def begin(self) -> None:
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        while line := await self.reader.readline():
            text = line.decode(errors="replace").rstrip("\n")
            if text:
                self.raw.append(text)
                self._take(text)
            self._changed.set()
        self._changed.set()

    def _take(self, text: str) -> None:
        try:
            told = json.loads(text)
        except ValueError:
            return
        if isinstance(told, dict):
            self.lines.append(told)
            if told.get("event") == "exited":
                self.code = told["code"]

    async def logged(self, event: str, times: int = 1, **fields: object) -> Any:
        """Wait for a log line (the n-th of its kind); it. Raises AssertionError when the process ends without it."""

        def found() -> list[Any]:
            return [line for line in self.lines if line.get("event") == event and fields.items() <= line.items()]

        await self._until(lambda: len(found()) >= times or self.code is not None, f"{event} {fields or ''}")
        assert len(found()) >= times, f"the process ended ({self.code}) before {event}:\n" + "\n".join(self.raw[-20:])
        return found()[times - 1]

    async def ended(self) -> int:
        """Wait for its end; the exit code, negative for a signal."""
        await self._until(lambda: self.code is not None, "its end")
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
        """SIGKILL, and its end."""
        self.signal(signal.SIGKILL)
        assert await self.ended() == -signal.SIGKILL

    async def close(self) -> None:
        if self.code is None:
            self.signal(signal.SIGKILL)
            await self.ended()
        if self._reading is not None:
            await self._reading
        self.writer.close()
        with suppress(ConnectionError):
            await self.writer.wait_closed()

    def resident_bytes(self) -> int:
        """Its memory that is in RAM now."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def no_faults(self) -> None:
        """No trace of an unexpected exception anywhere in the log."""
        strange = [line for line in self.raw if not line.startswith("{")]
        traces = [line for line in self.lines if "trace" in line or line.get("level") == "critical"]
        assert not (strange or traces), "\n".join([*strange, *map(str, traces)])


@cache
def _launcher() -> int:
    """Start the launcher, once for all tests; its port. It ends with its standard input, which is this process."""
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
    """A bridge's process; killed at the end if it still runs. `hooks` are `launch.py`'s."""
    given = {**SHORT, "database_url": database_url, "amux_base_url": amux_url, **settings}
    environment = {reading.env_name(name): value for name, value in given.items()}
    port = await asyncio.to_thread(_launcher)
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
    writer.write(json.dumps({"env": environment, "hooks": dict(hooks or {})}).encode() + b"\n")
    begun = json.loads(await reader.readline())
    made = Process(begun["pid"], reader, writer)
    made.begin()
    try:
        yield made
    finally:
        await made.close()


@asynccontextmanager
async def serving(
    database_url: str, amux_url: str, hooks: Mapping[str, Any] | None = None, /, **settings: Any
) -> AsyncIterator[tuple[Process, Bridge]]:
    """A process, once it listens, and its face."""
    async with process(database_url, amux_url, hooks, **settings) as made:
        listening = await made.logged("listening")
        async with asking(listening["url"]) as bridge:
            yield made, bridge

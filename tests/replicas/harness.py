"""Several bridges on one PostgreSQL: processes that can be killed and frozen, and a connection that can be cut."""

import asyncio
import signal
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy.engine import make_url

from tests.e2e.bridges import Bridge, Process, rows, serving
from tests.e2e.harness import Environment
from tests.waiting import SAFETY_SECONDS

TAKEOVER_SECONDS = 15.0


@dataclass(eq=False)
class ReplicaProcess:
    """One replica: its process, a client of its API, and its first id in the database."""

    process: Process
    bridge: Bridge
    name: str

    async def stop(self) -> None:
        """Sends SIGTERM; the process must exit with 0 and without an unexpected exception in its log."""
        self.process.signal(signal.SIGTERM)
        assert await self.process.wait_for_exit() == 0
        self.process.check_no_exceptions()

    def log_lines(self, event: str) -> list[Any]:
        """Returns the log lines of this event so far."""
        return [line for line in self.process.lines if line.get("event") == event]


@dataclass
class Cluster:
    """Starts replicas. Those that still run at the end are killed."""

    env: Environment
    stack: AsyncExitStack

    async def start(
        self, hooks: Mapping[str, Any] | None = None, proxy: "PostgresProxy | None" = None, /, **settings: str
    ) -> ReplicaProcess:
        url = self.env.database_url if proxy is None else proxy.url(self.env.database_url)
        before = replica_names(self.env)
        process, bridge = await self.stack.enter_async_context(serving(url, self.env.amux_url, hooks, **settings))
        [name] = replica_names(self.env) - before
        return ReplicaProcess(process, bridge, name)


@asynccontextmanager
async def run_cluster(env: Environment) -> AsyncIterator[Cluster]:
    async with AsyncExitStack() as stack:
        yield Cluster(env, stack)


def replica_names(env: Environment) -> set[str]:
    return {row.id for row in rows(env.database_url, "SELECT id FROM replicas")}


def owners(env: Environment) -> dict[str, str | None]:
    """Returns the owner of each open task, by amux's task id."""
    return {
        row.task_id: row.owner
        for row in rows(env.database_url, "SELECT task_id, owner FROM tasks WHERE closed_at IS NULL")
    }


async def wait_for_owner(env: Environment, tasks: Iterable[str], name: str, seconds: float) -> None:
    """Waits until a replica owns all these open tasks."""
    expected = dict.fromkeys(tasks, name)
    try:
        async with asyncio.timeout(seconds):
            while not expected.items() <= owners(env).items():
                await asyncio.sleep(0.1)
    except TimeoutError:
        raise AssertionError(f"not all are {name}'s within {seconds:g} s: {owners(env)}") from None


@dataclass(eq=False)
class PostgresProxy:
    """A TCP proxy to PostgreSQL.

    `cut` closes all connections and accepts no new ones. While `silent` is true, the proxy accepts connections and
    forwards nothing. With `silent_after`, it becomes silent after this number of answers. Between `hold_answers` and
    `release_answers`, it forwards requests to the server and holds the server's answers back.
    """

    target: int
    port: int = 0
    silent: bool = False
    silent_after: int | None = None
    _answering: asyncio.Event = field(default_factory=asyncio.Event)
    _connections: set["_Connection"] = field(default_factory=set)
    _server: asyncio.Server | None = None

    def url(self, database_url: str) -> str:
        return make_url(database_url).set(port=self.port).render_as_string(hide_password=False)

    def __post_init__(self) -> None:
        self._answering.set()

    def hold_answers(self) -> None:
        """Holds the server's answers back from now on."""
        self._answering.clear()

    def release_answers(self) -> None:
        """Forwards all answers that were held back."""
        self._answering.set()

    async def answer(self) -> None:
        """Waits until answers may be forwarded."""
        await self._answering.wait()

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def cut(self) -> None:
        assert self._server is not None
        self._server.close()
        for connection in list(self._connections):
            connection.abort()
        await self._server.wait_closed()

    def resume(self) -> None:
        """Serves new connections again. Connections that were open stay silent."""
        self.silent = False

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = _Connection(self, [writer])
        self._connections.add(connection)
        try:
            if self.silent:
                connection.silent = True
                await reader.read()
                return
            server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self.target)
            connection.writers.append(server_writer)
            pairs = ((reader, server_writer), (server_reader, writer))
            forwarding = [asyncio.create_task(connection.forward(*pair)) for pair in pairs]
            await asyncio.wait(forwarding, return_when=asyncio.FIRST_COMPLETED)
            connection.abort()
            await asyncio.gather(*forwarding)
        except ConnectionError:
            pass
        finally:
            connection.abort()
            self._connections.discard(connection)


@dataclass(eq=False)
class _Connection:
    proxy: PostgresProxy
    writers: list[asyncio.StreamWriter]
    silent: bool = False

    def abort(self) -> None:
        for writer in self.writers:
            writer.transport.abort()

    async def forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                if writer is self.writers[0]:
                    await self.proxy.answer()
                if self.proxy.silent_after is not None and writer is self.writers[0]:
                    self.proxy.silent = self.proxy.silent or self.proxy.silent_after <= 0
                    self.proxy.silent_after -= 1
                self.silent = self.silent or self.proxy.silent
                if not self.silent:
                    writer.write(data)
                    await writer.drain()
        except ConnectionError:
            return


@asynccontextmanager
async def run_proxy(database_url: str) -> AsyncIterator[PostgresProxy]:
    proxy = PostgresProxy(make_url(database_url).port or 5432)
    await proxy.open()
    try:
        yield proxy
    finally:
        await proxy.cut()


async def wait_until(condition: Any, what: str, seconds: float = SAFETY_SECONDS) -> None:
    """Waits until a condition is true. Checks it every 50 ms, because no signal announces it."""
    try:
        async with asyncio.timeout(seconds):
            while not condition():
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise AssertionError(f"waited for {what}") from None

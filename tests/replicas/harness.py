"""Several bridges on one PostgreSQL: processes that can be killed and frozen, and a network that can be cut."""

import asyncio
import signal
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy.engine import make_url

from tests.e2e.bridges import Bridge, Process, rows, serving
from tests.e2e.harness import World
from tests.e2e.receiver import SAFETY_SECONDS

TAKEN_OVER_SECONDS = 15.0


@dataclass(eq=False)
class Member:
    """One replica: its process, its face, and its first name in the database."""

    process: Process
    bridge: Bridge
    name: str

    async def stop(self) -> None:
        """SIGTERM, and a clean end."""
        self.process.signal(signal.SIGTERM)
        assert await self.process.ended() == 0
        self.process.no_faults()

    def told(self, event: str) -> list[Any]:
        """The log's lines of a kind so far."""
        return [line for line in self.process.lines if line.get("event") == event]


@dataclass
class Crowd:
    """Starts replicas; whoever still runs at the end is killed."""

    around: World
    stack: AsyncExitStack

    async def join(
        self, hooks: Mapping[str, Any] | None = None, through: "Proxy | None" = None, /, **settings: str
    ) -> Member:
        url = self.around.database_url if through is None else through.url(self.around.database_url)
        before = names(self.around)
        process, bridge = await self.stack.enter_async_context(serving(url, self.around.amux_url, hooks, **settings))
        [name] = names(self.around) - before
        return Member(process, bridge, name)


@asynccontextmanager
async def crowded(around: World) -> AsyncIterator[Crowd]:
    async with AsyncExitStack() as stack:
        yield Crowd(around, stack)


def names(around: World) -> set[str]:
    return {row.id for row in rows(around.database_url, "SELECT id FROM replicas")}


def owners(around: World) -> dict[str, str | None]:
    """Who polls each open task, by amux's id."""
    return {
        row.task_id: row.owner
        for row in rows(around.database_url, "SELECT task_id, owner FROM tasks WHERE closed_at IS NULL")
    }


async def owned(around: World, tasks: Iterable[str], name: str, seconds: float) -> None:
    """Wait until all these open tasks are a replica's."""
    wanted = dict.fromkeys(tasks, name)
    try:
        async with asyncio.timeout(seconds):
            while not wanted.items() <= owners(around).items():
                await asyncio.sleep(0.1)
    except TimeoutError:
        raise AssertionError(f"not all are {name}'s within {seconds:g} s: {owners(around)}") from None


@dataclass(eq=False)
class Proxy:
    """A way to PostgreSQL. Cut, it ends connections and takes none; deaf, it swallows what comes and says nothing."""

    target: int
    port: int = 0
    deaf: bool = False
    _links: set["_Link"] = field(default_factory=set)
    _server: asyncio.Server | None = None

    def url(self, database_url: str) -> str:
        return make_url(database_url).set(port=self.port).render_as_string(hide_password=False)

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def cut(self) -> None:
        assert self._server is not None
        self._server.close()
        for link in list(self._links):
            link.end()
        await self._server.wait_closed()

    def hear(self) -> None:
        """Hear again, on new connections only: those before stay silent for good."""
        self.deaf = False

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = _Link(self, [writer])
        self._links.add(link)
        try:
            if self.deaf:
                link.silent = True
                await reader.read()
                return
            onward, back = await asyncio.open_connection("127.0.0.1", self.target)
            link.writers.append(back)
            ways = [asyncio.create_task(link.pass_on(*way)) for way in ((reader, back), (onward, writer))]
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            link.end()
            await asyncio.gather(*ways)
        except ConnectionError:
            pass
        finally:
            link.end()
            self._links.discard(link)


@dataclass(eq=False)
class _Link:
    proxy: Proxy
    writers: list[asyncio.StreamWriter]
    silent: bool = False

    def end(self) -> None:
        for writer in self.writers:
            writer.transport.abort()

    async def pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while piece := await reader.read(65536):
                self.silent = self.silent or self.proxy.deaf
                if not self.silent:
                    writer.write(piece)
                    await writer.drain()
        except ConnectionError:
            return


@asynccontextmanager
async def proxied(database_url: str) -> AsyncIterator[Proxy]:
    proxy = Proxy(make_url(database_url).port or 5432)
    await proxy.open()
    try:
        yield proxy
    finally:
        await proxy.cut()


async def until(condition: Any, what: str, seconds: float = SAFETY_SECONDS) -> None:
    """Wait for what nobody announces."""
    try:
        async with asyncio.timeout(seconds):
            while not condition():
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise AssertionError(f"waited for {what}") from None

"""A poller with a real store, a real client and the stand-in for amux, and hands to hold them by."""

import asyncio
import itertools
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, closing
from dataclasses import dataclass, field
from pathlib import Path

import orjson
import pytest

from bridge.amux.client import AmuxClient
from bridge.core.model import TERMINAL_EVENTS, EventType, Outcome, PendingDelivery, Watch
from bridge.core.schedule import PollPolicy
from bridge.polling.poller import Poller
from bridge.sandbox import Behaviour, Sandbox
from bridge.sandbox import Outcome as End
from bridge.store.open import open_store
from bridge.store.records import CONFIGURED, EncryptedFields, NewWatch, RegisteredWatch, WatchView
from bridge.store.store import Store
from bridge.telemetry import Metrics
from tests.store.builders import register

KEY = "sk-configured-key"
QUICK = PollPolicy(first_delay=0.01, interval=0.02, max_interval=0.05)
RUNNING = Behaviour(queue_seconds=0, outcome=End.NEVER)
DONE = Behaviour(queue_seconds=0, run_seconds=0)
PATIENCE = 30.0  # seconds; only a failing test waits so long


@dataclass
class Rig:
    """What a test looks at: deliveries handed over, watches announced."""

    store: Store
    sandbox: Sandbox
    client: AmuxClient
    metrics: Metrics
    path: Path
    key: str | None = KEY
    owed: list[PendingDelivery] = field(default_factory=list)
    announced: list[str] = field(default_factory=list)
    pollers: list[Poller] = field(default_factory=list)
    numbers: "itertools.count[int]" = field(default_factory=itertools.count)
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    def poller(
        self, policy: PollPolicy = QUICK, *, concurrency: int = 16, rate: float = 0, client: AmuxClient | None = None
    ) -> Poller:
        poller = Poller(
            self.store,
            client or self.client,
            policy=policy,
            configured_key=lambda: self.key,
            content_url=lambda watch, at: f"https://bridge.example/{watch.id}?{at:.0f}",
            hand_over=self._hand_over,
            announce=self._announce,
            metrics=self.metrics,
            concurrency=concurrency,
            rate_per_second=rate,
            random=lambda: 0.5,
        )
        self.pollers.append(poller)
        return poller

    def _hand_over(self, owed: Sequence[PendingDelivery]) -> None:
        self.owed += owed
        self._news.set()

    def _announce(self, ids: Sequence[str]) -> None:
        self.announced += ids
        self._news.set()

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait for the poller's next word until something holds. Looks at it at least 100 times a second."""
        async with asyncio.timeout(PATIENCE):
            while not holds():
                self._news.clear()
                try:
                    async with asyncio.timeout(0.01):
                        await self._news.wait()
                except TimeoutError:
                    continue

    async def register(
        self,
        task_id: str,
        poller: Poller | None = None,
        *,
        events: frozenset[EventType] = TERMINAL_EVENTS,
        age: float = 0.0,
        lasts: float = 3600.0,
        api_key: str | None = None,
    ) -> RegisteredWatch:
        """Register a watch that began `age` seconds ago, and have it polled."""
        new = self.new_watch(task_id, events=events, age=age, lasts=lasts, api_key=api_key)
        registered = await register(self.store, new)
        if poller is not None and registered.task is not None:
            poller.add(registered.task, api_key)
        return registered

    def new_watch(
        self,
        task_id: str,
        *,
        events: frozenset[EventType] = TERMINAL_EVENTS,
        age: float = 0.0,
        lasts: float = 3600.0,
        api_key: str | None = None,
    ) -> NewWatch:
        number = next(self.numbers)
        began = self.store.now() - age
        watch_id = f"wat_{number:06d}"
        watch = Watch(
            id=watch_id,
            app="app",
            task_id=task_id,
            callback_url=f"https://receiver.example/{number}",
            events=events,
            context=b"null",
            created_at=began,
            deadline_at=began + lasts,
            timeout_seconds=lasts,
        )
        sealed = (
            EncryptedFields()
            if api_key is None
            else EncryptedFields(api_key=self.store.cipher.encrypt(watch_id, api_key))
        )
        return NewWatch(
            watch=watch,
            credential=CONFIGURED if api_key is None else f"own-{len(api_key)}",
            task=f"tsk_{number:06d}",
            options=watch_id.encode(),
            host="receiver.example:443",
            encrypted=sealed,
        )

    async def past_deadline(self) -> None:
        """Wait until the store has an overdue watch."""
        async with asyncio.timeout(PATIENCE):
            while not await self.store.overdue(None, 1):
                await asyncio.sleep(0.01)

    async def view(self, registered: RegisteredWatch) -> WatchView:
        return await self.store.watch(registered.watch.id, None)

    async def outcome(self, registered: RegisteredWatch) -> Outcome | None:
        return (await self.view(registered)).watch.outcome

    def told(self, registered: RegisteredWatch) -> list[dict[str, object]]:
        """The data of the events handed over for a watch, in order."""
        return [orjson.loads(one.payload)["data"] for one in self.owed if one.watch_id == registered.watch.id]

    def types(self, registered: RegisteredWatch) -> list[str]:
        return [one.type for one in self.owed if one.watch_id == registered.watch.id]

    def take_over(self) -> None:
        """Do what another replica does when it takes this one for dead."""
        with closing(sqlite3.connect(self.path)) as connection, connection:
            connection.execute("UPDATE replicas SET epoch = epoch + 1")

    def break_store(self) -> Callable[[], None]:
        """Take the database's file away; the function returned brings it back."""
        away = self.path.with_name("away.db")
        self.path.rename(away)
        return lambda: (away.rename(self.path), None)[1]

    async def ticking(self) -> None:
        """What the scheduler does, quicker."""
        while True:
            for poller in self.pollers:
                poller.tick()
            await asyncio.sleep(0.01)


@asynccontextmanager
async def rigged(folder: Path, sandbox: Sandbox | None = None) -> AsyncIterator[Rig]:
    """A rig on a database of its own; its pollers are drained with it."""
    async with AsyncExitStack() as stack:
        metrics = Metrics()
        path = folder / "bridge.db"
        store = await open_store(f"sqlite:///{path}", [], metrics)
        stack.push_async_callback(store.close)
        sandbox = sandbox or Sandbox()
        base_url = await sandbox.start()
        stack.push_async_callback(sandbox.stop)
        client = AmuxClient(base_url, user_agent="amux-bridge/test", timeout_seconds=5)
        stack.push_async_callback(client.close)
        rig = Rig(store, sandbox, client, metrics, path)
        ticking = asyncio.create_task(rig.ticking())
        yield rig
        ticking.cancel()
        for poller in rig.pollers:
            await poller.drain(0.5)


@pytest.fixture(name="rig")
async def rig_fixture(tmp_path: Path) -> AsyncIterator[Rig]:
    """The rig; a test file takes it by importing this."""
    async with rigged(tmp_path) as made:
        yield made

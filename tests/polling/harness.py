"""A poller with a real store, a real amux client and the sandbox, and helpers to control and observe them."""

import asyncio
import itertools
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import pytest

from bridge.aio.system import System
from bridge.aio.threads import Threads
from bridge.amux.client import AmuxClient
from bridge.core.batch_lane import BatchPolicy
from bridge.core.model import TERMINAL_EVENTS, EventType, Observation, Outcome, PendingDelivery, Watch
from bridge.core.schedule import PollPolicy
from bridge.polling.poller import Poller
from bridge.sandbox import Behaviour, Sandbox
from bridge.sandbox import Outcome as End
from bridge.store.open import open_store
from bridge.store.records import CONFIGURED, Changed, EncryptedFields, NewWatch, RegisteredWatch, WatchView
from bridge.store.store import Store
from bridge.telemetry import Metrics
from tests.store.builders import register
from tests.waiting import SAFETY_SECONDS

KEY = "sk-configured-key"
QUICK = PollPolicy(first_delay=0.01, interval=0.02, max_interval=0.05)
RUNNING = Behaviour(queue_seconds=0, outcome=End.NEVER)
DONE = Behaviour(queue_seconds=0, run_seconds=0)
AMUX_SECONDS = 30.0  # the time limit of a poll, so long that no poll on a busy machine reaches it
TURNS = 20  # turns of the event loop before each wait


class GatedClient(AmuxClient):
    """Holds back the answer to the `poll`-th poll (1 is the first) until `gate` is set."""

    def __init__(self, base_url: str, poll: int) -> None:
        super().__init__(base_url, user_agent="amux-bridge/test", timeout_seconds=AMUX_SECONDS)
        self.gate = asyncio.Event()
        self.polls = 0
        self._gated_poll = poll

    async def poll(self, task_id: str, key: str) -> Observation:
        observation = await super().poll(task_id, key)
        self.polls += 1
        if self.polls == self._gated_poll:
            await self.gate.wait()
        return observation


@dataclass
class HeldWrites:
    """Writes of a status whose answers wait for `gate`. `written` is set when the store has made the first one."""

    written: asyncio.Event = field(default_factory=asyncio.Event)
    gate: asyncio.Event = field(default_factory=asyncio.Event)


def hold_status_writes(store: Store, monkeypatch: pytest.MonkeyPatch) -> HeldWrites:
    """Hold back the store's answers to writes of a status."""
    held, record_status = HeldWrites(), store.record_status

    async def record_and_wait(*arguments: Any, **options: Any) -> Changed:
        changed = await record_status(*arguments, **options)
        held.written.set()
        await held.gate.wait()
        return changed

    monkeypatch.setattr(store, "record_status", record_and_wait)
    return held


@dataclass
class Harness:
    """A store, a sandbox and pollers. The harness gets the pollers' deliveries and changes, and keeps them."""

    store: Store
    sandbox: Sandbox
    client: AmuxClient
    metrics: Metrics
    path: Path
    key: str | None = KEY
    deliveries: list[PendingDelivery] = field(default_factory=list)
    announced: list[str] = field(default_factory=list)
    pollers: list[Poller] = field(default_factory=list)
    background: Threads = field(default_factory=lambda: Threads(1, "background"))
    gated_clients: list[GatedClient] = field(default_factory=list)
    numbers: "itertools.count[int]" = field(default_factory=itertools.count)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    def poller(
        self,
        policy: PollPolicy = QUICK,
        *,
        concurrency: int = 16,
        rate: float = 0,
        client: AmuxClient | None = None,
        batch: BatchPolicy | None = None,
    ) -> Poller:
        poller = Poller(
            self.store,
            client or self.client,
            self,
            self,
            policy=policy,
            configured_key=self.key,
            content_url=lambda watch, at: f"https://bridge.example/{watch.id}?{at:.0f}",
            metrics=self.metrics,
            concurrency=concurrency,
            rate_per_second=rate,
            batch=batch,
            background=self.background,
            system=System(random=lambda: 0.5),
        )
        self.pollers.append(poller)
        return poller

    def gated_client(self, poll: int) -> GatedClient:
        client = GatedClient(self.client._base_url, poll)
        self.gated_clients.append(client)
        return client

    def add_new(self, deliveries: Sequence[PendingDelivery]) -> None:
        self.deliveries += deliveries
        self._changed.set()

    def announce(self, watch_ids: Sequence[str]) -> None:
        self.announced += watch_ids
        self._changed.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until a condition holds. It is checked after each change, and at least 100 times a second.

        Before each wait it is checked in some turns of the event loop, for work that needs no thread and no network.
        """
        async with asyncio.timeout(SAFETY_SECONDS):
            while not condition():
                for _ in range(TURNS):
                    await asyncio.sleep(0)
                    if condition():
                        return
                self._changed.clear()
                try:
                    async with asyncio.timeout(0.01):
                        await self._changed.wait()
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
        """Register a watch that began `age` seconds ago, and add its task to a poller."""
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
        encrypted = (
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
            encrypted=encrypted,
        )

    async def past_deadline(self) -> None:
        """Wait until the store has an overdue watch."""
        async with asyncio.timeout(SAFETY_SECONDS):
            while not await self.store.overdue(None, 1):
                await asyncio.sleep(0.01)

    async def view(self, registered: RegisteredWatch) -> WatchView:
        return await self.store.watch(registered.watch.id, None)

    async def outcome(self, registered: RegisteredWatch) -> Outcome | None:
        return (await self.view(registered)).watch.outcome

    def event_data(self, registered: RegisteredWatch) -> list[dict[str, object]]:
        """Returns the data of the events that were handed over for a watch, in order."""
        return [
            orjson.loads(delivery.payload)["data"]
            for delivery in self.deliveries
            if delivery.watch_id == registered.watch.id
        ]

    def event_types(self, registered: RegisteredWatch) -> list[str]:
        return [delivery.type for delivery in self.deliveries if delivery.watch_id == registered.watch.id]

    def adopt_as_other_replica(self) -> None:
        """Do what another replica does when it considers this one dead."""
        with closing(sqlite3.connect(self.path)) as connection, connection:
            connection.execute("UPDATE replicas SET epoch = epoch + 1")

    def break_store(self) -> Callable[[], None]:
        """Move the database's file away; the returned function moves it back."""
        moved = self.path.with_name("moved.db")
        self.path.rename(moved)
        return lambda: (moved.rename(self.path), None)[1]

    async def tick_pollers(self) -> None:
        """Do what the scheduler does, at shorter intervals."""
        while True:
            for poller in self.pollers:
                poller.tick()
            await asyncio.sleep(0.01)


@asynccontextmanager
async def open_harness(folder: Path, sandbox: Sandbox | None = None) -> AsyncIterator[Harness]:
    """Open a harness on a new database; its pollers are drained at the end."""
    async with AsyncExitStack() as stack:
        metrics = Metrics()
        path = folder / "bridge.db"
        store = await open_store(f"sqlite:///{path}", [], metrics)
        stack.push_async_callback(store.close)
        sandbox = sandbox or Sandbox()
        base_url = await sandbox.start()
        stack.push_async_callback(sandbox.stop)
        client = AmuxClient(base_url, user_agent="amux-bridge/test", timeout_seconds=AMUX_SECONDS)
        stack.push_async_callback(client.close)
        harness = Harness(store, sandbox, client, metrics, path)
        ticking = asyncio.create_task(harness.tick_pollers())
        yield harness
        ticking.cancel()
        for poller in harness.pollers:
            await poller.drain(0.5)
        for gated_client in harness.gated_clients:
            await gated_client.close()

"""The deliverer under test, with a store in a file, receivers on real sockets and a clock that tests move."""

import asyncio
import logging
import sqlite3
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import ip_network
from itertools import count
from pathlib import Path
from typing import Any

import orjson
from aiohttp import web

from bridge.aio.system import System
from bridge.callback.guard import Guard
from bridge.callback.sender import Sender
from bridge.core.event import status_event, terminal_event
from bridge.core.model import TERMINAL_EVENTS, EventType, Outcome, PendingDelivery, TaskSnapshot, TaskStatus, Watch
from bridge.core.schedule import RetryPolicy
from bridge.core.signing import Secret, Signer, SigningKey, new_secret
from bridge.core.targets import TargetPolicy
from bridge.core.watch import Ending
from bridge.delivery.deliverer import Deliverer
from bridge.store.lease import Lease
from bridge.store.open import open_store
from bridge.store.records import (
    CONFIGURED,
    DeliveryView,
    EncryptedFields,
    NewWatch,
    Settlement,
    StatusChange,
    TaskView,
)
from bridge.store.store import Store
from bridge.telemetry import Metrics
from tests.store.builders import polled_task
from tests.waiting import SAFETY_SECONDS

SECRET = new_secret(b"s" * 32)
LOOPBACK = TargetPolicy(allow_networks=(ip_network("127.0.0.1/32"),))
AT_ONCE = RetryPolicy(delays=(0, 0, 0))
DONE = TaskSnapshot(status=TaskStatus.COMPLETED, url="https://videos.example/1.mp4")
TICK_SECONDS = 0.01

Answer = Callable[["Receiver"], Awaitable[web.Response]]
_numbers = count(1)


async def ok(_receiver: "Receiver") -> web.Response:
    return web.Response(text="ok")


def status(code: int, text: str = "", **headers: str) -> Answer:
    async def answer(_receiver: "Receiver") -> web.Response:
        return web.Response(status=code, text=text, headers={k.replace("_", "-"): v for k, v in headers.items()})

    return answer


async def hang(receiver: "Receiver") -> web.Response:
    """Answers 200 when the test sets `released`."""
    await receiver.released.wait()
    return web.Response(text="late")


@dataclass
class Call:
    headers: dict[str, str]
    body: bytes

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]


@dataclass
class Receiver:
    """A receiver that gives its `answers` in turn, then repeats the last one. It counts the requests under way."""

    answers: list[Answer]
    changed: asyncio.Event
    port: int = 0
    calls: list[Call] = field(default_factory=list)
    under_way: int = 0
    most_under_way: int = 0
    released: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def ids(self) -> list[str]:
        return [call.id for call in self.calls]

    async def handle(self, request: web.Request) -> web.Response:
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            self.calls.append(Call({k.lower(): v for k, v in request.headers.items()}, await request.read()))
            self.changed.set()
            return await (self.answers.pop(0) if len(self.answers) > 1 else self.answers[0])(self)
        finally:
            self.under_way -= 1
            self.changed.set()


class LogLines(logging.Handler):
    """Collects the deliverer's log lines as (event, fields)."""

    def __init__(self, changed: asyncio.Event) -> None:
        super().__init__()
        self.lines: list[tuple[str, dict[str, Any]]] = []
        self._changed = changed

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append((record.getMessage(), record.__dict__.get("bridge_fields", {})))
        self._changed.set()

    def of(self, event: str) -> list[dict[str, Any]]:
        return [fields for name, fields in self.lines if name == event]


@dataclass
class Clock:
    """A monotonic clock that the test can move forward."""

    ahead: float = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.ahead


@dataclass
class Harness:
    path: Path
    stack: AsyncExitStack
    store: Store
    metrics: Metrics
    clock: Clock = field(default_factory=Clock)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    announced: Counter[str] = field(default_factory=Counter)
    tickers: list[asyncio.TimerHandle] = field(default_factory=list)
    log: LogLines = field(init=False)

    def __post_init__(self) -> None:
        self.log = LogLines(self.changed)
        logger = logging.getLogger("bridge.delivery")
        self.stack.callback(logger.setLevel, logger.level)
        self.stack.callback(logger.removeHandler, self.log)
        logger.addHandler(self.log)
        logger.setLevel(logging.INFO)

    def sql(self, statement: str, *values: Any) -> list[Any]:
        """Runs SQL on the database file, past the store, as another replica would. Returns the rows."""
        with sqlite3.connect(self.path, timeout=2, isolation_level=None) as connection:
            rows = connection.execute(statement, values).fetchall()
        connection.close()
        return rows

    def lease_of(self, delivery: PendingDelivery) -> str:
        [(lease,)] = self.sql("SELECT lease FROM outbox WHERE id = ?", delivery.id)
        return str(lease)

    def remove_file(self) -> None:
        """Moves the database file away, so that the store can neither read nor write."""
        self.path.rename(self.path.with_suffix(".away"))

    def restore_file(self) -> None:
        self.path.with_suffix(".away").rename(self.path)

    async def receiver(self, *answers: Answer) -> Receiver:
        made = Receiver(list(answers) or [ok], self.changed)
        app = web.Application()
        app.router.add_post("/hook", made.handle)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        self.stack.push_async_callback(runner.cleanup)
        self.stack.callback(made.released.set)
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        made.port = runner.addresses[0][1]
        return made

    async def deliverer(
        self,
        *,
        policy: RetryPolicy = AT_ONCE,
        secrets: Sequence[Secret] = (SECRET,),
        signing_key: SigningKey | None = None,
        concurrency: int = 128,
        per_host: int = 8,
        timeout_seconds: float = 5.0,
        targets: TargetPolicy = LOOPBACK,
        names: dict[str, list[list[str]]] | None = None,
        store: Store | None = None,
        lease: Lease | None = None,
        start: bool = True,
    ) -> Deliverer:
        async def resolve(host: str, _port: int) -> list[str]:
            answers = (names or {})[host]
            return answers.pop(0) if len(answers) > 1 else answers[0]

        sender = Sender(Guard(targets, resolve), user_agent="amux-bridge/test", timeout_seconds=timeout_seconds)
        self.stack.push_async_callback(sender.close)
        made = Deliverer(
            store or self.store,
            sender,
            Signer(secrets, signing_key),
            self,
            lease or Lease(self.clock),
            policy=policy,
            metrics=self.metrics,
            concurrency=concurrency,
            per_host=per_host,
            attempt_seconds=timeout_seconds,
            system=System(running=self.clock, random=lambda: 0.5),
        )
        self.stack.push_async_callback(made.drain, 0.0)
        if start:
            await made.start()
            self.keep_ticking(made)
        return made

    def announce(self, watch_ids: Sequence[str]) -> None:
        self.announced.update(watch_ids)
        self.changed.set()

    def keep_ticking(self, deliverer: Deliverer) -> None:
        """Ticks as the scheduler does, but more often."""
        place = len(self.tickers)

        def tick() -> None:
            deliverer.tick()
            self.tickers[place] = asyncio.get_running_loop().call_later(TICK_SECONDS, tick)

        self.tickers.append(asyncio.get_running_loop().call_later(TICK_SECONDS, tick))

    def stop_ticking(self) -> None:
        for handle in self.tickers:
            handle.cancel()

    async def until(self, condition: Callable[[], Any]) -> None:
        """Waits until a condition holds. It is checked at each request, record and log line."""
        async with asyncio.timeout(SAFETY_SECONDS):
            while not condition():
                self.changed.clear()
                await self.changed.wait()

    async def recorded(self, *deliveries: PendingDelivery, times: int = 1) -> list[DeliveryView]:
        """Waits until `times` attempts of each delivery are recorded. Returns the deliveries as they are then."""
        await self.until(lambda: all(self.announced[one.watch_id] >= times for one in deliveries))
        return list(await asyncio.gather(*(self.view(one.id) for one in deliveries)))

    async def view(self, delivery_id: str) -> DeliveryView:
        return (await self.store.delivery(delivery_id, None))[0]

    async def claimed(self, url: str, many: int = 1, **options: Any) -> list[PendingDelivery]:
        """Registers watches and settles their tasks. Returns deliveries that this replica has claimed."""
        tasks = await self.watch(url, many, **options)
        changed = await asyncio.gather(*(self.store.settle(settlement(task, self.store.now())) for task in tasks))
        return [one for change in changed for one in change.claimed]

    async def due(self, url: str, many: int = 1, **options: Any) -> list[PendingDelivery]:
        """Makes deliveries that are due and unclaimed. Returns them with their former claims."""
        deliveries = await self.claimed(url, many, **options)
        await self.store.release(deliveries)
        return deliveries

    async def watch(
        self,
        url: str,
        many: int = 1,
        *,
        headers: dict[str, str] | None = None,
        secret: str | None = None,
        events: frozenset[EventType] = TERMINAL_EVENTS,
    ) -> list[str]:
        """Registers watches. Returns the row ids of their tasks."""
        new_watches = [self._new(url, next(_numbers), headers, secret, events) for _ in range(many)]
        await self.store.register_all(new_watches)
        return [new.task for new in new_watches]

    async def status_events(self, task: str) -> list[PendingDelivery]:
        """Records that a task is in progress. Returns the deliveries of the status events."""
        now = self.store.now()
        snapshot = TaskSnapshot(status=TaskStatus.IN_PROGRESS)

        def event(watch: Watch) -> Any:
            return status_event(watch, EventType.IN_PROGRESS, snapshot, now)

        change = StatusChange(polled_task(self.store, task, snapshot), now, EventType.IN_PROGRESS, event)
        return list((await self.store.record_status(change)).claimed)

    def _new(
        self, url: str, number: int, headers: dict[str, str] | None, secret: str | None, events: frozenset[EventType]
    ) -> NewWatch:
        watch_id, now = f"wat_{number:08}", self.store.now()
        watch = Watch(watch_id, "app", f"task_{number}", url, events, b"{}", now, now + 3600, 3600)
        encrypt = self.store.cipher.encrypt
        encrypted = EncryptedFields(
            headers=None if headers is None else encrypt(watch_id, orjson.dumps(headers).decode()),
            secret=None if secret is None else encrypt(watch_id, secret),
        )
        host = url.split("/")[2]
        return NewWatch(watch, "configured", f"tsk_{number}", b"options", host, encrypted)


def settlement(task: str, at: float) -> Settlement:
    """Returns the settlement of a completed task, which ends every watch on the task."""
    return Settlement(
        TaskView(task, "task_1", CONFIGURED, DONE, 1, at),
        at,
        lambda _watch: Ending(Outcome.COMPLETED, DONE),
        lambda watch, ending: terminal_event(watch, ending, at, None),
    )


@asynccontextmanager
async def delivery_harness(folder: Path) -> AsyncIterator[Harness]:
    """Opens a harness with a store in the folder. At the end, stops everything that the harness has started."""
    metrics = Metrics()
    path = folder / "bridge.db"
    async with AsyncExitStack() as stack:
        store = await open_store(f"sqlite:///{path}", [], metrics)
        stack.push_async_callback(store.close)
        made = Harness(path, stack, store, metrics)
        stack.callback(made.stop_ticking)
        yield made

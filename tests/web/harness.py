"""A bridge for the tests of the routes: the real application on loopback, over a real store in a temporary folder."""

import json
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cache
from ipaddress import ip_network
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import aiohttp
from aiohttp import web
from multidict import CIMultiDict

from bridge.amux import AmuxClient
from bridge.amux.content_cache import ContentCache
from bridge.amux.content_folder import ContentFolder
from bridge.amux.proxy import AmuxProxy
from bridge.callback.guard import Guard
from bridge.callback.sender import Sender
from bridge.core.cache_room import Disk
from bridge.core.delivery import Dead
from bridge.core.event import terminal_event
from bridge.core.health import HealthReason
from bridge.core.model import Attempt, Event, Outcome, PendingDelivery, Problem, TaskSnapshot, TaskStatus, Watch
from bridge.core.operations import Notice
from bridge.core.signing import Secret, Signer
from bridge.core.targets import TargetPolicy
from bridge.core.watch import Ending
from bridge.delivery.figures import AttemptFigures
from bridge.delivery.receivers import Receivers
from bridge.maintenance.health import Health
from bridge.store.open import open_database, open_store
from bridge.store.records import CONFIGURED, AttemptResult, Changed, Settlement, TaskView
from bridge.store.store import Store
from bridge.telemetry import Metrics
from bridge.watches.change_notifier import ChangeNotifier
from bridge.watches.event_numbering import EventNumbering
from bridge.watches.registration import RegistrationService, TimeoutLimits
from bridge.web.app import make_app
from bridge.web.auth import Access
from bridge.web.context import AppContext, DropIn, StreamTimes
from bridge.web.rate_limits import PingLimits
from bridge.web.server import make_runner
from tests.store.builders import polled_task

APP = {"Authorization": "Bearer app-token"}
OTHER = {"Authorization": "Bearer other-token"}
OPERATOR = {"Authorization": "Bearer operator-token"}
TOKENS = {"app-token": "shop", "app-token-2": "shop", "other-token": "lab"}
OPERATORS = {"operator-token": "ops"}
SECRET = Secret(b"s" * 32)
OWN_SECRET = Secret(b"o" * 32)
NAMES = {"app.example": ["93.184.216.34"], "bad.example": ["93.184.216.34", "10.0.0.1"]}
BODY: dict[str, Any] = {"task_id": "task_1", "callback_url": "https://app.example/hook?key=hidden"}

RUNNING = TaskSnapshot(TaskStatus.IN_PROGRESS, 40)


def live_task(
    snapshot: TaskSnapshot = RUNNING,
    polls: int = 7,
    *,
    last_error: Problem | None = None,
    last_error_at: float | None = None,
) -> TaskView:
    """Returns what a poller knows of a task."""
    return TaskView(
        "row",
        "task_1",
        CONFIGURED,
        snapshot,
        polls,
        1_795_446_245.123,
        next_poll_at=1_795_446_250.5,
        last_error=last_error,
        last_error_at=last_error_at,
    )


@dataclass
class FakePoller:
    """Records the tasks that are added and checked. `live` answers from `tasks`, whose keys are the rows of tasks."""

    added: list[tuple[TaskView, str | None]] = field(default_factory=list)
    checked: list[str] = field(default_factory=list)
    tasks: dict[str, TaskView] = field(default_factory=dict)

    def add(self, task: TaskView, api_key: str | None = None) -> None:
        self.added.append((task, api_key))

    def check_closed(self, task_row: str) -> None:
        self.checked.append(task_row)

    def live(self, task_row: str) -> TaskView | None:
        return self.tasks.get(task_row)


@dataclass
class HealthParts:
    """Imitates the scheduler, the poller and the deliverer, which `Health` checks besides the store."""

    age: float = 0.0
    reasons: Sequence[HealthReason] = ()
    lacks: str | None = None

    def tick_age(self) -> float:
        return self.age

    def degraded(self) -> Sequence[HealthReason]:
        return self.reasons

    def shortage(self) -> str | None:
        return self.lacks


def health_of(store: Store, parts: HealthParts, clock: Callable[[], float] = time.monotonic) -> Health:
    """Returns a `Health` that checks the store and `parts`."""
    return Health(store, parts, parts, parts, clock=clock)


@dataclass
class FakeDeliverer:
    """Counts the calls of `wake`, and stores the paused hosts."""

    figures: AttemptFigures
    wakes: int = 0
    paused: frozenset[str] = frozenset()

    def drop_status_events(self, watch_ids: Iterable[str]) -> None:
        """Does nothing, because no status event waits in this deliverer."""

    def wake(self) -> None:
        self.wakes += 1

    def set_paused(self, hosts: frozenset[str]) -> None:
        self.paused = hosts

    def publish(self, notices: Sequence[Notice]) -> None:
        assert not notices  # notices are off in these tests


@dataclass
class Answer:
    """A response and its body."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def problem(self, status: int, code: str) -> Any:
        """Checks that the answer is a problem with this status and code. Returns its body."""
        assert (self.status, self.headers["Content-Type"]) == (status, "application/problem+json"), self
        body = self.json
        assert (body["status"], body["code"]) == (status, code), body
        assert body["type"]
        assert body["title"]
        assert body["detail"]
        assert self.headers["X-Content-Type-Options"] == "nosniff"
        assert self.headers["Cache-Control"] == "no-store"
        return body

    def fields(self) -> set[str]:
        """Checks that the answer is a 422 `invalid_request`. Returns the names of the bad fields."""
        return {error["field"] for error in self.problem(422, "invalid_request")["errors"]}


@dataclass
class Bridge:
    """A running bridge: requests to it, and the objects inside it."""

    context: AppContext
    poller: FakePoller
    deliverer: FakeDeliverer
    session: aiohttp.ClientSession
    port: int

    @property
    def store(self) -> Store:
        return self.context.store

    async def ask(self, method: str, path: str, **options: Any) -> Answer:
        """Sends one request, as app `shop` unless `headers` has another token."""
        headers = CIMultiDict(options.pop("headers", None) or {})
        for name, value in APP.items():
            headers.setdefault(name, value)
        options["headers"] = headers
        async with self.session.request(method, f"http://127.0.0.1:{self.port}{path}", **options) as response:
            return Answer(response.status, response.headers, await response.read())

    async def post(self, path: str, body: Any, **options: Any) -> Answer:
        return await self.ask("POST", path, json=body, **options)

    async def get(self, path: str, **options: Any) -> Answer:
        return await self.ask("GET", path, **options)

    async def watch(self, headers: Mapping[str, str] = APP, /, **fields: Any) -> Any:
        """Registers a watch. Returns its JSON."""
        answer = await self.post("/watch", BODY | fields, headers=headers)
        assert answer.status == 201, answer
        return answer.json

    async def settle(self, watch_id: str) -> Changed:
        """Settles a watch as completed, as a poller does."""
        view = await self.store.watch(watch_id, None)
        return await settle(self.store, view.task.row)

    async def dead(self, watch_id: str, at: float | None = None) -> str:
        """Settles a watch and gives its delivery up, at `at` in Unix seconds. Returns the delivery's id."""
        [pending] = (await self.settle(watch_id)).claimed
        await give_up(self.store, pending, self.store.now() if at is None else at)
        return pending.id


async def settle(store: Store, task_row: str) -> Changed:
    """Settles a task's watches as completed."""
    completed = TaskSnapshot(TaskStatus.COMPLETED, 100, "https://cdn.example/v.mp4", "mp4")
    now = store.now()

    def event(watch: Watch, ending: Ending) -> Event:
        return terminal_event(watch, ending, now, None)

    def ending(_: Watch) -> Ending:
        return Ending(Outcome.COMPLETED, completed)

    return await store.settle(Settlement(polled_task(store, task_row, completed, 3), now, ending, event))


async def give_up(store: Store, pending: PendingDelivery, at: float) -> None:
    """Makes a pending delivery dead, after one attempt that was answered 410."""
    gone = Problem("gone", "the receiver answered 410 Gone")
    attempt = Attempt(at, 0.25, 410, gone, "no more")
    await store.record_attempts([AttemptResult(pending.id, pending.lease, attempt, Dead(gone), pending.host, at)])


async def resolve(host: str, _: int) -> list[str]:
    """Resolves the names in NAMES. Every other name is unknown."""
    if host not in NAMES:
        raise OSError(-2, "Name or service not known")
    return NAMES[host]


@cache
def blank_store() -> Mapping[str, bytes]:
    """Returns the files of a new store. They are made once, because a migration takes longer than most tests."""
    with TemporaryDirectory() as folder:
        database, _ = open_database(f"sqlite:///{folder}/bridge.db", [])
        database.close()
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def write_blank_store(folder: Path) -> str:
    """Writes the files of a new store into a folder that does not have them yet. Returns the database's URL."""
    for name, content in blank_store().items():
        path = folder / name
        if not path.exists():
            path.write_bytes(content)
            path.chmod(0o600)
    return f"sqlite:///{folder}/bridge.db"


@asynccontextmanager
async def running_bridge(
    folder: Path,
    *,
    tokens: Mapping[str, str] = TOKENS,
    operators: Mapping[str, str] = OPERATORS,
    public_url: str | None = None,
    api_key: str | None = "sk-configured",
    degraded: Sequence[HealthReason] = (),
    tick_age: float = 0.0,
    ping_limits: PingLimits | None = None,
    max_active_watches: int = 1000,
    max_active_watches_per_app: int = 0,
    amux_url: str = "http://127.0.0.1:9",
    drop_in: DropIn | None = None,
    times: StreamTimes = StreamTimes(),  # noqa: B008  the class is frozen
    idle_seconds: float = 10.0,
    cache_bytes: int = 1 << 30,
    disk: Callable[[], Disk] | None = None,
) -> AsyncIterator[Bridge]:
    """Serves a bridge, and closes everything at the end."""
    metrics = Metrics()
    store = await open_store(
        write_blank_store(folder),
        [],
        metrics,
        max_active_watches=max_active_watches,
        max_active_watches_per_app=max_active_watches_per_app,
    )
    guard = Guard(TargetPolicy(allow_networks=(ip_network("127.0.0.1/32"),)), resolve, look_up_seconds=1.0)
    sender = Sender(guard, user_agent="amux-bridge/test", timeout_seconds=30.0)
    poller, deliverer, notifier = FakePoller(), FakeDeliverer(AttemptFigures(store.now)), ChangeNotifier(store)
    numbering = EventNumbering(store.feed, ChangeNotifier(store.feed))
    registration = RegistrationService(
        store,
        guard,
        poller,
        deliverer,
        notifier,
        metrics=metrics,
        configured_key=api_key,
        timeouts=TimeoutLimits(600.0, 3600.0),
    )
    client = AmuxClient(amux_url, user_agent="amux-bridge/test")
    proxy = AmuxProxy(
        client,
        configured_key=api_key,
        idle_seconds=idle_seconds,
        create_idle_seconds=idle_seconds,
        stalled_reader_seconds=idle_seconds,
    )
    cache = (
        ContentCache(ContentFolder(folder / "content", "own"), limit=cache_bytes, disk=disk) if cache_bytes else None
    )
    if cache is not None:
        await cache.start()
    context = AppContext(
        store=store,
        registration=registration,
        poller=poller,
        deliverer=deliverer,
        guard=guard,
        sender=sender,
        change_notifier=notifier,
        event_numbering=numbering,
        metrics=metrics,
        health=health_of(store, HealthParts(tick_age, degraded)),
        access=Access(tokens, operators, public_url),
        signer=Signer([SECRET]),
        receivers=Receivers(store, deliverer, deliverer, metrics),
        link_key=store.cipher.key("content link"),
        proxy=proxy,
        content_cache=cache,
        drop_in=drop_in,
        public_url=public_url,
        stream_times=times,
        ping_limits=ping_limits or PingLimits(),
    )
    runner = make_runner(make_app(context), shutdown_seconds=1.0)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    try:
        async with aiohttp.ClientSession() as session:
            yield Bridge(context, poller, deliverer, session, port)
    finally:
        await runner.cleanup()
        await proxy.finish(5.0)
        if cache is not None:
            await cache.close()
        await client.close()
        await registration.finish()
        await sender.close()
        await numbering.close()
        await store.close()

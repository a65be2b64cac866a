"""The replicas of a world: starts, stops and ends the processes that run the bridges."""

import asyncio
from dataclasses import dataclass, field
from functools import lru_cache
from random import Random
from typing import TYPE_CHECKING, Any

from bridge.service.adapters import Adapters
from bridge.service.runtime import Runtime
from bridge.settings.settings import Settings, load
from bridge.store.store import Store
from tests.simulation.amux import SimulatedClient
from tests.simulation.database import SimulatedDatabase
from tests.simulation.hosts import Host
from tests.simulation.http import WORLD, Caller, Listener
from tests.simulation.plan import HoldUp
from tests.simulation.receivers import SimulatedSender
from tests.simulation.violation import Violation

if TYPE_CHECKING:
    from tests.simulation.world import World

APPS = {"shop": "shop-token-of-the-simulation", "lab": "lab-token-of-the-simulation"}
PUBLIC_URL = "https://bridge.example"
LINK_SECONDS = 15.0
OPERATOR = "operator-token-of-the-simulation"
ATTEMPT_SECONDS = 3.0
FREEZE_WITHIN = 0.01  # the seconds of a transaction during which its process freezes
PATIENCE = 12.0  # seconds that a caller waits; the bridge promises its 503 within 5
LONGEST_STOP = 60.0


@dataclass(frozen=True, slots=True)
class HeldUp:
    """A fault: the next transaction with `operation` is held up, `before` it runs or else before its answer."""

    operation: str
    how: HoldUp
    before: bool
    seconds: float


@dataclass(eq=False)
class Slot:
    """One replica of the plan: its present process, and its bridge once that has started."""

    name: str
    host: Host | None = None
    store: Store | None = None
    runtime: Runtime | None = None
    caller: Caller | None = None
    wall_ahead: float = 0.0
    starting: "asyncio.Task[Any] | None" = None
    stopping: bool = False
    held_up: list[HeldUp] = field(default_factory=list)  # the faults of its next transactions


class Replicas:
    """Starts and ends bridges."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self.slots = [Slot(name_of(number)) for number in range(world.plan.replicas)]

    def start(self, slot: Slot) -> None:
        """Start a process with a bridge."""
        world = self._world
        weather = world.server.weather[slot.name]

        def latency(name: str, function: Any) -> tuple[float, float]:
            if name == "bridge-writer":
                return self._held_up(slot, function, weather.latency(routine=_is_routine(function)))
            return weather.latency(routine=True) if name == "bridge-reader" else (0.0005, 0.0005)

        host = Host(world.loop, Random(world.random.getrandbits(64)), slot.name, latency)
        host.wall_ahead = slot.wall_ahead
        slot.host, slot.store, slot.runtime, slot.caller, slot.stopping = host, None, None, None, False
        slot.starting = host.run(lambda: world.loop.create_task(self._open(slot, host)))

    async def _open(self, slot: Slot, host: Host) -> None:
        world, listener = self._world, Listener(8080)

        def client(base_url: str, **options: Any) -> SimulatedClient:
            slot.store = options["wall_clock"].__self__
            return SimulatedClient(world.amux, base_url, **options)

        def bound(sock: Any, make_protocol: Any) -> None:
            if sock is listener:
                slot.caller = Caller(world.loop, host, make_protocol, PATIENCE, 0.001)

        adapters = Adapters(
            system=host.system(),
            connect=lambda _url, system: SimulatedDatabase(world.server, host, system),
            bind=lambda _hosts, _port, _prefix: [listener],  # type: ignore[list-item]
            amux_client=client,
            sender=lambda guard, **options: SimulatedSender(world.receivers, guard, **options),
            content_folder=lambda _base, name, **_: world.drives[slot.name].folder(host.wall, name),
            resolve=_resolve,
        )
        world.loop.listeners.append(bound)
        try:
            plan = world.plan
            settings = _settings(plan.retries, plan.per_host, plan.retention, plan.cache_bytes)
            runtime = await Runtime.start(settings, adapters)
        except Exception as error:  # noqa: BLE001  a service manager starts the process again
            world.note(f"{slot.name} does not start: {error}")
            world.loop.call_later(1.0, self.start_again, slot, host, context=WORLD)
            return
        slot.runtime = runtime
        world.troubled_at = max(world.troubled_at, world.loop.time())
        world.note(f"{slot.name} has started as {runtime._store.replica.id}")

    def start_again(self, slot: Slot, host: Host) -> None:
        """Start a new process in place of the one on `host`, unless another process already runs there."""
        if slot.host is host:
            self.start(slot)

    async def stop(self, slot: Slot) -> None:
        """Stop a bridge as SIGTERM does. Raises Violation if it does not stop within 60 s."""
        host, runtime, world = slot.host, slot.runtime, self._world
        if host is None or runtime is None or slot.stopping or host.crashed:
            return
        slot.stopping = True
        began = world.loop.time()
        stopping = host.run(lambda: world.loop.create_task(runtime.stop()))
        while not stopping.done() and not host.crashed:
            await asyncio.sleep(0.1)
            if world.loop.time() > began + LONGEST_STOP and not host.frozen and host.away_until < began:
                raise Violation(f"{slot.name} does not stop")
        if not host.crashed:
            stopping.result()
            self.end(slot)
        world.note(f"{slot.name} has stopped")

    def end(self, slot: Slot) -> None:
        """End a process at once."""
        assert slot.host is not None
        slot.host.crash()
        for database in self._world.server.opened:
            if database.host is slot.host:
                database.close()
        self._world.drives[slot.name].process_ended()
        slot.runtime = slot.caller = None

    def _held_up(self, slot: Slot, write: Any, latency: tuple[float, float]) -> tuple[float, float]:
        """Return the latency of a transaction, and apply the first fault that waits for one of its operations."""
        operations = {call.operation.__name__ for call in write.args[0]}
        found = next((one for one in slot.held_up if one.operation in operations), None)
        if found is None:
            return latency
        slot.held_up.remove(found)
        before, after = latency
        seconds = found.seconds if found.how is HoldUp.HANG else FREEZE_WITHIN
        self._world.note(f"{slot.name} is held up in {found.operation}: {found}")
        if found.how is HoldUp.FREEZE:
            moment = (0.0 if found.before else before) + FREEZE_WITHIN / 2
            self._world.loop.call_later(
                moment, self._world.faults.freeze, int(slot.name[-1]), found.seconds, context=WORLD
            )
        else:
            self._world.faults.lasts(found.seconds + 6.0)
        return (before + seconds, after) if found.before else (before, after + seconds)

    def identity_of(self, host: Host | None) -> tuple[str, int]:
        """Return the id and the epoch of a host's replica, as its bridge knows them."""
        for slot in self.slots:
            if slot.host is host and slot.store is not None:
                return slot.store.replica.identity
        return "a replica that has not started", 0


_ROUTINE = {"adopt", "renew", "probe", "write_figures", "add_ends", "correct_future_times"}


def _is_routine(write: Any) -> bool:
    """Return whether a transaction of the group commit holds only operations that every replica does regularly."""
    return all(call.operation.__name__ in _ROUTINE for call in write.args[0])


def name_of(number: int) -> str:
    """Return the name of a replica."""
    return f"replica-{number}"


async def _resolve(_host: str, _port: int) -> list[str]:
    return ["93.184.216.34"]


@lru_cache(maxsize=64)
def _settings(retries: str, per_host: int, retention: float, cache_bytes: int) -> Settings:
    return load(
        None,
        amux_api_key="sk-one",
        amux_base_url="https://amux.example",
        port=8080,
        tokens=",".join(f"{app}:{token}" for app, token in APPS.items()),
        operator_tokens=f"night:{OPERATOR}",
        database_url="postgresql://simulated/bridge",
        database_wait_seconds=0,
        encryption_keys="MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=",
        signing_secrets="whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=",
        poll_first_delay_seconds=1,
        poll_interval_seconds=1,
        poll_max_interval_seconds=3,
        poll_request_timeout_seconds=3,
        delivery_retry_delays_seconds=retries,
        delivery_timeout_seconds=ATTEMPT_SECONDS,
        delivery_concurrency_per_host=per_host,
        content_cache_bytes=cache_bytes,
        content_link_seconds=LINK_SECONDS,
        public_url=PUBLIC_URL,
        retention_seconds=retention,
        drain_timeout_seconds=5,
    )

"""An event loop with virtual time. It has no thread and no socket, and the same seed gives the same order of events.

Each callback belongs to a host, which is a simulated process. A callback inherits its host through its context. The
loop does not run the callbacks of a host that is frozen, or that has crashed.

In one turn the loop runs everything that is due, as asyncio does: first what comes from outside (answers of the
network, of the database, of threads), in a random order, then timers by their time. A turn takes a little time, and
sometimes more. In a long turn several events become due together, and many races need that.
"""

import asyncio
import heapq
from collections.abc import Callable
from contextvars import Context, ContextVar
from random import Random
from typing import TYPE_CHECKING, Any, TypeVarTuple

if TYPE_CHECKING:
    from tests.simulation.hosts import Host

Arguments = TypeVarTuple("Arguments")

HOST: "ContextVar[Host | None]" = ContextVar("HOST", default=None)
START = 1_000.0
TURN_SECONDS = 20e-6
MAX_TURNS = 400_000  # a seed with more turns is taken for an endless loop


class EndlessLoop(AssertionError):
    """The simulation has taken more than MAX_TURNS turns."""


class External(asyncio.TimerHandle):
    """An event that comes from outside the process."""

    __slots__ = ()


class SimulatedLoop(asyncio.BaseEventLoop):
    """The loop of the module's description. A share of its turns, `stall_share`, take up to `stall_seconds`."""

    def __init__(self, random: Random, *, stall_share: float = 0.0, stall_seconds: float = 0.0) -> None:
        super().__init__()
        self._random = random
        self._stall_share = stall_share
        self._stall_seconds = stall_seconds
        self._now = START
        self._turns = 0
        self.graveyard: list[asyncio.Task[Any]] = []  # unfinished asyncio tasks of crashed hosts: they must never go on
        self.listeners: list[Callable[[Any, Any], None]] = []
        self.set_exception_handler(self._report)
        self.reports: list[dict[str, Any]] = []

    def time(self) -> float:
        """Return the virtual seconds."""
        return self._now

    def call_external(
        self,
        delay: float,
        callback: Callable[[*Arguments], object],
        *arguments: *Arguments,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        """Call a function after a delay, as an event that comes from outside. The default context is the caller's."""
        handle = External(self._now + delay, callback, arguments, self, context)
        heapq.heappush(self._scheduled, handle)  # type: ignore[attr-defined]
        handle._scheduled = True  # type: ignore[attr-defined]
        return handle

    def resume(self, handles: list[asyncio.Handle]) -> None:
        """Run callbacks that were held back while their host was frozen."""
        self._ready.extend(handles)  # type: ignore[attr-defined]

    def has_ready(self, host: "Host") -> bool:
        """Return whether a callback of a host is ready to run."""
        return any(one._context.get(HOST) is host for one in self._ready if not one._cancelled)  # type: ignore[attr-defined]

    def bury(self) -> None:
        """Keep all unfinished asyncio tasks, so that none is closed before the end."""
        self.graveyard.extend(asyncio.all_tasks(self))

    def run_in_executor(self, *_: Any) -> Any:  # type: ignore[override]
        """Raise AssertionError: the simulation has no threads."""
        raise AssertionError("the simulation has no threads")

    async def create_server(self, protocol_factory: Any, *_: Any, sock: Any = None, **__: Any) -> Any:
        """Listen on a simulated socket."""
        for bound in self.listeners:
            bound(sock, protocol_factory)
        return _Server()

    # --- what BaseEventLoop leaves open -----------------------------------------------------------------------------

    def _run_once(self) -> None:
        self._turns += 1
        if self._turns > MAX_TURNS:
            raise EndlessLoop(f"more than {MAX_TURNS} turns, at {self._now:.3f}")
        ready: Any = self._ready  # type: ignore[attr-defined]
        scheduled: Any = self._scheduled  # type: ignore[attr-defined]
        while scheduled and scheduled[0]._cancelled:
            heapq.heappop(scheduled)._scheduled = False
        if ready:
            self._now += TURN_SECONDS
        elif scheduled:
            self._now = max(self._now, scheduled[0]._when)
        if self._stall_share and self._random.random() < self._stall_share:
            self._now += self._stall_seconds * self._random.random() ** 3
        self._take_due(ready, scheduled)
        for _ in range(len(ready)):
            handle = ready.popleft()
            if handle._cancelled:
                continue
            host = handle._context.get(HOST)
            if host is None or host.runs(handle):
                handle._run()

    def _take_due(self, ready: Any, scheduled: Any) -> None:
        externals: list[asyncio.Handle] = []
        timers: list[asyncio.Handle] = []
        while scheduled and scheduled[0]._when <= self._now:
            handle = heapq.heappop(scheduled)
            handle._scheduled = False
            if not handle._cancelled:
                (externals if type(handle) is External else timers).append(handle)
        if len(externals) > 1:
            self._random.shuffle(externals)
        ready.extend(externals)
        ready.extend(timers)

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Do nothing: the loop drops a cancelled timer when its time comes."""

    def _write_to_self(self) -> None:
        """Do nothing: there is no other thread that could wake the loop."""

    def _report(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.reports.append(context)


class _Server:
    """A server, with what aiohttp calls on it."""

    def close(self) -> None:
        return None

    async def wait_closed(self) -> None:
        return None

"""A host: one simulated process, with its clocks, its randomness and its threads. It can freeze and crash."""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any, TypeVar

from bridge.aio.system import System
from bridge.aio.threads import Runner, Stopped
from tests.simulation.loop import HOST, SimulatedLoop

Result = TypeVar("Result")

EPOCH = 1_795_000_000.0  # Unix seconds at virtual second 0


@dataclass(eq=False)
class Host:
    """One process. `latency(name, function)` gives how long a function waits to run, and how long its answer takes."""

    loop: SimulatedLoop
    random: Random
    name: str
    latency: Callable[[str, Callable[[], Any]], tuple[float, float]]
    wall_ahead: float = 0.0  # seconds by which the wall clock is ahead of the true time
    crashed: bool = False
    ended_at: float = 0.0
    frozen: bool = False
    parked: list[asyncio.Handle] = field(default_factory=list)
    away_until: float = 0.0  # when its last freeze ended

    def runs(self, handle: asyncio.Handle) -> bool:
        """Return whether a callback of this host may run now. A frozen host keeps its callbacks until it thaws."""
        if self.crashed:
            return False
        if self.frozen:
            self.parked.append(handle)
            return False
        return True

    def crash(self) -> None:
        """End the process at once: none of its callbacks runs any more."""
        self.crashed = True
        self.ended_at = self.loop.time()
        self.parked.clear()
        self.loop.bury()

    def thaw(self) -> None:
        """Go on after a freeze."""
        self.frozen = False
        self.away_until = self.loop.time()
        parked, self.parked = self.parked, []
        self.loop.resume(parked)

    def true_time(self) -> float:
        """Return the Unix seconds of a clock that is never set."""
        return EPOCH + self.loop.time()

    def wall(self) -> float:
        """Return the Unix seconds of this host's wall clock."""
        return EPOCH + self.loop.time() + self.wall_ahead

    def system(self) -> System:
        """Return the clocks, the randomness and the threads for the bridge on this host."""
        random = Random(self.random.getrandbits(64))
        return System(
            monotonic=self.loop.time,
            running=self.loop.time,
            wall=self.wall,
            random=random.random,
            token_bytes=random.randbytes,
            threads=lambda size, name: SimulatedRunner(self, size, name),
        )

    def run(self, function: Callable[[], Result]) -> Result:
        """Call a function so that its callbacks belong to this host."""
        token = HOST.set(self)
        try:
            return function()
        finally:
            HOST.reset(token)


@dataclass(eq=False)
class SimulatedRunner(Runner):
    """Runs each function in a single moment, some time after `submit`. The answer comes some time after that."""

    host: Host
    size: int
    name: str
    waiting: deque[Any] = field(default_factory=deque)
    running: int = 0
    closed: bool = False
    ended: list["asyncio.Future[None]"] = field(default_factory=list)

    def submit(
        self, function: Callable[[], Result], discard: Callable[[Result], object] | None = None
    ) -> "asyncio.Future[Result]":
        if self.closed:
            raise Stopped
        future: asyncio.Future[Result] = self.host.loop.create_future()
        self.waiting.append((function, future))
        self._begin()
        return future

    async def close(self, seconds: float) -> None:
        self.closed = True
        if self.running or self.waiting:
            ended = self.host.loop.create_future()
            self.ended.append(ended)
            await asyncio.wait([ended], timeout=seconds)

    def _begin(self) -> None:
        while self.waiting and self.running < self.size:
            function, future = self.waiting.popleft()
            self.running += 1
            before, after = self.host.latency(self.name, function)
            self.host.loop.call_external(before, self._execute, function, future, after)

    def _execute(self, function: Callable[[], Any], future: "asyncio.Future[Any]", after: float) -> None:
        result, error = None, None
        if not future.cancelled():
            try:
                result = function()
            except Exception as raised:  # noqa: BLE001  the caller gets the error
                error = raised
                after += getattr(raised, "answered_after", 0.0)
        self.host.loop.call_external(after, self._answer, future, result, error)

    def _answer(self, future: "asyncio.Future[Any]", result: Any, error: Exception | None) -> None:
        self.running -= 1
        self._begin()
        if not self.running and not self.waiting:
            for ended in self.ended:
                if not ended.done():
                    ended.set_result(None)
        if not future.done():
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)

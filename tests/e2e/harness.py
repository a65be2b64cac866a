"""The surroundings of a bridge in end-to-end tests: the amux stand-in and a receiver, both in the test's process."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from bridge.sandbox import Behaviour, Outcome, Sandbox
from bridge.sandbox.sweep import SWEEP_SECONDS
from tests.e2e.receiver import Receiver, Responder, accept, receiving
from tests.waiting import SAFETY_SECONDS


@dataclass
class ManualClock:
    """amux's clock, which only the test moves. So a task keeps its status until the test moves the clock."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Environment:
    """amux and a receiver. `clock` is amux's clock."""

    amux: Sandbox
    amux_url: str
    receiver: Receiver
    database_url: str
    clock: ManualClock = field(default_factory=ManualClock)

    async def wait_for_polls(self, *tasks: str, more: int = 1) -> None:
        """Waits until each of these tasks was polled `more` times, counted from now."""
        try:
            async with asyncio.timeout(SAFETY_SECONDS):
                await asyncio.gather(*(self.amux.polled(task, self.amux.polls[task] + more) for task in tasks))
        except TimeoutError:
            raise AssertionError(f"polls so far: {[self.amux.polls[task] for task in tasks]}") from None

    def finished_task(self, form: str = "C", outcome: Outcome = Outcome.COMPLETED) -> str:
        """Returns the id of a task that has ended already."""
        return self.amux.create_task(Behaviour(queue_seconds=0, run_seconds=0, form=form, outcome=outcome))

    def running_task(self, seconds: float = 10.0) -> str:
        """Returns the id of a task that runs until amux's clock is moved forward by `seconds`."""
        return self.amux.create_task(Behaviour(queue_seconds=0, run_seconds=seconds))

    def endless_task(self) -> str:
        """Returns the id of a task that never ends."""
        return self.amux.create_task(Behaviour(queue_seconds=0, outcome=Outcome.NEVER))

    def video_url(self, task_id: str) -> str:
        """Returns the URL of a completed task's video."""
        return f"{self.amux_url}/files/{task_id}.mp4"


@asynccontextmanager
async def environment(
    database_url: str,
    responder: Responder = accept,
    *,
    clock: Callable[[], float] | None = None,
    sweep_seconds: float | None = None,
) -> AsyncIterator[Environment]:
    """Starts amux and a receiver for one database. Without `clock`, amux has a clock that only the test moves.

    `sweep_seconds` is the pause between two sweeps of amux. If it is given, a sweep takes no time for each task.
    """
    manual_clock = ManualClock()
    each = None if sweep_seconds is None else 0.0
    amux = Sandbox(clock=clock or manual_clock, sweep_seconds=sweep_seconds or SWEEP_SECONDS, sweep_task_seconds=each)
    url = await amux.start()
    try:
        async with receiving(responder) as receiver:
            yield Environment(amux, url, receiver, database_url, manual_clock)
    finally:
        await amux.stop()

"""What is around a bridge in the tests from outside: amux's stand-in and a receiver, both in the test's process."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from bridge.sandbox import Behaviour, Outcome, Sandbox
from tests.e2e.receiver import SAFETY_SECONDS, Answering, Receiver, accept, receiving


@dataclass
class Steps:
    """amux's clock, moved by the test: so a task's stages last until they have been seen."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class World:
    """amux and a receiver. `stages` moves amux's clock."""

    amux: Sandbox
    amux_url: str
    receiver: Receiver
    database_url: str
    stages: Steps = field(default_factory=Steps)

    async def polled(self, *tasks: str, more: int = 1) -> None:
        """Wait until each of these tasks has been asked for so many times more."""
        try:
            async with asyncio.timeout(SAFETY_SECONDS):
                await asyncio.gather(*(self.amux.polled(task, self.amux.polls[task] + more) for task in tasks))
        except TimeoutError:
            raise AssertionError(f"polled so far: {[self.amux.polls[task] for task in tasks]}") from None

    def done(self, form: str = "C", outcome: Outcome = Outcome.COMPLETED) -> str:
        """A task that is over already."""
        return self.amux.create_task(Behaviour(queue_seconds=0, run_seconds=0, form=form, outcome=outcome))

    def running(self, seconds: float = 10.0) -> str:
        """A task that runs until amux's clock is moved on by so many seconds."""
        return self.amux.create_task(Behaviour(queue_seconds=0, run_seconds=seconds))

    def never(self) -> str:
        """A task that runs for ever."""
        return self.amux.create_task(Behaviour(queue_seconds=0, outcome=Outcome.NEVER))

    def file_of(self, task_id: str) -> str:
        """Where a completed task's video is."""
        return f"{self.amux_url}/files/{task_id}.mp4"


@asynccontextmanager
async def world(
    database_url: str, answering: Answering = accept, *, clock: Callable[[], float] | None = None
) -> AsyncIterator[World]:
    """A world around one database; without `clock`, amux's is moved by `stages`."""
    steps = Steps()
    amux = Sandbox(clock=clock or steps)
    url = await amux.start()
    try:
        async with receiving(answering) as receiver:
            yield World(amux, url, receiver, database_url, steps)
    finally:
        await amux.stop()

"""A poller in virtual time: a real store, an amux that answers at once, and a clock that goes from poll to poll."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from bridge.aio.system import System
from bridge.core.model import Observation, TaskRecord, TaskStatus
from bridge.core.schedule import PollPolicy
from bridge.polling.poller import Poller
from bridge.polling.state import Phase
from tests.polling.harness import Harness
from tests.store.builders import register

POLICY = PollPolicy()
RUNNING = TaskRecord(TaskStatus.IN_PROGRESS)
DONE = TaskRecord(TaskStatus.COMPLETED, url="https://videos.example/1.mp4")


@dataclass
class VirtualAmux:
    """amux as the poller sees it. `ends` are the moments at which tasks end; `answers` come before all else."""

    now: float = 1_000.0
    ends: dict[str, float] = field(default_factory=dict)
    answers: dict[str, list[Observation]] = field(default_factory=dict)
    polled: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    running: TaskRecord = RUNNING

    async def poll(self, task_id: str, _key: str) -> Observation:
        self.polled[task_id].append(self.now)
        if answers := self.answers.get(task_id):
            return answers.pop(0)
        if self.now < self.ends[task_id]:
            return self.running
        return replace(DONE, model=self.running.model, platform=self.running.platform)


@dataclass
class VirtualPoller:
    """A poller whose clock this object moves."""

    harness: Harness
    amux: VirtualAmux
    poller: Poller

    @classmethod
    def of(cls, harness: Harness, *, learn: bool, random: Callable[[], float]) -> "VirtualPoller":
        amux = VirtualAmux()
        poller = Poller(
            harness.store,
            amux,  # type: ignore[arg-type]  # a fake at the edge
            harness,
            harness,
            policy=POLICY,
            configured_key=lambda: "sk-key",
            content_url=lambda _watch, _at: None,
            metrics=harness.metrics,
            concurrency=16,
            learn=learn,
            background=harness.background,
            system=System(monotonic=lambda: amux.now, random=random),
        )
        harness.pollers.append(poller)
        return cls(harness, amux, poller)

    async def start(self, task_id: str, seconds: float, model: str | None = None) -> None:
        """Register a task that ends in so many seconds, and poll it."""
        self.amux.ends[task_id] = self.amux.now + seconds
        new = self.harness.new_watch(task_id, lasts=86_400.0)
        registered = await register(self.harness.store, replace(new, watch=replace(new.watch, model=model)))
        assert registered.task is not None
        self.poller.add(registered.task)

    async def run(self, condition: Callable[[], bool]) -> None:
        """Move the clock from poll to poll until the condition holds."""
        while not condition():
            await self.harness.until(self._is_waiting)
            if condition():
                return
            self.amux.now = max(self.amux.now, self.poller._schedule._heap.next_due())
            before = sum(map(len, self.amux.polled.values()))
            self.poller.tick()
            await self.harness.until(lambda before=before: sum(map(len, self.amux.polled.values())) > before)  # type: ignore[misc]

    async def finish(self) -> None:
        """Poll until every task has ended."""
        await self.run(lambda: self.poller.owned == 0)

    async def waits(self, durations: Sequence[float], prefix: str) -> tuple[float, float]:
        """Poll tasks of these durations, one after the other: the mean wait from an end to its poll, and the polls."""
        waits, polls = 0.0, 0
        for number, seconds in enumerate(durations):
            name = f"{prefix}_{number}"
            await self.start(name, seconds)
            await self.finish()
            waits += self.amux.polled[name][-1] - self.amux.ends[name]
            polls += len(self.amux.polled[name])
        return waits / len(durations), polls / len(durations)

    def _is_waiting(self) -> bool:
        phases = {task.phase for task in self.poller._tasks.values()}
        return phases <= {Phase.SCHEDULED, Phase.BLOCKED}

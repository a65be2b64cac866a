"""A poller in virtual time: a real store, an amux that answers at once, and a clock that goes from poll to poll."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from math import inf

from bridge.aio.system import System
from bridge.core.batch_lane import BatchAnswer, BatchObservation, BatchPolicy
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
    """amux as the poller sees it. `ends` are the moments at which tasks end. A task's `answers` are given first."""

    now: float = 1_000.0
    ends: dict[str, float] = field(default_factory=dict)
    answers: dict[str, list[Observation]] = field(default_factory=dict)
    polled: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    running: TaskRecord = RUNNING
    batches: list[tuple[float, tuple[str, ...]]] = field(default_factory=list)
    """When each batch came, and its ids."""
    batch_answer: BatchObservation | None = None
    """The answer to every batch. None: the records of the batch's tasks."""

    async def read_many(self, ids: Sequence[str], _key: str, _digest: int | None = None) -> BatchObservation:
        self.batches.append((self.now, tuple(ids)))
        return self.batch_answer or BatchAnswer({each: self._record(each) for each in ids}, 860 * len(ids))

    def _record(self, task_id: str) -> TaskRecord:
        if self.now < self.ends[task_id]:
            return self.running
        return DONE._replace(model=self.running.model, platform=self.running.platform)

    async def poll(self, task_id: str, _key: str) -> Observation:
        self.polled[task_id].append(self.now)
        if answers := self.answers.get(task_id):
            return answers.pop(0)
        return self._record(task_id)

    @property
    def requests(self) -> int:
        return len(self.batches) + sum(map(len, self.polled.values()))


@dataclass
class VirtualPoller:
    """A poller whose clock this object moves."""

    harness: Harness
    amux: VirtualAmux
    poller: Poller

    @classmethod
    def of(
        cls, harness: Harness, *, learn: bool, random: Callable[[], float], batch: BatchPolicy | None = None
    ) -> "VirtualPoller":
        amux = VirtualAmux()
        poller = Poller(
            harness.store,
            amux,  # type: ignore[arg-type]  # a fake at the edge
            harness,
            harness,
            policy=POLICY,
            configured_key="sk-key",
            content_url=lambda _watch, _at: None,
            metrics=harness.metrics,
            concurrency=16,
            learn=learn,
            batch=batch,
            background=harness.background,
            system=System(monotonic=lambda: amux.now, random=random),
        )
        harness.pollers.append(poller)
        return cls(harness, amux, poller)

    async def start(self, task_id: str, seconds: float, model: str | None = None) -> None:
        """Register a task that ends in so many seconds, and give it to the poller."""
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
            self.amux.now = max(self.amux.now, self.next_due())
            requests, due = self.amux.requests, self.next_due()
            self.poller.tick()
            await self.harness.until(partial(self._has_moved, requests, due))

    def _has_moved(self, requests: int, due: float) -> bool:
        """Whether there are more than `requests` requests, or tasks changed their lane and `due` is outdated."""
        moved = self.poller._lanes is not None and self._is_waiting() and self.next_due() != due
        return moved or self.amux.requests > requests

    def next_due(self) -> float:
        """Returns the moment at which the next task or lane is due."""
        lanes = self.poller._lanes
        if lanes is not None and lanes._closed:
            return self.amux.now  # the next tick releases tasks
        return min(self.poller._schedule._heap.next_due(), inf if lanes is None else lanes.next_at())

    async def run_until(self, moment: float) -> None:
        """Poll until nothing more is due up to a moment. The clock then has the time of the last poll."""
        await self.run(lambda: self._is_waiting() and self.next_due() > moment)

    async def finish(self) -> None:
        """Poll until every task has ended."""
        await self.run(lambda: self.poller.owned == 0)

    async def waits(self, durations: Sequence[float], prefix: str) -> tuple[float, float]:
        """Poll tasks of these durations in turn. Returns the mean wait from an end to its poll, and the polls."""
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
        return phases <= {Phase.SCHEDULED, Phase.BATCHED, Phase.BLOCKED}

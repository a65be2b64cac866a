"""A poll schedule whose clock is a number."""

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from bridge.core.model import KeyRefused, Observation, TaskRecord, TaskStatus
from bridge.core.schedule import PollPolicy
from bridge.polling.credentials import Credentials
from bridge.polling.schedule import PollSchedule
from bridge.polling.state import PolledTask
from bridge.store.records import CONFIGURED
from bridge.telemetry import Metrics

RUNNING = TaskRecord(TaskStatus.IN_PROGRESS)
REFUSED = KeyRefused("no")
POLICY = PollPolicy()


@dataclass
class ScheduleHarness:
    """A schedule whose clock is a number."""

    rate: float = 0
    policy: PollPolicy = POLICY
    now: float = 5000.0
    expired: list[PolledTask] = field(default_factory=list)
    metrics: Metrics = field(default_factory=Metrics)
    woken: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.credentials = Credentials(self.policy, self.metrics, lambda: self.now)
        self.drawn = 0
        self.schedule = PollSchedule(
            self.policy,
            self.credentials,
            rate_per_second=self.rate,
            clock=lambda: self.now,
            random=self.draw,
            wake=self.woken.set,
            expire=self.expired.append,
        )

    def timer_seconds(self) -> float | None:
        """In how many seconds the timer fires; None when it is not set."""
        timer = self.schedule._timer
        if timer is None or timer.cancelled():
            return None
        return timer.when() - asyncio.get_running_loop().time()

    def draw(self) -> float:
        """Evenly distributed numbers: the multiples of the golden ratio."""
        self.drawn += 1
        return self.drawn * 0.6180339887 % 1

    def tasks(self, count: int, polls: int = 0) -> list[PolledTask]:
        return [
            PolledTask(f"row{n}", f"task{n}", self.credentials.add_task(CONFIGURED, None), steps=polls)
            for n in range(count)
        ]

    def take_all(self) -> list[PolledTask]:
        tasks = []
        while (task := self.schedule.take()) is not None:
            tasks.append(task)
        return tasks

    def answer(self, task: PolledTask, observation: Observation) -> None:
        task.polls += 1
        task.steps += 1
        self.schedule.judge(task, observation, self.now)
        self.schedule.schedule_at(task, self.now + self.policy.delay_after(task.steps, self.draw()))

    def run(
        self, seconds: float, answer_of: Callable[[PolledTask], Observation] = lambda _task: RUNNING
    ) -> Counter[int]:
        """Answer each poll at once; return how many polls began in each second."""
        begun: Counter[int] = Counter()
        start = self.now
        for step in range(1, int(seconds * 100) + 1):
            self.now = start + step / 100
            for task in self.take_all():
                begun[int((step - 1) / 100)] += 1
                self.answer(task, answer_of(task))
        return begun

"""A poll schedule whose clock is a number."""

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from bridge.aio.clocks import Clocks
from bridge.core.batch_lane import BatchAnswer, BatchObservation, BatchPolicy
from bridge.core.model import KeyRefused, Observation, TaskRecord, TaskStatus
from bridge.core.schedule import PollPolicy
from bridge.polling.credentials import Credentials
from bridge.polling.lanes import Batch, BatchLanes
from bridge.polling.schedule import PollSchedule
from bridge.polling.state import CredentialLane, PolledTask
from bridge.polling.task_classes import TaskClasses
from bridge.store.records import CONFIGURED
from bridge.telemetry import Metrics

RUNNING = TaskRecord(TaskStatus.IN_PROGRESS)
RECORDED = TaskRecord(TaskStatus.IN_PROGRESS, platform="50")
REFUSED = KeyRefused("no")
POLICY = PollPolicy()


@dataclass
class ScheduleHarness:
    """A schedule whose clock is a number. With `batch` it has batch lanes."""

    rate: float = 0
    policy: PollPolicy = POLICY
    batch: BatchPolicy | None = None
    now: float = 5000.0
    expired: list[PolledTask] = field(default_factory=list)
    metrics: Metrics = field(default_factory=Metrics)
    woken: asyncio.Event = field(default_factory=asyncio.Event)
    batches_woken: int = 0

    def __post_init__(self) -> None:
        self.drawn = 0
        self.lanes = None if self.batch is None else self._make_lanes(self.batch)
        self.credentials = Credentials(self.policy, self.metrics, "sk-key", self.lanes)
        self.schedule = PollSchedule(
            self.policy,
            self.credentials,
            self,
            rate_per_second=self.rate,
            clock=lambda: self.now,
            random=self.draw,
            lanes=self.lanes,
        )

    def _make_lanes(self, batch: BatchPolicy) -> BatchLanes:
        clocks = Clocks(lambda: self.now, lambda: self.now)
        # Nothing is learned here, so neither a store nor a thread is used.
        classes = TaskClasses(None, self.policy, clocks, None, learn=False)  # type: ignore[arg-type]
        return BatchLanes(batch, self.policy, classes, self.draw, limited=self.rate > 0)

    def wake(self) -> None:
        self.woken.set()

    def wake_batches(self) -> None:
        self.batches_woken += 1

    def expire(self, task: PolledTask) -> None:
        self.expired.append(task)

    def lane(self) -> CredentialLane:
        """Returns the lane of the configured credential, after it was set to know platform 50 as recorded."""
        lane = self.credentials.add_task(CONFIGURED, None).lane
        assert lane is not None
        lane.platforms = lane.platforms.with_tested("50")
        return lane

    def timer_seconds(self) -> float | None:
        """Returns in how many seconds the timer fires, or None when it is not set."""
        timer = self.schedule._timer
        if timer is None or timer.cancelled():
            return None
        return timer.when() - asyncio.get_running_loop().time()

    def draw(self) -> float:
        """Returns the fraction of the next multiple of the golden ratio. These numbers are evenly distributed."""
        self.drawn += 1
        return self.drawn * 0.6180339887 % 1

    def tasks(self, count: int, polls: int = 0) -> list[PolledTask]:
        return [
            PolledTask(f"row{n}", f"task{n}", self.credentials.add_task(CONFIGURED, None), single_polls=polls)
            for n in range(count)
        ]

    def take_all(self) -> list[PolledTask]:
        tasks = []
        while (task := self.schedule.take()) is not None:
            tasks.append(task)
        return tasks

    def due_batch(self) -> Batch:
        """Take the batch that is due."""
        batch = self.schedule.take_batch()
        assert batch is not None
        return batch

    def answer(self, task: PolledTask, observation: Observation) -> None:
        task.single_polls += 1
        self.schedule.update_credential(task, observation, self.now)
        self.schedule.schedule_at(task, self.now + self.policy.delay_after(task.steps, self.draw()))

    def read(self, batch: Batch, observation: BatchObservation | None = None) -> None:
        """End a batch with `observation`, or with records of tasks that all still run. Tasks with a record rejoin."""
        assert self.lanes is not None
        records = {task.task_id: RECORDED for task in batch.tasks}
        answer = observation or BatchAnswer(records, 860 * len(records))
        self.lanes.apply_answer(batch, answer, self.now)
        for result in self.lanes.results(batch, batch.tasks, answer):
            self.schedule.schedule_next(result.task, self.now + self.policy.interval)
        self.lanes.finish(batch, self.now)

    def open_lane(self, tasks: list[PolledTask]) -> CredentialLane:
        """Put tasks into the lane and open the lane with a probe. The tasks then wait for their next batch."""
        lane = self.lane()
        for task in tasks:
            self.schedule.schedule_at(task, self.now)
        assert self.schedule.take() is None
        self.now += 1.0
        probe = self.due_batch()
        assert probe.is_probe
        self.read(probe)
        assert lane.health.is_open
        return lane

    def run(
        self, seconds: float, answer_of: Callable[[PolledTask], Observation] = lambda _task: RUNNING
    ) -> Counter[int]:
        """Let so many seconds pass, and answer each poll at once. Returns how many polls began in each second."""
        begun: Counter[int] = Counter()
        start = self.now
        for step in range(1, int(seconds * 100) + 1):
            self.now = start + step / 100
            for task in self.take_all():
                begun[int((step - 1) / 100)] += 1
                self.answer(task, answer_of(task))
        return begun

"""Which task is polled next: the longest due first, spread evenly after a pause, one probe while a key is blocked."""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import pytest

from bridge.aio.clocks import Clocks
from bridge.core.model import KeyRefused, Observation, TaskNotFound, TaskRecord, TaskStatus, Throttled, TransientError
from bridge.core.schedule import PollPolicy
from bridge.polling.credentials import Credentials
from bridge.polling.schedule import PollSchedule, steps_of_loaded
from bridge.polling.state import CredentialState, CredentialStatus, Phase, PolledTask
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


@pytest.fixture(autouse=True)
async def _in_a_loop() -> None:
    """Timers need an event loop."""


async def test_the_task_that_is_due_for_longest_comes_first() -> None:
    harness = ScheduleHarness()
    first, second, third = tasks = harness.tasks(3)
    for task, due in zip(tasks, (4003.0, 4001.0, 4002.0), strict=True):
        harness.schedule.schedule_at(task, due)
    assert harness.take_all() == [second, third, first]


async def test_a_task_that_is_not_due_is_not_returned() -> None:
    harness = ScheduleHarness()
    [task] = harness.tasks(1)
    harness.schedule.schedule_at(task, harness.now + 1)
    assert harness.take_all() == []
    harness.now += 1
    assert harness.take_all() == [task]


async def test_a_task_that_is_put_again_or_removed_is_returned_for_its_last_entry_only() -> None:
    harness = ScheduleHarness()
    moved, removed = harness.tasks(2)
    harness.schedule.put(moved, harness.now)
    harness.schedule.put(moved, harness.now + 5)
    harness.schedule.put(removed, harness.now)
    harness.schedule.remove(removed, Phase.DROPPED)
    assert harness.take_all() == []
    harness.now += 5
    assert harness.take_all() == [moved]


async def test_a_task_that_is_put_twice_is_returned_once() -> None:
    harness = ScheduleHarness()
    [task] = harness.tasks(1)
    harness.schedule.put(task, harness.now + 5)
    harness.schedule.put(task, harness.now)
    assert harness.take_all() == [task]
    harness.now += 5
    assert harness.take_all() == []


async def test_a_removed_task_is_not_returned() -> None:
    harness = ScheduleHarness()
    [task] = harness.tasks(1)
    harness.schedule.put(task, harness.now)
    harness.schedule.remove(task, Phase.DROPPED)
    assert harness.take_all() == []


@pytest.mark.parametrize("polls", [0, 1, 4, 60])
@pytest.mark.parametrize("policy", [POLICY, PollPolicy(first_delay=0, interval=2, max_interval=2, backoff=1)])
async def test_after_a_restart_no_second_has_more_than_twice_the_mean(polls: int, policy: PollPolicy) -> None:
    harness = ScheduleHarness(policy=policy)
    harness.schedule.schedule_evenly(harness.tasks(1000, steps_of_loaded(policy, polls, ago=0.0)))
    seconds = harness.run(60)
    assert max(seconds.values()) <= 2 * sum(seconds.values()) / 60
    assert sum(seconds.values()) >= 1000 * 60 / (policy.max_interval * 1.1)


@pytest.mark.parametrize(
    ("polls", "ago", "steps"), [(0, 0, 0), (0, 999, 0), (1, 0, 3), (1, 12, 4), (1, 3600, 8), (9, 3600, 11), (40, 5, 42)]
)
def test_the_backoff_steps_since_the_row_was_written_are_estimated(polls: int, ago: float, steps: int) -> None:
    assert steps_of_loaded(POLICY, polls, ago) == steps


def test_the_estimate_is_bounded_for_a_backoff_that_does_not_grow() -> None:
    assert steps_of_loaded(PollPolicy(interval=0.01, max_interval=5, backoff=1), 1, 1e9) == 1 + 51


def test_the_estimate_ends_at_the_last_poll_that_can_have_happened() -> None:
    assert steps_of_loaded(PollPolicy(interval=5, backoff=1), 1, ago=15.0) == 4  # after 5, 10 and 15 s
    assert steps_of_loaded(PollPolicy(interval=0.01, backoff=1), 1, ago=0.95) == 11  # an interval counts as 0.1 s


async def test_adopted_tasks_are_polled_within_four_seconds_but_not_at_once() -> None:
    harness = ScheduleHarness()
    tasks = harness.tasks(100, polls=60)
    for task in tasks:
        harness.schedule.schedule_soon(task)
    delays = [task.due - harness.now for task in tasks]
    assert 0 <= min(delays) < 0.1
    assert 3.9 < max(delays) <= 4.0
    quick = ScheduleHarness(policy=PollPolicy(interval=1, max_interval=1))
    [task] = quick.tasks(1, polls=1)
    quick.schedule.schedule_soon(task)
    assert 0 <= task.due - quick.now <= 1.0


async def test_the_timer_is_set_for_the_next_due_task() -> None:
    harness = ScheduleHarness()
    later, sooner, last = harness.tasks(3)
    harness.schedule.schedule_at(later, harness.now + 20)
    assert harness.timer_seconds() == pytest.approx(20, abs=0.5)
    harness.schedule.put(sooner, harness.now + 10)
    harness.schedule.schedule_at(last, harness.now + 30)
    assert harness.timer_seconds() == pytest.approx(10, abs=0.5)
    harness.now += 10
    harness.schedule._timer_fired()
    assert harness.woken.is_set()
    assert harness.take_all() == [sooner]
    assert harness.timer_seconds() == pytest.approx(10, abs=0.5)


async def test_the_timer_wakes_the_workers_no_sooner_than_in_two_milliseconds() -> None:
    harness = ScheduleHarness()
    [task] = harness.tasks(1)
    harness.schedule.schedule_at(task, harness.now)
    seconds = harness.timer_seconds()
    assert seconds is not None
    assert 0 < seconds <= 0.0021
    async with asyncio.timeout(20):
        await harness.woken.wait()


async def test_the_timer_waits_for_the_rate_limit() -> None:
    harness = ScheduleHarness(rate=1)
    first, second = harness.tasks(2)
    for task in (first, second):
        harness.schedule.schedule_at(task, harness.now)
    harness.schedule._timer_fired()
    assert harness.take_all() == [first]
    assert harness.timer_seconds() == pytest.approx(1.05, abs=0.3)


async def test_a_schedule_that_was_stopped_returns_no_tasks_and_sets_no_timer() -> None:
    harness = ScheduleHarness()
    first, second = harness.tasks(2)
    harness.schedule.schedule_at(first, harness.now)
    harness.schedule.stop()
    assert harness.take_all() == []
    assert harness.timer_seconds() is None
    harness.schedule.schedule_at(second, harness.now - 1)
    assert harness.timer_seconds() is None


async def test_clearing_drops_all_tasks_and_credentials() -> None:
    harness = ScheduleHarness()
    tasks = harness.tasks(3)
    harness.schedule.schedule_evenly(tasks)
    harness.run(10, lambda _task: REFUSED)
    harness.schedule.clear(tasks)
    assert {task.phase for task in tasks} == {Phase.DROPPED}
    assert harness.run(60) == Counter()
    assert harness.metrics.registry.get_sample_value("amux_bridge_paused_credentials") == 0


async def test_too_many_tasks_are_polled_less_often_and_in_turn() -> None:
    harness = ScheduleHarness(rate=20)
    tasks = harness.tasks(400)  # they need 80 polls a second
    harness.schedule.schedule_evenly(tasks)
    seconds = harness.run(120)
    assert max(seconds.values()) <= 20
    assert sum(seconds.values()) >= 120 * 18
    polls = [task.polls for task in tasks]
    assert min(polls) >= 4
    assert max(polls) - min(polls) <= 3


async def test_a_refused_key_has_one_probe_at_a_time_at_growing_intervals() -> None:
    harness = ScheduleHarness()
    harness.schedule.schedule_evenly(harness.tasks(500))
    began: list[float] = []

    def refuses(_task: PolledTask) -> Observation:
        began.append(harness.now)
        return REFUSED

    harness.run(200, refuses)
    gaps = [round(later - earlier) for earlier, later in pairwise(began)]
    assert gaps == [15, 30, 60, 60]
    assert harness.metrics.registry.get_sample_value("amux_bridge_paused_credentials") == 1


async def test_an_accepted_key_resumes_all_tasks_without_a_burst() -> None:
    harness = ScheduleHarness()
    tasks = harness.tasks(1000, polls=60)
    harness.schedule.schedule_evenly(tasks)
    harness.run(40, lambda _task: REFUSED)
    seconds = harness.run(60)
    resumed = [seconds[second] for second in sorted(seconds) if seconds[second] > 1]
    assert max(resumed) <= 2 * 1000 / 15
    assert min(task.polls for task in tasks) >= 2
    assert harness.metrics.registry.get_sample_value("amux_bridge_paused_credentials") == 0


async def test_a_probe_with_an_error_of_its_own_is_replaced() -> None:
    harness = ScheduleHarness()
    tasks = harness.tasks(3)
    harness.schedule.schedule_evenly(tasks)
    harness.run(10, lambda _task: REFUSED)
    probe = tasks[0].credential.probe
    polled: list[PolledTask] = []

    def answers(task: PolledTask) -> Observation:
        polled.append(task)
        return TransientError("http_500", "broken") if task is probe else RUNNING

    harness.run(60, answers)
    assert polled[0] is probe
    assert polled[1] is not probe
    assert tasks[0].credential.state is CredentialState.GOOD


async def test_a_probe_that_is_removed_is_replaced() -> None:
    harness = ScheduleHarness()
    tasks = harness.tasks(3)
    harness.schedule.schedule_evenly(tasks)
    harness.run(10, lambda _task: REFUSED)
    probe = tasks[0].credential.probe
    assert probe is not None
    harness.schedule.remove(probe, Phase.DROPPED)
    harness.run(20)
    assert tasks[0].credential.state is CredentialState.GOOD
    assert probe.polls == 1


async def test_a_waiting_task_that_is_removed_is_not_resumed() -> None:
    harness = ScheduleHarness()
    tasks = harness.tasks(3)
    harness.schedule.schedule_evenly(tasks)
    harness.run(10, lambda _task: REFUSED)
    credential = tasks[0].credential
    removed, resumed = list(credential.waiting)
    harness.schedule.remove(removed, Phase.DROPPED)
    assert list(credential.waiting) == [resumed]
    polls = removed.polls
    harness.run(60)
    assert credential.state is CredentialState.GOOD
    assert list(credential.waiting) == []
    assert removed.polls == polls
    assert resumed.polls > 0


async def test_answers_to_polls_from_before_the_pause_do_not_count() -> None:
    harness = ScheduleHarness()
    first, second, third = tasks = harness.tasks(3)
    for task in tasks:
        harness.schedule.schedule_at(task, harness.now)
    assert harness.take_all() == tasks
    harness.answer(first, REFUSED)
    harness.answer(second, REFUSED)
    harness.answer(third, RUNNING)
    credential = first.credential
    assert (credential.refusals, credential.state) == (1, CredentialState.PAUSED)
    assert credential.probe is first
    assert list(credential.waiting) == [second, third]


async def test_a_not_found_answer_shows_that_the_key_is_accepted() -> None:
    harness = ScheduleHarness()
    [task] = harness.tasks(1)
    harness.schedule.schedule_at(task, harness.now)
    harness.run(1, lambda _task: REFUSED)
    harness.run(20, lambda _task: TaskNotFound("?"))
    assert task.credential.state is CredentialState.GOOD


@pytest.mark.parametrize(("retry_after", "pause"), [(7.0, 7), (None, 5), (0.0, 1), (9000.0, 300)])
async def test_a_429_throttles_the_whole_credential(retry_after: float | None, pause: float) -> None:
    harness = ScheduleHarness()
    tasks = harness.tasks(50)
    harness.schedule.schedule_evenly(tasks)
    harness.run(0.2, lambda _task: Throttled("slowly", retry_after))
    assert tasks[0].credential.state is CredentialState.THROTTLED
    began = harness.now
    while harness.schedule.take() is None:
        harness.now += 0.01
    assert harness.now - began == pytest.approx(pause, abs=0.25)
    assert harness.take_all() == []  # the probe alone


async def test_429s_in_a_row_make_the_pauses_longer() -> None:
    harness = ScheduleHarness()
    harness.schedule.schedule_evenly(harness.tasks(10))
    began: list[float] = []

    def throttles(_task: PolledTask) -> Observation:
        began.append(harness.now)
        return Throttled("slowly")

    harness.run(160, throttles)
    gaps = [round(later - earlier) for earlier, later in pairwise(began)]
    assert gaps == [5, 10, 20, 40, 60]


async def test_an_overdue_task_of_a_paused_credential_expires() -> None:
    harness = ScheduleHarness()
    first, second = harness.tasks(2)
    harness.schedule.schedule_at(first, harness.now)
    harness.schedule.schedule_at(second, harness.now + 1)
    harness.run(0.1, lambda _task: REFUSED)
    second.overdue_at = harness.now
    harness.run(2)
    assert harness.expired == [second]


async def test_a_new_key_is_tried_at_once() -> None:
    harness = ScheduleHarness()
    [task] = harness.tasks(1)
    harness.schedule.schedule_at(task, harness.now)
    harness.run(0.1, lambda _task: REFUSED)
    task.credential.refused_key = "old"
    harness.schedule.try_new_key(lambda: "old")
    assert harness.take_all() == []
    harness.schedule.try_new_key(lambda: "new")
    assert harness.take_all() == [task]


async def test_the_states_of_credentials_contain_no_key() -> None:
    harness = ScheduleHarness()

    def states() -> Sequence[CredentialStatus]:
        return harness.credentials.states(Clocks(lambda: harness.now, lambda: harness.now + 1_000_000))

    credential = harness.credentials.add_task("fingerprint", "sk-secret")
    assert credential.key == "sk-secret"
    assert [status.name for status in states()] == [CONFIGURED, "fingerprint"]
    assert "sk-secret" not in repr(states())
    harness.credentials.remove_task(credential)
    assert [status.name for status in states()] == [CONFIGURED]


async def test_a_removed_task_has_its_new_phase_and_waits_for_no_credential() -> None:
    harness = ScheduleHarness()
    first, second, third = tasks = harness.tasks(3)
    for task in tasks:
        harness.schedule.schedule_at(task, harness.now)
    assert harness.take_all() == tasks
    for task in tasks:
        harness.answer(task, REFUSED)
    credential = first.credential
    assert credential.probe is first
    assert list(credential.waiting) == [second, third]
    assert second.phase is third.phase is Phase.BLOCKED
    harness.schedule.remove(second, Phase.DROPPED)
    assert (second.phase, list(credential.waiting)) == (Phase.DROPPED, [third])
    harness.schedule.remove(first, Phase.DROPPED)
    assert (first.phase, credential.probe, list(credential.waiting)) == (Phase.DROPPED, third, [])
    harness.schedule.remove(third, Phase.DROPPED)
    assert credential.probe is None

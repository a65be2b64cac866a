"""What is polled next: the longest due first, spread after a rest, one probe while a credential rests."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

import pytest

from bridge.aio.clocks import Clocks
from bridge.core.model import KeyRefused, Observation, TaskNotFound, TaskRecord, TaskStatus, Throttled, TransientError
from bridge.core.schedule import PollPolicy
from bridge.polling.credentials import Credentials
from bridge.polling.schedule import PollSchedule
from bridge.polling.state import CredentialState, Phase, PolledTask, steps_of_loaded
from bridge.store.records import CONFIGURED
from bridge.telemetry import Metrics

RUNS = TaskRecord(TaskStatus.IN_PROGRESS)
REFUSED = KeyRefused("no")
POLICY = PollPolicy()


@dataclass
class Bench:
    """A timetable whose clock is a number."""

    rate: float = 0
    policy: PollPolicy = POLICY
    now: float = 5000.0
    expired: list[PolledTask] = field(default_factory=list)
    metrics: Metrics = field(default_factory=Metrics)

    def __post_init__(self) -> None:
        self.credentials = Credentials(self.policy, self.metrics, lambda: self.now)
        self.drawn = 0
        self.schedule = PollSchedule(
            self.policy,
            self.credentials,
            rate_per_second=self.rate,
            clock=lambda: self.now,
            random=self.draw,
            ring=lambda: None,
            expired=self.expired.append,
        )

    def draw(self) -> float:
        """As even as chance: the multiples of the golden ratio."""
        self.drawn += 1
        return self.drawn * 0.6180339887 % 1

    def tasks(self, count: int, polls: int = 0) -> list[PolledTask]:
        return [
            PolledTask(f"row{n}", f"task{n}", self.credentials.joined(CONFIGURED, None), steps=polls)
            for n in range(count)
        ]

    def taken(self) -> list[PolledTask]:
        found = []
        while (task := self.schedule.take()) is not None:
            found.append(task)
        return found

    def answer(self, task: PolledTask, said: Observation) -> None:
        task.polls += 1
        task.steps += 1
        self.schedule.judge(task, said, self.now)
        self.schedule.plan(task, self.now + self.policy.delay_after(task.steps, self.draw()))

    def run(self, seconds: float, says: Callable[[PolledTask], Observation] = lambda _task: RUNS) -> Counter[int]:
        """Answer every poll at once; how many began in each second."""
        begun: Counter[int] = Counter()
        start = self.now
        for step in range(1, int(seconds * 100) + 1):
            self.now = start + step / 100
            for task in self.taken():
                begun[int((step - 1) / 100)] += 1
                self.answer(task, says(task))
        return begun


@pytest.fixture(autouse=True)
async def _in_a_loop() -> None:
    """Timers need one; what they ring is nobody's here."""


async def test_the_longest_due_comes_first() -> None:
    bench = Bench()
    first, second, third = tasks = bench.tasks(3)
    for task, due in zip(tasks, (4003.0, 4001.0, 4002.0), strict=True):
        bench.schedule.plan(task, due)
    assert bench.taken() == [second, third, first]


async def test_what_is_not_due_is_not_given_out() -> None:
    bench = Bench()
    [task] = bench.tasks(1)
    bench.schedule.plan(task, bench.now + 1)
    assert bench.taken() == []
    bench.now += 1
    assert bench.taken() == [task]


async def test_a_task_that_is_put_anew_or_leaves_is_given_out_by_its_last_entry_only() -> None:
    bench = Bench()
    moved, left = bench.tasks(2)
    bench.schedule.put(moved, bench.now)
    bench.schedule.put(moved, bench.now + 5)
    bench.schedule.put(left, bench.now)
    bench.schedule.leave(left, Phase.DROPPED)
    assert bench.taken() == []
    bench.now += 5
    assert bench.taken() == [moved]


@pytest.mark.parametrize("polls", [0, 1, 4, 60])
@pytest.mark.parametrize("policy", [POLICY, PollPolicy(first_delay=0, interval=2, max_interval=2, backoff=1)])
async def test_a_restart_has_no_second_of_more_than_twice_the_mean(polls: int, policy: PollPolicy) -> None:
    bench = Bench(policy=policy)
    bench.schedule.spread(bench.tasks(1000, steps_of_loaded(policy, polls, ago=0.0)))
    seconds = bench.run(60)
    assert max(seconds.values()) <= 2 * sum(seconds.values()) / 60
    assert sum(seconds.values()) >= 1000 * 60 / (policy.max_interval * 1.1)


@pytest.mark.parametrize(
    ("polls", "ago", "steps"), [(0, 0, 0), (0, 999, 0), (1, 0, 3), (1, 12, 4), (1, 3600, 8), (9, 3600, 11), (40, 5, 42)]
)
def test_a_backoff_went_on_while_nobody_wrote_it_down(polls: int, ago: float, steps: int) -> None:
    assert steps_of_loaded(POLICY, polls, ago) == steps


def test_a_backoff_without_growth_is_no_endless_guess() -> None:
    assert steps_of_loaded(PollPolicy(interval=0.01, max_interval=5, backoff=1), 1, 1e9) <= 60


async def test_too_many_tasks_are_polled_rarer_and_each_in_its_turn() -> None:
    bench = Bench(rate=20)
    tasks = bench.tasks(400)  # they ask for 80 a second
    bench.schedule.spread(tasks)
    seconds = bench.run(120)
    assert max(seconds.values()) <= 20
    assert sum(seconds.values()) >= 120 * 18
    polls = [task.polls for task in tasks]
    assert min(polls) >= 4
    assert max(polls) - min(polls) <= 3


async def test_a_refused_key_has_one_probe_at_a_time_ever_rarer() -> None:
    bench = Bench()
    bench.schedule.spread(bench.tasks(500))
    began: list[float] = []

    def refuses(_task: PolledTask) -> Observation:
        began.append(bench.now)
        return REFUSED

    bench.run(200, refuses)
    gaps = [round(later - earlier) for earlier, later in pairwise(began)]
    assert gaps == [15, 30, 60, 60]
    assert bench.metrics.registry.get_sample_value("amux_bridge_paused_credentials") == 1


async def test_a_good_answer_wakes_all_without_a_storm() -> None:
    bench = Bench()
    tasks = bench.tasks(1000, polls=60)
    bench.schedule.spread(tasks)
    bench.run(40, lambda _task: REFUSED)
    seconds = bench.run(60)
    awake = [seconds[second] for second in sorted(seconds) if seconds[second] > 1]
    assert max(awake) <= 2 * 1000 / 15
    assert min(task.polls for task in tasks) >= 2
    assert bench.metrics.registry.get_sample_value("amux_bridge_paused_credentials") == 0


async def test_a_probe_with_a_trouble_of_its_own_does_not_ask_for_all() -> None:
    bench = Bench()
    tasks = bench.tasks(3)
    bench.schedule.spread(tasks)
    bench.run(10, lambda _task: REFUSED)
    probe = tasks[0].credential.probe
    asked: list[PolledTask] = []

    def answers(task: PolledTask) -> Observation:
        asked.append(task)
        return TransientError("http_500", "broken") if task is probe else RUNS

    bench.run(60, answers)
    assert asked[0] is probe
    assert asked[1] is not probe
    assert tasks[0].credential.standing is CredentialState.GOOD


async def test_a_probe_that_leaves_is_followed_by_another() -> None:
    bench = Bench()
    tasks = bench.tasks(3)
    bench.schedule.spread(tasks)
    bench.run(10, lambda _task: REFUSED)
    probe = tasks[0].credential.probe
    assert probe is not None
    bench.schedule.leave(probe, Phase.DROPPED)
    bench.run(20)
    assert tasks[0].credential.standing is CredentialState.GOOD
    assert probe.polls == 1


async def test_answers_from_before_a_rest_do_not_count() -> None:
    bench = Bench()
    first, second, third = tasks = bench.tasks(3)
    for task in tasks:
        bench.schedule.plan(task, bench.now)
    assert bench.taken() == tasks
    bench.answer(first, REFUSED)
    bench.answer(second, REFUSED)
    bench.answer(third, RUNS)
    credential = first.credential
    assert (credential.refusals, credential.standing) == (1, CredentialState.PAUSED)
    assert credential.probe is first
    assert list(credential.held) == [second, third]


async def test_a_task_that_amux_does_not_know_proves_the_key() -> None:
    bench = Bench()
    [task] = bench.tasks(1)
    bench.schedule.plan(task, bench.now)
    bench.run(1, lambda _task: REFUSED)
    bench.run(20, lambda _task: TaskNotFound("?"))
    assert task.credential.standing is CredentialState.GOOD


@pytest.mark.parametrize(("retry_after", "rests"), [(7.0, 7), (None, 5), (0.0, 1), (9000.0, 300)])
async def test_a_429_has_the_whole_credential_rest(retry_after: float | None, rests: float) -> None:
    bench = Bench()
    tasks = bench.tasks(50)
    bench.schedule.spread(tasks)
    bench.run(0.2, lambda _task: Throttled("slowly", retry_after))
    assert tasks[0].credential.standing is CredentialState.SLOWED
    began = bench.now
    while bench.schedule.take() is None:
        bench.now += 0.01
    assert bench.now - began == pytest.approx(rests, abs=0.25)
    assert bench.taken() == []  # the probe alone


async def test_429s_that_follow_one_another_make_the_rests_longer() -> None:
    bench = Bench()
    bench.schedule.spread(bench.tasks(10))
    began: list[float] = []

    def slows(_task: PolledTask) -> Observation:
        began.append(bench.now)
        return Throttled("slowly")

    bench.run(160, slows)
    gaps = [round(later - earlier) for earlier, later in pairwise(began)]
    assert gaps == [5, 10, 20, 40, 60]


async def test_an_overdue_task_of_a_resting_credential_expires() -> None:
    bench = Bench()
    first, second = bench.tasks(2)
    bench.schedule.plan(first, bench.now)
    bench.schedule.plan(second, bench.now + 1)
    bench.run(0.1, lambda _task: REFUSED)
    second.overdue_at = bench.now
    bench.run(2)
    assert bench.expired == [second]


async def test_a_replaced_key_is_tried_at_once() -> None:
    bench = Bench()
    [task] = bench.tasks(1)
    bench.schedule.plan(task, bench.now)
    bench.run(0.1, lambda _task: REFUSED)
    task.credential.refused_key = "old"
    bench.schedule.try_new_key(lambda: "old")
    assert bench.taken() == []
    bench.schedule.try_new_key(lambda: "new")
    assert bench.taken() == [task]


async def test_the_states_of_credentials_hold_no_key() -> None:
    bench = Bench()
    credential = bench.credentials.joined("fingerprint", "sk-secret")
    assert credential.key == "sk-secret"
    assert [each.name for each in bench.credentials.states(_clocks(bench))] == [CONFIGURED, "fingerprint"]
    assert "sk-secret" not in repr(bench.credentials.states(_clocks(bench)))
    bench.credentials.left(credential)
    assert [each.name for each in bench.credentials.states(_clocks(bench))] == [CONFIGURED]


def _clocks(bench: Bench) -> Clocks:
    return Clocks(lambda: bench.now, lambda: bench.now + 1_000_000)

"""A blocked key gets one probe at a time. Afterwards all its tasks are resumed without a burst."""

from collections.abc import Sequence
from itertools import pairwise

import pytest

from bridge.aio.clocks import Clocks
from bridge.core.batch_lane import BatchPolicy
from bridge.core.credential import CredentialState
from bridge.core.model import Observation, TaskNotFound, Throttled, TransientError
from bridge.polling.state import CredentialStatus, Phase, PolledTask
from bridge.store.records import CONFIGURED
from tests.polling.schedule_harness import REFUSED, RUNNING, ScheduleHarness


@pytest.fixture(autouse=True)
async def _in_a_loop() -> None:
    """Timers need an event loop."""


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
    assert tasks[0].credential.health.state is CredentialState.GOOD


async def test_a_probe_that_is_removed_is_replaced() -> None:
    harness = ScheduleHarness()
    tasks = harness.tasks(3)
    harness.schedule.schedule_evenly(tasks)
    harness.run(10, lambda _task: REFUSED)
    probe = tasks[0].credential.probe
    assert probe is not None
    harness.schedule.remove(probe, Phase.DROPPED)
    harness.run(20)
    assert tasks[0].credential.health.state is CredentialState.GOOD
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
    assert credential.health.state is CredentialState.GOOD
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
    assert (credential.health.refusals, credential.health.state) == (1, CredentialState.PAUSED)
    assert credential.probe is first
    assert list(credential.waiting) == [second, third]


async def test_a_not_found_answer_shows_that_the_key_is_accepted() -> None:
    harness = ScheduleHarness()
    [task] = harness.tasks(1)
    harness.schedule.schedule_at(task, harness.now)
    harness.run(1, lambda _task: REFUSED)
    harness.run(20, lambda _task: TaskNotFound("?"))
    assert task.credential.health.state is CredentialState.GOOD
    assert task.credential.probe is None


@pytest.mark.parametrize(("retry_after", "pause"), [(7.0, 7), (None, 5), (0.0, 1), (9000.0, 300)])
async def test_a_429_throttles_the_whole_credential(retry_after: float | None, pause: float) -> None:
    harness = ScheduleHarness()
    tasks = harness.tasks(50)
    harness.schedule.schedule_evenly(tasks)
    harness.run(0.2, lambda _task: Throttled("slowly", retry_after))
    assert tasks[0].credential.health.state is CredentialState.THROTTLED
    began = harness.now
    while harness.schedule.take() is None:
        harness.now += 0.01
    assert harness.now - began == pytest.approx(pause, abs=0.25)
    assert harness.take_all() == []  # only the probe began


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


async def test_a_blocked_task_that_is_due_does_not_delay_the_tasks_of_other_keys() -> None:
    harness = ScheduleHarness()
    probe, blocked = harness.tasks(2)
    harness.schedule.schedule_at(blocked, harness.now + 1)
    harness.schedule.schedule_at(probe, harness.now)
    other = PolledTask("row", "task", harness.credentials.add_task("other", "key"))
    harness.schedule.schedule_at(other, harness.now + 2)
    assert harness.schedule.take() is probe
    harness.answer(probe, REFUSED)
    harness.now += 2
    assert harness.take_all() == [other]
    assert blocked.phase is Phase.BLOCKED


async def test_a_task_that_is_scheduled_while_its_key_is_blocked_keeps_its_due_time() -> None:
    harness = ScheduleHarness()
    probe, task = harness.tasks(2)
    harness.schedule.schedule_at(probe, harness.now)
    assert harness.take_all() == [probe]
    harness.answer(probe, REFUSED)
    harness.schedule.schedule_at(task, harness.now + 3)
    assert (task.phase, task.due) == (Phase.BLOCKED, harness.now + 3)


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


async def test_a_credential_that_was_replaced_takes_no_task_of_the_new_one() -> None:
    harness = ScheduleHarness(batch=BatchPolicy())
    lane = harness.open_lane(harness.tasks(2))
    old = harness.credentials.add_task("own", "sk-own")
    old.blocked = True
    new = harness.credentials.add_task(CONFIGURED, None)
    lane.credential, old.lane = new, lane
    waiting = lane.waiting
    harness.schedule.ensure_probe(old)
    assert (old.probe, lane.waiting) == (None, waiting)

"""A credential and a task in memory: what an answer changes, and how each is shown."""

from math import inf

import pytest

from bridge.aio.clocks import Clocks
from bridge.core.credential import CredentialChange, CredentialHealth, CredentialState
from bridge.core.model import (
    KeyRefused,
    Problem,
    RefusalCounts,
    TaskNotFound,
    TaskRecord,
    TaskSnapshot,
    TaskStatus,
    Throttled,
    TransientError,
)
from bridge.core.schedule import PollPolicy
from bridge.core.snapshots import shared_snapshot
from bridge.polling.due_heap import DueHeap
from bridge.polling.schedule import RATE_WINDOW_SECONDS, RateLimiter
from bridge.polling.shared import TaskClass
from bridge.polling.state import (
    Credential,
    Phase,
    PolledTask,
    next_poll_of,
    task_view,
)

POLICY = PollPolicy()
RUNNING = TaskRecord(TaskStatus.IN_PROGRESS)


@pytest.fixture
def task() -> PolledTask:
    credential = Credential("name", "key")
    return PolledTask("row", "task", credential)


def test_an_answer_changes_the_health_of_a_credential(task: PolledTask) -> None:
    credential = task.credential
    assert credential.apply_answer(task, KeyRefused("no"), 100.0, POLICY) is CredentialChange.PAUSED
    assert credential.health == CredentialHealth(CredentialState.PAUSED, 100.0, 115.0, "no", refusals=1)
    assert credential.blocked is True
    credential.probe = task
    assert credential.apply_answer(task, KeyRefused("still no"), 115.0, POLICY) is CredentialChange.NONE
    assert credential.apply_answer(task, RUNNING, 145.0, POLICY) is CredentialChange.RESUMED
    assert (credential.health, credential.blocked) == (CredentialHealth(resumed_at=145.0), False)


def test_only_the_answer_of_the_probe_counts_for_a_blocked_credential(task: PolledTask) -> None:
    credential = task.credential
    credential.apply_answer(task, KeyRefused("no"), 100.0, POLICY)
    credential.probe = PolledTask("other row", "other", credential)
    paused = credential.health
    for observation in (RUNNING, KeyRefused("no"), Throttled("slowly")):
        assert credential.apply_answer(task, observation, 101.0, POLICY) is CredentialChange.NONE
    assert credential.health is paused
    assert credential.apply_answer(credential.probe, RUNNING, 115.0, POLICY) is CredentialChange.RESUMED


def test_a_new_credential_is_good_and_not_accepted_yet(task: PolledTask) -> None:
    credential = Credential("name", "key", configured=True)
    assert (credential.health, credential.blocked, credential.configured) == (CredentialHealth(), False, True)
    assert not Credential("name", "key").configured
    assert not credential.accepted
    assert credential.apply_answer(task, RUNNING, 5.0, POLICY) is CredentialChange.NONE
    before = credential.always_throttled
    credential.apply_answer(task, Throttled("slowly"), 9.0, POLICY)
    assert (before, credential.always_throttled) == (False, True), "amux has accepted no poll since the start"
    credential.accepted = True
    assert not credential.always_throttled


def test_a_new_class_has_the_fixed_schedule() -> None:
    known = TaskClass("amux 54 m", "m", from_record=True, stored_name="stored")
    assert (known.name, known.model, known.from_record, known.stored_name) == ("amux 54 m", "m", True, "stored")
    assert (known.schedule, TaskClass("name").from_record) == (None, False)


def test_a_task_is_shown_with_the_times_of_its_last_and_its_next_poll(task: PolledTask) -> None:
    clocks = Clocks(lambda: 100.0, lambda: 5_000.0)
    task.started, task.due = 90.0, 108.0
    task.submitted_at = 4_900.0
    task.note(TransientError("timeout", "t"), 91.0)
    shown = task_view(task, task.due, clocks)
    assert (shown.row, shown.task_id, shown.credential) == ("row", "task", "name")
    assert (shown.snapshot, shown.polls, shown.failures, shown.facts) == (task.snapshot, 0, 1, task.facts)
    assert (shown.last_polled_at, shown.next_poll_at) == (4_990.0, 5_008.0)
    assert (shown.last_error, shown.last_error_at) == (Problem("timeout", "t"), 4_991.0)
    assert next_poll_of(task, 100.0) == 108.0
    task.credential.health = CredentialHealth(resumes_at=130.0)
    assert next_poll_of(task, 100.0) == 130.0
    task.phase = Phase.POLLING
    assert next_poll_of(task, 100.0) == 100.0
    task.snapshot = TaskSnapshot(TaskStatus.COMPLETED)
    assert next_poll_of(task, 100.0) is None


def test_a_task_that_is_removed_from_the_heap_never_comes_up(task: PolledTask) -> None:
    heap = DueHeap()
    heap.put(task, 1.0)
    assert (task.phase, task.due, heap.next_due()) == (Phase.SCHEDULED, 1.0, 1.0)
    heap.remove(task)
    assert task.entry == 0
    assert (heap.pop_due(2.0), heap.next_due()) == (None, inf)
    heap.put(task, 3.0)
    assert heap.pop_due(2.9) is None
    assert heap.pop_due(3.0) is task
    assert task.entry == 0


def test_refusals_of_a_task_are_counted_until_a_record(task: PolledTask) -> None:
    task.note(TaskNotFound("gone"), 10.0)
    task.note(TaskNotFound("gone"), 11.0)
    assert task.refusal_counts == RefusalCounts(not_found=2)
    task.note(RUNNING, 12.0)
    assert task.refusal_counts == RefusalCounts()


def test_equal_simple_snapshots_are_one_object_and_others_stay_themselves() -> None:
    first, second = (TaskSnapshot(TaskStatus.IN_PROGRESS, 40) for _ in range(2))
    assert shared_snapshot(first) is shared_snapshot(second)
    assert shared_snapshot(first) == first
    with_url = TaskSnapshot(TaskStatus.IN_PROGRESS, 40, url="https://v/1")
    assert shared_snapshot(with_url) is with_url
    completed = TaskSnapshot(TaskStatus.COMPLETED, 100)
    assert shared_snapshot(completed) is completed


def test_a_rate_of_one_leaves_a_whole_window_between_two_starts() -> None:
    limiter = RateLimiter(1.0)
    assert limiter.opens_at(1000.0) <= 1000.0
    limiter.begin(1000.0)
    assert limiter.opens_at(1000.0) == 1000.0 + RATE_WINDOW_SECONDS


def test_a_poll_with_a_record_ends_the_failures_and_keeps_the_last_error(task: PolledTask) -> None:
    task.note(TransientError("timeout", "t"), 10.0)
    task.note(TransientError("http_502", "u"), 11.0)
    assert (task.failures, task.error_at) == (2, 11.0)
    assert task.present_error == task.error
    assert task.error is not None
    assert (task.error.code, task.error.message) == ("http_502", "u")
    task.note(TaskRecord(TaskStatus.IN_PROGRESS, 40), 12.0)
    assert (task.failures, task.present_error, task.error_at) == (0, None, 11.0)
    assert (task.snapshot.status, task.snapshot.progress) == (TaskStatus.IN_PROGRESS, 40)

"""A credential's states by its own rules: pauses, throttles, and what resuming resets."""

from math import inf

import pytest

from bridge.aio.clocks import Clocks
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
from bridge.polling.schedule import RATE_WINDOW_SECONDS, DueHeap, RateLimiter
from bridge.polling.shared import TaskClass
from bridge.polling.state import (
    Credential,
    CredentialChange,
    CredentialState,
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


def test_a_refused_key_pauses_its_credential_and_a_good_answer_resets_it(task: PolledTask) -> None:
    credential = task.credential
    assert credential.judge(task, KeyRefused("no"), 100.0, POLICY) is CredentialChange.PAUSED
    assert (credential.state, credential.since, credential.message) == (CredentialState.PAUSED, 100.0, "no")
    assert (credential.refusals, credential.resumes_at, credential.blocked) == (1, 115.0, True)
    credential.probe = task
    assert credential.judge(task, KeyRefused("still no"), 115.0, POLICY) is CredentialChange.NONE
    assert (credential.since, credential.message) == (100.0, "still no")
    assert (credential.refusals, credential.resumes_at) == (2, 145.0)
    assert credential.judge(task, TransientError("timeout", "t"), 145.0, POLICY) is CredentialChange.NONE
    assert credential.resumes_at == 175.0, "the same pause again"
    assert credential.judge(task, RUNNING, 175.0, POLICY) is CredentialChange.RESUMED
    assert (credential.state, credential.since, credential.message) == (CredentialState.GOOD, None, None)
    assert (credential.refusals, credential.resumes_at, credential.resumed_at) == (0, -inf, 175.0)
    assert not credential.blocked


def test_a_transient_error_repeats_the_pause_of_a_credential_that_was_never_counted(task: PolledTask) -> None:
    credential = task.credential
    credential.judge(task, KeyRefused("no"), 0.0, POLICY)
    credential.refusals, credential.probe = 0, task
    credential.judge(task, TransientError("timeout", "t"), 10.0, POLICY)
    assert credential.resumes_at == 25.0


def test_a_429_throttles_its_credential_and_repeats_its_pause_after_an_error(task: PolledTask) -> None:
    credential = task.credential
    assert credential.judge(task, Throttled("slowly"), 100.0, POLICY) is CredentialChange.THROTTLED
    assert (credential.state, credential.since, credential.message) == (CredentialState.THROTTLED, 100.0, "slowly")
    assert (credential.throttles, credential.resumes_at) == (1, 105.0)
    credential.probe = task
    assert credential.judge(task, Throttled("slower"), 105.0, POLICY) is CredentialChange.NONE
    assert (credential.throttles, credential.resumes_at, credential.message) == (2, 115.0, "slower")
    credential.judge(task, TransientError("timeout", "t"), 115.0, POLICY)
    assert credential.resumes_at == 125.0
    credential.judge(task, RUNNING, 125.0, POLICY)
    assert credential.throttles == 2


def test_a_new_credential_is_good_and_not_accepted_yet(task: PolledTask) -> None:
    credential = Credential("name", "key", configured=True)
    assert (credential.state, credential.blocked, credential.configured) == (CredentialState.GOOD, False, True)
    assert not Credential("name", "key").configured
    assert (credential.since, credential.message, credential.resumes_at) == (None, None, -inf)
    assert (credential.accepted, credential.throttles, credential.resumed_at) == (False, 0, -inf)
    assert credential.judge(task, RUNNING, 5.0, POLICY) is CredentialChange.NONE
    assert not credential.starved
    credential.judge(task, Throttled("slowly"), 9.0, POLICY)
    assert credential.starved, "amux has accepted no poll since the start"


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
    task.credential.resumes_at = 130.0
    assert next_poll_of(task, 100.0) == 130.0
    task.phase = Phase.POLLING
    assert next_poll_of(task, 100.0) == 100.0
    task.snapshot = TaskSnapshot(TaskStatus.COMPLETED)
    assert next_poll_of(task, 100.0) is None


@pytest.mark.parametrize(("pause", "throttles"), [(14.999, 2), (15.0, 1), (1000.0, 1)])
def test_a_429_is_the_next_in_a_row_within_one_longest_interval(task: PolledTask, pause: float, throttles: int) -> None:
    credential = task.credential
    credential.judge(task, Throttled("slowly"), 100.0, POLICY)
    credential.probe = task
    credential.judge(task, RUNNING, 105.0, POLICY)
    credential.judge(task, Throttled("slowly"), 105.0 + pause, POLICY)
    assert credential.throttles == throttles


def test_a_429_keeps_a_paused_credential_paused(task: PolledTask) -> None:
    credential = task.credential
    credential.judge(task, KeyRefused("no"), 100.0, POLICY)
    credential.probe = task
    assert credential.judge(task, Throttled("slowly", 7.0), 115.0, POLICY) is CredentialChange.NONE
    assert (credential.state, credential.since, credential.resumes_at) == (CredentialState.PAUSED, 100.0, 122.0)


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

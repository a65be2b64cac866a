"""Tasks that still run are kept in their lane, whether their last record is remembered or not."""

from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import event, example, given, settings
from hypothesis import strategies as st

from bridge.amux.batch_wire import Asked, observe_batch
from bridge.amux.key_removal import KeyRemoval
from bridge.core.batch_lane import BatchAnswer, BatchObservation, BatchPolicy, BatchUnchanged, reading_after_record
from bridge.core.model import Problem, TaskRecord, TaskStatus
from bridge.core.snapshots import plain_snapshot
from bridge.polling.lanes import Batch
from bridge.polling.running_tasks import keep_running, keep_unchanged
from bridge.polling.shared import NO_CLASS, TaskClass
from bridge.polling.state import Credential, CredentialLane, Phase, PolledTask
from tests.polling.batch_amux import row

MODEL = TaskClass("kling", None, from_record=True)
ASKED = Asked(frozenset({"task_1", "task_2"}), "https://amux.example", KeyRemoval("sk-amux-0123456789abcdef"))
OTHER_MODEL = {"origin_model_name": "another"}

CHANGES: list[dict[str, Any]] = [
    {},
    {"progress": "30%", "quota": 1},
    *({"progress": progress} for progress in ("31%", "32%", "", None, 33, "33.5%")),
    *({"status": status} for status in ("QUEUED", "SUBMITTED", "paused", "SUCCESS", "FAILURE")),
    *({"platform": platform} for platform in ("24", "", 50, None)),
    *({"submit_time": at} for at in (0, 1_795_446_201)),
    {"properties": OTHER_MODEL},
    {"properties": OTHER_MODEL, "progress": "31%"},
    {"task_id": "task_2"},
    {"task_id": "task_9"},
]
EVENTS = ["new watch", "deadline", "live platform", "failed batch", "single poll", "probe", "loaded", "error"]
STEPS = st.lists(st.one_of(st.sampled_from(CHANGES), st.sampled_from(EVENTS)), max_size=12)


def read(change: dict[str, Any], digest: int | None = None) -> BatchObservation:
    """The observation of an answer with one row, which has this change. `digest` is that of the last answer."""
    body = orjson.dumps({"code": "success", "data": [row("task_1") | change]})
    return observe_batch(200, "application/json", body, replace(ASKED, digest=digest))


class World:
    """One task in an open lane. `forgetful`: its last record is forgotten before each batch."""

    def __init__(self, *, forgetful: bool = False) -> None:
        self.forgetful = forgetful
        self.unchanged = 0  # answers that were not read, because they were the same as the last ones
        self.now = 0.0
        credential = Credential("configured", "key", configured=True)
        self.lane = credential.lane = CredentialLane(credential, BatchPolicy())
        for platform in ("50", ""):
            self.lane.platforms = self.lane.platforms.with_tested(platform)
        self.task = PolledTask("row", "task_1", credential, unstored_polls=2)
        self.lane.append(self.task)

    def batch(self, change: dict[str, Any]) -> bool:
        """Read the task with an answer whose row has this change. Return whether it was kept as a running task."""
        if self.forgetful:
            self.task.running = None
        self.now += 1.0
        tasks, last = self.lane.take(1)
        for task in tasks:
            task.phase = Phase.POLLING
        answer = read(change, None if last is None else last.digest)
        batch = Batch(self.task.credential, self.lane, tasks, self.now, self.now, is_probe=False, due=self.now + 28.0)
        batch.last = last
        if isinstance(answer, BatchUnchanged):
            if keep_unchanged(batch):
                self.unchanged += 1
                return True
            answer = answer.read()
        if not isinstance(answer, BatchAnswer):
            self.lane.put_back(tasks)
            return False
        others = keep_running(batch, answer)
        for task in others:
            self._handle(task, answer)
        return not others

    def _handle(self, task: PolledTask, answer: BatchAnswer) -> None:
        """Do what the handler of reads does that matters here, and let the task rejoin its lane."""
        record = answer.record_of(task.task_id)
        if record is not None:
            task.reading, _ = reading_after_record(self.lane.platforms, record, unconfirmed=False)
            task.note(record, self.now)
            task.submitted_at = task.submitted_at or record.submitted_at
            task.task_class = MODEL
            task.batch_polls += 1
        task.status_update_due, task.overdue_at = False, None
        self.lane.rejoin(task)

    def apply(self, step: dict[str, Any] | str) -> bool | None:
        task = self.task
        match step:
            case "new watch":
                task.request_status_update()
            case "deadline":
                task.set_overdue(self.now)
            case "live platform":
                self.lane.platforms = self.lane.platforms.with_live("50")
            case "failed batch":
                self.lane.put_back(self.lane.take(1)[0])
            case "single poll" | "probe":
                self.lane.take(1)
                task.note(TaskRecord(TaskStatus.IN_PROGRESS, 77), self.now)
                if step == "probe":
                    self.lane.put_back([task])
                else:
                    self.lane.append(task)
            case "loaded" | "error":
                self.lane.take(1)
                task.snapshot, task.task_class = plain_snapshot("in_progress", 30), NO_CLASS
                if step == "error":
                    task.snapshot, task.task_class = replace(task.snapshot, error=Problem("code", "why")), MODEL
                self.lane.append(task)
            case dict():
                return self.batch(step)
        return None

    def state(self) -> Any:
        task = self.task
        times = task.started, task.seen_running, task.due
        counts = task.polls, task.steps, task.batch_polls, self.lane.waiting
        return task.snapshot, task.reading, task.submitted_at, task.phase, times, counts


def two_tasks_in_a_batch() -> tuple[World, list[PolledTask]]:
    """A lane without waiting tasks, and two running tasks that wait for an answer."""
    world = World()
    tasks = [world.task, PolledTask("row_2", "task_2", world.task.credential)]
    for task in tasks:
        task.task_class, task.snapshot, task.submitted_at = MODEL, plain_snapshot("in_progress", 30), 1_795_446_200.0
        task.phase = Phase.POLLING
    world.lane.clear()
    return world, tasks


@settings(max_examples=400)
@given(STEPS)
@example(["loaded", {}, {"progress": "31%"}])
@example(["error", {}, {"progress": "31%"}])
def test_a_task_whose_last_record_is_remembered_is_read_as_one_whose_is_forgotten(
    steps: list[dict[str, Any] | str],
) -> None:
    world, reference = World(), World(forgetful=True)
    for step in [{}, {}, *steps]:
        kept = world.apply(step)
        assert kept == reference.apply(step), step
        assert world.state() == reference.state(), step
        event(f"kept: {kept}, remembered: {world.task.running is not None}")
    event(f"unchanged: {world.unchanged > 0}")
    assert not reference.unchanged


@pytest.mark.parametrize("missed", ["new watch", "deadline", "live platform"])
def test_a_record_that_comes_again_is_not_skipped_after_an_event(missed: str) -> None:
    world = World()
    assert [world.batch({}) for _ in range(3)] == [False, True, True]
    world.apply(missed)
    assert not world.batch({})


@pytest.mark.parametrize(
    ("second", "is_marked"),
    [
        ({}, True),
        ({"progress": "31%"}, True),
        ({"status": "SUCCESS"}, False),
        ({"progress": 31}, False),
        ({"task_id": "task_9"}, False),
    ],
)
def test_an_answer_is_remembered_if_all_its_tasks_run_and_are_kept(second: dict[str, Any], *, is_marked: bool) -> None:
    world, tasks = two_tasks_in_a_batch()
    body = orjson.dumps({"code": "success", "data": [row("task_1"), row("task_2") | second]})
    answer = observe_batch(200, "application/json", body, ASKED)
    assert isinstance(answer, BatchAnswer)
    batch = Batch(world.task.credential, world.lane, tasks, 1.0, 1.0, is_probe=False)
    others = keep_running(batch, answer)
    _, last = world.lane.take(2)
    assert (last is not None) == is_marked
    assert bool(others) == (not is_marked and second != {"progress": 31})


@pytest.mark.parametrize("other", ["dropped", "live platform", "no model", "none"])
def test_an_answer_is_not_remembered_if_one_of_its_tasks_needs_other_work(other: str) -> None:
    world, tasks = two_tasks_in_a_batch()
    if other == "dropped":
        tasks[1].phase = Phase.DROPPED
    elif other == "live platform":
        world.lane.platforms = world.lane.platforms.with_live("50")
    elif other == "no model":
        tasks[1].task_class = NO_CLASS
    body = orjson.dumps({"code": "success", "data": [row("task_1"), row("task_2")]})
    answer = observe_batch(200, "application/json", body, ASKED)
    assert isinstance(answer, BatchAnswer)
    assert answer.digest is not None
    batch = Batch(world.task.credential, world.lane, tasks, 1.0, 1.0, is_probe=False)
    others = keep_running(batch, answer)
    assert others == {"dropped": tasks[1:], "live platform": tasks}.get(other, [])
    _, last = world.lane.take(2)
    assert (last is not None) == (other == "none")


@pytest.mark.parametrize("change", ["dropped", "new watch", "live platform", "none"])
def test_an_unchanged_answer_is_read_if_anything_else_has_changed(change: str) -> None:
    world = World()
    for _ in range(2):
        world.batch({})
    tasks, last = world.lane.take(1)
    assert last is not None
    world.task.phase = Phase.DROPPED if change == "dropped" else Phase.POLLING
    if change == "new watch":
        world.task.request_status_update()
    elif change == "live platform":
        world.lane.platforms = world.lane.platforms.with_live("50")
    polls = world.task.polls
    batch = Batch(world.task.credential, world.lane, tasks, 9.0, 9.0, is_probe=False, last=last)
    assert keep_unchanged(batch) == (change == "none")
    assert (world.task.polls - polls, world.lane.waiting) == ((1, 1) if change == "none" else (0, 0))


def test_an_answer_that_comes_again_is_not_read_again() -> None:
    world = World()
    answers: list[dict[str, Any]] = [{}, {}, {}, {}, {"progress": "31%"}, {"progress": "31%"}, {}]
    assert [(world.batch(each), world.unchanged) for each in answers] == [
        (False, 0),
        (True, 0),
        (True, 1),
        (True, 2),
        (True, 2),
        (True, 3),
        (True, 3),
    ]
    assert (world.task.snapshot.progress, world.task.polls, world.task.started) == (30, 7, 7.0)


def test_an_answer_with_an_odd_row_is_read_again() -> None:
    world = World()
    for change in ({}, {}, {"progress": 40}, {"progress": 40}, {"progress": 40}):
        world.batch(change)
    assert (world.unchanged, world.task.polls) == (0, 5)


def test_a_record_with_another_progress_is_kept() -> None:
    world = World()
    assert [world.batch({"progress": f"{progress}%"}) for progress in (30, 30, 31, 31, 32)] == [False, *[True] * 4]
    assert (world.task.snapshot.progress, world.task.polls) == (32, 5)


def test_a_task_of_an_answer_with_an_odd_row_is_kept_and_the_odd_row_counts() -> None:
    world = World()
    world.batch({})
    assert world.batch({"progress": 40})
    assert world.task.snapshot.progress == 40
    assert world.batch({"progress": "30%"})
    assert world.task.snapshot.progress == 30


def test_a_dropped_task_is_not_kept() -> None:
    world = World()
    assert [world.batch({}) for _ in range(2)] == [False, True]
    answer = read({})
    assert isinstance(answer, BatchAnswer)
    tasks, _ = world.lane.take(1)
    world.task.phase = Phase.DROPPED
    batch = Batch(world.task.credential, world.lane, tasks, 9.0, 9.0, is_probe=False)
    assert keep_running(batch, answer) == tasks
    assert (world.task.phase, world.lane.waiting) == (Phase.DROPPED, 0)

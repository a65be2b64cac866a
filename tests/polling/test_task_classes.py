"""Learned polls: which class a task has, when it is polled, what is learned from its end, and what the store keeps."""

from math import exp, inf
from random import Random

import pytest

from bridge.core.errors import StoreUnavailable
from bridge.core.learned_schedule import MIN_ENDS
from bridge.core.model import NO_FACTS, TaskFacts, TaskRecord, TaskStatus, Throttled, TransientError
from bridge.core.task_class import MAX_CLASSES, TaskEnd
from bridge.polling.state import Credential, PolledTask
from bridge.polling.task_classes import MAX_PENDING_ENDS, TaskClasses
from bridge.store.records import WatchQuery
from tests.polling.harness import Harness
from tests.polling.virtual import POLICY, VirtualPoller

CLASS = "key configured"
FOUND = TaskRecord(TaskStatus.IN_PROGRESS, model="seedance", platform="54", submitted_at=1_000.0)


def durations(count: int, seed: int, sigma: float = 0.25) -> list[float]:
    random = Random(seed)
    return [90 * exp(random.gauss(0, sigma)) for _ in range(count)]


async def teach(classes: TaskClasses, ends: int, name: str = CLASS) -> None:
    """Count ends that are known within 15 s, as from the fixed schedule."""
    for seconds in durations(ends, seed=1):
        classes.add(TaskEnd(name, seconds - 8.0, seconds + 7.0, None))
    await classes.rebuild()


def fixed_times(count: int, random: Random, start: float) -> list[float]:
    times = [start]
    for polls in range(count):
        times.append(times[-1] + POLICY.delay_after(polls, random.random()))
    return times[1:]


def task_of(classes: TaskClasses, facts: TaskFacts = NO_FACTS) -> PolledTask:
    task = PolledTask("tsk_1", "task_1", Credential("configured", None, configured=True))
    classes.start(task, facts, classes._clocks.monotonic(), classes._clocks.offset())
    return task


# --- when a task is polled ----------------------------------------------------------------------------------------


async def test_without_learning_the_polls_are_exactly_those_of_the_fixed_schedule(harness: Harness) -> None:
    virtual = VirtualPoller.of(harness, learn=False, random=Random(5).random)
    await teach(virtual.poller.classes, 60)
    await virtual.start("task_1", 300.0)
    await virtual.finish()
    polled = virtual.amux.polled["task_1"]
    assert polled == pytest.approx(fixed_times(len(polled), Random(5), 1_000.0))


async def test_with_too_few_ends_the_polls_are_those_of_the_fixed_schedule(harness: Harness) -> None:
    virtual = VirtualPoller.of(harness, learn=True, random=Random(6).random)
    await teach(virtual.poller.classes, MIN_ENDS - 1)
    await virtual.start("task_1", 200.0)
    await virtual.finish()
    polled = virtual.amux.polled["task_1"]
    assert polled == pytest.approx(fixed_times(len(polled), Random(6), 1_000.0))


async def test_after_twenty_ends_the_end_is_seen_sooner_with_no_more_polls(harness: Harness) -> None:
    results = {}
    for learn in (False, True):
        virtual = VirtualPoller.of(harness, learn=learn, random=Random(7).random)
        await teach(virtual.poller.classes, MIN_ENDS)
        results[learn] = await virtual.waits(durations(40, seed=2), f"learn_{learn}")
    (fixed_wait, fixed_polls), (wait, polls) = results[False], results[True]
    assert wait < 0.75 * fixed_wait
    assert polls <= fixed_polls


async def test_the_first_poll_is_never_before_the_first_delay(harness: Harness) -> None:
    virtual = VirtualPoller.of(harness, learn=True, random=lambda: 0.0)
    for _ in range(MIN_ENDS):
        virtual.poller.classes.add(TaskEnd(CLASS, 0.5, 1.0, 1))
    await virtual.poller.classes.rebuild()
    await virtual.start("task_1", 1.0)
    await virtual.finish()
    assert virtual.amux.polled["task_1"][0] == pytest.approx(1_000.0 + POLICY.first_delay)


@pytest.mark.parametrize("trouble", [TransientError("http_502", "no"), Throttled("slow", 1.0)])
async def test_learning_makes_no_poll_after_trouble_sooner(
    harness: Harness, trouble: TransientError | Throttled
) -> None:
    gaps = {}
    for learn in (False, True):
        virtual = VirtualPoller.of(harness, learn=learn, random=lambda: 0.0)
        await teach(virtual.poller.classes, 60)
        name = f"task_{learn}"
        await virtual.start(name, 120.0)
        # In a learned class, polls are 15 s apart at first and 1.25 s apart near 90 s, where the trouble comes.
        await virtual.run(lambda: virtual.amux.now > 1_080.0)  # noqa: B023  it is called in this turn only
        count = len(virtual.amux.polled[name])
        virtual.amux.answers[name] = [trouble]
        await virtual.run(lambda: len(virtual.amux.polled[name]) >= count + 2)  # noqa: B023
        gaps[learn] = virtual.amux.polled[name][count + 1] - virtual.amux.polled[name][count]
    assert gaps[True] >= gaps[False] - 0.001


# --- classes ------------------------------------------------------------------------------------------------------


async def test_a_task_has_the_class_of_amuxs_record_else_of_its_app_else_of_its_credential(harness: Harness) -> None:
    classes = harness.poller().classes
    task = task_of(classes)
    assert (task.task_class.name, task.facts.task_class) == (CLASS, None)
    classes.name(task, TaskFacts(task_class="app seedance"))
    assert (task.task_class.name, task.facts.model) == ("app seedance", None)
    classes.describe(task, FOUND)
    assert task.facts == TaskFacts("seedance", 1_000.0, None, None, "amux 54 seedance")
    classes.name(task, TaskFacts(task_class="app other"))
    assert task.task_class.name == "amux 54 seedance"
    # From now on, a task gets amux's class if its app gives this model.
    assert task_of(classes, TaskFacts(task_class="app seedance")).task_class is task.task_class
    assert task_of(classes, task.facts).task_class is task.task_class


async def test_a_polled_task_gets_the_class_of_its_record(harness: Harness) -> None:
    virtual = VirtualPoller.of(harness, learn=True, random=lambda: 0.5)
    virtual.amux.running = FOUND
    await virtual.start("task_1", 60.0, model="seedance")
    await virtual.finish()
    assert [one.name for one in virtual.poller.classes.figures()] == ["amux 54 seedance"]


async def test_there_are_never_more_classes_in_memory_than_allowed(harness: Harness) -> None:
    classes = harness.poller().classes
    await teach(classes, 25, "amux 54 seedance")
    for number in range(2 * MAX_CLASSES):
        task_of(classes, TaskFacts(task_class=f"app junk {number}"))
        classes.add(TaskEnd(f"app junk {number}", 50.0, 60.0, 9))
    assert len(classes._classes) <= MAX_CLASSES
    assert len(classes._histories) <= MAX_CLASSES
    assert classes.figures()[1].name == "amux 54 seedance"  # the first is the class that the rare classes share
    assert task_of(classes, TaskFacts(task_class="amux 54 seedance")).task_class.schedule is not None


# --- ends ---------------------------------------------------------------------------------------------------------


async def test_an_end_lies_between_the_last_poll_that_saw_the_task_running_and_the_one_that_saw_the_end(
    harness: Harness,
) -> None:
    virtual = VirtualPoller.of(harness, learn=True, random=lambda: 0.0)
    classes, now = virtual.poller.classes, virtual.amux.now
    task = task_of(classes)
    task.watched_since, task.seen_running, task.single_polls = task.born, task.born + 80.0, 9
    end = classes.note_end(task, None, now + 90.0)
    assert end is not None
    assert (end.after, end.until, end.polls, end.polled_from) == pytest.approx((80.0, 90.0, 9, 0.0), abs=0.1)
    exact = classes.note_end(task, classes._clocks.unix(task.born + 84.0), now + 90.0)
    assert exact is not None
    assert (exact.after, exact.until) == pytest.approx((84.0, 84.0), abs=0.1)
    # A time that contradicts what was seen comes from another clock.
    wrong = classes.note_end(task, classes._clocks.unix(task.born + 30.0), now + 90.0)
    assert wrong is not None
    assert (wrong.after, wrong.until) == pytest.approx((80.0, 90.0), abs=0.1)


async def test_a_task_that_was_never_seen_running_counts_only_with_both_of_amuxs_times(harness: Harness) -> None:
    virtual = VirtualPoller.of(harness, learn=True, random=lambda: 0.0)
    classes, now, unix = virtual.poller.classes, virtual.amux.now, virtual.poller.classes._clocks.unix
    task = task_of(classes)
    task.watched_since = task.born
    assert classes.note_end(task, None, now + 5.0) is None
    assert classes.note_end(task, unix(task.born + 3.0), now + 5.0) is None
    classes.describe(task, TaskRecord(TaskStatus.COMPLETED, submitted_at=unix(now - 60.0)))
    assert classes.note_end(task, None, now + 5.0) is None
    end = classes.note_end(task, unix(now - 10.0), now + 5.0)
    assert end is not None
    assert (end.after, end.until, end.polled_from) == pytest.approx((50.0, 50.0, 60.0), abs=0.1)


async def test_a_submission_in_the_future_or_over_a_day_ago_is_not_used_for_the_age(harness: Harness) -> None:
    classes = harness.poller().classes
    for offset in (60.0, -90_000.0):
        task = task_of(classes)
        before = task.born
        classes.describe(task, TaskRecord(TaskStatus.QUEUED, submitted_at=harness.store.now() + offset))
        assert task.born == before
        assert task.submitted_at is not None


async def test_tasks_that_were_submitted_in_one_second_share_the_object_of_that_moment(harness: Harness) -> None:
    classes = harness.poller().classes
    tasks = [task_of(classes), task_of(classes)]
    for task in tasks:
        classes.describe(task, TaskRecord(TaskStatus.QUEUED, submitted_at=int("1764000000")))
    assert tasks[0].submitted_at is tasks[1].submitted_at
    assert type(tasks[0].submitted_at) is float


async def test_the_polls_of_a_loaded_task_are_not_counted(harness: Harness) -> None:
    classes = harness.poller().classes
    task = task_of(classes)
    assert task.watched_since == -inf
    task.seen_running = task.born + 10.0
    end = classes.note_end(task, None, task.born + 20.0)
    assert end is not None
    assert end.polls is None


async def test_only_completed_and_failed_watches_teach_anything(harness: Harness) -> None:
    virtual = VirtualPoller.of(harness, learn=True, random=lambda: 0.5)
    await virtual.start("task_1", 60.0)
    await virtual.start("task_2", 60.0)
    await virtual.run(lambda: len(virtual.amux.polled["task_2"]) >= 2)
    [row] = [row for row, task in virtual.poller._tasks.items() if task.task_id == "task_2"]
    view = next(view for view in await harness.store.watches(_all()) if view.task.row == row)
    await harness.store.cancel(view.watch.id, None)
    virtual.poller.check_closed(row)
    await virtual.finish()
    assert [one.ends for one in virtual.poller.classes.figures()] == [1]


def _all() -> WatchQuery:
    return WatchQuery(limit=10)


# --- the store ----------------------------------------------------------------------------------------------------


async def test_histories_survive_a_restart(harness: Harness) -> None:
    classes = harness.poller().classes
    await teach(classes, 30)
    await classes.synchronize()
    restarted = harness.poller().classes
    await restarted.load()
    assert task_of(restarted).task_class.schedule is not None
    assert restarted.figures()[0].ends == 30
    assert restarted.figures()[0].p50 == pytest.approx(90, rel=0.2)


async def test_replicas_learn_from_each_other(harness: Harness) -> None:
    one, other = harness.poller().classes, harness.poller().classes
    task = task_of(other)
    await teach(one, 12)
    await teach(other, 13)
    for classes in (one, other, one):
        await classes.synchronize()
    await other.rebuild()
    assert [classes.figures()[0].ends for classes in (one, other)] == [25, 25]
    assert task.task_class.schedule is not None


async def test_ends_that_the_store_refuses_are_written_later(harness: Harness) -> None:
    classes = harness.poller().classes
    await teach(classes, 5)
    repair = harness.break_store()
    with pytest.raises(StoreUnavailable):
        await classes.synchronize()
    repair()
    await classes.synchronize()
    assert (await harness.store.class_histories())[CLASS].history.ends == 5


async def test_ends_whose_write_fails_unexpectedly_are_written_later(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object) -> None:
        raise KeyError("a bug")

    classes = harness.poller().classes
    await teach(classes, 5)
    with monkeypatch.context() as patch, pytest.raises(KeyError):
        patch.setattr(harness.store, "add_task_ends", fail)
        await classes.synchronize()
    await classes.synchronize()
    assert (await harness.store.class_histories())[CLASS].history.ends == 5


async def test_of_very_many_ends_of_one_class_between_two_writes_only_some_count(harness: Harness) -> None:
    classes = harness.poller().classes
    await teach(classes, 3 * MAX_PENDING_ENDS)
    assert len(classes._pending) == MAX_PENDING_ENDS
    await classes.synchronize()
    await teach(classes, 1)
    assert classes.figures()[0].ends == MAX_PENDING_ENDS + 1


async def test_a_schedule_is_rebuilt_only_when_its_evidence_has_changed_by_five_per_cent(harness: Harness) -> None:
    classes = harness.poller().classes
    await teach(classes, 40)
    task = task_of(classes)
    first = task.task_class.schedule
    await teach(classes, 1)
    assert task.task_class.schedule is first
    await teach(classes, 1)
    assert task.task_class.schedule is not first

"""Deadlines: one last poll, then the end, whatever it said."""

from collections import Counter

from bridge.core.model import Outcome, WatchState
from bridge.core.schedule import PollPolicy
from bridge.polling.deadlines import PAGE
from bridge.polling.state import CredentialState
from bridge.sandbox import Behaviour, Fault, FaultKind
from bridge.store.records import RegisteredWatch
from tests.polling.harness import (
    DONE,
    QUICK,
    RUNNING,
    Rig,
    rig_fixture,  # noqa: F401  a fixture
)

SLOW = PollPolicy(first_delay=3600, interval=3600, max_interval=3600)
LATE = {"age": 100.0, "lasts": 99.0}  # a watch whose deadline passed a second ago


async def overdue(rig: Rig, behaviour: Behaviour, **options: str) -> RegisteredWatch:
    return await rig.register(rig.sandbox.create_task(behaviour), **LATE, **options)  # type: ignore[arg-type]


async def test_a_last_poll_finds_the_video_ready(rig: Rig) -> None:
    watch = await overdue(rig, DONE)
    poller = rig.poller(SLOW)
    await poller.start()
    await poller.check_deadlines()
    await rig.until(lambda: poller.owned == 0)
    assert await rig.outcome(watch) is Outcome.COMPLETED
    assert rig.sandbox.polls[watch.watch.task_id] == 1


async def test_a_last_poll_that_finds_it_running_times_out_with_what_was_seen(rig: Rig) -> None:
    watch = await overdue(rig, RUNNING)
    poller = rig.poller(SLOW)
    await poller.start()
    await poller.check_deadlines()
    await rig.until(lambda: poller.owned == 0)
    [data] = rig.told(watch)
    assert data["status"] == "in_progress"
    assert isinstance(data["error"], dict)
    assert data["error"]["code"] == "watch_timed_out"
    assert "last seen in_progress" in data["error"]["message"]
    assert rig.sandbox.polls[watch.watch.task_id] == 1


async def test_trouble_at_the_last_poll_is_told(rig: Rig) -> None:
    watch = await overdue(rig, Behaviour(faults=(Fault(FaultKind.SERVER_ERROR, times=None),)))
    poller = rig.poller(SLOW)
    await poller.start()
    await poller.check_deadlines()
    await rig.until(lambda: poller.owned == 0)
    assert await rig.outcome(watch) is Outcome.TIMED_OUT
    [data] = rig.told(watch)
    assert isinstance(data["error"], dict)
    assert "the task was not seen; the last poll failed" in data["error"]["message"]
    assert rig.sandbox.polls[watch.watch.task_id] == 1


async def test_only_the_overdue_watch_of_a_task_ends(rig: Rig) -> None:
    late = await overdue(rig, RUNNING)
    young = await rig.register(late.watch.task_id)
    poller = rig.poller(SLOW)
    await poller.start()
    await poller.check_deadlines()
    await rig.until(lambda: bool(rig.owed))
    assert await rig.outcome(late) is Outcome.TIMED_OUT
    assert (await rig.view(young)).watch.state is WatchState.ACTIVE
    assert poller.owned == 1


async def test_a_poll_from_before_the_deadline_is_not_the_last(rig: Rig) -> None:
    poller = rig.poller(QUICK)
    behaviour = Behaviour(queue_seconds=0, run_seconds=3600, faults=(Fault(FaultKind.SLOW, seconds=0.4),))
    task_id = rig.sandbox.create_task(behaviour)
    watch = await rig.register(task_id, poller, lasts=0.2)
    await rig.sandbox.polled(task_id)  # it is answered after the deadline
    await rig.past_deadline()
    await poller.check_deadlines()
    assert rig.sandbox.polls[task_id] == 1
    rig.sandbox.change(task_id, DONE)
    await rig.until(lambda: poller.owned == 0)
    assert await rig.outcome(watch) is Outcome.COMPLETED
    assert rig.sandbox.polls[task_id] == 2


async def test_a_poll_from_after_the_deadline_is_enough(rig: Rig) -> None:
    poller = rig.poller(QUICK)
    watch = await rig.register(rig.sandbox.create_task(RUNNING), poller, lasts=0.05)
    await rig.past_deadline()
    await rig.sandbox.polled(watch.watch.task_id, rig.sandbox.polls[watch.watch.task_id] + 2)
    await poller.check_deadlines()
    await rig.until(lambda: poller.owned == 0)
    assert await rig.outcome(watch) is Outcome.TIMED_OUT


async def test_a_paused_credential_has_no_last_poll(rig: Rig) -> None:
    rig.sandbox.keys = frozenset({"sk-another"})
    poller = rig.poller(PollPolicy(first_delay=0.01, interval=0.02, max_interval=3600))
    watches = [await rig.register(rig.sandbox.create_task(DONE), poller, lasts=0.3) for _ in range(5)]
    await rig.until(lambda: poller.credentials()[0].state is CredentialState.PAUSED)
    await rig.until(lambda: rig.store.now() > watches[-1].watch.deadline_at)
    polls = rig.sandbox.polls.total()
    await poller.check_deadlines()
    await rig.until(lambda: poller.owned == 0)
    assert rig.sandbox.polls.total() == polls
    assert {await rig.outcome(watch) for watch in watches} == {Outcome.TIMED_OUT}
    assert "the last poll failed" in str(rig.told(watches[0])[0]["error"])


async def test_a_thousand_overdue_at_a_start_are_polled_once_each_a_few_at_a_time(rig: Rig) -> None:
    count = 2 * PAGE + 3
    news = [rig.new_watch(f"sandbox_0_0_completed_{n}", age=100, lasts=99) for n in range(count)]
    await rig.store.register_all(news)
    poller = rig.poller(PollPolicy(first_delay=0.2, interval=0.5, max_interval=3600), concurrency=8)
    await poller.start()
    await poller.check_deadlines()
    await poller.check_deadlines()
    await rig.until(lambda: poller.owned == 0)
    assert Counter(rig.sandbox.polls.values()) == {1: count}
    assert Counter(one.type for one in rig.owed) == {"video.completed": count}


async def test_a_task_that_memory_lacks_is_found_by_its_deadline(rig: Rig) -> None:
    watch = await overdue(rig, DONE)
    poller = rig.poller(QUICK)  # a registration that was cut off before it reached the poller
    await poller.check_deadlines()
    assert poller.owned == 0
    await poller.check_deadlines()
    await rig.until(lambda: bool(rig.owed))
    assert await rig.outcome(watch) is Outcome.COMPLETED

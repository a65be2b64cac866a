"""Deadlines: a watch gets one last poll, and then ends whatever that poll observed."""

from collections import Counter

from bridge.core.credential import CredentialState
from bridge.core.model import Outcome, WatchState
from bridge.core.schedule import PollPolicy
from bridge.polling.deadlines import PAGE
from bridge.sandbox import Behaviour, Fault, FaultKind
from bridge.store.records import RegisteredWatch
from tests.polling.harness import DONE, QUICK, RUNNING, Harness

SLOW = PollPolicy(first_delay=3600, interval=3600, max_interval=3600)
OVERDUE = {"age": 100.0, "lasts": 99.0}  # a watch whose deadline passed a second ago


async def overdue(harness: Harness, behaviour: Behaviour, **options: str) -> RegisteredWatch:
    return await harness.register(harness.sandbox.create_task(behaviour), **OVERDUE, **options)  # type: ignore[arg-type]


async def test_a_last_poll_that_finds_the_video_completes_the_watch(harness: Harness) -> None:
    watch = await overdue(harness, DONE)
    poller = harness.poller(SLOW)
    await poller.load()
    await poller.check_deadlines()
    await harness.until(lambda: poller.owned == 0)
    assert await harness.outcome(watch) is Outcome.COMPLETED
    assert harness.sandbox.polls[watch.watch.task_id] == 1


async def test_a_last_poll_that_finds_the_task_running_times_the_watch_out_with_its_status(harness: Harness) -> None:
    watch = await overdue(harness, RUNNING)
    poller = harness.poller(SLOW)
    await poller.load()
    await poller.check_deadlines()
    await harness.until(lambda: poller.owned == 0)
    [data] = harness.event_data(watch)
    assert data["status"] == "in_progress"
    assert isinstance(data["error"], dict)
    assert data["error"]["code"] == "watch_timed_out"
    assert "last seen in_progress" in data["error"]["message"]
    assert harness.sandbox.polls[watch.watch.task_id] == 1


async def test_an_error_at_the_last_poll_is_part_of_the_event(harness: Harness) -> None:
    watch = await overdue(harness, Behaviour(faults=(Fault(FaultKind.SERVER_ERROR, times=None),)))
    poller = harness.poller(SLOW)
    await poller.load()
    await poller.check_deadlines()
    await harness.until(lambda: poller.owned == 0)
    assert await harness.outcome(watch) is Outcome.TIMED_OUT
    [data] = harness.event_data(watch)
    assert isinstance(data["error"], dict)
    assert "the task was not seen; the last poll failed" in data["error"]["message"]
    assert harness.sandbox.polls[watch.watch.task_id] == 1


async def test_only_the_overdue_watch_of_a_task_ends(harness: Harness) -> None:
    overdue_watch = await overdue(harness, RUNNING)
    young = await harness.register(overdue_watch.watch.task_id)
    poller = harness.poller(SLOW)
    await poller.load()
    await poller.check_deadlines()
    await harness.until(lambda: bool(harness.deliveries))
    assert await harness.outcome(overdue_watch) is Outcome.TIMED_OUT
    assert (await harness.view(young)).watch.state is WatchState.ACTIVE
    assert poller.owned == 1


async def test_a_poll_that_began_before_the_deadline_is_not_the_last_one(harness: Harness) -> None:
    client = harness.gated_client(poll=1)
    poller = harness.poller(QUICK, client=client)
    task_id = harness.sandbox.create_task(RUNNING)
    watch = await harness.register(task_id, poller, lasts=0.2)
    await harness.until(lambda: client.polls == 1)  # its answer comes after the deadline
    await harness.past_deadline()
    await poller.check_deadlines()
    assert harness.sandbox.polls[task_id] == 1
    harness.sandbox.change(task_id, DONE)
    client.gate.set()
    await harness.until(lambda: poller.owned == 0)
    assert await harness.outcome(watch) is Outcome.COMPLETED
    assert harness.sandbox.polls[task_id] == 2


async def test_a_poll_that_began_after_the_deadline_is_the_last_one(harness: Harness) -> None:
    poller = harness.poller(QUICK)
    watch = await harness.register(harness.sandbox.create_task(RUNNING), poller, lasts=0.05)
    await harness.past_deadline()
    await harness.sandbox.polled(watch.watch.task_id, harness.sandbox.polls[watch.watch.task_id] + 2)
    await poller.check_deadlines()
    await harness.until(lambda: poller.owned == 0)
    assert await harness.outcome(watch) is Outcome.TIMED_OUT


async def test_a_task_of_a_paused_credential_gets_no_last_poll(harness: Harness) -> None:
    harness.sandbox.keys = frozenset({"sk-another"})
    poller = harness.poller(PollPolicy(first_delay=0.01, interval=0.02, max_interval=3600))
    watches = [await harness.register(harness.sandbox.create_task(DONE), poller, lasts=0.3) for _ in range(5)]
    await harness.until(lambda: poller.credentials()[0].state is CredentialState.PAUSED)
    await harness.until(lambda: harness.store.now() > watches[-1].watch.deadline_at)
    polls = harness.sandbox.polls.total()
    await poller.check_deadlines()
    await harness.until(lambda: poller.owned == 0)
    assert harness.sandbox.polls.total() == polls
    assert {await harness.outcome(watch) for watch in watches} == {Outcome.TIMED_OUT}
    assert "the last poll failed" in str(harness.event_data(watches[0])[0]["error"])


async def test_the_event_of_a_task_that_waited_for_a_refused_key_says_so(harness: Harness) -> None:
    harness.sandbox.keys = frozenset({"sk-another"})
    poller = harness.poller(PollPolicy(first_delay=0.0, interval=0.02, max_interval=3600), concurrency=1)
    watches = [await harness.register(harness.sandbox.create_task(DONE), lasts=0.3) for _ in range(5)]
    await poller.load()
    await harness.until(lambda: harness.store.now() > watches[-1].watch.deadline_at)
    assert harness.sandbox.polls.total() == 1
    await poller.check_deadlines()
    await harness.until(lambda: poller.owned == 0)
    assert harness.sandbox.polls.total() == 1
    messages = {str(harness.event_data(watch)[0]["error"]) for watch in watches}
    assert len(messages) == 1
    assert "the task was not seen; the last poll failed: amux refused the key: Invalid token" in messages.pop()


async def test_a_thousand_overdue_tasks_at_a_start_are_polled_once_each_and_a_few_at_a_time(harness: Harness) -> None:
    count = 2 * PAGE + 3
    new_watches = [harness.new_watch(f"sandbox_0_0_completed_{n}", age=100, lasts=99) for n in range(count)]
    await harness.store.register_all(new_watches)
    poller = harness.poller(PollPolicy(first_delay=0.2, interval=0.5, max_interval=3600), concurrency=8)
    await poller.load()
    await poller.check_deadlines()
    await poller.check_deadlines()
    await harness.until(lambda: poller.owned == 0)
    assert Counter(harness.sandbox.polls.values()) == {1: count}
    assert Counter(delivery.type for delivery in harness.deliveries) == {"video.completed": count}


async def test_a_task_that_is_missing_in_memory_is_found_by_its_deadline(harness: Harness) -> None:
    watch = await overdue(harness, DONE)
    poller = harness.poller(QUICK)  # it lacks the task, as after a request that was cancelled too early
    await poller.check_deadlines()
    assert poller.owned == 0
    await poller.check_deadlines()
    await harness.until(lambda: bool(harness.deliveries))
    assert await harness.outcome(watch) is Outcome.COMPLETED

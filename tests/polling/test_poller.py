"""From polls to the store: one poll for many watches, settlements, the grace period, status events."""

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

import pytest

from bridge.core.model import TERMINAL_EVENTS, EventType, Outcome, TaskStatus, WatchState
from bridge.sandbox import Behaviour, Fault, FaultKind
from bridge.sandbox import Outcome as End
from tests.polling.harness import DONE, QUICK, RUNNING, Harness, hold_status_writes

STATUS_EVENTS = TERMINAL_EVENTS | {EventType.QUEUED, EventType.IN_PROGRESS}


async def test_two_watches_on_one_task_share_its_polls(harness: Harness) -> None:
    task_id = harness.sandbox.create_task(RUNNING)
    poller = harness.poller()
    first, second = [await harness.register(task_id, poller) for _ in range(2)]
    assert first.view.task.row == second.view.task.row
    assert poller.owned == 1
    await harness.sandbox.polled(task_id, 2)
    harness.sandbox.change(task_id, DONE)
    await harness.until(lambda: len(harness.deliveries) == 2)
    assert [await harness.outcome(watch) for watch in (first, second)] == [Outcome.COMPLETED, Outcome.COMPLETED]
    live_polls = (await harness.view(first)).task.polls
    assert harness.sandbox.polls[task_id] == live_polls
    assert poller.owned == 0


async def test_answers_of_alternating_forms_settle_a_watch_once_with_the_video(harness: Harness) -> None:
    poller = harness.poller()
    registered = [
        await harness.register(
            harness.sandbox.create_task(Behaviour(queue_seconds=0.03, run_seconds=0.1, form=forms + "F")), poller
        )
        for forms in ("ABCD", "BCDA", "CDAB", "DABC")
    ]
    await harness.until(lambda: poller.owned == 0)
    for watch in registered:
        [data] = harness.event_data(watch)
        assert data["status"] == "completed"
        assert str(data["url"]).endswith(f"/files/{watch.watch.task_id}.mp4")
        assert str(data["content_url"]).startswith(f"https://bridge.example/{watch.watch.id}?")


async def test_an_error_while_a_written_status_is_announced_does_not_end_the_polls_of_its_task(
    harness: Harness, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    poller = harness.poller()
    announce = harness.announce

    def fail_once(watch_ids: Sequence[str]) -> None:
        monkeypatch.setattr(harness, "announce", announce)
        raise KeyError("a bug")

    monkeypatch.setattr(harness, "announce", fail_once)
    watch = await harness.register(harness.sandbox.create_task(RUNNING), poller)
    await harness.until(lambda: "result_report_failed" in caplog.messages)
    harness.sandbox.change(watch.watch.task_id, DONE)
    await harness.until(lambda: poller.owned == 0)
    assert await harness.outcome(watch) is Outcome.COMPLETED


async def test_a_failed_event_contains_amux_s_error(harness: Harness) -> None:
    poller = harness.poller()
    watch = await harness.register(
        harness.sandbox.create_task(Behaviour(queue_seconds=0, run_seconds=0, outcome=End.FAILED, form="A")), poller
    )
    await harness.until(lambda: poller.owned == 0)
    [data] = harness.event_data(watch)
    assert data["status"] == "failed"
    assert data["error"] == {
        "code": 50001,
        "message": "Upstream model rejected the prompt due to content policy.",
    }
    assert set(harness.announced) == {watch.watch.id}
    assert harness.metrics.registry.get_sample_value("amux_bridge_settled_total", {"outcome": "failed"}) == 1


async def test_an_end_is_detected_soon_after_amux_s_own_time_of_it(harness: Harness) -> None:
    poller = harness.poller()
    await harness.register(harness.sandbox.create_task(Behaviour(queue_seconds=0, run_seconds=1.2)), poller)
    await harness.until(lambda: poller.owned == 0)
    assert harness.metrics.registry.get_sample_value("amux_bridge_detection_seconds_count") == 1


async def test_a_new_task_that_amux_does_not_know_yet_has_a_grace_period(harness: Harness) -> None:
    poller = harness.poller()
    watch = await harness.register("task_late", poller)
    await harness.sandbox.polled("task_late", 6)
    assert (await harness.view(watch)).watch.state is WatchState.ACTIVE
    live = poller.live(watch.view.task.row)
    assert live is not None
    assert live.last_error is not None
    assert live.last_error.code == "task_not_found"
    harness.sandbox.create_task(DONE, "task_late")
    await harness.until(lambda: poller.owned == 0)
    assert await harness.outcome(watch) is Outcome.COMPLETED


async def test_after_the_grace_period_a_third_not_found_ends_a_watch_and_not_a_younger_one(
    harness: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "bridge.polling")
    harness.sandbox.create_task(RUNNING, "task_gone")
    old = await harness.register("task_gone", age=61)
    young = await harness.register("task_gone")
    harness.sandbox.change("task_gone", Behaviour(faults=(Fault(FaultKind.NOT_FOUND_400, times=None),)))
    poller = harness.poller()
    await poller.load()
    await harness.until(lambda: bool(harness.deliveries))
    assert await harness.outcome(old) is Outcome.UNAVAILABLE
    [data] = harness.event_data(old)
    assert data["status"] == "unknown"
    assert isinstance(data["error"], dict)
    assert data["error"]["code"] == "task_not_found"
    [line] = [record.__dict__["bridge_fields"] for record in caplog.records if record.getMessage() == "settled"]
    assert (line["watch_id"], line["outcome"]) == (old.watch.id, Outcome.UNAVAILABLE)
    assert (line["error"], line["reason"]) == (data["error"]["code"], data["error"]["message"])
    assert harness.sandbox.polls["task_gone"] >= 3
    assert (await harness.view(young)).watch.state is WatchState.ACTIVE
    assert poller.owned == 1


@pytest.mark.parametrize(
    ("kind", "times", "code"),
    [(FaultKind.FORBIDDEN_TASK, 3, "task_forbidden"), (FaultKind.REJECTED, 5, "poll_rejected")],
)
async def test_refusals_in_a_row_end_a_watch(harness: Harness, kind: FaultKind, times: int, code: str) -> None:
    poller = harness.poller()
    spared = harness.sandbox.create_task(
        Behaviour(
            queue_seconds=0,
            run_seconds=0.3,
            faults=(
                Fault(kind, times=times - 1),
                Fault(FaultKind.SERVER_ERROR),
                Fault(FaultKind.SLOW, seconds=0.001),
                Fault(kind, times=times - 1),
            ),
        )
    )
    ended = harness.sandbox.create_task(Behaviour(faults=(Fault(kind, times=times),)))
    good, bad = await harness.register(spared, poller), await harness.register(ended, poller)
    await harness.until(lambda: poller.owned == 0)
    assert await harness.outcome(good) is Outcome.COMPLETED
    assert await harness.outcome(bad) is Outcome.UNAVAILABLE
    assert harness.sandbox.polls[ended] == times
    [data] = harness.event_data(bad)
    assert isinstance(data["error"], dict)
    assert data["error"]["code"] == code


async def test_each_status_event_is_sent_once_and_only_to_watches_that_asked_for_it(harness: Harness) -> None:
    poller = harness.poller()
    task_id = harness.sandbox.create_task(Behaviour(queue_seconds=3600))
    asking = await harness.register(task_id, poller, events=STATUS_EVENTS)
    other = await harness.register(task_id, poller)
    await harness.until(lambda: len(harness.deliveries) == 1)
    harness.sandbox.change(task_id, RUNNING)
    await harness.until(lambda: len(harness.deliveries) == 2)
    late = await harness.register(task_id, poller, events=STATUS_EVENTS)
    await harness.until(lambda: len(harness.deliveries) == 3)
    harness.sandbox.change(task_id, DONE)
    await harness.until(lambda: poller.owned == 0)
    assert harness.event_types(asking) == ["video.queued", "video.in_progress", "video.completed"]
    assert harness.event_types(other) == ["video.completed"]
    assert harness.event_types(late) == ["video.in_progress", "video.completed"]


async def test_a_watch_that_is_registered_during_the_write_of_the_status_gets_its_status_event(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    poller = harness.poller()
    held = hold_status_writes(harness.store, monkeypatch)
    task_id = harness.sandbox.create_task(RUNNING)
    await harness.register(task_id, poller)
    await held.written.wait()  # the status is stored, and the poller does not know it yet
    late = await harness.register(task_id, poller, events=STATUS_EVENTS)
    held.gate.set()
    await harness.until(lambda: harness.event_types(late) == ["video.in_progress"])


async def test_a_status_is_written_when_it_changes_and_not_after_each_poll(harness: Harness) -> None:
    poller = harness.poller()
    task_id = harness.sandbox.create_task(RUNNING)
    watch = await harness.register(task_id, poller)
    await harness.sandbox.polled(task_id, 5)
    stored = (await harness.view(watch)).task
    assert stored.snapshot.status is TaskStatus.IN_PROGRESS
    assert stored.polls == 1
    live = poller.live(watch.view.task.row)
    assert live is not None
    assert live.polls >= 4
    assert live.last_polled_at == pytest.approx(harness.store.now(), abs=1)
    assert live.next_poll_at == pytest.approx(harness.store.now(), abs=1)


async def test_an_unknown_status_word_ends_no_watch(harness: Harness) -> None:
    poller = harness.poller()
    task_id = harness.sandbox.create_task(
        Behaviour(
            queue_seconds=0, run_seconds=3600, running_word="pondering", faults=(Fault(FaultKind.BAD_GATEWAY_HTML),)
        )
    )
    watch = await harness.register(task_id, poller)
    await harness.sandbox.polled(task_id, 4)
    live = poller.live(watch.view.task.row)
    assert live is not None
    assert live.snapshot.status is TaskStatus.UNKNOWN
    assert live.last_error is not None  # the answer of the proxy
    counted = harness.metrics.registry.get_sample_value("amux_bridge_unknown_status_words_total")
    assert counted is not None
    assert counted >= 2
    harness.sandbox.change(task_id, DONE)
    await harness.until(lambda: poller.owned == 0)


async def test_polling_continues_after_a_restart(harness: Harness) -> None:
    own = await harness.register(harness.sandbox.create_task(RUNNING), api_key="sk-own-key")
    watches = [own, *[await harness.register(harness.sandbox.create_task(RUNNING)) for _ in range(20)]]
    poller = harness.poller()
    await poller.load()
    assert poller.owned == 21
    for watch in watches:
        await harness.sandbox.polled(watch.watch.task_id)
        harness.sandbox.change(watch.watch.task_id, DONE)
    await harness.until(lambda: poller.owned == 0)
    assert harness.sandbox.last_key[own.watch.task_id] == "sk-own-key"
    assert harness.sandbox.last_key[watches[1].watch.task_id] == "sk-configured-key"


async def test_a_task_whose_last_watch_was_cancelled_is_no_longer_polled(harness: Harness) -> None:
    poller = harness.poller()
    task_id = harness.sandbox.create_task(RUNNING)
    first, second = [await harness.register(task_id, poller) for _ in range(2)]
    await harness.sandbox.polled(task_id)
    await harness.store.cancel(first.watch.id, None)
    poller.check_closed(first.view.task.row)
    await harness.sandbox.polled(task_id, harness.sandbox.polls[task_id] + 2)
    assert poller.owned == 1
    await harness.store.cancel(second.watch.id, None)
    poller.check_closed(second.view.task.row)
    await harness.until(lambda: poller.owned == 0)
    assert harness.deliveries == []


async def test_a_task_whose_last_watch_is_cancelled_during_its_poll_is_not_polled_again(
    harness: Harness,
) -> None:
    client = harness.gated_client(poll=2)
    poller = harness.poller(client=client)
    watch = await harness.register(harness.sandbox.create_task(RUNNING), poller)
    # The first poll has written the status; the second one changes nothing.
    await harness.until(lambda: client.polls == 2)
    await harness.store.cancel(watch.watch.id, None)
    poller.check_closed(watch.view.task.row)
    assert poller.owned == 1
    client.gate.set()
    await harness.until(lambda: poller.owned == 0)
    assert client.polls == 2


async def test_a_task_whose_last_watch_is_cancelled_during_a_write_is_not_polled_again(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    poller = harness.poller()
    held = hold_status_writes(harness.store, monkeypatch)
    watch = await harness.register(harness.sandbox.create_task(RUNNING), poller)
    await held.written.wait()
    await harness.store.cancel(watch.watch.id, None)
    poller.check_closed(watch.view.task.row)
    assert poller.owned == 1
    held.gate.set()
    await harness.until(lambda: poller.owned == 0)
    assert harness.sandbox.polls[watch.watch.task_id] == 1


async def test_the_answer_of_a_task_that_was_dropped_during_its_poll_is_ignored(harness: Harness) -> None:
    poller = harness.poller()
    task_id = harness.sandbox.create_task(
        Behaviour(queue_seconds=0, run_seconds=0, faults=(Fault(FaultKind.SLOW, seconds=0.1),))
    )
    watch = await harness.register(task_id, poller)
    await harness.sandbox.polled(task_id)
    poller.drop(watch.view.task.row)
    assert poller.live(watch.view.task.row) is None
    await poller.drain(5)
    assert harness.deliveries == []


async def test_a_task_that_another_replica_adopted_is_dropped(harness: Harness) -> None:
    poller = harness.poller()
    task_id = harness.sandbox.create_task(RUNNING)
    await harness.register(task_id, poller)
    await harness.sandbox.polled(task_id, 2)
    harness.adopt_as_other_replica()
    harness.sandbox.change(task_id, DONE)
    await harness.until(lambda: poller.owned == 0)
    assert harness.deliveries == []


async def test_after_forgetting_all_tasks_nothing_is_polled(harness: Harness) -> None:
    poller = harness.poller()
    watches = [await harness.register(harness.sandbox.create_task(RUNNING), poller) for _ in range(5)]
    await asyncio.gather(*(harness.sandbox.polled(watch.watch.task_id) for watch in watches))
    poller.forget_all()
    assert poller.owned == 0
    await poller.drain(5)
    before = harness.sandbox.polls.total()
    poller.tick()
    assert harness.sandbox.polls.total() == before


async def test_draining_lets_a_poll_end_and_writes_its_result(harness: Harness) -> None:
    poller = harness.poller(QUICK)
    task_id = harness.sandbox.create_task(
        Behaviour(queue_seconds=0, run_seconds=0, faults=(Fault(FaultKind.SLOW, seconds=0.2),))
    )
    watch = await harness.register(task_id, poller)
    await harness.sandbox.polled(task_id)
    await poller.drain(5)
    assert await harness.outcome(watch) is Outcome.COMPLETED
    assert harness.event_types(watch) == ["video.completed"]


async def test_an_error_of_the_bridge_while_it_handles_an_answer_costs_one_poll(
    harness: Harness, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    task_id = harness.sandbox.create_task(DONE)
    poller = harness.poller()
    handle, failures = poller._handler.handle, iter([ValueError("a bug")])

    def fail_once(*arguments: Any) -> None:
        for error in failures:
            raise error
        handle(*arguments)

    monkeypatch.setattr(poller._handler, "handle", fail_once)
    watch = await harness.register(task_id, poller)
    await harness.until(lambda: poller.owned == 0)
    assert await harness.outcome(watch) is Outcome.COMPLETED
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR] == ["poll_failed"]

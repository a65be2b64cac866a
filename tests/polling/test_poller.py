"""From polls to what the store holds: one poll for many watches, endings, grace, sights."""

import asyncio
import logging

import pytest

from bridge.core.model import TERMINAL_EVENTS, EventType, Outcome, TaskStatus, WatchState
from bridge.sandbox import Behaviour, Fault, FaultKind
from bridge.sandbox import Outcome as End
from tests.polling.harness import (
    DONE,
    QUICK,
    RUNNING,
    Rig,
    rig_fixture,  # noqa: F401  a fixture
)

SIGHTS = TERMINAL_EVENTS | {EventType.QUEUED, EventType.IN_PROGRESS}


async def test_two_watches_on_a_task_share_its_polls(rig: Rig) -> None:
    task_id = rig.sandbox.create_task(RUNNING)
    poller = rig.poller()
    first, second = [await rig.register(task_id, poller) for _ in range(2)]
    assert first.task_row == second.task_row
    assert poller.owned == 1
    await rig.sandbox.polled(task_id, 2)
    rig.sandbox.change(task_id, DONE)
    await rig.until(lambda: len(rig.owed) == 2)
    assert [await rig.outcome(watch) for watch in (first, second)] == [Outcome.COMPLETED, Outcome.COMPLETED]
    live_polls = (await rig.view(first)).task.note.polls
    assert rig.sandbox.polls[task_id] == live_polls
    assert poller.owned == 0


async def test_forms_that_take_turns_settle_once_with_the_video(rig: Rig) -> None:
    poller = rig.poller()
    registered = [
        await rig.register(
            rig.sandbox.create_task(Behaviour(queue_seconds=0.03, run_seconds=0.1, form=turns + "F")), poller
        )
        for turns in ("ABCD", "BCDA", "CDAB", "DABC")
    ]
    await rig.until(lambda: poller.owned == 0)
    for watch in registered:
        [data] = rig.told(watch)
        assert data["status"] == "completed"
        assert str(data["url"]).endswith(f"/files/{watch.watch.task_id}.mp4")
        assert str(data["content_url"]).startswith(f"https://bridge.example/{watch.watch.id}?")


async def test_a_failure_tells_amux_s_error(rig: Rig) -> None:
    poller = rig.poller()
    watch = await rig.register(
        rig.sandbox.create_task(Behaviour(queue_seconds=0, run_seconds=0, outcome=End.FAILED, form="A")), poller
    )
    await rig.until(lambda: poller.owned == 0)
    [data] = rig.told(watch)
    assert data["status"] == "failed"
    assert data["error"] == {
        "code": 50001,
        "message": "Upstream model rejected the prompt due to content policy.",
    }
    assert set(rig.announced) == {watch.watch.id}
    assert rig.metrics.registry.get_sample_value("amux_bridge_settled_total", {"outcome": "failed"}) == 1


async def test_an_end_is_seen_soon_after_amux_s_own_time(rig: Rig) -> None:
    poller = rig.poller()
    await rig.register(rig.sandbox.create_task(Behaviour(queue_seconds=0, run_seconds=1.2)), poller)
    await rig.until(lambda: poller.owned == 0)
    assert rig.metrics.registry.get_sample_value("amux_bridge_detection_seconds_count") == 1


async def test_a_fresh_task_that_amux_does_not_know_yet_has_its_grace(rig: Rig) -> None:
    poller = rig.poller()
    watch = await rig.register("task_late", poller)
    await rig.sandbox.polled("task_late", 6)
    assert (await rig.view(watch)).watch.state is WatchState.ACTIVE
    live = poller.live(watch.task_row)
    assert live is not None
    assert live.last_error is not None
    assert live.last_error.code == "task_not_found"
    rig.sandbox.create_task(DONE, "task_late")
    await rig.until(lambda: poller.owned == 0)
    assert await rig.outcome(watch) is Outcome.COMPLETED


async def test_past_its_grace_a_third_not_found_ends_a_watch_and_leaves_a_younger_one(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "bridge.polling")
    rig.sandbox.create_task(RUNNING, "task_gone")
    old = await rig.register("task_gone", age=61)
    young = await rig.register("task_gone")
    rig.sandbox.change("task_gone", Behaviour(faults=(Fault(FaultKind.NOT_FOUND_400, times=None),)))
    poller = rig.poller()
    await poller.start()
    await rig.until(lambda: bool(rig.owed))
    assert await rig.outcome(old) is Outcome.UNAVAILABLE
    [data] = rig.told(old)
    assert data["status"] == "unknown"
    assert isinstance(data["error"], dict)
    assert data["error"]["code"] == "task_not_found"
    [line] = [one.__dict__["bridge_fields"] for one in caplog.records if one.getMessage() == "settled"]
    assert (line["watch_id"], line["outcome"]) == (old.watch.id, Outcome.UNAVAILABLE)
    assert (line["error"], line["reason"]) == (data["error"]["code"], data["error"]["message"])
    assert rig.sandbox.polls["task_gone"] >= 3
    assert (await rig.view(young)).watch.state is WatchState.ACTIVE
    assert poller.owned == 1


@pytest.mark.parametrize(
    ("kind", "times", "code"),
    [(FaultKind.FORBIDDEN_TASK, 3, "task_forbidden"), (FaultKind.REJECTED, 5, "poll_rejected")],
)
async def test_refusals_in_a_row_end_a_watch(rig: Rig, kind: FaultKind, times: int, code: str) -> None:
    poller = rig.poller()
    spared = rig.sandbox.create_task(
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
    ended = rig.sandbox.create_task(Behaviour(faults=(Fault(kind, times=times),)))
    good, bad = await rig.register(spared, poller), await rig.register(ended, poller)
    await rig.until(lambda: poller.owned == 0)
    assert await rig.outcome(good) is Outcome.COMPLETED
    assert await rig.outcome(bad) is Outcome.UNAVAILABLE
    assert rig.sandbox.polls[ended] == times
    [data] = rig.told(bad)
    assert isinstance(data["error"], dict)
    assert data["error"]["code"] == code


async def test_each_sight_is_told_once_and_only_to_who_asked(rig: Rig) -> None:
    poller = rig.poller()
    task_id = rig.sandbox.create_task(Behaviour(queue_seconds=0.1, run_seconds=3600))
    asking, silent = await rig.register(task_id, poller, events=SIGHTS), await rig.register(task_id, poller)
    await rig.until(lambda: len(rig.owed) == 2)
    late = await rig.register(task_id, poller, events=SIGHTS)
    await rig.until(lambda: len(rig.owed) == 3)
    rig.sandbox.change(task_id, DONE)
    await rig.until(lambda: poller.owned == 0)
    assert rig.types(asking) == ["video.queued", "video.in_progress", "video.completed"]
    assert rig.types(silent) == ["video.completed"]
    assert rig.types(late) == ["video.in_progress", "video.completed"]


async def test_a_status_is_written_when_it_changes_and_not_at_each_poll(rig: Rig) -> None:
    poller = rig.poller()
    task_id = rig.sandbox.create_task(RUNNING)
    watch = await rig.register(task_id, poller)
    await rig.sandbox.polled(task_id, 5)
    stored = (await rig.view(watch)).task
    assert stored.snapshot.status is TaskStatus.IN_PROGRESS
    assert stored.note.polls == 1
    live = poller.live(watch.task_row)
    assert live is not None
    assert live.polls >= 4
    assert live.last_polled_at == pytest.approx(rig.store.now(), abs=1)
    assert live.next_poll_at == pytest.approx(rig.store.now(), abs=1)


async def test_a_word_we_do_not_know_is_no_end(rig: Rig) -> None:
    poller = rig.poller()
    task_id = rig.sandbox.create_task(
        Behaviour(
            queue_seconds=0, run_seconds=3600, running_word="pondering", faults=(Fault(FaultKind.BAD_GATEWAY_HTML),)
        )
    )
    watch = await rig.register(task_id, poller)
    await rig.sandbox.polled(task_id, 4)
    live = poller.live(watch.task_row)
    assert live is not None
    assert live.snapshot.status is TaskStatus.UNKNOWN
    assert live.last_error is not None  # the proxy's page, kept with its time
    counted = rig.metrics.registry.get_sample_value("amux_bridge_unknown_status_words_total")
    assert counted is not None
    assert counted >= 2
    rig.sandbox.change(task_id, DONE)
    await rig.until(lambda: poller.owned == 0)


async def test_a_restart_polls_on(rig: Rig) -> None:
    own = await rig.register(rig.sandbox.create_task(RUNNING), api_key="sk-own-key")
    watches = [own, *[await rig.register(rig.sandbox.create_task(RUNNING)) for _ in range(20)]]
    poller = rig.poller()
    await poller.start()
    assert poller.owned == 21
    for watch in watches:
        await rig.sandbox.polled(watch.watch.task_id)
        rig.sandbox.change(watch.watch.task_id, DONE)
    await rig.until(lambda: poller.owned == 0)
    assert rig.sandbox.last_key[own.watch.task_id] == "sk-own-key"
    assert rig.sandbox.last_key[watches[1].watch.task_id] == "sk-configured-key"


async def test_a_task_that_lost_its_last_watch_is_polled_no_more(rig: Rig) -> None:
    poller = rig.poller()
    task_id = rig.sandbox.create_task(RUNNING)
    first, second = [await rig.register(task_id, poller) for _ in range(2)]
    await rig.sandbox.polled(task_id)
    await rig.store.cancel(first.watch.id, None)
    poller.look_again(first.task_row)
    await rig.sandbox.polled(task_id, rig.sandbox.polls[task_id] + 2)
    assert poller.owned == 1
    await rig.store.cancel(second.watch.id, None)
    poller.look_again(second.task_row)
    await rig.until(lambda: poller.owned == 0)
    assert rig.owed == []


async def test_a_dropped_task_in_mid_poll_is_forgotten_with_its_answer(rig: Rig) -> None:
    poller = rig.poller()
    task_id = rig.sandbox.create_task(
        Behaviour(queue_seconds=0, run_seconds=0, faults=(Fault(FaultKind.SLOW, seconds=0.1),))
    )
    watch = await rig.register(task_id, poller)
    await rig.sandbox.polled(task_id)
    poller.drop(watch.task_row)
    assert poller.live(watch.task_row) is None
    await poller.drain(5)
    assert rig.owed == []


async def test_a_lost_task_is_let_go(rig: Rig) -> None:
    poller = rig.poller()
    task_id = rig.sandbox.create_task(RUNNING)
    await rig.register(task_id, poller)
    await rig.sandbox.polled(task_id, 2)
    rig.take_over()
    rig.sandbox.change(task_id, DONE)
    await rig.until(lambda: poller.owned == 0)
    assert rig.owed == []


async def test_forgetting_all_leaves_nothing_under_way(rig: Rig) -> None:
    poller = rig.poller()
    watches = [await rig.register(rig.sandbox.create_task(RUNNING), poller) for _ in range(5)]
    await asyncio.gather(*(rig.sandbox.polled(watch.watch.task_id) for watch in watches))
    poller.forget_all()
    assert poller.owned == 0
    await poller.drain(5)
    before = rig.sandbox.polls.total()
    poller.tick()
    assert rig.sandbox.polls.total() == before


async def test_draining_lets_a_poll_end_and_writes_what_it_said(rig: Rig) -> None:
    poller = rig.poller(QUICK)
    task_id = rig.sandbox.create_task(
        Behaviour(queue_seconds=0, run_seconds=0, faults=(Fault(FaultKind.SLOW, seconds=0.2),))
    )
    watch = await rig.register(task_id, poller)
    await rig.sandbox.polled(task_id)
    await poller.drain(5)
    assert await rig.outcome(watch) is Outcome.COMPLETED
    assert rig.types(watch) == ["video.completed"]

"""Claims and records: what is owed is never lost, and what was sent is not sent again for want of a record."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from aiohttp import web

from bridge.core.model import TERMINAL_EVENTS, DeliveryState, EventType
from bridge.core.schedule import RetryPolicy
from tests.delivery.harness import SAFETY_SECONDS, Receiver, Stage, hang, ok, settlement, stages, status

LATER = RetryPolicy(delays=(1000,))
WITH_SIGHTS = TERMINAL_EVENTS | {EventType.IN_PROGRESS}


@pytest.fixture
async def stage(sqlite_url: str, tmp_path: Path) -> AsyncIterator[Stage]:
    async with stages(tmp_path) as made:
        yield made


# --- what is due --------------------------------------------------------------------------------------------------


async def test_what_was_due_before_the_start_is_sent(stage: Stage) -> None:
    receiver = await stage.receiver(ok)
    due = await stage.due(receiver.url, 3)
    await stage.deliverer()
    views = await stage.recorded(*due)
    assert [view.state for view in views] == [DeliveryState.DELIVERED] * 3


async def test_a_retry_that_is_asked_for_sends_a_dead_delivery_again_under_its_id(stage: Stage) -> None:
    receiver = await stage.receiver(status(410), ok)
    deliverer = await stage.deliverer()
    [owed] = await stage.owed(receiver.url)
    deliverer.hand_over([owed])
    await stage.recorded(owed)
    assert (await stage.store.retry(owed.id, None)).state is DeliveryState.PENDING
    deliverer.wake()
    [view] = await stage.recorded(owed, times=2)
    assert (view.state, view.attempts) == (DeliveryState.DELIVERED, 2)
    assert receiver.ids == [owed.id, owed.id]


async def test_nothing_is_asked_while_nothing_is_due(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    for name in ("due_hosts", "next_due_at", "claim"):
        real = getattr(stage.store, name)

        def noted(*args: object, name: str = name, real: object = real) -> object:
            asked.append(name)
            stage.changed.set()
            return real(*args)  # type: ignore[operator]

        monkeypatch.setattr(stage.store, name, noted)
    receiver = await stage.receiver(status(500))
    deliverer = await stage.deliverer(policy=LATER)
    stage.stop_ticking()
    await stage.until(lambda: asked == ["due_hosts", "next_due_at"])  # at the start
    [owed] = await stage.owed(receiver.url)
    deliverer.hand_over([owed])
    await stage.recorded(owed)
    stage.clock.ahead += 3.0
    deliverer.tick()
    assert not deliverer._backlog.due.is_set()
    stage.clock.ahead += 3.0
    deliverer.tick()
    await stage.until(lambda: len(asked) == 3)
    assert asked[2:] == ["next_due_at"]


# --- leases -------------------------------------------------------------------------------------------------------


async def test_a_claim_that_leaves_no_time_for_an_attempt_is_given_back_and_claimed_anew(stage: Stage) -> None:
    receiver = await stage.receiver(hang)
    stage.store.delivery_lease_seconds = 12.0  # 4 s it may be old, 5 s for the attempt, 5 s for its record
    deliverer = await stage.deliverer()
    [owed] = await stage.owed(receiver.url)
    deliverer.hand_over([owed])
    await stage.until(lambda: receiver.under_way)
    assert stage.lease_of(owed) != owed.lease


async def test_a_claim_as_old_as_its_event_is_given_back(stage: Stage) -> None:
    receiver = await stage.receiver(hang)
    deliverer = await stage.deliverer()
    [owed] = await stage.owed(receiver.url)
    deliverer.hand_over([replace(owed, created_at=owed.created_at - 55)])
    await stage.until(lambda: receiver.under_way)
    assert stage.lease_of(owed) != owed.lease


@pytest.mark.parametrize("ticked", [True, False])
async def test_what_waited_until_its_claim_is_about_to_end_is_not_sent_under_it(stage: Stage, ticked: bool) -> None:  # noqa: FBT001
    receiver = await stage.receiver(hang)
    deliverer = await stage.deliverer(start=False)
    [owed] = await stage.owed(receiver.url)
    deliverer.hand_over([owed])
    stage.clock.ahead += 60 - 4 - 5 - 5
    if ticked:
        deliverer.tick()
    await deliverer.start()
    stage.keep_ticking(deliverer)
    await stage.until(lambda: receiver.under_way)
    assert stage.lease_of(owed) != owed.lease
    receiver.released.set()
    [view] = await stage.recorded(owed)
    assert (view.attempts, receiver.ids) == (1, [owed.id])


async def test_a_result_under_a_claim_that_is_gone_is_dropped(stage: Stage) -> None:
    receiver = await stage.receiver(hang)
    deliverer = await stage.deliverer()
    [owed] = await stage.owed(receiver.url)
    deliverer.hand_over([owed])
    await stage.until(lambda: receiver.under_way)
    stage.sql("UPDATE outbox SET lease = 'another', holder = 'rep_other' WHERE id = ?", owed.id)
    receiver.released.set()
    await stage.until(lambda: stage.told.of("attempt_dropped"))
    view = await stage.view(owed.id)
    assert (view.state, view.attempts) == (DeliveryState.PENDING, 0)
    assert stage.told.of("delivered") == []


async def test_one_that_is_claimed_again_while_it_is_sent_is_recorded_under_the_new_claim(stage: Stage) -> None:
    receiver = await stage.receiver(hang)
    deliverer = await stage.deliverer()
    [owed] = await stage.owed(receiver.url)
    deliverer.hand_over([owed])
    await stage.until(lambda: receiver.under_way)
    stage.sql("UPDATE outbox SET lease = NULL, due_at = 0 WHERE id = ?", owed.id)
    [other] = await stage.owed(receiver.url)
    await stage.store.release([other])
    deliverer.wake()
    await stage.until(lambda: len(receiver.calls) == 2)  # the other one, claimed together with it
    receiver.released.set()
    [view, _] = await stage.recorded(owed, other)
    assert (view.state, view.attempts) == (DeliveryState.DELIVERED, 1)
    assert sorted(receiver.ids) == sorted([owed.id, other.id])


# --- records ------------------------------------------------------------------------------------------------------


async def test_a_record_that_the_store_refuses_is_written_once_it_heals_and_nothing_is_sent_meanwhile(
    stage: Stage,
) -> None:
    async def ok_without_a_disk(_receiver: Receiver) -> web.Response:
        stage.take_file_away()
        return web.Response()

    receiver = await stage.receiver(ok_without_a_disk, ok)
    deliverer = await stage.deliverer()
    [owed, other] = await stage.owed(receiver.url, 2)
    deliverer.hand_over([owed])
    await stage.until(lambda: stage.told.of("attempts_unwritten"))
    deliverer.hand_over([other])
    stage.clock.ahead += 0.6
    deliverer.tick()  # tried again, in vain
    assert receiver.ids == [owed.id]
    stage.bring_file_back()
    stage.clock.ahead += 6.0
    views = await stage.recorded(owed, other)
    assert [(view.state, view.attempts) for view in views] == [(DeliveryState.DELIVERED, 1)] * 2
    assert receiver.ids == [owed.id, other.id]
    assert len(stage.told.of("attempts_unwritten")) == len(stage.told.of("store_writes_again")) == 1


async def test_one_record_that_is_refused_holds_nothing_up_and_is_written_under_a_later_claim(stage: Stage) -> None:
    receiver = await stage.receiver(ok)
    deliverer = await stage.deliverer()
    [owed, other] = await stage.owed(receiver.url, 2)
    stage.sql(
        f"CREATE TRIGGER refuse BEFORE INSERT ON attempts WHEN NEW.delivery_id = '{owed.id}' "
        "BEGIN SELECT RAISE(ABORT, 'not this one'); END"
    )
    deliverer.hand_over([owed])
    await stage.until(lambda: stage.told.of("attempts_unwritten"))
    stage.clock.ahead += 0.6
    await stage.until(lambda: stage.told.of("store_writes_again"))
    deliverer.hand_over([other])
    await stage.recorded(other)
    stage.sql("UPDATE outbox SET due_at = 0 WHERE id = ?", owed.id)  # its claim has ended
    stage.sql("DROP TRIGGER refuse")
    deliverer.wake()
    [view] = await stage.recorded(owed)
    assert (view.state, view.attempts) == (DeliveryState.DELIVERED, 1)
    assert receiver.ids == [owed.id, other.id]


async def test_a_store_that_does_not_answer_is_asked_again(stage: Stage) -> None:
    receiver = await stage.receiver(ok)
    deliverer = await stage.deliverer()
    due = await stage.due(receiver.url)
    stage.take_file_away()
    deliverer.wake()
    await stage.until(lambda: stage.told.of("backlog_unread"))
    stage.bring_file_back()
    stage.clock.ahead += 1.0
    await stage.recorded(*due)


# --- final watches ------------------------------------------------------------------------------------------------


async def test_a_status_event_that_waits_is_not_sent_once_its_watch_has_ended(stage: Stage) -> None:
    receiver = await stage.receiver(ok)
    deliverer = await stage.deliverer(start=False)
    [task] = await stage.watched(receiver.url, events=WITH_SIGHTS)
    deliverer.hand_over(await stage.sighted(task))
    changed = await stage.store.settle(settlement(task, stage.store.now()))
    deliverer.hand_over(changed.claimed)
    await deliverer.start()
    stage.keep_ticking(deliverer)
    await stage.recorded(*changed.claimed)
    assert receiver.ids == [one.id for one in changed.claimed]


async def test_a_status_event_that_waits_is_not_sent_once_its_watch_is_cancelled(stage: Stage) -> None:
    receiver = await stage.receiver(ok)
    deliverer = await stage.deliverer(start=False)
    [task] = await stage.watched(receiver.url, events=WITH_SIGHTS)
    [sight] = await stage.sighted(task)
    deliverer.hand_over([sight])
    await stage.store.cancel(sight.watch_id, None)
    deliverer.forget([sight.watch_id])
    await deliverer.start()
    [last] = await stage.owed(receiver.url)
    deliverer.hand_over([last])
    await stage.recorded(last)
    assert receiver.ids == [last.id]


# --- draining -----------------------------------------------------------------------------------------------------


async def test_draining_lets_attempts_end_and_gives_back_what_waits(stage: Stage) -> None:
    receiver = await stage.receiver(hang)
    deliverer = await stage.deliverer(per_host=1)
    [owed, waiting, late] = await stage.owed(receiver.url, 3)
    deliverer.hand_over([owed, waiting])
    await stage.until(lambda: receiver.under_way)
    draining = asyncio.create_task(deliverer.drain(SAFETY_SECONDS))
    await asyncio.sleep(0)
    deliverer.hand_over([late])
    deliverer.wake()
    receiver.released.set()
    await draining
    assert receiver.ids == [owed.id]
    assert (await stage.view(owed.id)).state is DeliveryState.DELIVERED
    assert await stage.store.due_hosts() == {receiver.host: 2}
    deliverer.hand_over([late])  # too late for anything, and no harm


async def test_draining_ends_in_time_and_what_was_cut_stays_owed(stage: Stage) -> None:
    receiver = await stage.receiver(hang)
    deliverer = await stage.deliverer()
    [owed] = await stage.owed(receiver.url)
    deliverer.hand_over([owed])
    await stage.until(lambda: receiver.under_way)
    await deliverer.drain(0.01)
    assert stage.told.of("drain_cut") == [{"deliveries": 1, "means": "they are sent again after the start"}]
    assert (await stage.view(owed.id)).state is DeliveryState.PENDING


async def test_draining_tries_to_write_what_the_store_refused(stage: Stage) -> None:
    async def ok_without_a_disk(_receiver: Receiver) -> web.Response:
        stage.take_file_away()
        return web.Response()

    receiver = await stage.receiver(ok_without_a_disk)
    deliverer = await stage.deliverer()
    [owed] = await stage.owed(receiver.url)
    deliverer.hand_over([owed])
    await stage.until(lambda: stage.told.of("attempts_unwritten"))
    stage.stop_ticking()
    stage.bring_file_back()
    stage.clock.ahead += 1.0
    await deliverer.drain(SAFETY_SECONDS)
    assert (await stage.view(owed.id)).state is DeliveryState.DELIVERED


async def test_a_fault_of_our_own_costs_one_delivery_its_turn_and_nothing_else(stage: Stage) -> None:
    receiver = await stage.receiver(ok)
    deliverer = await stage.deliverer(per_host=1)
    broken, well = await stage.owed(receiver.url, 2)
    deliverer.hand_over([replace(broken, callback_url=None), well])  # type: ignore[arg-type]
    await stage.recorded(well)
    assert receiver.ids == [well.id]

"""Claims and records: no pending delivery is lost, and none is sent again because its record could not be written."""

import asyncio
from dataclasses import replace
from math import inf
from typing import Any

import pytest
from aiohttp import web

from bridge.core.model import TERMINAL_EVENTS, DeliveryState, EventType
from bridge.core.schedule import RetryPolicy
from bridge.store.lease import Lease
from tests.delivery.harness import Harness, Receiver, hang, ok, settlement, status
from tests.waiting import SAFETY_SECONDS

LATER = RetryPolicy(delays=(1000,))
WITH_STATUS_EVENTS = TERMINAL_EVENTS | {EventType.IN_PROGRESS}


# --- what is due --------------------------------------------------------------------------------------------------


async def test_deliveries_that_were_due_before_the_start_are_sent(harness: Harness) -> None:
    receiver = await harness.receiver(ok)
    due = await harness.due(receiver.url, 3)
    await harness.deliverer()
    views = await harness.recorded(*due)
    assert [view.state for view in views] == [DeliveryState.DELIVERED] * 3


async def test_a_requested_retry_sends_a_dead_delivery_again_under_its_id(harness: Harness) -> None:
    receiver = await harness.receiver(status(410), ok)
    deliverer = await harness.deliverer()
    [delivery] = await harness.claimed(receiver.url)
    deliverer.add_new([delivery])
    await harness.recorded(delivery)
    assert (await harness.store.retry(delivery.id, None)).state is DeliveryState.PENDING
    deliverer.wake()
    [view] = await harness.recorded(delivery, times=2)
    assert (view.state, view.attempts) == (DeliveryState.DELIVERED, 2)
    assert receiver.ids == [delivery.id, delivery.id]


async def test_the_outbox_is_not_queried_while_nothing_is_due(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    queries: list[str] = []
    for name in ("due_hosts", "next_due_at", "claim"):
        real = getattr(harness.store, name)

        def record(*args: object, name: str = name, real: object = real) -> object:
            queries.append(name)
            harness.changed.set()
            return real(*args)  # type: ignore[operator]

        monkeypatch.setattr(harness.store, name, record)
    receiver = await harness.receiver(status(500))
    deliverer = await harness.deliverer(policy=LATER)
    harness.stop_ticking()
    await harness.until(lambda: queries == ["due_hosts", "next_due_at"])  # at the start
    [delivery] = await harness.claimed(receiver.url)
    deliverer.add_new([delivery])
    await harness.recorded(delivery)
    harness.clock.ahead += 3.0
    deliverer.tick()
    assert not deliverer._claimer.due.is_set()
    harness.clock.ahead += 3.0
    deliverer.tick()
    await harness.until(lambda: len(queries) == 3)
    assert queries[2:] == ["next_due_at"]


# --- leases -------------------------------------------------------------------------------------------------------


async def test_a_claim_that_leaves_no_time_for_an_attempt_is_released_and_claimed_again(harness: Harness) -> None:
    receiver = await harness.receiver(hang)
    # An attempt needs 14 s of its claim: 4 s for the claim's age, 5 s for the attempt and 5 s for its record.
    harness.store.delivery_lease_seconds = 12.0
    deliverer = await harness.deliverer()
    [delivery] = await harness.claimed(receiver.url)
    deliverer.add_new([delivery])
    await harness.until(lambda: receiver.under_way)
    assert harness.lease_of(delivery) != delivery.lease


async def test_the_claim_of_an_old_event_is_released(harness: Harness) -> None:
    receiver = await harness.receiver(hang)
    deliverer = await harness.deliverer()
    [delivery] = await harness.claimed(receiver.url)
    deliverer.add_new([replace(delivery, created_at=delivery.created_at - 55)])
    await harness.until(lambda: receiver.under_way)
    assert harness.lease_of(delivery) != delivery.lease


@pytest.mark.parametrize("ticked", [True, False])
async def test_a_delivery_is_not_sent_under_a_claim_that_is_about_to_end(harness: Harness, ticked: bool) -> None:  # noqa: FBT001
    receiver = await harness.receiver(hang)
    deliverer = await harness.deliverer(start=False)
    [delivery] = await harness.claimed(receiver.url)
    deliverer.add_new([delivery])
    harness.clock.ahead += 60 - 4 - 5 - 5
    if ticked:
        deliverer.tick()
    await deliverer.start()
    harness.keep_ticking(deliverer)
    await harness.until(lambda: receiver.under_way)
    assert harness.lease_of(delivery) != delivery.lease
    receiver.released.set()
    [view] = await harness.recorded(delivery)
    assert (view.attempts, receiver.ids) == (1, [delivery.id])


async def test_a_result_under_a_lost_claim_is_dropped(harness: Harness) -> None:
    receiver = await harness.receiver(hang)
    deliverer = await harness.deliverer()
    [delivery] = await harness.claimed(receiver.url)
    deliverer.add_new([delivery])
    await harness.until(lambda: receiver.under_way)
    harness.sql("UPDATE outbox SET lease = 'another', holder = 'rep_other' WHERE id = ?", delivery.id)
    receiver.released.set()
    await harness.until(lambda: harness.log.of("attempt_dropped"))
    view = await harness.view(delivery.id)
    assert (view.state, view.attempts) == (DeliveryState.PENDING, 0)
    assert harness.log.of("delivered") == []


async def test_a_delivery_that_is_claimed_again_during_its_attempt_is_recorded_under_the_new_claim(
    harness: Harness,
) -> None:
    receiver = await harness.receiver(hang)
    deliverer = await harness.deliverer()
    [delivery] = await harness.claimed(receiver.url)
    deliverer.add_new([delivery])
    await harness.until(lambda: receiver.under_way)
    harness.sql("UPDATE outbox SET lease = NULL, due_at = 0 WHERE id = ?", delivery.id)
    [other] = await harness.claimed(receiver.url)
    await harness.store.release([other])
    deliverer.wake()
    await harness.until(lambda: len(receiver.calls) == 2)  # the other delivery was claimed together with this one
    receiver.released.set()
    [view, _] = await harness.recorded(delivery, other)
    assert (view.state, view.attempts) == (DeliveryState.DELIVERED, 1)
    assert sorted(receiver.ids) == sorted([delivery.id, other.id])


async def test_a_settlement_that_is_answered_after_this_replica_rejoined_is_not_sent(harness: Harness) -> None:
    receiver = await harness.receiver(ok)
    deliverer = await harness.deliverer()
    harness.stop_ticking()
    [late] = await harness.claimed(receiver.url)
    harness.sql("UPDATE replicas SET epoch = epoch + 1")
    harness.store.replica = replace(harness.store.replica, epoch=harness.store.replica.epoch + 1)
    [new] = await harness.claimed(receiver.url)
    deliverer.add_new([late, new])
    assert set(deliverer._claimed) == {new.id}  # `late` is released, and sent later under a new claim
    await harness.recorded(new, late)
    assert sorted(receiver.ids) == sorted([late.id, new.id])


async def test_a_settlement_that_is_answered_after_the_lease_has_ended_is_released(harness: Harness) -> None:
    lease = Lease(harness.clock)
    lease.end()
    receiver = await harness.receiver(ok)
    deliverer = await harness.deliverer(lease=lease)
    [late] = await harness.claimed(receiver.url)
    deliverer.add_new([late])
    assert deliverer._claimed == {}
    lease.until = inf
    deliverer.wake()
    await harness.recorded(late)
    assert receiver.ids == [late.id]
    assert deliverer._claimed == {}


async def test_a_waiting_delivery_is_not_sent_between_the_end_of_the_lease_and_the_next_tick(harness: Harness) -> None:
    """A process that was frozen continues where it stopped. The answer to its attempt may come before any tick."""
    lease = Lease(harness.clock)
    receiver = await harness.receiver(hang)
    deliverer = await harness.deliverer(lease=lease, per_host=1)
    harness.stop_ticking()
    first, waiting = await harness.claimed(receiver.url, 2)
    deliverer.add_new([first, waiting])
    await harness.until(lambda: receiver.under_way)
    lease.until = harness.clock()
    receiver.released.set()
    await harness.recorded(first)
    assert (deliverer._hosts.busy, receiver.ids) == (0, [first.id])  # the slot is free, and nothing has begun
    lease.until = inf
    deliverer.tick()
    await harness.recorded(waiting)
    assert receiver.ids == [first.id, waiting.id]


@pytest.mark.parametrize("known", [False, True])
async def test_a_claim_that_is_answered_after_this_replica_rejoined_is_not_sent(
    harness: Harness,
    monkeypatch: pytest.MonkeyPatch,
    known: bool,  # noqa: FBT001
) -> None:
    """`known`: this deliverer already has the same delivery under a newer claim, which must stay."""
    receiver = await harness.receiver(hang)
    answered: list[str] = []
    real = harness.store.claim

    async def claim_then_rejoin(*arguments: Any) -> Any:
        found = await real(*arguments)
        if found and not answered:
            answered.extend(one.id for one in found)
            if known:
                newer = [replace(one, lease="newer", claimed_by=("new", 1)) for one in found]
            harness.store.replica = replace(harness.store.replica, id="new", epoch=1)
            if known:
                deliverer.add_new(newer)
            harness.changed.set()
        return found

    monkeypatch.setattr(harness.store, "claim", claim_then_rejoin)
    [due] = await harness.due(receiver.url)
    deliverer = await harness.deliverer()
    await harness.until(lambda: answered == [due.id])
    await asyncio.sleep(0)  # the claimer handles the late answer in this turn of the event loop
    if known:
        assert deliverer._claimed[due.id].delivery.lease == "newer"
    else:
        assert due.id not in deliverer._claimed
    assert len(receiver.ids) <= known


# --- records ------------------------------------------------------------------------------------------------------


async def test_a_refused_record_is_written_when_the_store_recovers_and_nothing_is_sent_before(
    harness: Harness,
) -> None:
    async def ok_and_remove_the_file(_receiver: Receiver) -> web.Response:
        harness.remove_file()
        return web.Response()

    receiver = await harness.receiver(ok_and_remove_the_file, ok)
    deliverer = await harness.deliverer()
    [delivery, other] = await harness.claimed(receiver.url, 2)
    deliverer.add_new([delivery])
    await harness.until(lambda: harness.log.of("attempts_unwritten"))
    deliverer.add_new([other])
    harness.clock.ahead += 0.6
    deliverer.tick()  # the next try fails too
    assert receiver.ids == [delivery.id]
    harness.restore_file()
    harness.clock.ahead += 6.0
    views = await harness.recorded(delivery, other)
    assert [(view.state, view.attempts) for view in views] == [(DeliveryState.DELIVERED, 1)] * 2
    assert receiver.ids == [delivery.id, other.id]
    assert len(harness.log.of("attempts_unwritten")) == len(harness.log.of("store_writes_again")) == 1


async def test_one_refused_record_delays_no_other_delivery_and_is_written_under_a_later_claim(harness: Harness) -> None:
    receiver = await harness.receiver(ok)
    deliverer = await harness.deliverer()
    [delivery, other] = await harness.claimed(receiver.url, 2)
    harness.sql(
        f"CREATE TRIGGER refuse BEFORE INSERT ON attempts WHEN NEW.delivery_id = '{delivery.id}' "
        "BEGIN SELECT RAISE(ABORT, 'not this one'); END"
    )
    deliverer.add_new([delivery])
    await harness.until(lambda: harness.log.of("attempts_unwritten"))
    harness.clock.ahead += 0.6
    await harness.until(lambda: harness.log.of("store_writes_again"))
    deliverer.add_new([other])
    await harness.recorded(other)
    harness.sql("UPDATE outbox SET due_at = 0 WHERE id = ?", delivery.id)  # as if its claim had ended
    harness.sql("DROP TRIGGER refuse")
    deliverer.wake()
    [view] = await harness.recorded(delivery)
    assert (view.state, view.attempts) == (DeliveryState.DELIVERED, 1)
    assert receiver.ids == [delivery.id, other.id]


async def test_a_store_that_does_not_answer_is_queried_again(harness: Harness) -> None:
    receiver = await harness.receiver(ok)
    deliverer = await harness.deliverer()
    due = await harness.due(receiver.url)
    harness.remove_file()
    deliverer.wake()
    await harness.until(lambda: harness.log.of("outbox_unavailable"))
    harness.restore_file()
    harness.clock.ahead += 1.0
    await harness.recorded(*due)


# --- final watches ------------------------------------------------------------------------------------------------


async def test_a_waiting_status_event_is_not_sent_after_its_watch_has_settled(harness: Harness) -> None:
    receiver = await harness.receiver(ok)
    deliverer = await harness.deliverer(start=False)
    [task] = await harness.watch(receiver.url, events=WITH_STATUS_EVENTS)
    deliverer.add_new(await harness.status_events(task))
    changed = await harness.store.settle(settlement(task, harness.store.now()))
    deliverer.add_new(changed.claimed)
    await deliverer.start()
    harness.keep_ticking(deliverer)
    await harness.recorded(*changed.claimed)
    assert receiver.ids == [one.id for one in changed.claimed]


async def test_a_waiting_status_event_is_not_sent_after_its_watch_is_cancelled(harness: Harness) -> None:
    receiver = await harness.receiver(ok)
    deliverer = await harness.deliverer(start=False)
    [task] = await harness.watch(receiver.url, events=WITH_STATUS_EVENTS)
    [status_event] = await harness.status_events(task)
    deliverer.add_new([status_event])
    await harness.store.cancel(status_event.watch_id, None)
    deliverer.drop_status_events([status_event.watch_id])
    await deliverer.start()
    [last] = await harness.claimed(receiver.url)
    deliverer.add_new([last])
    await harness.recorded(last)
    assert receiver.ids == [last.id]


@pytest.mark.parametrize("way", ["settled", "cancelled"])
async def test_a_claimed_status_event_is_not_sent_after_its_watch_has_ended_elsewhere(
    harness: Harness, way: str
) -> None:
    """Another replica, or a write of a moment ago, has ended the watch. This deliverer does not know that yet."""
    receiver = await harness.receiver(ok)
    deliverer = await harness.deliverer()
    [task] = await harness.watch(receiver.url, events=WITH_STATUS_EVENTS)
    [status_event] = await harness.status_events(task)
    if way == "settled":
        await harness.store.settle(settlement(task, harness.store.now()))
    else:
        await harness.store.cancel(status_event.watch_id, None)
    [marker] = await harness.claimed(receiver.url)
    deliverer.add_new([status_event, marker])
    await harness.recorded(marker)
    assert status_event.id not in receiver.ids
    await deliverer.drain(SAFETY_SECONDS)
    assert (await harness.view(status_event.id)).state is DeliveryState.DEAD


# --- draining -----------------------------------------------------------------------------------------------------


async def test_draining_lets_attempts_end_and_releases_what_waits(harness: Harness) -> None:
    receiver = await harness.receiver(hang)
    deliverer = await harness.deliverer(per_host=1)
    [delivery, waiting, late] = await harness.claimed(receiver.url, 3)
    deliverer.add_new([delivery, waiting])
    await harness.until(lambda: receiver.under_way)
    draining = asyncio.create_task(deliverer.drain(SAFETY_SECONDS))
    await asyncio.sleep(0)
    deliverer.add_new([late])
    deliverer.wake()
    receiver.released.set()
    await draining
    assert receiver.ids == [delivery.id]
    assert (await harness.view(delivery.id)).state is DeliveryState.DELIVERED
    assert await harness.store.due_hosts() == {receiver.host: 2}
    deliverer.add_new([late])  # a call after the drain has no effect


async def test_draining_ends_in_time_and_a_delivery_that_it_cuts_stays_pending(harness: Harness) -> None:
    receiver = await harness.receiver(hang)
    deliverer = await harness.deliverer()
    [delivery] = await harness.claimed(receiver.url)
    deliverer.add_new([delivery])
    await harness.until(lambda: receiver.under_way)
    await deliverer.drain(0.01)
    assert [line["deliveries"] for line in harness.log.of("drain_cut")] == [1]
    assert (await harness.view(delivery.id)).state is DeliveryState.PENDING


async def test_draining_writes_the_records_that_the_store_has_refused(harness: Harness) -> None:
    async def ok_and_remove_the_file(_receiver: Receiver) -> web.Response:
        harness.remove_file()
        return web.Response()

    receiver = await harness.receiver(ok_and_remove_the_file)
    deliverer = await harness.deliverer()
    [delivery] = await harness.claimed(receiver.url)
    deliverer.add_new([delivery])
    await harness.until(lambda: harness.log.of("attempts_unwritten"))
    harness.stop_ticking()
    harness.restore_file()
    harness.clock.ahead += 1.0
    await deliverer.drain(SAFETY_SECONDS)
    assert (await harness.view(delivery.id)).state is DeliveryState.DELIVERED


async def test_an_internal_error_affects_one_delivery_only(harness: Harness) -> None:
    receiver = await harness.receiver(ok)
    deliverer = await harness.deliverer(per_host=1)
    broken, good = await harness.claimed(receiver.url, 2)
    deliverer.add_new([replace(broken, callback_url=None), good])  # type: ignore[arg-type]
    await harness.recorded(good)
    assert receiver.ids == [good.id]

"""Paused receivers: their deliveries wait and use up no attempt, and no other receiver waits for them."""

from collections.abc import Sequence

import pytest

from bridge.core.audit import Actor, Role
from bridge.core.model import DeliveryState
from bridge.core.operations import Notice
from bridge.core.receivers import ReceiverHealth, duration_quantile
from bridge.core.schedule import RetryPolicy
from bridge.delivery.deliverer import Deliverer
from bridge.delivery.receivers import Receivers
from tests.delivery.harness import Harness, hang, ok, status

OPS = Actor("ops", Role.OPERATOR)
LATER = RetryPolicy(delays=(1000,))


class NoNotices:
    """Checks that no notice is published, because notices are off."""

    def publish(self, notices: Sequence[Notice]) -> None:
        assert not notices


async def started(harness: Harness, policy: RetryPolicy = LATER) -> tuple[Deliverer, Receivers]:
    deliverer = await harness.deliverer(policy=policy, per_host=2)
    return deliverer, Receivers(harness.store, deliverer, NoNotices(), harness.metrics)


async def test_a_paused_receivers_deliveries_wait_and_use_up_no_attempt(harness: Harness) -> None:
    paused, other = await harness.receiver(ok), await harness.receiver(ok)
    deliverer, receivers = await started(harness)
    await receivers.pause(paused.host, OPS)
    waiting = await harness.claimed(paused.url, 3)
    deliverer.add_new(waiting)  # these are new
    due = await harness.due(paused.url, 3)  # these were due before
    deliverer.wake()
    others = await harness.claimed(other.url)
    deliverer.add_new(others)
    await harness.recorded(*others)
    assert paused.calls == []
    views = [await harness.view(one.id) for one in (*waiting, *due)]
    assert {(view.state, view.attempts) for view in views} == {(DeliveryState.PENDING, 0)}
    assert (await receivers.resume(paused.host, OPS)).pause is None
    views = await harness.recorded(*waiting, *due)
    assert {(view.state, view.attempts) for view in views} == {(DeliveryState.DELIVERED, 1)}
    assert len(paused.calls) == 6


async def test_what_waits_in_memory_is_released_and_an_attempt_under_way_ends_as_usual(harness: Harness) -> None:
    receiver = await harness.receiver(hang)
    deliverer, receivers = await started(harness)
    deliveries = await harness.claimed(receiver.url, 5)
    deliverer.add_new(deliveries)
    await harness.until(lambda: receiver.under_way == 2)
    await receivers.pause(receiver.host, OPS)
    receiver.released.set()
    await harness.until(lambda: len(harness.announced) == 2)
    await harness.until(lambda: not deliverer._claimer.releasing)
    assert len(receiver.calls) == 2
    assert sorted([(await harness.view(one.id)).attempts for one in deliveries]) == [0, 0, 0, 1, 1]
    assert harness.sql("SELECT count(*) FROM outbox WHERE lease IS NOT NULL") == [(0,)]


async def test_a_claim_that_is_answered_after_its_receiver_was_paused_is_released_unsent(harness: Harness) -> None:
    receiver = await harness.receiver(ok)
    deliverer, receivers = await started(harness)
    [late] = await harness.claimed(receiver.url)
    await receivers.pause(receiver.host, OPS)
    deliverer.accept([late], harness.clock())
    assert deliverer._claimed == {}
    await deliverer._claimer.work()
    assert harness.sql("SELECT lease FROM outbox") == [(None,)]
    assert (receiver.calls, deliverer._claimer._due_counts) == ([], {})


async def test_the_outbox_is_not_queried_all_the_time_because_of_a_paused_backlog(harness: Harness) -> None:
    receiver = await harness.receiver(ok)
    deliverer, receivers = await started(harness)
    await receivers.pause(receiver.host, OPS)
    harness.stop_ticking()
    await harness.due(receiver.url, 3)
    await deliverer._claimer.work()
    deliverer._claimer.due.clear()
    deliverer.tick()
    assert not deliverer._claimer.due.is_set()


async def test_a_pause_survives_a_restart(harness: Harness) -> None:
    receiver, other = await harness.receiver(ok), await harness.receiver(ok)
    _, receivers = await started(harness)
    await receivers.pause(receiver.host, OPS)
    again, receivers = await started(harness)
    deliveries = await harness.claimed(receiver.url)
    again.add_new(deliveries)
    others = await harness.claimed(other.url)
    again.add_new(others)
    await harness.recorded(*others)
    assert receiver.calls == []
    await receivers.resume(receiver.host, OPS)
    await harness.recorded(*deliveries)


async def test_a_replica_follows_what_another_one_has_changed(harness: Harness) -> None:
    receiver = await harness.receiver(ok)
    deliverer, receivers = await started(harness)
    await harness.store.receivers.pause(receiver.host, OPS)  # as another replica does
    await receivers.refresh()
    deliveries = await harness.claimed(receiver.url)
    deliverer.add_new(deliveries)
    assert harness.metrics.paused_receivers._value.get() == 1
    await harness.store.receivers.resume(receiver.host, OPS)
    await receivers.refresh()
    await harness.recorded(*deliveries)
    assert harness.metrics.paused_receivers._value.get() == 0


async def test_a_failing_receiver_stays_paused_and_is_probed_again_after_that(harness: Harness) -> None:
    receiver = await harness.receiver(status(503), status(503), status(503), ok)
    deliverer, receivers = await started(harness, RetryPolicy(delays=(0, 0, 0)))
    [delivery] = await harness.claimed(receiver.url)
    deliverer.add_new([delivery])
    await harness.until(lambda: harness.announced[delivery.watch_id] >= 3)
    await receivers.pause(receiver.host, OPS)
    [one] = await receivers.all()
    assert one.pause is not None
    await receivers.resume(receiver.host, OPS)
    await harness.until(lambda: len(receiver.calls) >= 4)


async def test_each_attempt_counts_in_its_receivers_figures_and_each_write_once(harness: Harness) -> None:
    receiver = await harness.receiver(status(500, "no"), ok)
    deliverer, receivers = await started(harness, RetryPolicy(delays=(0,)))
    [delivery] = await harness.claimed(receiver.url)
    deliverer.add_new([delivery])
    await harness.recorded(delivery, times=2)
    for _ in range(2):
        [one] = await receivers.all()
        assert (one.name, one.health, one.pending) == (receiver.host, ReceiverHealth.HEALTHY, 0)
        assert (one.figures.attempts, one.figures.delivered, one.success_share) == (2, 1, 0.5)
        assert one.figures.last is not None and one.figures.last.status_code == 200
        assert duration_quantile(one.figures.durations, 0.99) is not None
    # The figures of a process that ended are kept.
    _, again = await started(harness)
    assert [found.figures.attempts for found in await again.all()] == [2]


async def test_figures_that_could_not_be_written_are_written_later(harness: Harness) -> None:
    receiver = await harness.receiver(ok)
    deliverer, receivers = await started(harness)
    deliveries = await harness.claimed(receiver.url, 2)
    deliverer.add_new(deliveries)
    await harness.recorded(*deliveries)
    harness.remove_file()
    with pytest.raises(Exception, match="database"):
        await receivers.write_figures()
    harness.restore_file()
    await receivers.write_figures()
    assert (await harness.store.receivers.one(receiver.host)).figures.attempts == 2


async def test_who_paused_and_resumed_is_logged_once(harness: Harness, caplog: pytest.LogCaptureFixture) -> None:
    _, receivers = await started(harness)
    with caplog.at_level("INFO", logger="bridge.receivers"):
        for _ in range(2):
            await receivers.pause("app.example:443", OPS)
        for _ in range(2):
            await receivers.resume("app.example:443", Actor("night shift", Role.OPERATOR))
    lines = [(one.getMessage(), one.__dict__["bridge_fields"]) for one in caplog.records]
    assert [(event, fields["host"], fields["by"]) for event, fields in lines] == [
        ("receiver_paused", "app.example:443", "ops"),
        ("receiver_resumed", "app.example:443", "night shift"),
    ]

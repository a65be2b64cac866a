"""When the claimer queries the outbox again, and what happens to claims during a write. The clock is a number."""

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from bridge.aio.retry_queue import store_pause
from bridge.core.errors import StoreUnavailable
from bridge.core.model import DeliveryState, PendingDelivery
from bridge.core.schedule import RetryPolicy
from bridge.delivery.claimer import LONGEST_PAUSE, Claimer
from bridge.delivery.fairness import HostQueues
from tests.delivery.harness import Harness, ok, status

HOST = "app.example:443"


class Bench:
    """A claimer that works only when the test calls it. The bench is also the claimer's owner."""

    def __init__(self, harness: Harness) -> None:
        self.now = 1_000.0
        self.hosts = HostQueues(concurrency=8, per_host=2)
        self.claimer = Claimer(harness.store, self.hosts, self, lease_seconds=60.0, clock=lambda: self.now)

    def is_open(self) -> bool:
        return True

    def accept(self, deliveries: Sequence[PendingDelivery], claim_started: float) -> None:
        raise AssertionError("nothing is due")

    def ticked(self) -> bool:
        """Ticks, and returns whether the claimer then has work."""
        self.claimer.due.clear()
        self.claimer.tick()
        return self.claimer.due.is_set()


@pytest.fixture
def bench(harness: Harness) -> Iterator[Bench]:
    made = Bench(harness)
    yield made
    made.claimer.stop()


async def test_after_an_outage_the_outbox_is_queried_after_a_pause_and_not_before(
    harness: Harness, bench: Bench
) -> None:
    harness.remove_file()
    await bench.claimer.work()
    assert harness.log.of("outbox_unavailable")
    bench.now += store_pause(1) - 0.01
    assert not bench.ticked()
    bench.claimer._due_counts[HOST] = 1
    bench.claimer.note_room(bench.hosts.get(HOST))
    assert not bench.claimer.due.is_set()
    bench.claimer._due_counts.clear()
    harness.restore_file()
    bench.now += 0.01
    assert bench.ticked(), "long before the next regular query"
    await bench.claimer.work()
    assert harness.log.of("outbox_available")


async def test_a_delivery_that_is_due_soon_moves_the_next_query_forward_and_never_back(
    harness: Harness, bench: Bench
) -> None:
    await bench.claimer.work()
    assert bench.claimer._query_at == bench.now + LONGEST_PAUSE
    bench.claimer.note_due_at(harness.store.now() + LONGEST_PAUSE + 10.0)
    assert bench.claimer._query_at == bench.now + LONGEST_PAUSE
    bench.claimer.note_due_at(harness.store.now() + 2.0)
    assert bench.claimer._query_at == pytest.approx(bench.now + 2.0, abs=0.5)
    assert bench.claimer._timer is not None
    assert bench.claimer._timer.when() - asyncio.get_running_loop().time() < LONGEST_PAUSE - 1.0


async def test_a_moment_that_is_noted_during_a_query_is_not_forgotten(
    harness: Harness, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def noted_meanwhile() -> None:
        bench.claimer.note_due_at(harness.store.now() + 1.0)

    await bench.claimer.work()
    monkeypatch.setattr(harness.store, "next_due_at", noted_meanwhile)
    bench.now += LONGEST_PAUSE
    await bench.claimer.work()
    assert bench.claimer._query_at - bench.now < LONGEST_PAUSE - 1.0


async def test_the_claimer_gets_the_time_of_each_retry(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    receiver = await harness.receiver(status(500))
    deliverer = await harness.deliverer(policy=RetryPolicy(delays=(1000,)))
    noted: list[float] = []
    monkeypatch.setattr(deliverer._claimer, "note_due_at", noted.append)
    [delivery] = await harness.claimed(receiver.url)
    deliverer.add_new([delivery])
    [view] = await harness.recorded(delivery)
    assert noted == [view.next_attempt_at]


async def test_an_attempt_whose_record_was_written_although_its_answer_was_lost_counts_once(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    receiver = await harness.receiver(status(500), ok)
    deliverer = await harness.deliverer()
    record_attempts = harness.store.record_attempts
    lost: list[Any] = []

    async def lose_the_first_answer(*arguments: Any, **options: Any) -> Any:
        written = await record_attempts(*arguments, **options)
        if not lost:
            lost.extend(written)
            raise StoreUnavailable("the database does not answer")
        return written

    monkeypatch.setattr(harness.store, "record_attempts", lose_the_first_answer)
    harness.stop_ticking()
    [delivery] = await harness.claimed(receiver.url)
    deliverer.add_new([delivery])
    await harness.until(lambda: harness.log.of("attempts_unwritten"))
    again = await harness.store.claim({receiver.host: 1}, 60.0)  # stands for a claim that was under way
    assert [one.attempts for one in again] == [1]
    deliverer.accept(again, harness.clock())
    harness.keep_ticking(deliverer)
    await harness.until(lambda: harness.log.of("delivered"))
    view = await harness.view(delivery.id)
    assert (view.state, view.attempts, len(receiver.calls)) == (DeliveryState.DELIVERED, 2, 2)

"""Fairness between hosts, seen at the receivers: the limits hold, and no host delays another."""

from bridge.core.model import DeliveryState
from bridge.core.schedule import RetryPolicy
from tests.delivery.harness import Harness, Receiver, hang, ok, status

LATER = RetryPolicy(delays=(1000,))


async def test_one_host_gets_eight_attempts_at_a_time_and_each_delivery_is_sent_once(harness: Harness) -> None:
    receiver = await harness.receiver(hang)
    deliverer = await harness.deliverer()
    deliveries = await harness.claimed(receiver.url, 150)
    deliverer.add_new(deliveries)
    await harness.until(lambda: receiver.under_way == 8)
    assert len(receiver.calls) == 8
    receiver.released.set()
    views = await harness.recorded(*deliveries)
    assert {view.state for view in views} == {DeliveryState.DELIVERED}
    assert sorted(receiver.ids) == sorted(one.id for one in deliveries)
    assert receiver.most_under_way == 8


async def test_a_backlog_is_sent_with_eight_attempts_at_a_time(harness: Harness) -> None:
    receiver = await harness.receiver(ok)
    due = await harness.due(receiver.url, 200)
    await harness.deliverer()
    await harness.recorded(*due)
    assert sorted(receiver.ids) == sorted(one.id for one in due)
    assert receiver.most_under_way <= 8


async def test_all_hosts_together_stay_within_the_concurrency(harness: Harness) -> None:
    receivers = [await harness.receiver(hang) for _ in range(6)]
    deliverer = await harness.deliverer(concurrency=4, per_host=2)
    deliveries = [one for receiver in receivers for one in await harness.claimed(receiver.url, 3)]
    deliverer.add_new(deliveries)
    await harness.until(lambda: sum(one.under_way for one in receivers) >= 3)
    for receiver in receivers:
        receiver.released.set()
    await harness.recorded(*deliveries)
    assert sum(one.most_under_way for one in receivers) >= 4
    assert max(one.most_under_way for one in receivers) <= 2
    assert sum(len(one.calls) for one in receivers) == 18


async def test_hosts_that_hang_do_not_delay_another(harness: Harness) -> None:
    hanging = [await harness.receiver(hang) for _ in range(30)]
    healthy = await harness.receiver(ok)
    due = [one for receiver in hanging for one in await harness.due(receiver.url, 10)]
    deliverer = await harness.deliverer(timeout_seconds=60)
    await harness.until(lambda: all(one.under_way for one in hanging))
    deliveries = await harness.claimed(healthy.url, 50)
    deliverer.add_new(deliveries)
    waited = await harness.due(healthy.url, 50)
    deliverer.wake()
    await harness.recorded(*deliveries, *waited)
    assert all(one.under_way for one in hanging), "the hosts still hang"
    assert not set(harness.announced) & {one.watch_id for one in due}


async def failing_host(harness: Harness) -> Receiver:
    """Returns a receiver that has answered 503 three times. The deliverer that sent to it has stopped."""
    receiver = await harness.receiver(status(503))
    deliverer = await harness.deliverer(policy=LATER)
    deliveries = await harness.claimed(receiver.url, 3)
    deliverer.add_new(deliveries)
    await harness.recorded(*deliveries)
    await deliverer.drain(5.0)
    harness.stop_ticking()
    return receiver


async def test_a_failing_host_gets_one_attempt_at_a_time_also_after_a_restart(harness: Harness) -> None:
    receiver = await failing_host(harness)
    assert await harness.store.host_failures() == {receiver.host: 3}
    receiver.answers, receiver.most_under_way = [status(503)] * 4 + [hang, ok], 0
    due = await harness.due(receiver.url, 20)
    await harness.deliverer(policy=LATER)
    await harness.until(lambda: len(receiver.calls) == 3 + 5)  # four attempts fail, then one hangs
    assert (receiver.under_way, receiver.most_under_way) == (1, 1)
    await harness.until(lambda: sum(harness.announced[one.watch_id] for one in due) == 4)  # all are recorded
    assert await harness.store.host_failures() == {receiver.host: 7}
    receiver.released.set()
    await harness.recorded(*due)
    assert await harness.store.host_failures() == {}


async def test_nothing_waits_in_memory_for_a_failing_host(harness: Harness) -> None:
    receiver = await harness.receiver(hang)
    deliverer = await harness.deliverer(timeout_seconds=0.3, policy=LATER)
    deliveries = await harness.claimed(receiver.url, 40)
    deliverer.add_new(deliveries)
    await harness.until(lambda: harness.log.of("host_failing"))
    leased = "SELECT id FROM outbox WHERE lease IS NOT NULL"
    await harness.until(lambda: len(harness.sql(leased)) <= 1)  # only the probe has a claim
    assert len(receiver.calls) <= 14  # 8 at first, 2 after the first failures, and probes


async def test_a_host_that_answers_500_is_not_failing(harness: Harness) -> None:
    receiver = await harness.receiver(status(500))
    deliverer = await harness.deliverer(policy=LATER)
    deliveries = await harness.claimed(receiver.url, 5)
    deliverer.add_new(deliveries)
    await harness.recorded(*deliveries)
    assert await harness.store.host_failures() == {}


async def test_the_failures_of_a_failing_host_are_summed_up_in_the_log(harness: Harness) -> None:
    receiver = await harness.receiver(*[status(503)] * 10, ok)
    deliverer = await harness.deliverer(per_host=1)
    deliveries = await harness.claimed(receiver.url + "?token=hidden", 4)
    deliverer.add_new(deliveries)
    await harness.until(lambda: len(harness.log.of("delivered")) == 4)
    assert [line["failures"] for line in harness.log.of("host_failing")] == [3]
    assert [line["failures"] for line in harness.log.of("host_recovered")] == [10]
    lines = harness.log.of("attempt")
    assert {line["watch_id"] for line in lines} == {
        one.watch_id for one in deliveries
    }  # the first failure of each delivery
    assert len(lines) <= 3 + 4  # later failures are summed up in `host_failing`; a success is the line `delivered`
    line = lines[0]
    assert (line["status_code"], line["error"], line["attempt"], line["app"]) == (503, "http_503", 1, "app")
    assert line["reason"] == "the receiver answered 503"
    assert line["next_attempt_at"] is not None
    assert "stays pending" in line["means"]
    assert line["callback_url"] == receiver.url
    assert "hidden" not in str(harness.log.lines)

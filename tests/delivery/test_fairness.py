"""Between hosts: limits hold at the server, and nobody's trouble is another's."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bridge.core.model import DeliveryState
from bridge.core.schedule import RetryPolicy
from tests.delivery.harness import Receiver, Stage, hang, ok, stages, status

LATER = RetryPolicy(delays=(1000,))


@pytest.fixture
async def stage(sqlite_url: str, tmp_path: Path) -> AsyncIterator[Stage]:
    async with stages(tmp_path) as made:
        yield made


async def test_one_host_has_eight_at_a_time_and_each_delivery_is_sent_once(stage: Stage) -> None:
    receiver = await stage.receiver(hang)
    deliverer = await stage.deliverer()
    owed = await stage.owed(receiver.url, 150)
    deliverer.hand_over(owed)
    await stage.until(lambda: receiver.under_way == 8)
    assert len(receiver.calls) == 8
    receiver.released.set()
    views = await stage.recorded(*owed)
    assert {view.state for view in views} == {DeliveryState.DELIVERED}
    assert sorted(receiver.ids) == sorted(one.id for one in owed)
    assert receiver.most_under_way == 8


async def test_a_backlog_goes_out_with_eight_at_a_time(stage: Stage) -> None:
    receiver = await stage.receiver(ok)
    due = await stage.due(receiver.url, 200)
    await stage.deliverer()
    await stage.recorded(*due)
    assert sorted(receiver.ids) == sorted(one.id for one in due)
    assert receiver.most_under_way <= 8


async def test_all_hosts_together_have_as_many_as_is_set(stage: Stage) -> None:
    receivers = [await stage.receiver(hang) for _ in range(6)]
    deliverer = await stage.deliverer(concurrency=4, per_host=2)
    owed = [one for receiver in receivers for one in await stage.owed(receiver.url, 3)]
    deliverer.hand_over(owed)
    await stage.until(lambda: sum(one.under_way for one in receivers) >= 3)
    for receiver in receivers:
        receiver.released.set()
    await stage.recorded(*owed)
    assert sum(one.most_under_way for one in receivers) >= 4
    assert max(one.most_under_way for one in receivers) <= 2
    assert sum(len(one.calls) for one in receivers) == 18


async def test_hosts_that_hang_do_not_delay_another(stage: Stage) -> None:
    hanging = [await stage.receiver(hang) for _ in range(30)]
    well = await stage.receiver(ok)
    due = [one for receiver in hanging for one in await stage.due(receiver.url, 10)]
    deliverer = await stage.deliverer(timeout_seconds=60)
    await stage.until(lambda: all(one.under_way for one in hanging))
    owed = await stage.owed(well.url, 50)
    deliverer.hand_over(owed)
    waited = await stage.due(well.url, 50)
    deliverer.wake()
    await stage.recorded(*owed, *waited)
    assert all(one.under_way for one in hanging), "they hang still"
    assert not set(stage.announced) & {one.watch_id for one in due}


async def failing_host(stage: Stage) -> Receiver:
    """A host that has answered 503 three times, and the deliverer that saw it is gone."""
    receiver = await stage.receiver(status(503))
    deliverer = await stage.deliverer(policy=LATER)
    owed = await stage.owed(receiver.url, 3)
    deliverer.hand_over(owed)
    await stage.recorded(*owed)
    await deliverer.drain(5.0)
    stage.stop_ticking()
    return receiver


async def test_a_failing_host_is_asked_by_one_attempt_at_a_time_after_a_restart_too(stage: Stage) -> None:
    receiver = await failing_host(stage)
    assert await stage.store.host_failures() == {receiver.host: 3}
    receiver.answers, receiver.most_under_way = [status(503)] * 4 + [hang, ok], 0
    due = await stage.due(receiver.url, 20)
    await stage.deliverer(policy=LATER)
    await stage.until(lambda: len(receiver.calls) == 3 + 5)  # four that fail, and one that hangs
    assert (receiver.under_way, receiver.most_under_way) == (1, 1)
    await stage.until(lambda: sum(stage.announced[one.watch_id] for one in due) == 4)  # recorded
    assert await stage.store.host_failures() == {receiver.host: 7}
    receiver.released.set()
    await stage.recorded(*due)
    assert await stage.store.host_failures() == {}


async def test_nothing_waits_in_memory_for_a_host_that_fails(stage: Stage) -> None:
    receiver = await stage.receiver(hang)
    deliverer = await stage.deliverer(timeout_seconds=0.3, policy=LATER)
    owed = await stage.owed(receiver.url, 40)
    deliverer.hand_over(owed)
    await stage.until(lambda: stage.told.of("host_failing"))
    leased = "SELECT id FROM outbox WHERE lease IS NOT NULL"
    await stage.until(lambda: len(stage.sql(leased)) <= 1)  # the probe's
    assert len(receiver.calls) <= 14  # 8 at first, 2 that the first failures made room for, and probes


async def test_a_host_that_answers_with_an_error_of_its_own_is_not_failing(stage: Stage) -> None:
    receiver = await stage.receiver(status(500))
    deliverer = await stage.deliverer(policy=LATER)
    owed = await stage.owed(receiver.url, 5)
    deliverer.hand_over(owed)
    await stage.recorded(*owed)
    assert await stage.store.host_failures() == {}


async def test_a_failing_hosts_flood_is_summed_up(stage: Stage) -> None:
    receiver = await stage.receiver(*[status(503)] * 10, ok)
    deliverer = await stage.deliverer(per_host=1)
    owed = await stage.owed(receiver.url + "?token=hidden", 4)
    deliverer.hand_over(owed)
    await stage.until(lambda: len(stage.told.of("delivered")) == 4)
    assert [line["failures"] for line in stage.told.of("host_failing")] == [3]
    assert [line["failures"] for line in stage.told.of("host_recovered")] == [10]
    lines = stage.told.of("attempt")
    assert {line["watch_id"] for line in lines} == {one.watch_id for one in owed}  # each life has its first failure
    assert len(lines) <= 3 + 4  # then `host_failing` speaks for them, and an arrival is one line, `delivered`
    line = lines[0]
    assert (line["status_code"], line["error"], line["attempt"], line["app"]) == (503, "http_503", 1, "app")
    assert line["reason"] == "the receiver answered 503"
    assert line["next_attempt_at"] is not None
    assert "stays owed" in line["means"]
    assert line["callback_url"] == receiver.url
    assert "hidden" not in str(stage.told.lines)

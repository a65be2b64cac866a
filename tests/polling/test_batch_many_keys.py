"""Batch lanes of many keys: no task waits because of other keys, or because there are many keys."""

from collections.abc import AsyncIterator

import pytest

from bridge.amux.client import AmuxClient
from bridge.core.model import Outcome
from bridge.polling import lane_schedule, lanes, schedule
from tests.polling.batch_amux import BATCH, Bench, row, rows, single
from tests.polling.harness import QUICK


def key_of(number: int) -> str:
    """Returns a key with a length of its own, because the harness names a credential by the length of its key."""
    return f"sk-key-of-app-{'x' * number}"


async def test_tasks_of_more_keys_than_idle_lanes_are_kept_are_all_read_after_a_start(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schedule, "RELEASED_AT_ONCE", 10)
    monkeypatch.setattr(lane_schedule, "RELEASED_AT_ONCE", 10)
    monkeypatch.setattr(lanes, "MAX_IDLE_LANES", 10)
    bench.poller = bench.harness.poller(QUICK, client=bench.poller._client, batch=BATCH)
    for number in range(20):
        await bench.register(f"task_{number}", api_key=key_of(number), polled=False)
    await bench.poller.load()
    await bench.harness.until(lambda: all(bench.amux.polls[each] or bench.amux.asked(each) for each in bench.watches))


@pytest.fixture
async def patient(bench: Bench) -> AsyncIterator[Bench]:
    """A bench whose client waits ten minutes for an answer."""
    client = AmuxClient(bench.poller._client._base_url, user_agent="amux-bridge/test", timeout_seconds=600)
    bench.poller = bench.harness.poller(QUICK, client=client, batch=BATCH)
    yield bench
    bench.amux.gate.set()
    await bench.poller.drain(0.5)
    await client.close()


async def test_the_lane_of_a_key_with_tasks_is_not_forgotten(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "MAX_IDLE_LANES", 10)
    bench.poller = bench.harness.poller(QUICK, client=bench.poller._client, batch=BATCH)
    bench.amux.batch = lambda _ids: (404, {})
    for number in range(25):
        await bench.register(f"task_{number}", api_key=key_of(number))
    found = bench.poller._lanes
    assert found is not None
    assert len(found._lanes) == 26  # the configured key has a lane too
    bench.amux.singles = {each: single(each, "SUCCESS") for each in bench.watches}
    await bench.end()
    for number in range(25, 28):
        await bench.register(f"task_{number}", api_key=key_of(number))
    assert len(found._lanes) <= 13
    assert {bench.task(f"task_{number}").credential.lane for number in range(25, 28)} <= set(found._lanes.values())


async def test_keys_whose_batches_hang_do_not_keep_the_tasks_of_other_keys_waiting(patient: Bench) -> None:
    """The route never answers. Only as many tasks wait for it as there may be batches under way."""
    patient.amux.gate.clear()
    for number in range(12):
        await patient.register(f"task_{number}", api_key=key_of(number))
    await patient.harness.until(lambda: sum(patient.amux.polls[each] > 0 for each in patient.watches) >= 10)
    assert len(patient.amux.batches) == BATCH.concurrency
    patient.amux.singles = {each: single(each, "SUCCESS") for each in patient.watches}
    await patient.harness.until(lambda: patient.poller.owned <= BATCH.concurrency)


async def test_large_lanes_behind_batches_that_hang_are_read_singly(
    patient: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lanes, "SMALL_LANE", 3)
    names: dict[int, list[str]] = {}
    for number in range(5):
        names[number] = [f"task_{number}_{place}" for place in range(6)]
        await patient.register(*names[number], api_key=key_of(number))
    await patient.batched(*patient.watches)
    patient.amux.gate.clear()
    before = patient.amux.polls.copy()
    await patient.harness.until(
        lambda: sum(patient.amux.polls[each] > before[each] for each in patient.watches) >= 3 * len(names[0])
    )
    patient.amux.singles = {each: single(each, "SUCCESS") for each in patient.watches}
    patient.amux.batch = lambda ids: rows(*(row(each, "SUCCESS") for each in ids))
    patient.amux.gate.set()
    await patient.end()
    assert set((await patient.outcomes()).values()) == {Outcome.COMPLETED}


async def test_a_rate_limit_keeps_no_key_waiting_for_batches_that_hang(patient: Bench) -> None:
    client = patient.poller._client
    patient.poller = patient.harness.poller(QUICK, client=client, batch=BATCH, rate=200)
    patient.amux.gate.clear()
    for number in range(8):
        await patient.register(f"task_{number}", api_key=key_of(number))
    await patient.harness.until(lambda: sum(patient.amux.polls[each] > 0 for each in patient.watches) >= 6)
    patient.amux.gate.set()
    await patient.poller.drain(0.5)

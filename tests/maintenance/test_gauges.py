"""The gauges of the database: when each is counted."""

import pytest

from bridge.maintenance import read_pace
from bridge.maintenance.gauges import StoreGauges
from tests.polling.harness import RUNNING, Harness
from tests.store.builders import dead_delivery, due_delivery


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def values(harness: Harness) -> tuple[float | None, ...]:
    names = ("active_watches", "pending_deliveries", "dead_deliveries")
    return tuple(harness.metrics.registry.get_sample_value(f"amux_bridge_{name}") for name in names)


async def test_few_active_watches_are_counted_at_each_update(harness: Harness) -> None:
    clock = Clock()
    store_gauges = StoreGauges(harness.store, harness.metrics, clock)
    await store_gauges.update()
    assert values(harness) == (0, 0, 0)
    await harness.register(harness.sandbox.create_task(RUNNING))
    await due_delivery(harness.store)
    await dead_delivery(harness.store)
    clock.now += 5.0
    await store_gauges.update()
    assert values(harness) == (1, 1, 1)
    await harness.register(harness.sandbox.create_task(RUNNING))
    clock.now += 5.0
    await store_gauges.update()
    assert values(harness) == (2, 1, 1)


async def test_the_more_active_watches_there_are_the_less_often_they_are_counted(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read_pace, "READ_PER_SECOND", 0.25)  # three watches: at most every 12 s
    clock = Clock()
    store_gauges = StoreGauges(harness.store, harness.metrics, clock)
    for _ in range(3):
        await harness.register(harness.sandbox.create_task(RUNNING))
    await store_gauges.update()
    await harness.register(harness.sandbox.create_task(RUNNING))
    await due_delivery(harness.store)
    active = []
    for clock.now in (105.0, 111.9, 112.0):
        await store_gauges.update()
        active.append(values(harness)[0])
        assert values(harness)[1:] == (1, 0)
    assert active == [3, 3, 4]

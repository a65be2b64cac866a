"""Results of attempts that meet an unexpected error, which is neither an outage of the store nor a lost claim."""

from collections.abc import Sequence
from typing import Any

import pytest

from bridge.core.model import DeliveryState
from bridge.store.records import AttemptResult
from tests.delivery.harness import Harness


async def test_results_whose_write_fails_unexpectedly_are_written_later(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    receiver = await harness.receiver()
    deliverer = await harness.deliverer()
    record_attempts = harness.store.record_attempts
    failed: list[int] = []

    async def fail_once(attempts: Sequence[AttemptResult], **options: Any) -> Any:
        if not failed:
            failed.append(len(attempts))
            raise KeyError("a bug")
        return await record_attempts(attempts, **options)

    monkeypatch.setattr(harness.store, "record_attempts", fail_once)
    deliveries = await harness.claimed(receiver.url, 5)
    deliverer.add_new(deliveries)
    views = await harness.recorded(*deliveries)
    assert [(view.state, view.attempts) for view in views] == [(DeliveryState.DELIVERED, 1)] * 5
    assert sorted(receiver.ids) == sorted(one.id for one in deliveries)
    assert deliverer._writer.unwritten == 0
    [line] = harness.log.of("attempts_write_failed")
    assert line["count"] == failed[0]


async def test_a_result_that_cannot_be_written_is_dropped_and_keeps_no_other_one_back(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    receiver = await harness.receiver()
    deliverer = await harness.deliverer()
    [bad, *others] = deliveries = await harness.claimed(receiver.url, 5)
    record_attempts = harness.store.record_attempts

    async def fail_for_one(attempts: Sequence[AttemptResult], **options: Any) -> Any:
        if any(attempt.delivery_id == bad.id for attempt in attempts):
            raise TypeError("a bug")
        return await record_attempts(attempts, **options)

    monkeypatch.setattr(harness.store, "record_attempts", fail_for_one)
    deliverer.add_new(deliveries)
    views = await harness.recorded(*others)
    assert [(view.state, view.attempts) for view in views] == [(DeliveryState.DELIVERED, 1)] * 4
    await harness.until(lambda: deliverer._writer.unwritten == 0)
    assert (await harness.view(bad.id)).state is DeliveryState.PENDING
    assert harness.log.of("attempts_write_failed")[-1]["delivery_id"] == bad.id
    # The claim ends, and the bug is gone.
    monkeypatch.setattr(harness.store, "record_attempts", record_attempts)
    harness.sql("UPDATE outbox SET due_at = 0, set_at = 0 WHERE id = ?", bad.id)
    deliverer.wake()
    await harness.until(lambda: bad.id in [line["delivery_id"] for line in harness.log.of("delivered")])
    assert sorted(receiver.ids) == sorted([bad.id, *(one.id for one in deliveries)])

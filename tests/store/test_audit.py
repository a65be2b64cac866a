"""The audit trail: who cancelled, resent, paused and resumed. It is read with the watch and deleted with it."""

import pytest

from bridge.core.audit import Action, Actor, AuditEntry, Role
from bridge.core.errors import NotFound, WatchSettled
from bridge.store.records import DeadFilter
from bridge.store.store import Store
from tests.store.builders import (
    DELIVERED,
    HOST,
    attempt_result,
    claimed_delivery,
    dead_delivery,
    execute,
    one_row,
    record_attempt,
    register_watch,
)
from tests.store.feed import delete_ended
from tests.store.test_query_plans import READS_ALL, plans

OPS = Actor("ops", Role.OPERATOR)
APP = Actor("app", Role.APP)


async def trail(store: Store, watch_id: str) -> list[tuple[Action, Actor]]:
    return [(one.action, one.by) for one in (await store.watch(watch_id, None)).audit]


async def test_a_cancellation_has_who_did_it_and_a_repeated_one_changes_nothing(store: Store) -> None:
    watch = (await register_watch(store)).watch
    before = store.now()
    await store.cancel(watch.id, "app", APP)
    view = await store.cancel(watch.id, None, OPS)
    [one] = view.audit
    assert one == AuditEntry(one.at, Action.CANCELLED, APP, watch.id)
    assert before <= one.at <= store.now()


async def test_a_retry_has_who_asked_for_it_and_the_delivery(store: Store) -> None:
    one = await dead_delivery(store)
    other = await dead_delivery(store)
    await store.retry(one.id, "app", APP)
    await store.retry_dead(DeadFilter(), OPS)
    assert [(entry.action, entry.by, entry.delivery_id) for entry in (await store.watch(one.watch_id, None)).audit] == [
        (Action.RESENT, APP, one.id)
    ]
    assert await trail(store, other.watch_id) == [(Action.RESENT, OPS)]


async def test_a_retry_that_changes_nothing_is_not_in_the_trail(store: Store) -> None:
    one = await dead_delivery(store)
    await store.receivers.pause(HOST, OPS)
    for _ in range(5):
        await store.retry(one.id, "app", APP)
    assert [action for action, _ in await trail(store, one.watch_id)].count(Action.RESENT) == 1
    execute(store, "UPDATE deliveries SET next_attempt_at = :later", later=store.now() + 500)
    await store.retry(one.id, None, OPS)
    assert (await trail(store, one.watch_id))[-1] == (Action.RESENT, OPS)


async def test_a_retry_that_is_requested_during_an_attempt_is_in_the_trail_once(store: Store) -> None:
    one = await claimed_delivery(store)
    for _ in range(3):
        await store.retry(one.id, "app", APP)
    assert await trail(store, one.watch_id) == [(Action.RESENT, APP)]


async def test_what_was_refused_is_not_in_the_trail(store: Store) -> None:
    one = await dead_delivery(store)
    with pytest.raises(NotFound):
        await store.retry(one.id, "other", APP)
    with pytest.raises(WatchSettled):
        await store.cancel(one.watch_id, None, OPS)
    assert one_row(store, "SELECT count(*) FROM audit") == 0


async def test_a_watch_shows_the_pauses_of_its_receiver_in_its_own_time(store: Store) -> None:
    for change in (store.receivers.pause, store.receivers.resume, store.receivers.pause):
        await change(HOST, OPS)  # the last pause still lasts when the watch is registered
    execute(store, "UPDATE audit SET at = at - 100")
    one = await claimed_delivery(store)
    await store.receivers.resume(HOST, APP)
    assert await trail(store, one.watch_id) == [(Action.PAUSED, OPS), (Action.RESUMED, APP)]
    await record_attempt(store, attempt_result(store, one, DELIVERED, at=store.now() + 1))
    await store.receivers.pause(HOST, OPS)
    execute(store, "UPDATE audit SET at = at + 100 WHERE at > :at", at=store.now() - 50)
    later = [(Action.PAUSED, OPS)]  # the other two actions came after the end of the watch
    assert await trail(store, one.watch_id) == later
    assert (await store.watch((await claimed_delivery(store, host="other.example:443")).watch_id, None)).audit == ()


async def test_retention_deletes_the_trail_with_the_watch_and_old_pauses(store: Store) -> None:
    one = await dead_delivery(store, at=store.now() - 5_000)
    kept = await dead_delivery(store)
    for delivery in (one, kept):
        await store.retry(delivery.id, None, OPS)
    execute(store, "UPDATE deliveries SET state = 'dead', dead_at = 1.0")
    execute(store, "DELETE FROM outbox")
    execute(store, "UPDATE watches SET ended_at = 1.0 WHERE id = :id", id=one.watch_id)
    await store.receivers.pause(HOST, OPS)
    execute(store, "UPDATE audit SET at = 1.0 WHERE receiver IS NOT NULL")
    await store.receivers.resume(HOST, OPS)
    assert await delete_ended(store, 1_000.0, 10) == 1
    assert one_row(store, "SELECT count(*) FROM audit WHERE watch_id = :id", id=one.watch_id) == 0
    assert one_row(store, "SELECT count(*) FROM audit WHERE watch_id = :id", id=kept.watch_id) == 1
    assert one_row(store, "SELECT action FROM audit WHERE receiver IS NOT NULL") == "resumed"


async def test_reading_and_deleting_the_trail_uses_its_indexes(sqlite_store: Store) -> None:
    watch = (await register_watch(sqlite_store)).watch
    with plans(sqlite_store) as steps:
        await sqlite_store.watch(watch.id, None)
    assert "SEARCH audit USING INDEX ix_audit_watch (watch_id=?)" in steps
    assert "SEARCH audit USING INDEX ix_audit_receiver (receiver=?)" in steps
    assert not set(steps).intersection({"SCAN audit", *READS_ALL})
    await sqlite_store.cancel(watch.id, None)

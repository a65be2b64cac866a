"""The queries of the dashboard, on both kinds of database."""

from typing import Any

import pytest

from bridge.core.errors import NotFound
from bridge.core.model import DeliveryState, EventType, Outcome, Problem, TaskStatus, WatchState
from bridge.store.records import WatchQuery
from bridge.store.store import Store
from tests.store.builders import (
    ALL_EVENTS,
    DEAD,
    QUEUED,
    RUNNING,
    SERVER_ERROR,
    attempt_result,
    claimed_delivery,
    dead_delivery,
    due_delivery,
    execute,
    new_watch,
    record_attempt,
    record_status,
    register,
    register_watch,
    retry_at,
    settle,
    unavailable,
)


async def ids(store: Store, limit: int = 50, **conditions: Any) -> list[str]:
    query = WatchQuery(limit, given_up_only=True, **conditions)
    return [view.watch.id for view in (await store.searches.page(query, "operator ops")).views]


# --- the table ----------------------------------------------------------------------------------------------------


async def test_pages_continue_after_the_previous_one_in_both_directions(store: Store) -> None:
    known = [(await register_watch(store)).watch.id for _ in range(5)]
    newest = await ids(store, 2)
    assert newest == known[:2:-1]
    assert await ids(store, 9, cursor=newest[-1]) == known[2::-1]
    assert await ids(store, 2, oldest_first=True) == known[:2]
    assert await ids(store, 9, oldest_first=True, cursor=known[1]) == known[2:]


async def test_filters_find_states_outcomes_hosts_and_callbacks(store: Store) -> None:
    active = (await register_watch(store, host="one.example:443")).watch.id
    waiting = (await due_delivery(store)).watch_id
    given_up = (await dead_delivery(store)).watch_id
    [sent] = (await settle(store, await register_watch(store))).claimed
    await record_attempt(store, attempt_result(store, sent))
    cancelled = (await register_watch(store)).watch.id
    await store.cancel(cancelled, None)
    assert await ids(store, state=WatchState.ACTIVE) == [active]
    assert await ids(store, state=WatchState.CANCELLED) == [cancelled]
    assert set(await ids(store, outcome=Outcome.COMPLETED)) == {waiting, given_up, sent.watch_id}
    assert await ids(store, host="one.example:443") == [active]
    assert await ids(store, delivery_state=DeliveryState.PENDING) == [waiting]
    assert await ids(store, delivery_state=DeliveryState.DEAD) == [given_up]
    assert await ids(store, delivery_state=DeliveryState.DELIVERED) == [sent.watch_id]
    assert await ids(store, delivery_state=DeliveryState.DEAD, state=WatchState.ACTIVE) == []


async def test_a_superseded_status_event_is_not_shown_as_dead(store: Store) -> None:
    one = await register_watch(store, events=ALL_EVENTS)
    await record_status(store, one)
    await settle(store, one)
    assert (await store.dashboard.history(one.watch.id)).view.deliveries[0].state is DeliveryState.DEAD
    assert await ids(store, delivery_state=DeliveryState.DEAD) == []
    assert [receiver for receiver in await store.receivers.in_trouble() if receiver.dead] == []


async def test_a_search_by_tasks_finds_their_active_watches(store: Store) -> None:
    one, other, ended = await register_watch(store), await register_watch(store), await register_watch(store)
    await settle(store, ended)
    rows = (one.view.task.row, ended.view.task.row, "tsk_none")
    assert await ids(store, tasks=rows) == [one.watch.id]
    assert await ids(store, tasks=()) == []
    assert other.watch.id in await ids(store)


async def test_a_watch_is_near_its_deadline_in_the_last_tenth_of_its_time(store: Store) -> None:
    await register_watch(store, age=800.0, timeout=1000.0)
    late = (await register_watch(store, age=910.0, timeout=1000.0)).watch.id
    await settle(store, await register_watch(store, age=990.0, timeout=1000.0))
    assert await store.dashboard.nearing_deadline() == 1
    assert await ids(store, nearing=store.now()) == [late]


# --- receivers ----------------------------------------------------------------------------------------------------


async def test_a_failing_receiver_is_listed_with_its_pending_deliveries(store: Store) -> None:
    await due_delivery(store, host="well.example:443")
    first = await claimed_delivery(store, host="bad.example:443")
    for _ in range(2):
        await due_delivery(store, host="bad.example:443")
    soon = store.now() + 60.0
    await record_attempt(store, attempt_result(store, first, retry_at(soon), host_failures=4))
    assert await store.receivers.failing_count() == 1
    [receiver] = await store.receivers.in_trouble()
    assert (receiver.host, receiver.waiting, receiver.failures, receiver.waiting_error) == (
        "bad.example:443",
        3,
        4,
        SERVER_ERROR,
    )
    assert receiver.next_at is not None
    assert receiver.next_at < soon
    assert (receiver.dead, receiver.dead_error) == (0, None)


async def test_dead_deliveries_are_counted_by_host_with_the_last_error(store: Store) -> None:
    now = store.now()
    for age in (50.0, 10.0, 30.0):
        await dead_delivery(store, host="gone.example:443", at=now - age)
    await dead_delivery(store, host="less.example:80")
    assert [(one.host, one.dead) for one in await store.receivers.in_trouble()] == [
        ("gone.example:443", 3),
        ("less.example:80", 1),
    ]
    assert (await store.receivers.in_trouble())[0].dead_at == pytest.approx(now - 10.0)


# --- one watch ----------------------------------------------------------------------------------------------------


async def test_a_watchs_history_has_its_events_and_every_attempt_in_order(store: Store) -> None:
    one = await register_watch(store, events=ALL_EVENTS)
    [status] = (await record_status(store, one)).claimed
    await record_attempt(store, attempt_result(store, status))
    [end] = (await settle(store, one)).claimed
    await record_attempt(store, attempt_result(store, end, retry_at(store.now())))
    [again] = await store.claim({end.host: 1}, 60.0)
    await record_attempt(store, attempt_result(store, again, DEAD))
    history = await store.dashboard.history(one.watch.id)
    assert [event for event, _ in history.events] == [EventType.IN_PROGRESS, EventType.COMPLETED]
    assert [attempt.status_code for attempt in history.attempts[status.id]] == [204]
    assert [attempt.status_code for attempt in history.attempts[end.id]] == [500, 500]
    assert history.ended_at == history.view.watch.settled_at
    assert history.end_error is None


async def test_a_watchs_history_has_when_each_status_was_first_seen_and_the_error_at_its_end(store: Store) -> None:
    one = await register_watch(store)
    times = []
    for snapshot in (QUEUED, RUNNING, QUEUED, RUNNING):
        times.append(store.now())
        await record_status(store, one, snapshot)
    await settle(store, one, unavailable)
    history = await store.dashboard.history(one.watch.id)
    assert [status for status, _ in history.seen] == [TaskStatus.QUEUED, TaskStatus.IN_PROGRESS]
    assert all(at <= later for (_, at), later in zip(history.seen, times[1:3], strict=True))
    assert history.end_error == Problem("task_not_found", "no such task")


async def test_a_cancelled_watchs_history_has_its_end_and_an_unknown_watch_is_not_found(store: Store) -> None:
    one = await register_watch(store)
    await store.cancel(one.watch.id, None)
    assert (await store.dashboard.history(one.watch.id)).ended_at == pytest.approx(store.now(), abs=5)
    with pytest.raises(NotFound):
        await store.dashboard.history("wat_99999999")


async def test_a_history_has_the_newest_attempts_only(store: Store) -> None:
    one = await dead_delivery(store)
    for _ in range(8):  # doubles the attempts: 1 becomes 256
        execute(
            store,
            "INSERT INTO attempts (delivery_id, started_at, duration_seconds) SELECT delivery_id, 1, 1 FROM attempts",
        )
    assert len((await store.dashboard.history(one.watch_id)).attempts[one.id]) == 200


async def test_the_facts_have_the_stores_size_and_its_replicas(store: Store) -> None:
    await register(store, new_watch(store))
    facts = await store.dashboard.facts()
    assert facts.size_bytes > 10_000
    assert store.replica.id in {replica.id for replica in facts.replicas}
    if store.shared:
        assert (facts.kind, facts.place, facts.free_bytes) == ("PostgreSQL", None, None)
    else:
        assert facts.kind == "SQLite"
        assert facts.free_bytes is not None
        assert facts.disk_bytes is not None
        assert 0 < facts.free_bytes <= facts.disk_bytes


async def test_a_replica_that_handed_its_tasks_over_is_shown_as_leaving_without_tasks(store: Store) -> None:
    await register(store, new_watch(store))
    await store.renew(1)
    [shown] = [replica for replica in (await store.dashboard.facts()).replicas if replica.id == store.replica.id]
    assert (shown.owned_tasks, shown.leaving) == (1, False)
    await store.hand_over()
    [shown] = [replica for replica in (await store.dashboard.facts()).replicas if replica.id == store.replica.id]
    assert (shown.owned_tasks, shown.leaving) == (0, True)

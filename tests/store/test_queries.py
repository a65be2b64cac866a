"""Queries: pages without gaps and repetitions, filters, versions of watches, keys, deadlines."""

import pytest

from bridge.core.errors import NotFound
from bridge.core.model import DeliveryState, Outcome, WatchState
from bridge.store.records import Counts, Overdue, WatchQuery
from bridge.store.store import Store
from tests.store.builders import (
    ALL_EVENTS,
    DEAD,
    QUEUED,
    attempt_result,
    claimed_delivery,
    dead_delivery,
    due_delivery,
    execute,
    failed,
    record_attempt,
    record_status,
    register_watch,
    retry_at,
    settle,
)


async def found(store: Store, **conditions: object) -> list[str]:
    query = WatchQuery(limit=50, **conditions)  # type: ignore[arg-type]
    return [view.watch.id for view in await store.watches(query)]


async def test_an_unknown_watch_is_not_found(store: Store) -> None:
    with pytest.raises(NotFound):
        await store.watch("wat_none", None)


async def test_pages_go_from_the_newest_to_the_oldest_without_a_gap(store: Store) -> None:
    ids = [(await register_watch(store)).watch.id for _ in range(7)]
    read: list[str] = []
    cursor = None
    while page := await store.watches(WatchQuery(limit=3, cursor=cursor)):
        read += [view.watch.id for view in page]
        cursor = read[-1]
    assert read == ids[::-1]


async def test_a_registration_meanwhile_does_not_shift_the_pages(store: Store) -> None:
    ids = [(await register_watch(store)).watch.id for _ in range(4)]
    first = await store.watches(WatchQuery(limit=2))
    await register_watch(store)
    second = await store.watches(WatchQuery(limit=2, cursor=first[-1].watch.id))
    assert [view.watch.id for view in [*first, *second]] == ids[::-1]


async def test_each_filter_finds_the_matching_watches(store: Store) -> None:
    active = (await register_watch(store, task_id="one")).watch.id
    cancelled = (await register_watch(store, app="other")).watch.id
    await store.cancel(cancelled, None)
    failing = await register_watch(store)
    await settle(store, failing, failed)
    pending = failing.watch.id
    given_up = (await dead_delivery(store)).watch_id
    sent = await claimed_delivery(store)
    await record_attempt(store, attempt_result(store, sent))
    assert await found(store, state=WatchState.ACTIVE) == [active]
    assert await found(store, state=WatchState.CANCELLED) == [cancelled]
    assert await found(store, state=WatchState.SETTLED) == [sent.watch_id, given_up, pending]
    assert await found(store, outcome=Outcome.FAILED) == [pending]
    assert await found(store, app="other") == [cancelled]
    assert await found(store, task_id="one") == [active]
    assert await found(store, delivery_state=DeliveryState.PENDING) == [pending]
    assert await found(store, delivery_state=DeliveryState.DEAD) == [given_up]
    assert await found(store, delivery_state=DeliveryState.DELIVERED) == [sent.watch_id]
    assert await found(store, app="app", outcome=Outcome.COMPLETED, delivery_state=DeliveryState.DEAD) == [given_up]
    assert await found(store, app="app", state=WatchState.CANCELLED) == []


async def test_an_event_of_an_earlier_version_keeps_the_id_in_its_bytes(store: Store) -> None:
    one = await claimed_delivery(store)
    assert (await store.terminal_event(one.watch_id, None)).event_id == one.id
    execute(store, "UPDATE events SET payload = :payload", payload=b'{"id": "evt_made-otherwise"}')
    assert (await store.terminal_event(one.watch_id, None)).event_id == "evt_made-otherwise"


async def test_deliveries_come_with_their_watch_oldest_first(store: Store) -> None:
    registered = await register_watch(store, events=ALL_EVENTS)
    await record_status(store, registered, QUEUED)
    await record_status(store, registered)
    await settle(store, registered)
    other = await claimed_delivery(store)
    by_id = {view.watch.id: view for view in await store.watches(WatchQuery(limit=10))}
    types = [delivery.type for delivery in by_id[registered.watch.id].deliveries]
    assert types == ["video.queued", "video.in_progress", "video.completed"]
    assert [delivery.id for delivery in by_id[other.watch_id].deliveries] == [other.id]


async def test_a_watchs_version_changes_with_the_watch_its_task_and_its_deliveries(store: Store) -> None:
    registered = await register_watch(store, events=ALL_EVENTS)
    watch_id = registered.watch.id
    versions = [(await store.versions([watch_id]))[watch_id]]

    async def changed() -> bool:
        versions.append((await store.versions([watch_id]))[watch_id])
        return versions[-1] not in versions[:-1]

    [status] = (await record_status(store, registered, polls=1)).claimed
    assert await changed()
    await record_attempt(store, attempt_result(store, status, retry_at(store.now())))
    assert await changed()
    [terminal] = (await settle(store, registered)).claimed
    assert await changed()
    await record_attempt(store, attempt_result(store, terminal, DEAD))
    assert await changed()
    await store.retry(terminal.id, None)
    assert await changed()
    assert not await changed()


async def test_only_existing_watches_have_a_version(store: Store) -> None:
    one, other = await register_watch(store), await register_watch(store)
    versions = await store.versions([one.watch.id, "wat_none", other.watch.id])
    assert set(versions) == {one.watch.id, other.watch.id}
    assert await store.versions([]) == {}


async def test_counts_cover_watches_and_deliveries(store: Store) -> None:
    assert await store.counts() == Counts(0, 0, 0, None)
    await register_watch(store)
    one = await due_delivery(store)
    await dead_delivery(store)
    counts = await store.counts()
    assert (counts.active_watches, counts.pending_deliveries, counts.dead_deliveries) == (1, 1, 1)
    assert counts.oldest_due_at == await store.next_due_at()
    assert (await store.delivery(one.id, None))[0].next_attempt_at is not None


# --- keys ---------------------------------------------------------------------------------------------------------


async def test_a_watchs_own_key_is_decrypted(store: Store) -> None:
    own = await register_watch(store, credential="own-1", api_key="sk-own")
    plain = await register_watch(store)
    assert await store.api_key_of(own.watch.id) == "sk-own"
    assert await store.api_key_of(plain.watch.id) is None
    with pytest.raises(NotFound):  # not None, because the configured key must not be used for it
        await store.api_key_of("wat_none")


async def test_each_credential_has_one_key_however_many_watches_share_it(store: Store) -> None:
    for _ in range(3):
        await register_watch(store, credential="own-1", api_key="sk-1")
    await register_watch(store, credential="own-2", api_key="sk-2")
    ended = await register_watch(store, credential="own-3", api_key="sk-3")
    await store.cancel(ended.watch.id, None)
    assert await store.keys_of(["own-1", "own-2", "own-3", "own-4"]) == {"own-1": "sk-1", "own-2": "sk-2"}
    assert await store.keys_of([]) == {}


async def test_a_key_that_does_not_decrypt_does_not_affect_the_others(store: Store) -> None:
    bad = await register_watch(store, credential="own-1", api_key="sk-1")
    await register_watch(store, credential="own-2", api_key="sk-2")
    execute(store, "UPDATE watches SET api_key = :noise WHERE id = :id", noise=b"noise", id=bad.watch.id)
    assert await store.keys_of(["own-1", "own-2"]) == {"own-2": "sk-2"}


# --- deadlines ----------------------------------------------------------------------------------------------------


async def test_overdue_watches_come_in_pages_in_their_deadlines_order(store: Store) -> None:
    late = [(await register_watch(store, timeout=timeout, age=100)).watch for timeout in (30, 10, 20, 10)]
    await register_watch(store, timeout=200, age=100)
    read: list[Overdue] = []
    while page := await store.overdue(read[-1] if read else None, 2):
        read += page
    expected = sorted(late, key=lambda watch: (watch.deadline_at, watch.id))
    assert [one.watch_id for one in read] == [watch.id for watch in expected]
    assert [one.deadline_at for one in read] == [watch.deadline_at for watch in expected]


async def test_only_active_watches_of_own_tasks_are_overdue(store: Store) -> None:
    ended, others, own = [await register_watch(store, timeout=10, age=100) for _ in range(3)]
    await store.cancel(ended.watch.id, None)
    execute(store, "UPDATE tasks SET owner = 'another' WHERE id = :id", id=others.view.task.row)
    assert [(one.watch_id, one.task) for one in await store.overdue(None, 10)] == [(own.watch.id, own.view.task.row)]

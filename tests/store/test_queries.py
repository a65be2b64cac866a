"""Reading: pages that lose and repeat nothing, filters, marks that change with what they stand for, deadlines."""

import pytest

from bridge.core.errors import NotFound
from bridge.core.model import DeliveryState, Outcome, WatchState
from bridge.store.records import Counts, Overdue, WatchQuery
from bridge.store.store import Store
from tests.store.builders import (
    ALL_EVENTS,
    DEAD,
    QUEUED,
    change,
    dead,
    due,
    failed,
    owed,
    recorded,
    retry_at,
    settled,
    sighted,
    tried,
    watched,
)


async def found(store: Store, **wanted: object) -> list[str]:
    query = WatchQuery(limit=50, **wanted)  # type: ignore[arg-type]
    return [view.watch.id for view in await store.watches(query)]


async def test_a_watch_that_is_not_there_is_not_found(store: Store) -> None:
    with pytest.raises(NotFound):
        await store.watch("wat_none", None)


async def test_pages_go_from_the_newest_to_the_oldest_without_a_gap(store: Store) -> None:
    ids = [(await watched(store)).watch.id for _ in range(7)]
    read: list[str] = []
    before = None
    while page := await store.watches(WatchQuery(limit=3, before=before)):
        read += [view.watch.id for view in page]
        before = read[-1]
    assert read == ids[::-1]


async def test_what_is_registered_meanwhile_moves_no_page(store: Store) -> None:
    ids = [(await watched(store)).watch.id for _ in range(4)]
    first = await store.watches(WatchQuery(limit=2))
    await watched(store)
    second = await store.watches(WatchQuery(limit=2, before=first[-1].watch.id))
    assert [view.watch.id for view in [*first, *second]] == ids[::-1]


async def test_each_filter_finds_its_own(store: Store) -> None:
    active = (await watched(store, task_id="one")).watch.id
    cancelled = (await watched(store, app="other")).watch.id
    await store.cancel(cancelled, None)
    failing = await watched(store)
    await settled(store, failing, failed)
    pending = failing.watch.id
    given_up = (await dead(store)).watch_id
    sent = await owed(store)
    await recorded(store, tried(store, sent))
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


async def test_an_event_of_an_earlier_version_keeps_the_id_that_stands_in_its_bytes(store: Store) -> None:
    one = await owed(store)
    assert (await store.terminal_event(one.watch_id, None)).event_id == one.id
    change(store, "UPDATE events SET payload = :payload", payload=b'{"id": "evt_made-otherwise"}')
    assert (await store.terminal_event(one.watch_id, None)).event_id == "evt_made-otherwise"


async def test_deliveries_come_with_their_watch_oldest_first(store: Store) -> None:
    registered = await watched(store, events=ALL_EVENTS)
    await sighted(store, registered, QUEUED)
    await sighted(store, registered)
    await settled(store, registered)
    other = await owed(store)
    by_id = {view.watch.id: view for view in await store.watches(WatchQuery(limit=10))}
    types = [delivery.type for delivery in by_id[registered.watch.id].deliveries]
    assert types == ["video.queued", "video.in_progress", "video.completed"]
    assert [delivery.id for delivery in by_id[other.watch_id].deliveries] == [other.id]


async def test_a_mark_changes_with_whatever_changes(store: Store) -> None:
    registered = await watched(store, events=ALL_EVENTS)
    watch_id = registered.watch.id
    marks = [(await store.states([watch_id]))[watch_id]]

    async def changed() -> bool:
        marks.append((await store.states([watch_id]))[watch_id])
        return marks[-1] not in marks[:-1]

    [status] = (await sighted(store, registered, polls=1)).owed
    assert await changed()
    await recorded(store, tried(store, status, retry_at(store.now())))
    assert await changed()
    [terminal] = (await settled(store, registered)).owed
    assert await changed()
    await recorded(store, tried(store, terminal, DEAD))
    assert await changed()
    await store.retry(terminal.id, None)
    assert await changed()
    assert not await changed()


async def test_marks_are_given_for_what_exists(store: Store) -> None:
    one, other = await watched(store), await watched(store)
    marks = await store.states([one.watch.id, "wat_none", other.watch.id])
    assert set(marks) == {one.watch.id, other.watch.id}
    assert await store.states([]) == {}


async def test_counts_are_what_there_is(store: Store) -> None:
    assert await store.counts() == Counts(0, 0, 0, None)
    await watched(store)
    one = await due(store)
    await dead(store)
    counts = await store.counts()
    assert (counts.active_watches, counts.pending_deliveries, counts.dead_deliveries) == (1, 1, 1)
    assert counts.oldest_due_at == await store.next_due_at()
    assert (await store.delivery(one.id, None))[0].next_attempt_at is not None


# --- keys ---------------------------------------------------------------------------------------------------------


async def test_a_watchs_own_key_comes_opened(store: Store) -> None:
    own = await watched(store, credential="own-1", api_key="sk-own")
    plain = await watched(store)
    assert await store.api_key_of(own.watch.id) == "sk-own"
    assert await store.api_key_of(plain.watch.id) is None
    assert await store.api_key_of("wat_none") is None


async def test_each_credential_has_one_key_however_many_watches_share_it(store: Store) -> None:
    for _ in range(3):
        await watched(store, credential="own-1", api_key="sk-1")
    await watched(store, credential="own-2", api_key="sk-2")
    ended = await watched(store, credential="own-3", api_key="sk-3")
    await store.cancel(ended.watch.id, None)
    assert await store.keys_of(["own-1", "own-2", "own-3", "own-4"]) == {"own-1": "sk-1", "own-2": "sk-2"}
    assert await store.keys_of([]) == {}


async def test_a_key_that_does_not_open_keeps_no_other_from_being_used(store: Store) -> None:
    bad = await watched(store, credential="own-1", api_key="sk-1")
    await watched(store, credential="own-2", api_key="sk-2")
    change(store, "UPDATE watches SET api_key = :noise WHERE id = :id", noise=b"noise", id=bad.watch.id)
    assert await store.keys_of(["own-1", "own-2"]) == {"own-2": "sk-2"}


# --- deadlines ----------------------------------------------------------------------------------------------------


async def test_overdue_watches_come_in_pages_in_their_deadlines_order(store: Store) -> None:
    late = [(await watched(store, timeout=timeout, age=100)).watch for timeout in (30, 10, 20, 10)]
    await watched(store, timeout=200, age=100)
    read: list[Overdue] = []
    while page := await store.overdue(read[-1] if read else None, 2):
        read += page
    expected = sorted(late, key=lambda watch: (watch.deadline_at, watch.id))
    assert [one.watch_id for one in read] == [watch.id for watch in expected]
    assert [one.deadline_at for one in read] == [watch.deadline_at for watch in expected]


async def test_only_active_watches_of_own_tasks_are_overdue(store: Store) -> None:
    ended, others, own = [await watched(store, timeout=10, age=100) for _ in range(3)]
    await store.cancel(ended.watch.id, None)
    change(store, "UPDATE tasks SET owner = 'another' WHERE id = :id", id=others.task_row)
    assert [(one.watch_id, one.task) for one in await store.overdue(None, 10)] == [(own.watch.id, own.task_row)]

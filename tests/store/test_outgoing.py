"""What is sent for a watch, on both kinds of database."""

import pytest

from bridge.core.errors import NotFound
from bridge.core.ids import event_id
from bridge.core.model import EventType
from bridge.store.store import Store
from tests.store.builders import ALL_EVENTS, QUEUED, record_status, register_watch, settle


async def test_each_event_has_its_bytes_and_the_deliverys_id(store: Store) -> None:
    registered = await register_watch(store, events=ALL_EVENTS)
    assert (await store.dashboard.outgoing(registered.watch.id)).events == []
    await record_status(store, registered, QUEUED)
    [claimed] = (await settle(store, registered)).claimed
    outgoing = await store.dashboard.outgoing(registered.watch.id)
    assert [event.type for event in outgoing.events] == [EventType.QUEUED, EventType.COMPLETED]
    assert (outgoing.events[1].id, outgoing.events[1].payload) == (claimed.id, claimed.payload)
    assert (outgoing.callback_url, outgoing.headers, outgoing.secret) == (registered.watch.callback_url, {}, None)


async def test_an_event_without_a_delivery_has_the_id_that_it_would_have(store: Store) -> None:
    registered = await register_watch(store, events=frozenset({EventType.FAILED}))
    await settle(store, registered)
    [event] = (await store.dashboard.outgoing(registered.watch.id)).events
    assert event.id == event_id(registered.watch.id, EventType.COMPLETED)


async def test_an_unknown_watch_is_not_found(store: Store) -> None:
    with pytest.raises(NotFound):
        await store.dashboard.outgoing(f"wat_{'0' * 26}")

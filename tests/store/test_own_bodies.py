"""Watches with a body of their own, and with a trace: what is stored, sent and kept."""

import orjson
import pytest

from bridge.core.model import EventType
from bridge.core.trace_context import TraceContext
from bridge.store.store import Store
from tests.store.builders import (
    ALL_EVENTS,
    DEAD,
    attempt_result,
    claimed_delivery,
    one_row,
    record_attempt,
    record_status,
    register_watch,
    rows,
    settle,
)

BODY = b'{"text":"{{type}} {{data.url}}","order":"{{data.context.order}}"}'
SENT = {"text": "video.completed https://videos.example/1.mp4", "order": 7}
TRACE = TraceContext("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "a=1")


async def test_the_body_is_built_when_the_watch_settles_and_sent_at_every_attempt(store: Store) -> None:
    registered = await register_watch(store, body=BODY)
    [claimed] = (await settle(store, registered)).claimed
    assert orjson.loads(claimed.payload) == SENT
    [stored] = rows(store, "SELECT body FROM events WHERE watch_id = :id", id=claimed.watch_id)
    assert bytes(stored.body) == claimed.payload
    await record_attempt(store, attempt_result(store, claimed, DEAD))
    await store.retry(claimed.id, "app")
    [again] = await store.claim({claimed.host: 8}, 60.0)
    assert again.payload == claimed.payload


async def test_the_event_itself_is_kept_for_pulling(store: Store) -> None:
    delivery = await claimed_delivery(store, body=BODY)
    event = orjson.loads((await store.terminal_event(delivery.watch_id, "app")).payload)
    assert (event["id"], event["type"]) == (delivery.id, "video.completed")
    assert event["data"]["context"] == {"order": 7}


async def test_a_status_event_has_the_watchs_body_too(store: Store) -> None:
    registered = await register_watch(store, body=BODY, events=ALL_EVENTS)
    [claimed] = (await record_status(store, registered)).claimed
    assert orjson.loads(claimed.payload) == {"text": "video.in_progress ", "order": 7}


async def test_an_event_that_is_not_to_be_sent_has_no_body(store: Store) -> None:
    registered = await register_watch(store, body=BODY, events=frozenset({EventType.FAILED}))
    await settle(store, registered)
    assert one_row(store, "SELECT body FROM events WHERE watch_id = :id", id=registered.watch.id) is None


async def test_a_watch_without_a_body_is_sent_the_event(store: Store) -> None:
    delivery = await claimed_delivery(store)
    assert delivery.payload == (await store.terminal_event(delivery.watch_id, "app")).payload
    assert (delivery.trace, one_row(store, "SELECT body FROM events")) == (None, None)
    await store.release([delivery])
    [again] = await store.claim({delivery.host: 8}, 60.0)
    assert (again.payload, again.trace) == (delivery.payload, None)


@pytest.mark.parametrize("trace", [TRACE, TraceContext(TRACE.parent)])
async def test_the_trace_is_kept_for_every_claim(store: Store, trace: TraceContext) -> None:
    registered = await register_watch(store, trace=trace, events=ALL_EVENTS)
    assert (await store.watch(registered.watch.id, "app")).watch.trace == trace
    changed = await record_status(store, registered)
    assert changed.traces == {registered.watch.id: trace}
    settled = await settle(store, registered)
    assert settled.settled[0].trace == trace
    assert [one.trace for one in (*changed.claimed, *settled.claimed)] == [trace, trace]
    await store.release(settled.claimed)
    [again] = await store.claim({settled.claimed[0].host: 8}, 60.0)
    assert again.trace == trace

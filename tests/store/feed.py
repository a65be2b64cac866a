"""Shortcuts for the tests of the event feed."""

from collections.abc import Sequence
from typing import Any

import orjson

from bridge.store.event_feed import NUMBERED_AT_ONCE
from bridge.store.records import EventPage, EventQuery
from bridge.store.store import Store


async def number_all(store: Store) -> list[str]:
    """Number the committed events, as a replica's job does. Returns the app of each event. Does nothing on SQLite."""
    apps: list[str] = []
    while store.shared:
        some = await store.feed.number_committed()
        apps += some
        if len(some) < NUMBERED_AT_ONCE:
            break
    return apps


async def delete_ended(store: Store, moment: float, limit: int) -> int:
    """Number all events, then delete the watches that ended before a moment. Returns how many watches were deleted."""
    await number_all(store)
    return await store.delete_ended_before(moment, limit)


async def page(store: Store, *, limit: int = 100, app: str | None = "app", **query: Any) -> EventPage:
    """Returns a page of an app's feed."""
    return await store.feed.page(EventQuery(limit, app=app, **query))


def ids(read: EventPage) -> list[str]:
    """Returns the ids of the events in a page."""
    return [orjson.loads(payload)["id"] for payload in read.payloads]


async def read_all(store: Store, app: str | None, limit: int = 3) -> Sequence[Any]:
    """Returns every event of an app's feed, read page by page."""
    found: list[Any] = []
    after = None
    while (read := await page(store, app=app, after=after, limit=limit)).payloads:
        found += [orjson.loads(payload) for payload in read.payloads]
        after = read.end
    return found

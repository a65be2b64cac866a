"""Waiting with a store that other replicas change too: one query for all callers that wait."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, cast

import pytest

from bridge.core.errors import StoreUnavailable
from bridge.watches.change_notifier import ChangeNotifier
from tests.waiting import SAFETY_SECONDS

if TYPE_CHECKING:
    from bridge.store.store import Store


class SharedStore:
    """Stands for PostgreSQL: returns the versions that the test sets, and records the queries."""

    shared = True

    def __init__(self) -> None:
        self.version_of: dict[str, str] = {}
        self.queries: list[list[str]] = []
        self.error: Exception | None = None

    async def versions(self, watch_ids: Sequence[str]) -> dict[str, str]:
        self.queries.append(sorted(watch_ids))
        if self.error is not None:
            raise self.error
        return {one: self.version_of[one] for one in watch_ids if one in self.version_of}


@pytest.fixture
def store() -> SharedStore:
    return SharedStore()


@pytest.fixture
async def notifier(store: SharedStore) -> AsyncIterator[ChangeNotifier]:
    made = ChangeNotifier(cast("Store", store), query_seconds=0.005)
    yield made
    await made.close()


async def two_more_queries(store: SharedStore) -> None:
    before = len(store.queries)
    async with asyncio.timeout(SAFETY_SECONDS):
        while len(store.queries) < before + 2:
            await asyncio.sleep(0.001)


async def test_one_query_serves_all_callers_that_wait(store: SharedStore, notifier: ChangeNotifier) -> None:
    store.version_of = {"a": "1", "b": "1"}
    with notifier.listening("a") as a, notifier.listening("b") as b, notifier.listening("b") as b2:
        await two_more_queries(store)
        assert store.queries[-1] == ["a", "b"]
        assert a.is_set()  # the first query wakes the callers, because the watch may have changed before
        for event in (a, b, b2):
            event.clear()
        await two_more_queries(store)
        assert [event.is_set() for event in (a, b, b2)] == [False, False, False]
        store.version_of["b"] = "2"
        assert await notifier.wait(b, 10)
        assert await notifier.wait(b2, 10)
        assert not a.is_set()
        b.clear()
        del store.version_of["b"]
        assert await notifier.wait(b, 10)
    async with asyncio.timeout(SAFETY_SECONDS):
        assert notifier._querying is not None
        await notifier._querying
    assert notifier._versions == {}


@pytest.mark.parametrize("error", [StoreUnavailable("gone"), KeyError("a bug")])
async def test_a_store_that_fails_is_queried_again(
    store: SharedStore, notifier: ChangeNotifier, error: Exception
) -> None:
    store.version_of = {"a": "1"}
    store.error = error
    with notifier.listening("a") as changed:
        await two_more_queries(store)
        assert not changed.is_set()
        store.error = None
        assert await notifier.wait(changed, 10)


async def test_a_wait_ends_with_its_time_and_with_the_notifier(notifier: ChangeNotifier) -> None:
    with notifier.listening("a") as changed:
        assert not await notifier.wait(changed, 0.0)
        notifier.end()
        assert changed.is_set()
        assert not await notifier.wait(changed, 60)

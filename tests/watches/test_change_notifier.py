"""Waiting with a store that other replicas change as well: one query for all who wait."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, cast

import pytest

from bridge.core.errors import StoreUnavailable
from bridge.watches.change_notifier import ChangeNotifier

if TYPE_CHECKING:
    from bridge.store.store import Store


class SharedStore:
    """Stands for PostgreSQL: answers with the marks that the test sets, and counts the questions."""

    shared = True

    def __init__(self) -> None:
        self.marks: dict[str, str] = {}
        self.asked: list[list[str]] = []
        self.fails = False

    async def versions(self, watch_ids: Sequence[str]) -> dict[str, str]:
        self.asked.append(sorted(watch_ids))
        if self.fails:
            raise StoreUnavailable("gone")
        return {one: self.marks[one] for one in watch_ids if one in self.marks}


@pytest.fixture
def store() -> SharedStore:
    return SharedStore()


@pytest.fixture
async def waiting(store: SharedStore) -> AsyncIterator[ChangeNotifier]:
    made = ChangeNotifier(cast("Store", store), ask_every_seconds=0.005)
    yield made
    await made.close()


async def asked_again(store: SharedStore) -> None:
    before = len(store.asked)
    async with asyncio.timeout(10):
        while len(store.asked) < before + 2:
            await asyncio.sleep(0.001)


async def test_one_query_serves_all_who_wait(store: SharedStore, waiting: ChangeNotifier) -> None:
    store.marks = {"a": "1", "b": "1"}
    with waiting.listening("a") as a, waiting.listening("b") as b, waiting.listening("b") as b2:
        await asked_again(store)
        assert store.asked[-1] == ["a", "b"]
        assert a.is_set()  # the first answer wakes: a change may have come before it
        for heard in (a, b, b2):
            heard.clear()
        await asked_again(store)
        assert [heard.is_set() for heard in (a, b, b2)] == [False, False, False]
        store.marks["b"] = "2"
        assert await waiting.change(b, 10)
        assert await waiting.change(b2, 10)
        assert not a.is_set()
        b.clear()
        del store.marks["b"]
        assert await waiting.change(b, 10)
    async with asyncio.timeout(10):
        assert waiting._asking is not None
        await waiting._asking
    assert waiting._marks == {}


async def test_a_store_that_fails_is_asked_again(store: SharedStore, waiting: ChangeNotifier) -> None:
    store.marks = {"a": "1"}
    store.fails = True
    with waiting.listening("a") as heard:
        await asked_again(store)
        assert not heard.is_set()
        store.fails = False
        assert await waiting.change(heard, 10)


async def test_time_and_the_end(waiting: ChangeNotifier) -> None:
    with waiting.listening("a") as heard:
        assert not await waiting.change(heard, 0.0)
        waiting.end()
        assert heard.is_set()
        assert not await waiting.change(heard, 60)

"""Events of replicas come into the feed as soon as they are committed, and wake the requests of every replica."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from typing import Any

import pytest

from bridge.core.errors import StoreUnavailable
from bridge.store import event_feed, settlement
from bridge.store.event_feed import EVERY_APP
from bridge.store.store import Store
from bridge.watches.change_notifier import ChangeNotifier
from bridge.watches.event_numbering import EventNumbering
from tests.store.builders import one_row, register_watch, settle
from tests.store.feed import page
from tests.waiting import SAFETY_SECONDS


@dataclass
class Replica:
    """A store with the notifier and the numbering that a running bridge has for its feed."""

    store: Store
    notifier: ChangeNotifier
    numbering: EventNumbering


@pytest.fixture
async def pair(replicas: list[Store]) -> AsyncIterator[list[Replica]]:
    async with AsyncExitStack() as stack:
        made = []
        for store in replicas:
            notifier = ChangeNotifier(store.feed, query_seconds=0.01)
            made.append(Replica(store, notifier, EventNumbering(store.feed, notifier)))
            stack.push_async_callback(notifier.close)
            stack.push_async_callback(made[-1].numbering.close)
        yield made


async def test_an_event_wakes_the_requests_of_every_replica_that_wait_for_its_app(pair: list[Replica]) -> None:
    one, two = pair
    with (
        two.notifier.listening("app") as app,
        two.notifier.listening(EVERY_APP) as every,
        two.notifier.listening("other") as other,
        one.notifier.listening("app") as at_home,
    ):
        for changed in (app, every, other):
            assert await two.notifier.wait(changed, 10)  # the first query wakes it
            changed.clear()
        await settle(one.store, await register_watch(one.store))
        for replica, changed in ((two, app), (two, every), (one, at_home)):
            assert await replica.notifier.wait(changed, 10)
        assert len((await page(two.store)).payloads) == 1
        assert not other.is_set()


async def test_many_commits_are_numbered_in_few_steps(pair: list[Replica], monkeypatch: pytest.MonkeyPatch) -> None:
    one, _ = pair
    steps = 0
    number_committed = event_feed.number_committed

    def counted(*arguments: Any) -> list[str]:
        nonlocal steps
        steps += 1
        return number_committed(*arguments)

    monkeypatch.setattr(event_feed, "number_committed", counted)
    watches = [await register_watch(one.store) for _ in range(40)]
    await asyncio.gather(*(settle(one.store, watch) for watch in watches))
    async with asyncio.timeout(SAFETY_SECONDS):
        while len((await page(one.store)).payloads) < len(watches):
            await asyncio.sleep(0)
    assert steps < len(watches) / 2


async def test_the_events_of_a_replica_that_died_are_numbered_by_another_one(replicas: list[Store]) -> None:
    dead, other = replicas
    await settle(dead, await register_watch(dead))  # nothing here numbers the event of `dead`
    assert (await page(other)).payloads == ()
    notifier = ChangeNotifier(other.feed)
    numbering = EventNumbering(other.feed, notifier)
    await numbering.number_committed()  # as the job does
    assert len((await page(other)).payloads) == 1
    await numbering.close()


async def test_a_step_that_fails_is_repeated_by_the_job(replicas: list[Store], monkeypatch: pytest.MonkeyPatch) -> None:
    store = replicas[0]
    numbering = EventNumbering(store.feed, ChangeNotifier(store.feed))

    async def fails() -> list[str]:
        raise StoreUnavailable("gone")

    with monkeypatch.context() as patch:
        patch.setattr(store.feed, "number_committed", fails)
        await settle(store, await register_watch(store))
        assert numbering._running is not None
        await numbering._running
        with pytest.raises(StoreUnavailable):
            await numbering.number_committed()
    await numbering.number_committed()
    assert one_row(store, "SELECT count(*) FROM events WHERE number IS NOT NULL") == 1
    await numbering.close()


async def test_an_event_is_announced_although_its_caller_gave_up(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    began, may_end = asyncio.Event(), threading.Event()
    loop, write = asyncio.get_running_loop(), settlement.settle

    def slow(*arguments: Any) -> Any:
        loop.call_soon_threadsafe(began.set)
        may_end.wait(10)
        return write(*arguments)

    monkeypatch.setattr(settlement, "settle", slow)
    announced: list[str] = []
    store.feed.on_new_events = announced.extend
    ending = asyncio.create_task(settle(store, await register_watch(store)))
    await began.wait()
    ending.cancel()
    with suppress(asyncio.CancelledError):
        await ending
    may_end.set()
    async with asyncio.timeout(SAFETY_SECONDS):
        while not announced:
            await asyncio.sleep(0)
    store.feed.on_new_events = lambda _: None
    assert announced == ["app"]


async def test_a_reader_at_the_end_gets_what_is_committed_although_nothing_has_numbered_it(
    replicas: list[Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An app that has seen the end of a watch at one replica may ask another one for the event at once."""
    one, two = replicas
    numbering = EventNumbering(two.feed, ChangeNotifier(two.feed))
    assert not await numbering.catch_up()
    await settle(one, await register_watch(one))
    assert await numbering.catch_up()
    assert len((await page(two)).payloads) == 1
    assert not await numbering.catch_up()

    async def fails() -> list[str]:
        raise StoreUnavailable("gone")

    await settle(one, await register_watch(one))
    monkeypatch.setattr(two.feed, "number_committed", fails)
    assert await numbering.catch_up()  # the reader looks once more, and the job tries again
    await numbering.close()


async def test_readers_do_not_wait_for_a_replica_that_holds_the_lock_and_hangs(
    replicas: list[Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bridge.watches.event_numbering.CATCH_UP_SECONDS", 0.01)
    hanging, store = replicas
    await settle(store, await register_watch(store))
    numbering = EventNumbering(store.feed, ChangeNotifier(store.feed))
    with hanging._database._writing.connect() as connection, connection.begin():
        event_feed.number_committed(connection, hanging.now())
        assert await asyncio.gather(*(numbering.catch_up() for _ in range(20))) == [False] * 20
        assert (await page(store)).payloads == ()  # a thread is still free for reads
    async with asyncio.timeout(SAFETY_SECONDS):
        while not (await page(store)).payloads:
            await asyncio.sleep(0)
    await numbering.close()


async def test_on_sqlite_there_is_nothing_to_catch_up_with(sqlite_store: Store) -> None:
    numbering = EventNumbering(sqlite_store.feed, ChangeNotifier(sqlite_store.feed))
    assert not await numbering.catch_up()
    await numbering.close()

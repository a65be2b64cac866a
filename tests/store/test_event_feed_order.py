"""The order of the event feed when transactions commit in any order: a reader gets every event once.

On PostgreSQL the tests hold commits open themselves. On SQLite only one transaction writes at a time.
"""

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection

from bridge.core.errors import CursorExpired
from bridge.core.event_cursor import Position
from bridge.core.model import EventType
from bridge.store import event_feed, settlement
from bridge.store.records import Changed
from bridge.store.store import Store
from tests.databases import blocked_transactions, delete_rows, run
from tests.store.builders import new_watch, register, register_watch, rows, settle
from tests.store.builders import settlement as settlement_of
from tests.store.feed import ids, number_all, page, read_all
from tests.waiting import SAFETY_SECONDS

MINUTE = 60.0
NEVER_SENT = frozenset({EventType.FAILED})  # a completed watch has no delivery then, so retention may delete it


@contextmanager
def held_open(store: Store) -> Iterator[Connection]:
    """Opens a transaction of a replica. It commits at the end of the block."""
    with store._database._writing.connect() as connection, connection.begin():
        yield connection


def settle_in(connection: Connection, store: Store, task_row: str) -> None:
    """Settle a task in a transaction that is held open."""
    [result] = settlement.settle(connection, [settlement_of(store, task_row)], store.replica, store.cipher, MINUTE)
    assert isinstance(result, Changed)
    assert result.settled


async def test_an_event_that_commits_late_comes_after_those_that_were_read_before_it(replicas: list[Store]) -> None:
    """With a number that is drawn before the commit, as from a sequence, the reader would miss the late event."""
    slow, quick = replicas
    first, second = await register_watch(slow), await register_watch(quick)
    with held_open(slow) as connection:
        settle_in(connection, slow, first.view.task.row)
        await settle(quick, second)
        await number_all(quick)
        read = await page(quick)
        assert len(read.payloads) == 1
        assert (await page(quick, after=read.end)).payloads == ()
    assert (await page(quick, after=read.end)).payloads == ()  # the late event is committed, and not numbered yet
    await number_all(quick)
    late = await page(quick, after=read.end)
    assert [orjson.loads(payload)["data"]["watch_id"] for payload in late.payloads] == [first.watch.id]
    assert await read_all(quick, "app") == [orjson.loads(payload) for payload in (*read.payloads, *late.payloads)]


async def test_a_numbering_whose_commit_is_late_is_waited_for_by_the_next_one(replicas: list[Store]) -> None:
    """Two numberings at once would make larger numbers visible before smaller ones."""
    slow, quick = replicas
    await settle(slow, await register_watch(slow))
    with held_open(slow) as connection:
        assert event_feed.number_committed(connection, slow.now()) == ["app"]
        await settle(quick, await register_watch(quick))
        numbering = asyncio.create_task(number_all(quick))
        async with asyncio.timeout(SAFETY_SECONDS):
            while not blocked_transactions(connection.connection.driver_connection):
                await asyncio.sleep(0)
        assert (await page(quick)).payloads == ()
        assert not numbering.done()
    assert await numbering == ["app"]
    assert len((await page(quick)).payloads) == 2


async def test_a_numbering_that_was_rolled_back_leaves_no_gap_that_hides_an_event(replicas: list[Store]) -> None:
    one, two = replicas
    await settle(one, await register_watch(one))
    with suppress(ZeroDivisionError), held_open(one) as connection:
        event_feed.number_committed(connection, one.now())
        raise ZeroDivisionError
    assert await number_all(two) == ["app"]
    assert len((await page(two)).payloads) == 1


async def test_removals_commit_in_the_order_of_their_numbers(replicas: list[Store]) -> None:
    """Otherwise a reader that begins after one removal would take a later commit for a removal that it knew."""
    one, two = replicas
    watches = [await register_watch(store, events=NEVER_SENT) for store in (one, two)]
    for watch, store in zip(watches, (one, two), strict=True):
        await settle(store, watch)
    await number_all(one)
    with held_open(one) as connection:
        assert event_feed.may_remove(connection, one.replica)
        event_feed.note_removal(connection, [watches[0].watch.id], one.replica)
        assert await two.delete_ended_before(two.now() + 1, 2) == 0  # it does not wait for the lock either
    assert await two.delete_ended_before(two.now() + 1, 2) == 2
    assert rows(one, "SELECT count(*) FROM removed_events") == [(1,)]


async def test_many_replicas_that_settle_at_once_give_every_reader_one_order(four_replicas: list[Store]) -> None:
    """No commit is held open here. Commits, numberings and readers run at the same time."""
    watches = [(store, await register_watch(store)) for store in four_replicas for _ in range(25)]
    done = False

    async def number(store: Store) -> None:
        while not done:
            await store.feed.number_committed()

    async def read(store: Store, limit: int) -> list[str]:
        found: list[str] = []
        after = None
        while True:
            last_turn = done
            read = await page(store, after=after, limit=limit)
            found, after = found + ids(read), read.end
            if last_turn and not read.payloads:
                return found

    readers = [
        asyncio.create_task(read(store, limit)) for store, limit in zip(four_replicas, (1, 3, 7, 500), strict=True)
    ]
    numberings = [asyncio.create_task(number(store)) for store in four_replicas[:2]]
    await asyncio.gather(*(settle(store, watch) for store, watch in watches))
    await number_all(four_replicas[0])
    done = True
    await asyncio.gather(*numberings)
    orders = [await reader for reader in readers]
    assert len(set(orders[0])) == len(orders[0]) == len(watches)
    assert all(order == orders[0] for order in orders)


# --- any sequence of steps ----------------------------------------------------------------------------------------


@dataclass
class Reader:
    """A reader with its cursor: which events were gone when it began, and what it has read since."""

    types: frozenset[EventType]
    limit: int
    after: Position | None = None
    gone_before: set[str] = field(default_factory=set)
    found: list[str] = field(default_factory=list)


class Feed:
    """Replicas that settle, number and delete, and readers of their feed."""

    def __init__(self, stores: list[Store], stack: ExitStack) -> None:
        self.stores = stores
        self.stack = stack
        self.held: list[tuple[Connection, Any]] = []
        self.numbers: dict[str, int] = {}  # every event that ever was in the feed, by its id
        self.readers = [
            Reader(frozenset(), 1),
            Reader(frozenset(), 3),
            Reader(frozenset({EventType.COMPLETED}), 2),
            Reader(frozenset({EventType.QUEUED}), 2),
        ]

    async def settle(self, pick: int) -> None:
        """Settle a new watch; on PostgreSQL the commit comes later, or never."""
        store = self.stores[pick % len(self.stores)]
        watch = await register(store, new_watch(store, events=NEVER_SENT))
        if not store.shared:
            await settle(store, watch)
        elif len(self.held) < 4:
            connection = self.stack.enter_context(store._database._writing.connect())
            self.held.append((connection, connection.begin()))
            settle_in(connection, store, watch.view.task.row)

    async def commit(self, pick: int) -> None:
        """Commit one of the transactions; one in five is rolled back."""
        if self.held:
            connection, transaction = self.held.pop(pick % len(self.held))
            transaction.rollback() if pick % 5 == 4 else transaction.commit()
            connection.close()

    async def number(self, pick: int) -> None:
        """Number the committed events."""
        await number_all(self.stores[pick % len(self.stores)])
        self.look()

    async def delete(self, pick: int) -> None:
        """Delete the one or two oldest watches that have ended."""
        self.look()
        store = self.stores[pick % len(self.stores)]
        await store.delete_ended_before(store.now() + 1, 1 + pick % 2)

    async def read(self, pick: int) -> None:
        """Read one page through any replica."""
        self.look()
        store, reader = self.stores[pick % len(self.stores)], self.readers[pick % len(self.readers)]
        if reader.after is None:  # this reader does not miss events that are gone by now
            reader.gone_before = self.numbers.keys() - self.kept()
        try:
            read = await page(store, after=reader.after, limit=reader.limit, types=reader.types)
        except CursorExpired:
            assert reader.after is not None
            gone = self.numbers.keys() - self.kept()
            assert any(self.numbers[one] > reader.after.number for one in gone)
            reader.after, reader.found = None, []
        else:
            reader.after = read.end
            reader.found += ids(read)

    def kept(self) -> set[str]:
        found = rows(self.stores[0], "SELECT payload FROM events WHERE number IS NOT NULL")
        return {orjson.loads(row.payload)["id"] for row in found}

    def look(self) -> None:
        """Note the numbers of the events, and check that no event has changed its number."""
        for row in rows(self.stores[0], "SELECT number, payload FROM events WHERE number IS NOT NULL"):
            assert self.numbers.setdefault(orjson.loads(row.payload)["id"], row.number) == row.number

    async def check(self) -> None:
        """Check that every reader gets to the end, and has read every event since it began, once and in order."""
        while self.held:
            await self.commit(0)
        await self.number(0)
        for number, reader in enumerate(self.readers):
            for _ in range(2 * len(self.numbers) + 4):
                before = len(reader.found)
                await self.read(number)
                if reader.after is not None and len(reader.found) == before:
                    break
            expected = sorted((place, one) for one, place in self.numbers.items() if one not in reader.gone_before)
            if EventType.QUEUED in reader.types:
                expected = []
            assert reader.found == [one for _, one in expected]


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["settle", "settle", "commit", "commit", "number", "read", "read", "delete"]),
        st.integers(0, 60),
    ),
    min_size=5,
    max_size=40,
)


async def any_sequence(stores: list[Store], steps: list[tuple[str, int]]) -> None:
    with ExitStack() as stack:
        feed = Feed(stores, stack)
        for name, pick in steps:
            await getattr(feed, name)(pick)
        await feed.check()


# The watch that ended first is numbered last, and deleted before anybody reads.
GONE_IN_THE_MIDDLE = [("settle", 0), ("settle", 0), ("commit", 1), ("number", 0), ("commit", 0), ("number", 0)]


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps=STEPS)
@example(steps=[*GONE_IN_THE_MIDDLE, ("delete", 0)])
@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_after_any_sequence_of_steps_every_reader_has_every_event_once(
    kind: str, request: pytest.FixtureRequest, steps: list[tuple[str, int]]
) -> None:
    stores: list[Store] = (
        request.getfixturevalue("postgres_stores")[:3]
        if kind == "postgres"
        else [request.getfixturevalue("sqlite_store")]
    )
    delete_rows(stores[0])
    for store in stores:
        run(store.rejoin())
    run(any_sequence(stores, steps))

"""Calls that wait for others, so that they share a commit."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pytest
from sqlalchemy import Connection

from bridge.aio.threads import Threads
from bridge.core.errors import BridgeError
from bridge.store import group_commit
from bridge.store.group_commit import GroupWriter
from bridge.telemetry import Metrics
from tests.waiting import SAFETY_SECONDS


class Written:
    """A writer without a database, and the items of each of its transactions."""

    def __init__(self) -> None:
        self.transactions: list[list[str]] = []
        # By this clock no time passes between two calls.
        self.writer = GroupWriter(self._transaction, Metrics(), Threads(1, "writer"), clock=lambda: 0.0)

    def _transaction(self, function: Callable[[Any], Any]) -> Any:
        self.transactions.append([])
        return function(None)

    def _operation(self, _: Connection, items: Sequence[str]) -> Sequence[str | BridgeError]:
        self.transactions[-1] += items
        return items

    async def write(self, item: str, *, linger: bool = False) -> Sequence[str | BridgeError]:
        """Make one call with one item. Returns its results."""
        return await self.writer.run_all(self._operation, [item], linger=linger)

    async def write_all(self, items: Sequence[str]) -> None:
        """Make one call with several items."""
        await self.writer.run_all(self._operation, items)

    async def write_often(self) -> None:
        """Make calls until the writer expects the next call soon. Their transactions are not kept."""
        for _ in range(50):
            await self.write("call")
        del self.transactions[:]

    async def write_together(self, callers: int) -> None:
        """Make calls that overlap until the writer expects overlapping calls. Their transactions are not kept."""
        for _ in range(50):
            await asyncio.gather(*(self.write("call") for _ in range(callers)))
        del self.transactions[:]


@pytest.fixture
async def written() -> AsyncIterator[Written]:
    made = Written()
    yield made
    await made.writer.close()


@pytest.fixture
def endless_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that waits for others waits longer than a test may take."""
    monkeypatch.setattr(group_commit, "COMMIT_DELAY_SECONDS", 10 * SAFETY_SECONDS)


async def test_a_lingering_call_is_written_with_the_next_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_commit, "LINGER_SECONDS", SAFETY_SECONDS)
    written = Written()
    await written.write_often()
    lingering = [asyncio.create_task(written.write(name, linger=True)) for name in ("one", "two")]
    await asyncio.sleep(0)
    async with asyncio.timeout(SAFETY_SECONDS / 2):
        assert await written.write("call") == ["call"]
        assert await asyncio.gather(*lingering) == [["one"], ["two"]]
    assert written.transactions == [["one", "two", "call"]]
    await written.writer.close()


async def test_a_lingering_call_is_written_alone_when_no_other_call_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_commit, "LINGER_SECONDS", 0.5)
    written = Written()
    await written.write_often()
    began = time.monotonic()
    async with asyncio.timeout(SAFETY_SECONDS):
        assert await written.write("lingering", linger=True) == ["lingering"]
    assert time.monotonic() - began >= 0.4
    assert written.transactions == [["lingering"]]
    await written.writer.close()


async def test_a_lingering_call_does_not_wait_where_other_calls_are_rare(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_commit, "LINGER_SECONDS", 0.99)  # a new writer expects a call each second
    written = Written()
    lingering = asyncio.create_task(written.write("lingering", linger=True))
    await asyncio.sleep(0)
    assert written.writer._writing is not None
    assert await lingering == ["lingering"]
    await written.writer.close()


async def test_a_writer_that_closes_writes_its_lingering_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_commit, "LINGER_SECONDS", 10 * SAFETY_SECONDS)
    written = Written()
    await written.write_often()
    lingering = asyncio.create_task(written.write("lingering", linger=True))
    await asyncio.sleep(0)
    await written.writer.close()
    async with asyncio.timeout(SAFETY_SECONDS):
        assert await lingering == ["lingering"]
    assert written.transactions == [["lingering"]]


async def test_where_calls_come_while_others_are_unanswered_one_waits_for_the_next(
    written: Written, endless_delay: None
) -> None:
    async with asyncio.timeout(SAFETY_SECONDS):
        await written.write_together(2)
        first = asyncio.create_task(written.write("first"))
        await asyncio.sleep(0)
        assert written.writer._writing is None
        await written.write("second")
        await first
    assert written.transactions == [["first", "second"]]


async def test_callers_that_wait_for_one_transaction_are_written_together_again(
    written: Written, endless_delay: None
) -> None:
    async with asyncio.timeout(SAFETY_SECONDS):
        await written.write_together(7)
        first = [asyncio.create_task(written.write("first")) for _ in range(3)]
        await asyncio.sleep(0)
        await asyncio.gather(*first, *(written.write("second") for _ in range(4)))
    assert written.transactions == [["first"] * 3 + ["second"] * 4]


async def test_one_call_with_the_items_of_all_callers_does_not_wait(written: Written, endless_delay: None) -> None:
    """After a pause of the event loop, all callers come in one turn of the loop, and their items are one call."""
    async with asyncio.timeout(SAFETY_SECONDS):
        await written.write_together(8)
        await written.write_all(["item"] * 8)
    assert written.transactions == [["item"] * 8]


async def test_after_a_large_call_a_transaction_does_not_wait_for_as_many_items(
    written: Written, endless_delay: None
) -> None:
    async with asyncio.timeout(SAFETY_SECONDS):
        await written.write_together(2)
        await written.write_all(["large"] * 100)
        await asyncio.gather(*(written.write("call") for _ in range(group_commit.ENOUGH_ITEMS)))
    assert written.transactions == [["large"] * 100, ["call"] * group_commit.ENOUGH_ITEMS]


async def test_a_call_without_a_next_one_is_written_after_the_wait(
    written: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    await written.write_together(2)
    monkeypatch.setattr(group_commit, "COMMIT_DELAY_SECONDS", 0.5)
    began = time.monotonic()
    async with asyncio.timeout(SAFETY_SECONDS):
        await written.write("alone")
    assert time.monotonic() - began >= 0.4


async def test_a_caller_that_makes_one_call_after_the_other_does_not_wait(
    written: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    await written.write_together(2)
    for _ in range(group_commit.CALLS_AVERAGED):
        await written.write("call")
    monkeypatch.setattr(group_commit, "COMMIT_DELAY_SECONDS", 10 * SAFETY_SECONDS)
    async with asyncio.timeout(SAFETY_SECONDS):
        for _ in range(50):
            await written.write("call")


async def test_a_writer_that_closes_writes_the_call_that_waits_for_another(
    written: Written, endless_delay: None
) -> None:
    async with asyncio.timeout(SAFETY_SECONDS):
        await written.write_together(2)
        first = asyncio.create_task(written.write("first"))
        await asyncio.sleep(0)
        await written.writer.close()
        assert await first == ["first"]

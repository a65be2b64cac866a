"""Calls that share a commit: how many calls share one, and that a failing item does not affect the others."""

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import Connection, text

from bridge.core.errors import BridgeError, NotFound, StoreUnavailable
from bridge.store import group_commit
from bridge.store.reader import READERS
from bridge.store.store import Store
from tests.store.builders import new_watch, one_row, register, register_watch, run_one
from tests.waiting import SAFETY_SECONDS


class Gate:
    """An operation that blocks the writer's thread until `go` is set."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.go = threading.Event()

    def __call__(self, connection: Connection, items: Sequence[object]) -> Sequence[BridgeError | None]:
        self.entered.set()
        assert self.go.wait(SAFETY_SECONDS)
        return [None] * len(items)

    __name__ = "gate"

    async def close(self, store: Store) -> "asyncio.Task[None]":
        """Block the writer until `go` is set. Returns the blocked call."""
        blocked = asyncio.create_task(run_one(store, self, None))
        assert await asyncio.to_thread(self.entered.wait, SAFETY_SECONDS)
        return blocked


async def test_waiting_calls_share_one_transaction(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate()
    commits: list[object] = []
    blocked = await gate.close(store)
    waiting = [asyncio.create_task(register_watch(store)) for _ in range(20)]
    await asyncio.sleep(0)

    transaction = store._writer._transaction

    def counted(function: Callable[[Connection], Any]) -> Any:
        commits.append(function)
        return transaction(function)

    monkeypatch.setattr(store._writer, "_transaction", counted)
    gate.go.set()
    await blocked
    assert all(one.created for one in await asyncio.gather(*waiting))
    assert len(commits) == 1  # the gate's transaction began before the count


async def test_a_bridge_error_reaches_its_own_caller_only(store: Store) -> None:
    registered = await register_watch(store)
    results = await asyncio.gather(
        store.cancel("wat_none", None), store.cancel(registered.watch.id, None), return_exceptions=True
    )
    assert isinstance(results[0], NotFound)
    assert not isinstance(results[1], BaseException)


async def test_a_failing_call_is_tried_alone_and_the_others_succeed(store: Store) -> None:
    def break_some(connection: Connection, items: Sequence[str]) -> Sequence[str | BridgeError]:
        connection.execute(text("UPDATE replicas SET probed = 7"))
        if "bad" in items:
            raise ZeroDivisionError
        return items

    gate = Gate()
    blocked = await gate.close(store)
    waiting = [asyncio.create_task(run_one(store, break_some, item)) for item in ("one", "bad", "two")]
    await asyncio.sleep(0)
    gate.go.set()
    await blocked
    one, bad, two = await asyncio.gather(*waiting, return_exceptions=True)
    assert (one, two) == ("one", "two")
    assert isinstance(bad, StoreUnavailable)
    assert "ZeroDivisionError" in str(bad)


async def test_a_failing_operation_writes_nothing(store: Store) -> None:
    def write_and_break(connection: Connection, items: Sequence[None]) -> Sequence[BridgeError | None]:
        connection.execute(text("UPDATE replicas SET probed = 7"))
        raise ZeroDivisionError

    with pytest.raises(StoreUnavailable):
        await run_one(store, write_and_break, None)
    assert one_row(store, "SELECT probed FROM replicas") == 0


async def test_a_write_whose_caller_was_cancelled_before_its_turn_is_not_executed(store: Store) -> None:
    gate = Gate()
    blocked = await gate.close(store)
    new = new_watch(store)
    caller = asyncio.create_task(register(store, new))
    await asyncio.sleep(0)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    gate.go.set()
    await blocked
    await store.probe()
    with pytest.raises(NotFound):
        await store.watch(new.watch.id, None)


async def test_a_read_whose_caller_was_cancelled_before_its_turn_is_not_executed(store: Store) -> None:
    gate = threading.Event()
    busy = [store._reader._runner.submit(partial(gate.wait, SAFETY_SECONDS)) for _ in range(READERS)]
    executed = threading.Event()

    def query(_connection: Connection) -> None:
        executed.set()

    caller = asyncio.create_task(store._reader.run(query))
    await asyncio.sleep(0)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    gate.set()
    await asyncio.gather(*busy)
    await store.counts()
    assert not executed.is_set()


async def test_a_registration_that_succeeds_after_its_callers_timeout_passes_its_task_on(
    short_limit_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the stored watch would not be polled before the next start."""
    store = short_limit_store
    late: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    monkeypatch.setattr(store, "_listeners", [SimpleNamespace(registered_late=late.set_result)])
    began, go = threading.Event(), threading.Event()

    transaction = store._writer._transaction

    def slow(function: Callable[[Connection], Any]) -> Any:
        began.set()
        assert go.wait(SAFETY_SECONDS)
        return transaction(function)

    monkeypatch.setattr(store._writer, "_transaction", slow)
    new = new_watch(store)
    with pytest.raises(StoreUnavailable, match="does not answer"):
        await register(store, new)
    assert began.is_set()
    go.set()
    async with asyncio.timeout(SAFETY_SECONDS):
        assert (await late).row == new.task
    assert one_row(store, "SELECT id FROM watches") == new.watch.id


async def test_results_that_come_in_the_same_turn_as_the_timeout_are_returned(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the caller of a write that succeeded would get StoreUnavailable, and no late result would follow."""
    resolve = store._writer._resolve

    def resolve_and_expire(calls: list[Any]) -> None:
        resolve(calls)
        for limit in list(store._writer.limits.active):
            limit.expire()

    monkeypatch.setattr(store._writer, "_resolve", resolve_and_expire)
    assert (await register_watch(store)).created
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_after_a_commit_of_many_items_the_writer_waits_for_as_many(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    commits: list[int] = []

    def count(_: Connection, items: Sequence[None]) -> Sequence[BridgeError | None]:
        commits.append(len(items))
        return items

    monkeypatch.setattr(group_commit, "FILL_TURNS", 1e9)
    monkeypatch.setattr(group_commit, "FILL_AT_MOST_SECONDS", SAFETY_SECONDS)
    many = [None] * group_commit.FILL_FROM
    began = time.monotonic()
    await store._writer.run_all(count, many)
    early = asyncio.create_task(run_one(store, count, None))
    await asyncio.sleep(0)
    await store._writer.run_all(count, many[1:])
    await early
    assert commits == [len(many), len(many)]
    assert time.monotonic() - began < SAFETY_SECONDS / 2
    monkeypatch.setattr(group_commit, "FILL_AT_MOST_SECONDS", 0.01)
    await store._writer.run_all(count, many)  # the writer waits no longer than this constant allows
    await run_one(store, count, None)
    assert commits[2:] == [len(many), 1]


async def test_one_failing_item_of_a_call_fails_alone(store: Store) -> None:
    def break_some(connection: Connection, items: Sequence[str]) -> Sequence[str | BridgeError]:
        if "bad" in items:
            raise ZeroDivisionError
        return [NotFound("not there") if item == "none" else item.upper() for item in items]

    assert await store._writer.run_all(break_some, ["one", "two"]) == ["ONE", "TWO"]
    one, none, bad, two = await store._writer.run_all(break_some, ["one", "none", "bad", "two"])
    assert (one, two) == ("ONE", "TWO")
    assert isinstance(none, NotFound)
    assert isinstance(bad, StoreUnavailable)


async def test_one_registration_of_a_batch_that_the_database_refuses_fails_alone(store: Store) -> None:
    bad = new_watch(store, task_id="task_\0" if store.shared else "task_\ud800")
    first, second = new_watch(store), new_watch(store)
    results = await store.register_all([first, bad, second])
    assert [isinstance(result, BridgeError) for result in results] == [False, True, False]
    for new in (first, second):
        assert (await store.watch(new.watch.id, None)).watch.id == new.watch.id


async def test_a_result_that_comes_in_the_turn_in_which_its_caller_leaves_is_a_late_result(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    late: list[object] = []
    monkeypatch.setattr(store._writer, "on_late_result", late.append)
    real = store._writer._resolve

    def resolve_and_cancel(calls: Any) -> None:
        real(calls)
        caller.cancel()

    monkeypatch.setattr(store._writer, "_resolve", resolve_and_cancel)
    new = new_watch(store)
    caller = asyncio.create_task(store.register_all([new]))
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert [one.watch.id for one in late] == [new.watch.id]  # type: ignore[attr-defined]

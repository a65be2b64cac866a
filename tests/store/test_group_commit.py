"""Calls that share a commit: how many come together, and that an item that fails does not affect the others."""

import asyncio
import time
from collections.abc import Sequence

import pytest
from sqlalchemy import Connection

from bridge.core.errors import BridgeError, NotFound, StoreUnavailable
from bridge.store import group_commit
from bridge.store.store import Store
from tests.store.builders import new_watch, run_one

SAFETY_SECONDS = 8.0


async def test_after_a_commit_of_many_items_the_writer_waits_for_as_many(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    commits: list[int] = []

    def count(_: Connection, items: Sequence[None]) -> Sequence[BridgeError | None]:
        commits.append(len(items))
        return items

    monkeypatch.setattr(group_commit, "GATHER_TURNS", 1e9)
    monkeypatch.setattr(group_commit, "GATHER_AT_MOST_SECONDS", SAFETY_SECONDS)
    many = [None] * group_commit.GATHER_FROM
    began = time.monotonic()
    await store._writer.run_all(count, many)
    early = asyncio.create_task(run_one(store, count, None))
    await asyncio.sleep(0)
    await store._writer.run_all(count, many[1:])
    await early
    assert commits == [len(many), len(many)]
    assert time.monotonic() - began < SAFETY_SECONDS / 2
    monkeypatch.setattr(group_commit, "GATHER_AT_MOST_SECONDS", 0.01)
    await store._writer.run_all(count, many)  # it waits no longer than the constant allows
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
    results = await store.register_each([first, bad, second])
    assert [isinstance(result, BridgeError) for result in results] == [False, True, False]
    for new in (first, second):
        assert (await store.watch(new.watch.id, None)).watch.id == new.watch.id

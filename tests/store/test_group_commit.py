"""Work that shares a commit: how much comes together, and that nobody's trouble is his neighbours'."""

import asyncio
import time
from collections.abc import Sequence

import pytest
from sqlalchemy import Connection

from bridge.core.errors import BridgeError, NotFound, StoreUnavailable
from bridge.store import group_commit
from bridge.store.store import Store
from tests.store.builders import new_watch

SAFETY_SECONDS = 8.0


async def test_after_a_commit_of_many_the_writer_waits_for_as_many(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    commits: list[int] = []

    def count(_: Connection, works: Sequence[None]) -> Sequence[BridgeError | None]:
        commits.append(len(works))
        return works

    monkeypatch.setattr(group_commit, "GATHER_TURNS", 1e9)
    monkeypatch.setattr(group_commit, "GATHER_AT_MOST_SECONDS", SAFETY_SECONDS)
    many = [None] * group_commit.GATHER_FROM
    began = time.monotonic()
    await store._writer.do_all(count, many)
    early = asyncio.create_task(store._writer.do(count, None))
    await asyncio.sleep(0)
    await store._writer.do_all(count, many[1:])
    await early
    assert commits == [len(many), len(many)]
    assert time.monotonic() - began < SAFETY_SECONDS / 2
    monkeypatch.setattr(group_commit, "GATHER_AT_MOST_SECONDS", 0.01)
    await store._writer.do_all(count, many)  # and no longer than it may
    await store._writer.do(count, None)
    assert commits[2:] == [len(many), 1]


async def test_of_works_given_together_one_that_fails_is_alone_too(store: Store) -> None:
    def break_some(connection: Connection, works: Sequence[str]) -> Sequence[str | BridgeError]:
        if "bad" in works:
            raise ZeroDivisionError
        return [NotFound("not there") if given == "none" else given.upper() for given in works]

    assert await store._writer.do_all(break_some, ["one", "two"]) == ["ONE", "TWO"]
    one, none, bad, two = await store._writer.do_all(break_some, ["one", "none", "bad", "two"])
    assert (one, two) == ("ONE", "TWO")
    assert isinstance(none, NotFound)
    assert isinstance(bad, StoreUnavailable)


async def test_of_registrations_that_come_together_a_row_that_the_database_refuses_is_alone(store: Store) -> None:
    bad = new_watch(store, task_id="task_\0" if store.shared else "task_\ud800")
    first, second = new_watch(store), new_watch(store)
    results = await store.register_each([first, bad, second])
    assert [isinstance(result, BridgeError) for result in results] == [False, True, False]
    for new in (first, second):
        assert (await store.watch(new.watch.id, None)).watch.id == new.watch.id

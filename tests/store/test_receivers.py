"""Receivers in the store: pausing, resuming with a spread, and the figures of their attempts."""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import pytest
from sqlalchemy import event

from bridge.core.audit import Actor, Role
from bridge.core.model import Problem
from bridge.core.receivers import Figures, LastAnswer, Receiver
from bridge.store import receivers as store_receivers
from bridge.store.store import Store
from tests.store.builders import (
    DELIVERED,
    HOST,
    attempt_result,
    claimed_delivery,
    dead_delivery,
    due_delivery,
    execute,
    one_row,
    record_attempt,
    retry_at,
    rows,
)
from tests.store.test_query_plans import READS_ALL, plans

OPS = Actor("ops", Role.OPERATOR)
OTHER = "other.example:443"
LEASE = 30.0


async def claim(store: Store, *hosts: str) -> list[str]:
    return [one.id for one in await store.claim(dict.fromkeys(hosts, 10), LEASE)]


# --- pausing ------------------------------------------------------------------------------------------------------


async def test_nothing_is_claimed_for_a_paused_receiver_and_others_are_claimed(store: Store) -> None:
    await due_delivery(store)
    other = await due_delivery(store, host=OTHER)
    assert await store.receivers.pause(HOST, OPS) is not None
    assert await store.due_hosts() == {OTHER: 1}
    assert await claim(store, HOST, OTHER) == [other.id]
    assert (await store.receivers.one(HOST)).pending == 1


async def test_pausing_again_changes_nothing_and_keeps_who_was_first(store: Store) -> None:
    assert await store.receivers.pause(HOST, OPS) is not None
    first = await store.receivers.one(HOST)
    assert await store.receivers.pause(HOST, Actor("night shift", Role.OPERATOR)) is None
    assert (await store.receivers.one(HOST)).pause == first.pause
    assert first.pause is not None and first.pause.by == "ops"


async def test_resuming_twice_and_resuming_what_was_never_paused_change_nothing(store: Store) -> None:
    assert await store.receivers.resume(HOST, OPS) is None
    await store.receivers.pause(HOST, OPS)
    assert await store.receivers.resume(HOST, OPS) is not None
    assert await store.receivers.resume(HOST, OPS) is None
    assert (await store.receivers.one(HOST)).pause is None
    assert await store.receivers.pause(HOST, OPS) is not None


async def test_a_paused_receivers_deliveries_do_not_count_as_the_next_due(store: Store) -> None:
    await due_delivery(store)
    later = await claimed_delivery(store, host=OTHER)
    await record_attempt(store, attempt_result(store, later, retry_at(store.now() + 500)))
    await store.receivers.pause(HOST, OPS)
    due = await store.next_due_at()
    assert due == pytest.approx(store.now() + 500, abs=30)
    assert (await store.counts()).oldest_due_at == due
    assert (await store.counts()).pending_deliveries == 2


async def test_a_retry_of_a_paused_receivers_delivery_waits_too(store: Store) -> None:
    one = await dead_delivery(store)
    await store.receivers.pause(HOST, OPS)
    assert (await store.retry(one.id, None)).state == "pending"
    assert await claim(store, HOST) == []
    await store.receivers.resume(HOST, OPS)
    assert await store.next_due_at() == pytest.approx(store.now(), abs=5)


# --- resuming -----------------------------------------------------------------------------------------------------


async def test_all_that_waits_is_due_one_after_the_other_the_oldest_first(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_receivers, "SPREAD_AT_ONCE", 3)
    scheduled = await claimed_delivery(store)
    await record_attempt(store, attempt_result(store, scheduled, retry_at(store.now() + 5_000)))
    waiting = [await due_delivery(store) for _ in range(7)]
    for number, one in enumerate(waiting):
        execute(store, "UPDATE outbox SET due_at = :at WHERE id = :id", at=1_000.0 + number, id=one.id)
    await store.receivers.pause(HOST, OPS)
    before = store.now()
    await store.receivers.resume(HOST, OPS)
    assert (await store.receivers.pause_state()).resuming == {HOST}
    assert await claim(store, HOST) == []  # none before all have their new times
    while await store.receivers.spread(HOST):
        assert (await store.receivers.pause_state()).held == {HOST}
    assert not (await store.receivers.pause_state()).held
    found = rows(store, "SELECT id, due_at FROM outbox ORDER BY due_at")
    assert [row.id for row in found] == [one.id for one in (*waiting, scheduled)]
    gaps = [after.due_at - first.due_at for first, after in pairwise(found)]
    assert gaps == pytest.approx([0.01] * 7, abs=0.001)
    assert found[0].due_at == pytest.approx(before, abs=5)
    shown = {row.id: row.next_attempt_at for row in rows(store, "SELECT id, next_attempt_at FROM deliveries")}
    assert shown == {row.id: row.due_at for row in found}


async def test_another_replica_goes_on_when_the_one_that_resumed_ends(
    replicas: list[Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_receivers, "SPREAD_AT_ONCE", 1)
    first, second = replicas
    for _ in range(3):
        await due_delivery(first)
    await first.receivers.pause(HOST, OPS)
    assert (await second.receivers.pause_state()).paused == {HOST}
    await first.receivers.resume(HOST, OPS)
    while await second.receivers.spread(HOST):
        pass
    assert not (await first.receivers.pause_state()).held
    assert not await first.receivers.spread(HOST)


async def test_a_receiver_that_is_paused_again_while_it_is_resumed_stays_paused(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_receivers, "SPREAD_AT_ONCE", 1)
    for _ in range(3):
        await due_delivery(store)
    await store.receivers.pause(HOST, OPS)
    await store.receivers.resume(HOST, OPS)
    assert await store.receivers.pause(HOST, Actor("night shift", Role.OPERATOR)) is not None
    assert not await store.receivers.spread(HOST)
    paused = (await store.receivers.one(HOST)).pause
    assert paused is not None and paused.by == "night shift"
    assert await claim(store, HOST) == []


async def test_resuming_leaves_the_claim_of_an_attempt_under_way(store: Store) -> None:
    one = await claimed_delivery(store)
    await store.receivers.pause(HOST, OPS)
    await store.receivers.resume(HOST, OPS)
    await record_attempt(store, attempt_result(store, one, DELIVERED))


# --- figures ------------------------------------------------------------------------------------------------------


def figures(at: float, *, status: int = 204, error: Problem | None = None) -> Figures:
    made = Figures()
    made.add(0.25, LastAnswer(at, status, error), delivered=error is None)
    return made


async def write_figures(store: Store, process: str, totals: Mapping[tuple[str, int], Figures]) -> None:
    await store._writer.run(store_receivers.write_figures, process, totals)


def hour(at: float) -> int:
    return int(at // 3600)


async def by_name(store: Store) -> dict[str, Receiver]:
    return {one.name: one for one in await store.receivers.all()}


async def test_the_figures_of_all_processes_and_hours_of_a_day_add_up(store: Store) -> None:
    now, error = store.now(), Problem("http_500", "the receiver answered 500")
    await write_figures(store, "a", {(HOST, hour(now)): figures(now, status=500, error=error)})
    await write_figures(store, "a", {(HOST, hour(now)): figures(now, status=500, error=error)})
    await write_figures(store, "b", {(HOST, hour(now) - 2): figures(now - 7200)})
    await write_figures(store, "b", {(OTHER, hour(now) - 30): figures(now - 30 * 3600)})
    found = await by_name(store)
    assert found.keys() == {HOST}
    assert (found[HOST].figures.attempts, found[HOST].figures.delivered) == (2, 1)
    assert found[HOST].figures.last == LastAnswer(now, 500, error)
    assert (await store.receivers.one(OTHER)).figures.attempts == 0
    await store.receivers.delete_old_figures()
    assert [row.host for row in rows(store, "SELECT host FROM receiver_figures")] == [HOST, HOST]


async def test_receivers_have_their_pending_and_dead_deliveries_and_their_failures(store: Store) -> None:
    await due_delivery(store)
    await dead_delivery(store, host=OTHER)
    failed = await claimed_delivery(store, host=OTHER)
    await record_attempt(store, attempt_result(store, failed, retry_at(store.now()), host_failures=4))
    await store.receivers.pause("[2001:db8::1]:80", OPS)
    found = await by_name(store)
    assert list(found) == sorted(["[2001:db8::1]:80", HOST, OTHER])
    assert (found[HOST].pending, found[HOST].dead, found[HOST].failures) == (1, 0, 0)
    assert (found[OTHER].pending, found[OTHER].dead, found[OTHER].health) == (1, 1, "failing")
    assert found["[2001:db8::1]:80"].pause is not None


async def test_listing_receivers_reads_no_settled_watch(sqlite_store: Store) -> None:
    with plans(sqlite_store) as steps:
        await sqlite_store.receivers.all()
        await sqlite_store.receivers.one(HOST)
    assert not set(steps).intersection(READS_ALL)
    assert "SEARCH receiver_figures USING INDEX ix_receiver_figures_hour (hour>?)" in steps
    assert "SCAN outbox USING COVERING INDEX ix_outbox_host" in steps


async def test_claims_cost_the_same_beside_a_long_paused_backlog(sqlite_store: Store) -> None:
    store = sqlite_store
    execute(store, "DELETE FROM outbox")
    execute(
        store,
        "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 20000) "
        "INSERT INTO outbox (id, host, due_at, set_at) SELECT 'paused' || x, 'paused.example:443', 1.0, 1.0 FROM n",
    )
    await store.receivers.pause("paused.example:443", OPS)
    one = await due_delivery(store)
    steps = 0

    def count() -> int:
        nonlocal steps
        steps += 1
        return 0

    def watch(connection: Any, *_: object) -> None:
        connection.set_progress_handler(count, 100)

    event.listen(store._database._reading, "checkout", watch)
    store._database.transaction(lambda connection: watch(connection.connection.dbapi_connection))
    try:
        assert await store.due_hosts() == {HOST: 1}
        assert await store.next_due_at() is not None
        assert await claim(store, HOST) == [one.id]
    finally:
        event.remove(store._database._reading, "checkout", watch)
        execute(store, "DELETE FROM outbox")
        execute(store, "DELETE FROM pauses")
    assert 0 < steps < 100  # each has 100 instructions of SQLite; the backlog alone has 20,000 rows
    assert one_row(store, "SELECT count(*) FROM outbox") == 0

"""Claims of deliveries: one holder at a time, a limit for each host, and due again when the holder is dead."""

import asyncio

import pytest
from sqlalchemy import insert

from bridge.core.errors import LostClaim
from bridge.store.open import open_store
from bridge.store.schema import outbox
from bridge.store.store import Store
from bridge.telemetry import Metrics
from tests.store.builders import (
    HOST,
    attempt_result,
    claimed_delivery,
    due_delivery,
    execute,
    new_watch,
    one_row,
    record_attempt,
    register_watch,
    retry_at,
    rows,
    settle,
)

MINUTE = 60.0


async def test_a_due_delivery_is_claimed_once(store: Store) -> None:
    one = await due_delivery(store)
    [claimed] = await store.claim({HOST: 5}, MINUTE)
    assert (claimed.id, claimed.payload, claimed.callback_url) == (one.id, one.payload, one.callback_url)
    assert claimed.lease != one.lease
    assert await store.claim({HOST: 5}, MINUTE) == []
    assert await store.due_hosts() == {}


async def test_a_claim_takes_the_oldest_deliveries_of_a_host_and_no_more_than_its_room(store: Store) -> None:
    ids = [(await due_delivery(store)).id for _ in range(4)]
    for place, one in enumerate(ids):
        execute(store, "UPDATE outbox SET due_at = :at WHERE id = :id", at=store.now() - 100 + place, id=one)
    assert {claimed.id for claimed in await store.claim({HOST: 3}, MINUTE)} == set(ids[:3])
    assert [claimed.id for claimed in await store.claim({HOST: 3}, MINUTE)] == ids[3:]


async def test_a_claim_counts_each_host_by_itself(store: Store) -> None:
    for host in ("one.example:443", "one.example:443", "two.example:80", "three.example:80"):
        await due_delivery(store, host=host)
    assert await store.due_hosts() == {"one.example:443": 2, "two.example:80": 1, "three.example:80": 1}
    claimed = await store.claim({"one.example:443": 1, "two.example:80": 1}, MINUTE)
    assert sorted(one.host for one in claimed) == ["one.example:443", "two.example:80"]
    assert await store.due_hosts() == {"one.example:443": 1, "three.example:80": 1}


async def test_a_delivery_that_is_due_later_is_not_claimed(store: Store) -> None:
    one = await claimed_delivery(store)
    await record_attempt(store, attempt_result(store, one, retry_at(store.now() + MINUTE)))
    assert await store.claim({HOST: 5}, MINUTE) == []
    assert await store.next_due_at() == pytest.approx(store.now() + MINUTE, abs=5)


async def test_without_pending_deliveries_none_is_due(store: Store) -> None:
    assert await store.next_due_at() is None
    assert await store.due_hosts() == {}
    assert await store.claim({HOST: 5}, MINUTE) == []


async def test_after_its_lease_a_delivery_is_claimed_anew_and_the_late_holder_writes_nothing(store: Store) -> None:
    await due_delivery(store)
    [late] = await store.claim({HOST: 1}, 0.0)
    [new] = await store.claim({HOST: 1}, MINUTE)
    with pytest.raises(LostClaim):
        await record_attempt(store, attempt_result(store, late))
    await record_attempt(store, attempt_result(store, new))
    view, attempts = await store.delivery(new.id, None)
    assert (view.state, view.attempts, len(attempts)) == ("delivered", 1, 1)


async def test_a_late_holder_can_write_when_no_other_claimed_the_delivery(store: Store) -> None:
    await due_delivery(store)
    [late] = await store.claim({HOST: 1}, 0.0)
    await record_attempt(store, attempt_result(store, late))
    assert (await store.delivery(late.id, None))[0].state == "delivered"


async def test_released_deliveries_are_due_at_once(store: Store) -> None:
    one = await claimed_delivery(store)
    await store.release([one])
    assert [claimed.id for claimed in await store.claim({HOST: 1}, MINUTE)] == [one.id]


async def test_releasing_a_lost_claim_does_not_affect_the_new_one(store: Store) -> None:
    await due_delivery(store)
    [late] = await store.claim({HOST: 1}, 0.0)
    [new] = await store.claim({HOST: 1}, MINUTE)
    await store.release([late])
    assert one_row(store, "SELECT lease FROM outbox") == new.lease


async def test_claims_at_once_share_the_due_deliveries(store: Store) -> None:
    for _ in range(6):
        await due_delivery(store)
    found = await asyncio.gather(*(store.claim({HOST: 4}, MINUTE) for _ in range(3)))
    ids = [one.id for claimed in found for one in claimed]
    assert len(ids) == len(set(ids)) == 6


async def test_a_replica_that_lost_its_claim_claims_no_delivery(store: Store) -> None:
    await due_delivery(store)
    execute(store, "UPDATE replicas SET epoch = epoch + 1")
    assert await store.claim({HOST: 1}, MINUTE) == []


async def test_deliveries_claimed_by_a_crashed_process_are_due_when_its_file_is_opened_again(
    sqlite_url: str, encryption_key: str
) -> None:
    first = await open_store(sqlite_url, [encryption_key], Metrics())
    one = await claimed_delivery(first)
    await first.close()  # without `leave`, as in a crash
    second = await open_store(sqlite_url, [encryption_key], Metrics())
    assert [claimed.id for claimed in await second.claim({HOST: 1}, MINUTE)] == [one.id]
    with pytest.raises(LostClaim):
        await record_attempt(second, attempt_result(second, one))
    await second.close()


async def test_a_large_backlog_is_counted_up_to_a_thousand(store: Store) -> None:
    now = store.now()
    values = [{"id": f"evt_{n}", "host": HOST, "due_at": now - 1, "set_at": now} for n in range(1_005)]
    store._database.transaction(lambda connection: connection.execute(insert(outbox), values))
    await due_delivery(store, host="two.example:80")
    assert await store.due_hosts() == {HOST: 1_000, "two.example:80": 1}


async def test_headers_and_secret_are_decrypted_and_not_part_of_the_repr(store: Store) -> None:
    await due_delivery(store, headers={"X-Token": "hush"}, secret="whsec_own")
    [claimed] = await store.claim({HOST: 1}, MINUTE)
    assert (claimed.headers, claimed.secret) == ({"X-Token": "hush"}, "whsec_own")
    assert "hush" not in repr(claimed)
    assert "whsec_own" not in repr(claimed)


async def test_a_secret_that_does_not_decrypt_does_not_delay_other_deliveries(store: Store) -> None:
    bad = await due_delivery(store, secret="whsec_own")
    good = await due_delivery(store)
    execute(store, "UPDATE watches SET secret = :noise WHERE id = :id", noise=b"noise", id=bad.watch_id)
    assert [claimed.id for claimed in await store.claim({HOST: 5}, MINUTE)] == [good.id]
    assert await store.claim({HOST: 5}, MINUTE) == []  # `bad` is due again only after its lease
    assert one_row(store, "SELECT count(*) FROM outbox") == 2


async def test_deliveries_of_many_watches_on_one_host_are_claimed_together(store: Store) -> None:
    registered = await store.register_all([new_watch(store) for _ in range(5)])
    for one in registered:
        assert not isinstance(one, Exception)
        await store.release((await settle(store, one)).claimed)
    claimed = await store.claim({HOST: 10}, MINUTE)
    assert len({one.watch_id for one in claimed}) == 5
    assert {one.id for one in claimed} == {row.id for row in rows(store, "SELECT id FROM outbox")}


async def test_an_active_watch_has_no_due_delivery(store: Store) -> None:
    await register_watch(store)
    assert await store.due_hosts() == {}

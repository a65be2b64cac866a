"""Notices for operators in the store: one for each change, on one or several replicas, and none about notices."""

from collections.abc import Iterator

import orjson
import pytest

from bridge.core.audit import Actor, Role
from bridge.core.operations import SUM_UP_SECONDS, NoticeType
from bridge.store.notice_writing import NoticeTarget
from bridge.store.store import Store
from tests.store.builders import (
    DEAD,
    DELIVERED,
    HOST,
    attempt_result,
    claimed_delivery,
    due_delivery,
    execute,
    one_row,
    record_attempt,
    retry_at,
    rows,
)
from tests.store.test_query_plans import READS_ALL, plans

OPS = Actor("ops", Role.OPERATOR)
TARGET = NoticeTarget("https://ops.example/hook?key=hidden", "ops.example:443")


def noticing(store: Store) -> Store:
    store.notices.enable(TARGET, "https://bridge.example/x/")
    return store


@pytest.fixture(autouse=True)
def _as_before(request: pytest.FixtureRequest) -> Iterator[None]:
    """The stores are shared by all tests, so what a test enables is disabled after it."""
    stores = [request.getfixturevalue(name) for name in ("store", "sqlite_store") if name in request.fixturenames]
    stores += request.getfixturevalue("replicas") if "replicas" in request.fixturenames else []
    before = [one.notices.settings for one in stores]
    yield
    for one, settings in zip(stores, before, strict=True):
        one.notices.settings = settings


def sent(store: Store) -> list[dict[str, object]]:
    """Returns the events of all notices, in order."""
    found = rows(store, "SELECT payload FROM notices ORDER BY created_at, id")
    return [orjson.loads(bytes(row.payload)) for row in found]


async def fail(store: Store, failures: int = 3, *, host: str = HOST) -> None:
    one = await claimed_delivery(store, host=host)
    await record_attempt(store, attempt_result(store, one, retry_at(store.now() + 60), host_failures=failures))


async def die(store: Store, many: int = 1, *, host: str = HOST, app: str = "app") -> list[str]:
    made = [await claimed_delivery(store, host=host, app=app) for _ in range(many)]
    for one in made:
        await record_attempt(store, attempt_result(store, one, DEAD))
    return [one.id for one in made]


# --- receivers ----------------------------------------------------------------------------------------------------


async def test_a_failing_receiver_is_noticed_once_and_its_recovery_once(store: Store) -> None:
    noticing(store)
    await fail(store, 2)
    assert await store.notices.check() == []
    await fail(store, 3)
    await fail(store, 4)
    [failing] = await store.notices.check()
    assert (failing.type, failing.receiver, failing.count, failing.apps) == (
        NoticeType.RECEIVER_FAILING,
        HOST,
        3,
        ("app",),
    )
    assert await store.notices.check() == []
    one = await claimed_delivery(store)
    await record_attempt(store, attempt_result(store, one, DELIVERED, host_failures=0))
    [recovered] = await store.notices.check()
    assert (recovered.type, recovered.since) == (NoticeType.RECEIVER_RECOVERED, failing.since)
    assert await store.notices.check() == []
    assert [one["type"] for one in sent(store)] == ["bridge.receiver_failing", "bridge.receiver_recovered"]


async def test_replicas_that_see_the_same_send_one_notice(replicas: list[Store]) -> None:
    for one in replicas:
        noticing(one)
    await fail(replicas[0])
    await die(replicas[1], 2)
    found = [notice for one in replicas * 2 for notice in await one.notices.check()]
    assert [one.type for one in found] == [NoticeType.RECEIVER_FAILING, NoticeType.DELIVERY_DEAD]
    assert len({one["id"] for one in sent(replicas[0])}) == 2
    for one in replicas:
        assert len(await one.notices.key_changed("configured", refused=True)) == (one is replicas[0])
    for one in replicas:
        assert len(await one.notices.key_changed("configured", refused=False)) == (one is replicas[0])


async def test_a_pause_and_a_resume_are_noticed_with_who_did_it(store: Store) -> None:
    noticing(store)
    await due_delivery(store)
    for _ in range(2):
        await store.receivers.pause(HOST, OPS)
    for _ in range(2):
        await store.receivers.resume(HOST, OPS)
    paused, resumed = sent(store)
    assert paused["type"] == "bridge.receiver_paused"
    data = paused["data"]
    assert isinstance(data, dict)
    assert data == {
        "receiver": HOST,
        "credential": None,
        "apps": ["app"],
        "count": 1,
        "delivery_ids": None,
        "since": data["since"],
        "by": "ops",
        "message": f"ops paused the receiver {HOST}: 1 delivery waits.",
        "page_url": "https://bridge.example/x/#host=app.example%3A443",
    }
    assert resumed["type"] == "bridge.receiver_resumed"


# --- dead deliveries ----------------------------------------------------------------------------------------------


async def test_the_first_dead_delivery_is_noticed_at_once_and_the_others_once_a_minute(store: Store) -> None:
    noticing(store)
    [first] = await die(store)
    [notice] = await store.notices.check()
    assert (notice.type, notice.count, notice.delivery_ids) == (NoticeType.DELIVERY_DEAD, 1, (first,))
    ids = await die(store, 22, app="b") + await die(store, 3, app="a")
    assert await store.notices.check() == []
    other = await die(store, host="other.example:443")
    assert [one.delivery_ids for one in await store.notices.check()] == [tuple(other)]
    execute(store, "UPDATE conditions SET since = since - :seconds", seconds=SUM_UP_SECONDS + 1)
    [summed] = await store.notices.check()
    assert (summed.count, summed.apps) == (25, ("a", "b"))
    assert summed.delivery_ids is not None
    assert len(summed.delivery_ids) == 20
    assert set(summed.delivery_ids) <= set(ids)
    assert one_row(store, "SELECT count(*) FROM dead_reports") == 0
    execute(store, "UPDATE conditions SET since = since - :seconds", seconds=SUM_UP_SECONDS + 1)
    assert await store.notices.check() == []


DEAD_DELIVERIES = """
    WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 10000)
    INSERT INTO deliveries (id, watch_id, type, state, attempts, round_attempts, created_at, dead_at)
    SELECT 'evt_' || x, :watch, 'video.failed', 'dead', 1, 1, 1.0, 1.0 FROM n
"""
REPORTS = """
    WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 10000)
    INSERT INTO dead_reports (delivery_id, host, dead_at) SELECT 'evt_' || x, :host, 1.0 + x FROM n
"""


async def test_ten_thousand_dead_deliveries_are_two_notices(sqlite_store: Store) -> None:
    store = noticing(sqlite_store)
    await die(store)
    await store.notices.check()
    [watch] = [row.watch_id for row in rows(store, "SELECT watch_id FROM deliveries WHERE watch_id <> '' LIMIT 1")]
    execute(store, DEAD_DELIVERIES, watch=watch)
    execute(store, REPORTS, host=HOST)
    execute(store, "UPDATE conditions SET since = 1.0")
    [notice] = await store.notices.check()
    assert (notice.count, notice.message[:24]) == (10_000, "10,000 deliveries are de")
    assert len(sent(store)[-1]["data"]["delivery_ids"]) == 20  # type: ignore[index]
    for table in ("deliveries", "dead_reports", "notices", "outbox", "conditions"):
        execute(store, f"DELETE FROM {table}")  # noqa: S608  a constant


async def test_many_receivers_at_once_are_summed_up_and_later_ones_wait_for_their_minute(store: Store) -> None:
    noticing(store)
    for number in range(25):
        one = await claimed_delivery(store, host=f"h{number}.example:443", app="b" if number else "a")
        await record_attempt(store, attempt_result(store, one, DEAD, host_failures=3))
    failing, dead = await store.notices.check()
    assert (failing.type, failing.receiver, failing.count) == (NoticeType.RECEIVER_FAILING, None, 0)
    assert (dead.type, dead.receiver, dead.count, dead.apps) == (NoticeType.DELIVERY_DEAD, None, 25, ("a", "b"))
    assert len(dead.delivery_ids or ()) == 20
    assert "25 receivers (h0.example:443, h1.example:443, h10.example:443 and 22 more)" in dead.message
    assert len(sent(store)) == 2
    execute(store, "UPDATE notices SET type = 'bridge.delivery_dead'")
    statement = "INSERT INTO notices SELECT id || 'x' || :n, type, host, callback_url, created_at, payload FROM notices"
    for number in range(4):  # 32 in the last minute
        execute(store, statement, n=str(number))
    await die(store)
    assert await store.notices.check() == []
    execute(store, "UPDATE notices SET created_at = created_at - 100")
    assert [one.receiver for one in await store.notices.check()] == [HOST]


async def test_nothing_is_noted_while_no_notice_is_configured(store: Store) -> None:
    await die(store)
    await store.receivers.pause(HOST, OPS)
    for table in ("dead_reports", "notices", "conditions"):
        assert one_row(store, f"SELECT count(*) FROM {table}") == 0  # noqa: S608  a constant


# --- the notices' own deliveries ----------------------------------------------------------------------------------


async def test_a_notice_is_claimed_attempted_and_kept_like_any_delivery(store: Store) -> None:
    noticing(store)
    await store.receivers.pause(HOST, OPS)
    await due_delivery(store, host="other.example:443")
    claimed = await store.claim({TARGET.host: 9, "other.example:443": 9}, 30.0)
    [notice] = [one for one in claimed if one.host == TARGET.host]
    assert len(claimed) == 2
    assert (notice.type, notice.callback_url, notice.secret) == ("bridge.receiver_paused", TARGET.url, None)
    assert orjson.loads(notice.payload)["id"] == notice.id
    later = store.now() + 60
    await record_attempt(store, attempt_result(store, notice, retry_at(later)))
    execute(store, "UPDATE outbox SET due_at = 1.0")
    [again] = await store.claim({TARGET.host: 9}, 30.0)
    assert (again.id, again.attempts, again.payload) == (notice.id, 1, notice.payload)
    await record_attempt(store, attempt_result(store, again, DELIVERED))
    assert one_row(store, "SELECT state FROM deliveries WHERE id = :id", id=notice.id) == "delivered"
    assert await store.delete_ended_before(store.now() + 1, 10) == 0
    assert one_row(store, "SELECT count(*) FROM notices") == 0
    assert one_row(store, "SELECT count(*) FROM attempts WHERE delivery_id = :id", id=notice.id) == 0


async def test_no_notice_is_about_notices_or_sent_to_its_own_receiver(store: Store) -> None:
    noticing(store)
    await store.receivers.pause(HOST, OPS)
    [notice] = await store.claim({TARGET.host: 9}, 30.0)
    await record_attempt(store, attempt_result(store, notice, DEAD, host_failures=3))
    [failing] = await store.notices.check()  # people get this notice, the receiver itself does not
    assert (failing.type, failing.receiver) == (NoticeType.RECEIVER_FAILING, TARGET.host)
    await store.receivers.pause(TARGET.host, OPS)
    assert [one["type"] for one in sent(store)] == ["bridge.receiver_paused"]
    assert one_row(store, "SELECT count(*) FROM dead_reports") == 0
    assert await store.notices.check() == []


async def test_a_pending_notice_survives_retention(store: Store) -> None:
    noticing(store)
    await store.receivers.pause(HOST, OPS)
    await store.delete_ended_before(store.now() + 1_000, 10)
    assert len(sent(store)) == 1


async def test_looking_for_what_changed_reads_few_rows(sqlite_store: Store) -> None:
    with plans(noticing(sqlite_store)) as steps:
        await sqlite_store.notices.check()
    assert not set(steps).intersection(READS_ALL)
    assert "SCAN hosts" in steps  # only failing receivers have a row there

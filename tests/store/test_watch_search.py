"""Searches for watches by text, host, event and time, on both kinds of database."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import orjson
import pytest

from bridge.core.ids import event_id, watch_id_text
from bridge.core.model import EventType, Outcome, WatchState
from bridge.core.watch_search import SearchText
from bridge.store import watch_scan
from bridge.store.database import ReadInterrupted, ReadLimit
from bridge.store.records import RegisteredWatch, WatchQuery
from bridge.store.store import Store
from bridge.store.watch_searches import SCAN_SECONDS
from tests.store.builders import claimed_delivery, execute, failed, new_watch, register, settle

BY = "app shop"


async def found(store: Store, text: str | None = None, **conditions: Any) -> list[str]:
    query = WatchQuery(50, text=None if text is None else SearchText.of(text), **conditions)
    return [view.watch.id for view in (await store.searches.page(query, BY)).views]


async def registered(
    store: Store, number: int = 1, context: Any = None, age: float = 0.0, url: str | None = None, **fields: Any
) -> Any:
    """Register a watch whose id contains its creation time, as in a running bridge."""
    new = new_watch(store, age=age, **{"app": "shop", **fields})
    milliseconds = int(new.watch.created_at * 1000)
    own_id = f"wat_{watch_id_text(milliseconds << 80 | number)}"
    watch = replace(new.watch, id=own_id, context=orjson.dumps(context or {}))
    return await register(store, replace(new, watch=watch if url is None else replace(watch, callback_url=url)))


CONTEXT = {"order": "ORD-7712", "user": {"id": 918273645, "tags": ["Größe", 're"d', 2.5e30]}, "paid": True}


@pytest.mark.parametrize(
    "text",
    [
        lambda one: one.watch.id,
        lambda one: one.watch.id[9:20].upper(),
        lambda one: event_id(one.watch.id, EventType.COMPLETED),
        lambda one: event_id(one.watch.id, EventType.COMPLETED)[-9:],
        lambda one: event_id(one.watch.id, EventType.COMPLETED)[2:12],
        lambda one: "Video-8xK42-final",
        lambda one: "8XK42",
        lambda one: " \u2003'8xK42-final', ",
        lambda one: "https://hooks.example:8443/Shop/done?token=s3cret",
        lambda one: "https://hooks.example:8443/Shop/done",
        lambda one: "hooks.example:8443/shop/DONE?other=1",
        lambda one: "ooks.exampl",
        lambda one: "/shop/",
        lambda one: "ORD-7712",
        lambda one: "rd-77",
        lambda one: "918273645",
        lambda one: "8273",
        lambda one: "größe",
        lambda one: "GRÖSSE"[:3],
        lambda one: 're"D',
        lambda one: "2.5e30",
        lambda one: f"https://bridge.example/watch/{one.watch.id}/content?expires=1",
    ],
)
async def test_a_text_finds_the_watch_that_has_it(store: Store, text: Callable[[RegisteredWatch], str]) -> None:
    one = await registered(
        store, 7, CONTEXT, 60.0, task_id="Video-8xK42-final", host="hooks.example:8443", path="Shop/done?token=s3cret"
    )
    await registered(store, 8, {"order": "none"})
    assert await found(store, text(one)) == [one.watch.id]


@pytest.mark.parametrize(
    "text",
    [
        *(
            "%",
            "_9",
            "\\",
            "%%%",
            "' OR 1=1 --",
            "[a-z]",
            "näh",
            "😀",
            "s3cret",
            "token=s3cret",
            "?token",
            "tags",
            "true",
        ),
        *("ORD-7712 ORD", "hooks.example:9000", "https://hooks.example:8443/other?token=s3cret", "x" * 2_048),
    ],
)
async def test_a_text_that_a_watch_does_not_have_finds_nothing(store: Store, text: str) -> None:
    await registered(
        store, 7, CONTEXT, 60.0, task_id="Video-8xK42-final", host="hooks.example:8443", path="Shop/done?token=s3cret"
    )
    assert await found(store, text) == []


@pytest.mark.parametrize(
    ("host", "path", "pasted"),
    [
        ("app.example:443", "~kim/done", "https://APP.example:443/%7Ekim/done"),
        ("app.example:443", "~kim/done", "app.example.:443/~kim"),
        ("app.example.:443", "%7Ekim/done?a=1", "https://app.example/~kim/done?a=1"),
        ("app.example:8443", "a%20b_(c)/caf%C3%A9", "app.example:8443/a b_%28c%29/café"),
        ("app.example:443", "%7Ekim/caf%C3%A9", "/~kim/CAFÉ"),
    ],
)
async def test_a_callback_url_is_found_in_any_spelling(store: Store, host: str, path: str, pasted: str) -> None:
    one = await registered(store, 1, url=f"https://{host}/{path}", host=host.replace(".:", ":"))
    await registered(store, 2, host="app.example:8443", path="kim/cafe")
    assert await found(store, pasted) == [one.watch.id]


async def test_a_search_sees_the_watches_of_its_app_only(store: Store) -> None:
    own = await registered(store, 1, {"order": 7})
    other = await registered(store, 2, {"order": 7}, app="lab")
    assert await found(store, "7", app="shop") == [own.watch.id]
    for text in (other.watch.id, other.watch.task_id, "lab"):
        assert await found(store, text, app="shop") == []
    by_operator = WatchQuery(50, text=SearchText.of("lab", in_apps=True))
    assert [view.watch.id for view in (await store.searches.page(by_operator, BY)).views] == [other.watch.id]


async def test_a_search_has_the_other_filters_too(store: Store) -> None:
    active = await registered(store, 1, {"order": 7})
    ended = await registered(store, 2, {"order": 7})
    await settle(store, ended, failed)
    assert await found(store, "7", state=WatchState.ACTIVE) == [active.watch.id]
    assert await found(store, "7", outcome=Outcome.FAILED) == [ended.watch.id]
    assert await found(store, ended.watch.id, state=WatchState.ACTIVE) == []
    assert await found(store, "7", task_id=ended.watch.task_id) == [ended.watch.id]


async def test_pages_of_a_search_have_no_gap_and_no_repetition(store: Store) -> None:
    every = [(await registered(store, number, {"n": "same"})).watch.id for number in range(7)]
    for oldest_first in (False, True):
        read: list[str] = []
        cursor, more = None, True
        while more:
            query = WatchQuery(3, cursor=cursor, oldest_first=oldest_first, text=SearchText.of("same"))
            page = await store.searches.page(query, BY)
            read += [view.watch.id for view in page.views]
            cursor, more = read[-1], page.more
            assert page.looked_back_to is None
        assert read == sorted(every, reverse=not oldest_first)


async def test_a_host_is_found_with_and_without_its_port(store: Store) -> None:
    one = (await registered(store, 1, host="hooks.example:8443")).watch.id
    two = (await registered(store, 2, host="hooks.example:80")).watch.id
    ipv6 = (await registered(store, 3, host="[2606:4700::1]:443")).watch.id
    await registered(store, 4, host="hooks.example.org:443")
    assert await found(store, host="hooks.example") == sorted([one, two], reverse=True)
    assert await found(store, host="hooks.example:80") == [two]
    assert await found(store, host="[2606:4700::1]") == [ipv6]
    assert await found(store, host="[2606:4700::1]:443") == [ipv6]


async def test_a_time_range_has_its_beginning_and_not_its_end(store: Store) -> None:
    old, middle, new = [await registered(store, number, age=age) for number, age in enumerate((300.0, 200.0, 100.0))]
    at = middle.watch.created_at
    assert await found(store, created_after=at) == [new.watch.id, middle.watch.id]
    assert await found(store, created_before=at) == [old.watch.id]
    assert await found(store, created_after=at, created_before=at + 1) == [middle.watch.id]
    assert await found(store, "task_", created_before=at) == [old.watch.id]


async def test_a_watch_whose_time_was_corrected_is_in_the_range_of_its_corrected_time(store: Store) -> None:
    one = await registered(store, 1, age=-3_600.0)  # the clock was an hour ahead
    execute(store, "UPDATE watches SET created_at = created_at - 3600")
    now = one.watch.created_at - 3_600.0
    assert await found(store, created_before=now + 1.0, created_after=now - 1.0) == [one.watch.id]


@pytest.mark.parametrize("sent", [EventType.COMPLETED, EventType.FAILED])
async def test_a_watch_is_found_by_its_event(store: Store, sent: EventType) -> None:
    one = await registered(store, 1, events=frozenset({sent}))
    completed = event_id(one.watch.id, EventType.COMPLETED)
    assert await found(store, event_id=completed) == []  # the event is not built yet
    await settle(store, one)
    await registered(store, 2)
    assert await found(store, event_id=completed) == [one.watch.id]
    assert await found(store, event_id=completed, app="lab") == []
    assert await found(store, event_id=event_id(one.watch.id, EventType.FAILED)) == []


async def test_an_event_of_version_0_1_is_found_by_its_own_id(store: Store) -> None:
    one = await claimed_delivery(store)
    old = "evt_" + "a2" * 16
    execute(store, "UPDATE deliveries SET id = :old", old=old)
    assert await found(store, event_id=old) == [one.watch_id]
    assert await found(store, f"webhook-id: {old}") == [one.watch_id]


# --- how far a search looks ---------------------------------------------------------------------------------------


@pytest.fixture
def small_scan(monkeypatch: pytest.MonkeyPatch) -> None:
    """A text is searched in the newest four watches, three at a time."""
    monkeypatch.setattr(watch_scan, "MOST_SEARCHED", 4)
    monkeypatch.setattr(watch_scan, "CHUNK", 3)


async def six(store: Store) -> Sequence[Any]:
    """Register six watches. Returns them, the oldest first."""
    return [await registered(store, number, {"n": f"no-{number}"}, age=600.0 - 100 * number) for number in range(6)]


async def test_a_text_is_searched_in_the_newest_watches_only_and_the_answer_says_so(
    store: Store, small_scan: None
) -> None:
    every = await six(store)
    for number, one in enumerate(every):
        page = await store.searches.page(WatchQuery(50, text=SearchText.of(f"no-{number}")), BY)
        assert [view.watch.id for view in page.views] == ([one.watch.id] if number >= 2 else [])
        assert page.looked_back_to == every[2].watch.created_at
    cursor = every[4].watch.id  # a page does not look further back than the first page
    page = await store.searches.page(WatchQuery(50, cursor=cursor, text=SearchText.of("no-")), BY)
    assert [view.watch.id for view in page.views] == [every[3].watch.id, every[2].watch.id]
    before = every[2].watch.created_at
    page = await store.searches.page(WatchQuery(50, created_before=before, text=SearchText.of("no-")), BY)
    assert [view.watch.id for view in page.views] == [every[1].watch.id, every[0].watch.id]
    assert page.looked_back_to is None


async def test_a_whole_id_is_found_however_old_its_watch_is(store: Store, small_scan: None) -> None:
    oldest = (await six(store))[0]
    await settle(store, oldest)
    for text in (oldest.watch.id, oldest.watch.task_id, event_id(oldest.watch.id, EventType.COMPLETED)):
        assert await found(store, text) == [oldest.watch.id]
        assert await found(store, text, app="lab") == []
    assert await found(store, oldest.watch.id[:-1]) == []


async def test_a_search_for_a_host_looks_at_every_watch(store: Store, small_scan: None) -> None:
    every = await six(store)
    page = await store.searches.page(WatchQuery(50, host="app.example"), BY)
    assert [view.watch.id for view in page.views] == [one.watch.id for one in reversed(every)]
    assert page.looked_back_to is None
    assert list((await store.searches.all(WatchQuery(2), BY)).ids) == [one.watch.id for one in reversed(every)]


async def test_a_scan_at_its_limit_returns_what_it_has_found(
    store: Store, small_scan: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    every = await six(store)
    limit = ReadLimit(3_600.0, time.monotonic)
    original = watch_scan._chunk

    def one_chunk(*arguments: Any) -> Any:
        limit.stop()
        return original(*arguments)

    monkeypatch.setattr(watch_scan, "_chunk", one_chunk)
    result = watch_scan.scan(store._database, WatchQuery(50, text=SearchText.of("no-")), limit)
    assert list(result.ids) == [every[number].watch.id for number in (5, 4, 3)]
    assert result.looked_back_to == every[3].watch.created_at
    result = watch_scan.scan(store._database, WatchQuery(50, text=SearchText.of("no-")), limit)
    assert list(result.ids) == []
    assert result.looked_back_to == pytest.approx(store.now(), abs=60)


async def test_the_database_interrupts_a_statement_at_its_limit(store: Store) -> None:
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
    with pytest.raises(ReadInterrupted):
        store._database.read_within(
            ReadLimit(0.05, time.monotonic), lambda connection: connection.exec_driver_sql(endless).all()
        )
    assert await found(store) == []  # the connection is still good
    assert SCAN_SECONDS < 2

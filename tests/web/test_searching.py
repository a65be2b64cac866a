"""`GET /watch` with the filters that search: text, event, callback host and time. Each app has one search at a time."""

import asyncio
import threading
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, urlencode

import pytest

from bridge.store import watch_scan, watch_searches
from tests.waiting import SAFETY_SECONDS
from tests.web.harness import APP, BODY, OPERATOR, OTHER, Bridge


async def ids(bridge: Bridge, headers: dict[str, str] = APP, **query: Any) -> list[str]:
    answer = await bridge.get(f"/watch?{urlencode(query)}", headers=headers)
    assert answer.status == 200, answer
    return [one["id"] for one in answer.json["items"]]


async def test_support_finds_a_watch_by_whatever_it_is_given(bridge: Bridge) -> None:
    url = "https://app.example/Shop/Hook?key=hidden"
    watch = await bridge.watch(task_id="task_8xK42", callback_url=url, context={"order": "A-7712", "user": 4711})
    await bridge.watch(task_id="task_other", context={"order": "B-1"})
    [event] = (await bridge.settle(watch["id"])).claimed
    given = (watch["id"], watch["id"][8:20], event.id, event.id[9:], "task_8xK42", "8XK", url, "app.example/shop")
    for text in (*given, "A-7712", "4711", "a-77", f" {event.id} \n"):
        assert await ids(bridge, q=text) == [watch["id"]], text
        assert await ids(bridge, OPERATOR, q=text) == [watch["id"]], text
        assert await ids(bridge, OTHER, q=text) == [], text
    for text in ("hidden", "order", "nothing", "%"):
        assert await ids(bridge, q=text) == [], text
    assert await ids(bridge, event_id=event.id) == [watch["id"]]
    assert await ids(bridge, OTHER, event_id=event.id) == []


async def test_a_page_of_a_search_says_how_far_it_looked(bridge: Bridge, monkeypatch: pytest.MonkeyPatch) -> None:
    known = [(await bridge.watch(task_id=f"task_{number}"))["id"] for number in range(5)]
    first = (await bridge.get("/watch?q=task_&limit=2")).json
    assert [one["id"] for one in first["items"]] == known[:2:-1]
    assert first["searched_back_to"] is None
    second = (await bridge.get(f"/watch?q=task_&limit=9&cursor={first['next_cursor']}")).json
    assert [one["id"] for one in second["items"]] == known[2::-1]
    assert (second["next_cursor"], second["searched_back_to"]) == (None, None)
    assert "searched_back_to" not in (await bridge.get("/watch")).json
    with monkeypatch.context() as limits:
        limits.setattr(watch_scan, "MOST_SEARCHED", 2)
        newest = (await bridge.get("/watch?q=task_")).json
    assert [one["id"] for one in newest["items"]] == known[:2:-1]
    assert newest["next_cursor"] is None
    # `searched_back_to` is rounded up to a millisecond, so the next search may return some watches a second time.
    rest = (await bridge.get(f"/watch?q=task_&created_before={newest['searched_back_to']}")).json
    assert known[2] in {one["id"] for one in rest["items"]}


async def test_watches_are_found_by_their_callback_host_and_time(bridge: Bridge) -> None:
    one = await bridge.watch()
    two = await bridge.watch(callback_url="http://app.example:8080/hook")
    for host in ("app.example", "APP.example."):
        assert await ids(bridge, callback_host=host) == [two["id"], one["id"]]
    assert await ids(bridge, callback_host="app.example:8080") == [two["id"]]
    assert await ids(bridge, callback_host="app.exampl") == []
    every = [two["id"], one["id"]]
    assert await ids(bridge, created_after="2026-01-01T00:00:00Z") == every
    assert await ids(bridge, created_after=one["created_at"]) == every
    assert await ids(bridge, created_before=one["created_at"]) == []
    assert await ids(bridge, created_before="2199-01-01 00:00:00+02:00") == every
    answer = await bridge.get("/watch?created_before=2199-01-01T00:00:00+02:00")  # a + that is not encoded
    assert len(answer.json["items"]) == 2
    assert await ids(bridge, created_after="2199-01-01T00:00:00.123456789-00:00") == []
    assert await ids(bridge, created_before="0001-01-01T00:00:00Z", q="task") == []


async def test_every_bad_filter_is_named_at_once(bridge: Bridge) -> None:
    bad = {
        "event_id": ("", "evt_x", "wat_1"),
        "callback_host": ("", "https://app.example", "a b", "app.example:0", "app.example:99999", "x:y"),
        "created_after": ("", "yesterday", "1795446245", "2026-11-23", "2026-13-01T00:00:00Z"),
        "created_before": ("2026-11-23T15:04:05",),
        "q": ("", " ", "%00", "x" * 2_049),
    }
    for name, values in bad.items():
        for value in values:
            query = value if value == "%00" else quote(value)
            assert (await bridge.get(f"/watch?{name}={query}")).fields() == {name}, value
    query = "&".join(f"{name}={quote(values[0])}" for name, values in bad.items()) + "&zz=1&limit=x&state=y"
    assert (await bridge.get(f"/watch?{query}")).fields() == {*bad, "zz", "limit", "state"}


# --- one at a time ------------------------------------------------------------------------------------------------


class Searches:
    """Holds every search until `go` is set. `began` has the app of each search. `ended` counts the ended searches."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.began: list[str | None] = []
        self.ended = 0
        self.changed = threading.Condition()

    def scan(self, database: Any, query: Any, limit: Any, *, enough: int | None = None) -> Any:
        with self.changed:
            self.began.append(query.app)
            self.changed.notify_all()
        while not self.go.wait(0.01) and not limit.is_over():
            pass
        try:
            return watch_scan.scan(database, query, limit, enough=enough)
        finally:
            with self.changed:
                self.ended += 1
                self.changed.notify_all()

    async def until(self, condition: Any) -> None:
        """Waits until the condition is true."""

        def wait() -> None:
            with self.changed:
                assert self.changed.wait_for(condition, SAFETY_SECONDS)

        await asyncio.to_thread(wait)


@pytest.fixture
def searches(monkeypatch: pytest.MonkeyPatch) -> Iterator[Searches]:
    """Makes every search wait until the test sets `go`."""
    held = Searches()
    monkeypatch.setattr(watch_searches, "scan", held.scan)
    monkeypatch.setattr(watch_searches, "SCAN_SECONDS", 60.0)
    monkeypatch.setattr(watch_searches, "_CALL_SECONDS", 60.0)
    yield held
    held.go.set()


async def test_an_app_has_one_search_at_a_time_and_others_are_not_delayed(bridge: Bridge, searches: Searches) -> None:
    watch = await bridge.watch()
    first, second = (asyncio.create_task(ids(bridge, q="task")) for _ in range(2))
    await searches.until(lambda: searches.began == ["shop"])
    other = asyncio.create_task(ids(bridge, OTHER, q="task"))
    await searches.until(lambda: searches.began == ["shop", "lab"])
    # Reads and writes work while the searches wait.
    assert (await bridge.get(f"/watch/{watch['id']}")).status == 200
    assert await ids(bridge) == [watch["id"]]
    assert (await bridge.post("/watch", BODY | {"task_id": "task_2"})).status == 201
    assert not (first.done() or second.done() or other.done())
    searches.go.set()
    found = await asyncio.gather(first, second, other)
    assert [len(one) for one in found] == [2, 2, 0]
    assert searches.began == ["shop", "lab", "shop"]


async def test_a_search_whose_caller_has_left_ends(bridge: Bridge, searches: Searches) -> None:
    left = asyncio.create_task(ids(bridge, q="task"))
    await searches.until(lambda: len(searches.began) == 1)
    left.cancel()
    await searches.until(lambda: searches.ended == 1)
    searches.go.set()
    assert await ids(bridge, q="task") == []

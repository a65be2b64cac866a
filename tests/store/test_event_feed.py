"""The event feed: a reader gets every event once, in order, for any order of commits, and notices removed events."""

from itertools import pairwise

import pytest

from bridge.core.errors import CursorExpired
from bridge.core.event_cursor import Position
from bridge.core.model import EventType
from bridge.store.event_feed import EVERY_APP
from bridge.store.store import Store
from tests.store.builders import (
    ALL_EVENTS,
    QUEUED,
    attempt_result,
    completed,
    execute,
    failed,
    record_attempt,
    record_status,
    register_watch,
    rows,
    settle,
)
from tests.store.feed import delete_ended, ids, number_all, page, read_all

COMPLETED_ONLY = frozenset({EventType.COMPLETED})


async def test_the_feed_has_terminal_events_that_are_not_sent_and_status_events_that_were_asked_for(
    store: Store,
) -> None:
    silent = await register_watch(store, events=COMPLETED_ONLY)
    asking = await register_watch(store, events=ALL_EVENTS)
    await record_status(store, silent)
    await record_status(store, asking, QUEUED)
    await record_status(store, asking)
    await settle(store, silent, failed)
    await settle(store, asking)
    await number_all(store)
    [queued, running, not_sent, done] = await read_all(store, "app")
    payloads = (await page(store)).payloads
    assert [one["type"] for one in (queued, running, not_sent, done)] == [
        "video.queued",
        "video.in_progress",
        "video.failed",
        "video.completed",
    ]
    assert not_sent["data"]["watch_id"] == silent.watch.id
    assert payloads[3] == (await store.terminal_event(asking.watch.id, None)).payload


async def test_the_events_of_a_cancelled_watch_stay_in_the_feed(store: Store) -> None:
    watch = await register_watch(store, events=ALL_EVENTS)
    await record_status(store, watch)
    await store.cancel(watch.watch.id, None)
    await number_all(store)
    assert [one["type"] for one in await read_all(store, "app")] == ["video.in_progress"]


async def test_a_feed_has_the_events_of_its_app_only(store: Store) -> None:
    watches = [await register_watch(store, app=app) for app in ("a", "b", "a")]
    for watch in watches:
        await settle(store, watch)
    await number_all(store)
    of = [[one["data"]["watch_id"] for one in await read_all(store, app)] for app in ("a", "b", "c", None)]
    first, second, third = (watch.watch.id for watch in watches)
    assert of == [[first, third], [second], [], [first, second, third]]


@pytest.mark.parametrize("limit", [1, 2, 3, 500])
async def test_pages_of_any_size_have_every_event_once(store: Store, limit: int) -> None:
    for _ in range(6):
        await settle(store, await register_watch(store))
    await number_all(store)
    whole = ids(await page(store))
    found: list[str] = []
    after = None
    while (read := await page(store, after=after, limit=limit)).payloads:
        found += ids(read)
        after = read.end
    assert found == whole
    assert len(set(found)) == 6


async def test_a_page_of_some_types_continues_after_all_that_it_has_read(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bridge.store.event_feed.WINDOW", 2)
    monkeypatch.setattr("bridge.store.event_feed.WINDOWS_AT_ONCE", 2)
    for number in range(9):
        await settle(store, await register_watch(store), failed if number in {0, 7} else completed)
    await number_all(store)
    types = frozenset({EventType.FAILED})
    first = await page(store, types=types, limit=1)
    assert (len(first.payloads), first.more) == (1, False)
    second = await page(store, types=types, after=first.end)
    assert (len(second.payloads), second.more) == (0, True)  # numbers 2 to 5 were read
    third = await page(store, types=types, after=second.end)
    assert (len(third.payloads), third.more) == (1, True)
    rest = await page(store, types=types, after=third.end)
    assert (rest.payloads, rest.end, rest.more) == ((), third.end, False)


async def test_a_reader_that_begins_at_the_latest_event_gets_the_new_ones(store: Store) -> None:
    assert await store.feed.latest("app") == Position()
    await settle(store, await register_watch(store))
    await settle(store, await register_watch(store, app="other"))
    await number_all(store)
    latest = await store.feed.latest("app")
    assert (await page(store, after=latest)).payloads == ()
    await settle(store, await register_watch(store))
    await number_all(store)
    assert len((await page(store, after=latest)).payloads) == 1


async def test_an_empty_page_has_a_position_that_holds(store: Store) -> None:
    start = await page(store)
    assert (start.payloads, start.end) == ((), Position())
    watch = await register_watch(store)
    await settle(store, watch)
    await number_all(store)
    assert len((await page(store, after=start.end)).payloads) == 1


# --- retention ----------------------------------------------------------------------------------------------------


async def ended_and_delivered(store: Store, app: str = "app") -> None:
    """Make a watch that retention may delete: it has ended, and its event is delivered."""
    [pending] = (await settle(store, await register_watch(store, app=app))).claimed
    await record_attempt(store, attempt_result(store, pending))
    await number_all(store)


async def test_a_cursor_expires_only_when_an_event_after_it_was_removed(store: Store) -> None:
    start = (await page(store)).end
    await ended_and_delivered(store)
    behind = (await page(store)).end
    await ended_and_delivered(store)
    end = (await page(store)).end
    assert await delete_ended(store, store.now() + 1, 10)
    for after in (start, behind):
        with pytest.raises(CursorExpired):
            await page(store, after=after)
    assert (await page(store, after=end)).payloads == ()
    latest = await store.feed.latest("app")
    assert (await page(store)).end == latest  # a reader that begins now misses nothing
    assert (await page(store, after=latest)).end == latest
    await ended_and_delivered(store)
    assert len((await page(store, after=end)).payloads) == len((await page(store)).payloads) == 1


async def test_a_reader_that_begins_among_kept_and_removed_events_reads_all_that_are_kept(store: Store) -> None:
    """A watch with a pending delivery is kept, so its event is kept too, although newer events are removed."""
    kept = await settle(store, await register_watch(store))
    for _ in range(2):
        await ended_and_delivered(store)
    kept_too = await settle(store, await register_watch(store))
    await ended_and_delivered(store)
    assert await delete_ended(store, store.now() + 1, 10) == 3
    assert [one["data"]["watch_id"] for one in await read_all(store, "app", limit=1)] == [
        kept.settled[0].id,
        kept_too.settled[0].id,
    ]
    start = await page(store, limit=1)
    [pending] = kept_too.claimed
    await record_attempt(store, attempt_result(store, pending))
    assert await delete_ended(store, store.now() + 1, 10) == 1
    with pytest.raises(CursorExpired):  # although an event with a larger number was removed before
        await page(store, after=start.end)
    assert ids(await page(store)) == ids(start)


async def test_another_apps_removed_events_expire_no_cursor(store: Store) -> None:
    await ended_and_delivered(store, "app")
    end = (await page(store)).end
    await ended_and_delivered(store, "other")
    assert await delete_ended(store, store.now() + 1, 10)
    assert (await page(store, after=end)).payloads == ()
    with pytest.raises(CursorExpired):
        await page(store, after=end, app=None)


async def test_numbers_go_on_after_every_event_was_removed_and_the_clock_was_set_back(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    await ended_and_delivered(store)
    end = (await page(store)).end
    assert await delete_ended(store, store.now() + 1, 10)
    now = store.now() - 3_600
    monkeypatch.setattr(store._database, "now", lambda: now)
    await settle(store, await register_watch(store))
    await number_all(store)
    assert len((await page(store, after=end)).payloads) == 1


async def test_an_event_that_is_not_in_the_feed_yet_is_not_removed(
    postgres_store: Store, replicas: list[Store]
) -> None:
    store = replicas[0]
    [pending] = (await settle(store, await register_watch(store))).claimed
    await record_attempt(store, attempt_result(store, pending))
    assert await store.delete_ended_before(store.now() + 1, 10) == 0
    await number_all(store)
    assert await delete_ended(store, store.now() + 1, 10)


# --- restoring and upgrading --------------------------------------------------------------------------------------


async def test_after_an_older_state_was_restored_a_reader_misses_no_new_event(store: Store) -> None:
    await ended_and_delivered(store)
    before = rows(store, "SELECT * FROM events")
    await ended_and_delivered(store)
    cursor = (await page(store)).end
    execute(store, "DELETE FROM events WHERE number = (SELECT max(number) FROM events)")  # the backup is older
    assert rows(store, "SELECT * FROM events") == before
    assert (await page(store, after=cursor)).payloads == ()
    assert (await page(store, after=cursor)).end == cursor
    await ended_and_delivered(store)
    assert len((await page(store, after=cursor)).payloads) == 1


async def test_a_position_that_is_ahead_of_the_events_and_of_the_clock_has_expired(store: Store) -> None:
    await ended_and_delivered(store)
    with pytest.raises(CursorExpired):
        await page(store, after=Position(int((store.now() + 3_600) * 1_000_000)))


async def test_a_replica_of_the_version_before_may_still_write_events(replicas: list[Store]) -> None:
    """Replicas are upgraded one after the other. Those of the version before write neither number nor app."""
    store = replicas[0]
    await settle(store, await register_watch(store))
    execute(store, "UPDATE events SET app = NULL")
    assert await number_all(store) == ["app"]
    assert len((await page(store)).payloads) == 1


async def test_versions_change_with_new_events_of_the_app_only(store: Store) -> None:
    keys = ["app", "other", EVERY_APP]
    seen = [await store.feed.versions(keys)]
    for app in ("app", "other"):
        await settle(store, await register_watch(store, app=app))
        await number_all(store)
        seen.append(await store.feed.versions(keys))
    changed = [{key for key in keys if one[key] != two[key]} for one, two in pairwise(seen)]
    assert changed == [{"app", EVERY_APP}, {"other", EVERY_APP}]
    assert await store.feed.versions([]) == {}

"""`GET /events`: an app's events in order, page by page. A request can wait while there is no new event."""

import asyncio
from typing import Any

import pytest

from bridge.core.delivery import Delivered
from bridge.core.event import status_event
from bridge.core.event_cursor import Position, cursor_of
from bridge.core.model import Attempt, Event, EventType, TaskSnapshot, TaskStatus, Watch
from bridge.store import store as store_module
from bridge.store.records import AttemptResult, StatusChange
from tests.store.builders import polled_task
from tests.waiting import HELD_SECONDS
from tests.web.harness import APP, OPERATOR, OTHER, Bridge

EMPTY = cursor_of(Position())
QUEUED = TaskSnapshot(TaskStatus.QUEUED)


async def settled(bridge: Bridge, task_id: str = "task_1", headers: Any = APP, **fields: Any) -> str:
    """Registers a watch and settles it. Returns its id."""
    watch = await bridge.watch(headers, task_id=task_id, **fields)
    await bridge.settle(watch["id"])
    watch_id: str = watch["id"]
    return watch_id


async def queued(bridge: Bridge, watch_id: str) -> None:
    """Records that a watch's task is queued."""
    row, now = (await bridge.store.watch(watch_id, None)).task.row, bridge.store.now()

    def event(watch: Watch) -> Event:
        return status_event(watch, EventType.QUEUED, QUEUED, now)

    task = polled_task(bridge.store, row, QUEUED)
    await bridge.store.record_status(StatusChange(task, now, EventType.QUEUED, event))


async def watch_ids(bridge: Bridge, query: str = "", headers: Any = APP) -> list[str]:
    page = (await bridge.get(f"/events?{query}", headers=headers)).json
    return [item["data"]["watch_id"] for item in page["items"]]


async def test_each_event_is_listed_exactly_as_a_receiver_gets_it(bridge: Bridge) -> None:
    made = [await settled(bridge, f"task_{number}", context={"ä": [number, 1.0]}) for number in range(3)]
    envelopes = [(await bridge.get(f"/watch/{one}/envelope")).body for one in made]
    answer = await bridge.get("/events")
    assert (answer.status, answer.headers["Content-Type"]) == (200, "application/json")
    assert answer.body.startswith(b'{"items":[' + b",".join(envelopes) + b'],"next_cursor":"cursor_')


async def test_a_receivers_own_body_is_not_in_the_feed(bridge: Bridge) -> None:
    one = await settled(bridge, body={"text": "{{type}}"})
    [item] = (await bridge.get("/events")).json["items"]
    assert item == (await bridge.get(f"/watch/{one}/envelope")).json
    assert item["type"] == "video.completed"


async def test_events_that_are_not_to_be_sent_are_listed_and_status_events_that_were_asked_for(bridge: Bridge) -> None:
    silent = await bridge.watch(task_id="silent", events=["video.failed"])
    asking = await bridge.watch(task_id="asking", events=["video.queued", "video.completed"])
    for watch in (silent, asking):
        await queued(bridge, watch["id"])
        await bridge.settle(watch["id"])
    items = (await bridge.get("/events")).json["items"]
    assert [(item["type"], item["data"]["watch_id"]) for item in items] == [
        ("video.completed", silent["id"]),
        ("video.queued", asking["id"]),
        ("video.completed", asking["id"]),
    ]


async def test_a_chain_of_cursors_has_every_event_once_while_events_come(bridge: Bridge) -> None:
    made = [await settled(bridge, f"task_{number}") for number in range(5)]
    found: list[str] = []
    after = ""
    while items := (page := (await bridge.get(f"/events?limit=2{after}")).json)["items"]:
        found += [item["data"]["watch_id"] for item in items]
        after = f"&after={page['next_cursor']}"
        if len(made) < 8:
            made.append(await settled(bridge, f"task_{len(made)}"))
    assert found == made
    again = (await bridge.get(f"/events?{after}")).json
    assert again == {"items": [], "next_cursor": page["next_cursor"]}


async def test_an_empty_feed_has_a_cursor_to_continue_from(bridge: Bridge) -> None:
    for after in ("", "after=latest", f"after={EMPTY}"):
        assert (await bridge.get(f"/events?{after}")).json == {"items": [], "next_cursor": EMPTY}
    one = await settled(bridge)
    assert await watch_ids(bridge, f"after={EMPTY}") == [one]


async def test_latest_is_from_now_on(bridge: Bridge) -> None:
    await settled(bridge, "before")
    page = (await bridge.get("/events?after=latest")).json
    assert page["items"] == []
    after = await settled(bridge, "after")
    assert await watch_ids(bridge, f"after={page['next_cursor']}") == [after]


async def test_an_app_reads_its_own_events_and_an_operator_those_of_every_app(bridge: Bridge) -> None:
    shop, lab = await settled(bridge), await settled(bridge, headers=OTHER)
    for query, headers, found in (
        ("", APP, [shop]),
        ("app=shop", APP, [shop]),
        ("app=lab", APP, []),
        ("", {"Authorization": "Bearer app-token-2"}, [shop]),
        ("", OTHER, [lab]),
        ("", OPERATOR, [shop, lab]),
        ("app=lab", OPERATOR, [lab]),
        ("app=nobody", OPERATOR, []),
    ):
        assert await watch_ids(bridge, query, headers) == found, (query, headers)
    (await bridge.get("/events", headers={"Authorization": "Bearer wrong"})).problem(401, "unauthorized")


async def test_one_apps_cursor_reveals_nothing_of_other_apps(bridge: Bridge) -> None:
    before = (await bridge.get("/events")).json
    await settled(bridge, headers=OTHER)
    for query in ("", f"after={before['next_cursor']}", "after=latest", "type=video.completed"):
        assert (await bridge.get(f"/events?{query}")).json == before


async def test_the_feed_is_filtered_by_types(bridge: Bridge) -> None:
    watch = await bridge.watch(events=["video.queued", "video.completed"])
    await queued(bridge, watch["id"])
    await bridge.settle(watch["id"])
    for query, found in {
        "type=video.completed": ["video.completed"],
        "type=video.queued&type=video.completed": ["video.queued", "video.completed"],
        "type=video.queued&type=video.queued": ["video.queued"],
        "type=video.failed": [],
    }.items():
        page = (await bridge.get(f"/events?{query}")).json
        assert [item["type"] for item in page["items"]] == found
        assert (await bridge.get(f"/events?after={page['next_cursor']}")).json["items"] == []


@pytest.mark.parametrize(
    ("query", "field"),
    [
        *((f"limit={text}", "limit") for text in ("0", "501", "1.5", "-1", "", "x")),
        *((f"wait_seconds={text}", "wait_seconds") for text in ("-1", "60.1", "", "nan", "1e99")),
        *((f"type={text}", "type") for text in ("", "video", "bridge.ping", "video.completed,video.failed")),
        ("type=video.completed&type=x", "type"),
        *((f"after={text}", "after") for text in ("", "0", "evt_x", "Latest", EMPTY[:-1], EMPTY + "0", "%00", "%ff")),
        ("after=" + EMPTY[:-1] + "z", "after"),
        ("after=" + EMPTY.replace("_0", "_z"), "after"),
        ("after=latest&after=latest", "after"),
        ("app=", "app"),
        ("cursor=x", "cursor"),
    ],
)
async def test_a_bad_parameter_is_named(bridge: Bridge, query: str, field: str) -> None:
    assert (await bridge.get(f"/events?{query}")).fields() == {field}


async def test_all_bad_parameters_are_named_at_once(bridge: Bridge) -> None:
    answer = await bridge.get("/events?after=x&limit=0&type=x&wait_seconds=x&zz=1&app=")
    assert answer.fields() == {"after", "limit", "type", "wait_seconds", "zz", "app"}


async def test_a_cursor_has_expired_when_an_event_after_it_was_removed(bridge: Bridge) -> None:
    now = bridge.store.now()
    watch = await bridge.watch()
    [pending] = (await bridge.settle(watch["id"])).claimed
    attempt = Attempt(now, 0.1, 200, None, "")
    await bridge.store.record_attempts(
        [AttemptResult(pending.id, pending.lease, attempt, Delivered(), pending.host, now)]
    )
    end = (await bridge.get("/events")).json["next_cursor"]
    assert await bridge.store.delete_ended_before(now + 10, 10) == 1
    (await bridge.get(f"/events?after={EMPTY}")).problem(410, "cursor_expired")
    (await bridge.get(f"/events?after={EMPTY}&wait_seconds=5")).problem(410, "cursor_expired")
    assert (await bridge.get(f"/events?after={end}")).json["next_cursor"] == end
    begin = (await bridge.get("/events")).json
    assert begin["items"] == []
    assert (await bridge.get(f"/events?after={begin['next_cursor']}")).status == 200


# --- waiting ------------------------------------------------------------------------------------------------------


async def waiting_for(bridge: Bridge, app: str) -> None:
    """Waits until a request waits for an app's events."""
    async with asyncio.timeout(HELD_SECONDS):
        while app not in bridge.context.event_numbering.notifier._listeners:
            await asyncio.sleep(0)


async def test_a_held_answer_comes_with_the_next_event(bridge: Bridge) -> None:
    held = asyncio.create_task(bridge.get("/events?wait_seconds=60"))
    await waiting_for(bridge, "shop")
    operators = asyncio.create_task(bridge.get("/events?wait_seconds=60", headers=OPERATOR))
    await waiting_for(bridge, "")
    await settled(bridge, headers=OTHER)
    assert len((await operators).json["items"]) == 1
    assert not held.done()
    one = await settled(bridge)
    [item] = (await held).json["items"]
    assert item["data"]["watch_id"] == one


async def test_a_held_answer_passes_over_other_types_and_keeps_its_place(bridge: Bridge) -> None:
    held = asyncio.create_task(bridge.get("/events?wait_seconds=60&type=video.completed"))
    await waiting_for(bridge, "shop")
    watch = await bridge.watch(events=["video.queued"])
    await queued(bridge, watch["id"])
    await bridge.settle(watch["id"])
    assert [item["type"] for item in (await held).json["items"]] == ["video.completed"]


async def test_an_answer_is_not_held_while_there_is_something(bridge: Bridge) -> None:
    one = await settled(bridge)
    async with asyncio.timeout(HELD_SECONDS):
        assert await watch_ids(bridge, "wait_seconds=60") == [one]


async def test_a_held_answer_is_empty_when_the_time_is_up(bridge: Bridge) -> None:
    page = (await bridge.get("/events?after=latest&wait_seconds=0.01")).json
    assert page == {"items": [], "next_cursor": EMPTY}
    assert bridge.context.event_numbering.notifier._listeners == {}


async def test_a_held_answer_ends_when_the_bridge_stops(bridge: Bridge) -> None:
    held = asyncio.create_task(bridge.get("/events?wait_seconds=60"))
    await waiting_for(bridge, "shop")
    bridge.context.event_numbering.notifier.end()
    async with asyncio.timeout(HELD_SECONDS):
        assert (await held).json == {"items": [], "next_cursor": EMPTY}


@pytest.mark.parametrize("query", ["", "after=latest", "wait_seconds=20"])
async def test_a_page_that_takes_several_steps_of_a_slow_store_has_one_limit(
    bridge: Bridge, monkeypatch: pytest.MonkeyPatch, query: str
) -> None:
    never = asyncio.Event()

    async def hanging(*_: Any) -> Any:
        await never.wait()

    monkeypatch.setattr(store_module, "REQUEST_SECONDS", 0.1)
    monkeypatch.setattr(type(bridge.store.feed), "page", hanging)
    answer = await bridge.get(f"/events?{query}")
    assert (answer.status, answer.json["code"]) == (503, "store_unavailable")

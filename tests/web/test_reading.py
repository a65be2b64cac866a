"""Reading one watch or a page of watches, waiting for the end of one, and the terminal event as a receiver gets it."""

import asyncio

from bridge.core.model import Problem
from bridge.core.signing import verify
from tests.waiting import HELD_SECONDS
from tests.web.harness import APP, OPERATOR, OTHER, OWN_SECRET, SECRET, Bridge, live_task

NO_WATCH = "wat_" + "0" * 26


async def test_an_active_watch_is_shown_as_its_poller_knows_it(bridge: Bridge) -> None:
    watch = await bridge.watch()
    known = live_task(last_error=Problem("http_503", "amux answered\n503"), last_error_at=1_795_446_245.0)
    bridge.poller.tasks[bridge.poller.added[0][0].row] = known
    for shown in ((await bridge.get(f"/watch/{watch['id']}")).json, (await bridge.get("/watch")).json["items"][0]):
        assert shown["task"]["status"] == "in_progress"
        assert shown["polls"] == 7
        assert shown["last_polled_at"] == "2026-11-23T15:04:05.123Z"
        assert shown["next_poll_at"] == "2026-11-23T15:04:10.500Z"
        assert shown["last_error"] == {
            "code": "http_503",
            "message": "amux answered\n503",
            "at": "2026-11-23T15:04:05.000Z",
        }


async def test_a_settled_watch_is_shown_from_its_row(bridge: Bridge) -> None:
    watch = await bridge.watch()
    bridge.poller.tasks[bridge.poller.added[0][0].row] = live_task()
    await bridge.settle(watch["id"])
    shown = (await bridge.get(f"/watch/{watch['id']}")).json
    assert (shown["state"], shown["outcome"], shown["polls"]) == ("settled", "completed", 3)
    assert shown["task"]["url"] == "https://cdn.example/v.mp4"
    assert shown["next_poll_at"] is None
    assert shown["settled_at"].endswith("Z")
    [delivery] = shown["deliveries"]
    assert delivery.pop("id").startswith("evt_")
    assert delivery.pop("next_attempt_at").endswith("Z")
    assert delivery == {
        "type": "video.completed",
        "state": "pending",
        "attempts": 0,
        "delivered_at": None,
        "last_error": None,
    }


async def test_the_watch_of_another_app_is_not_found(bridge: Bridge) -> None:
    watch = await bridge.watch()
    dead = await bridge.dead(watch["id"])
    for method, path in (
        ("GET", f"/watch/{watch['id']}"),
        ("GET", f"/watch/{watch['id']}?wait_seconds=1"),
        ("DELETE", f"/watch/{watch['id']}"),
        ("GET", f"/watch/{watch['id']}/envelope"),
        ("GET", f"/deliveries/{dead}"),
        ("POST", f"/deliveries/{dead}/retry"),
    ):
        (await bridge.ask(method, path, headers=OTHER)).problem(404, "not_found")
    assert (await bridge.get("/watch", headers=OTHER)).json == {"items": [], "next_cursor": None}
    body = {"state": "dead"}
    assert (await bridge.post("/deliveries/retry", body, headers=OTHER)).json == {"count": 0}


async def test_every_token_of_the_app_and_operators_see_a_watch(bridge: Bridge) -> None:
    watch = await bridge.watch()
    for headers in (APP, {"Authorization": "bearer app-token-2"}, OPERATOR):
        assert (await bridge.get(f"/watch/{watch['id']}", headers=headers)).json["id"] == watch["id"]


UNKNOWN_PATHS = [
    f"/watch/{NO_WATCH}",
    f"/watch/{NO_WATCH}/envelope",
    "/watch/wat_x",
    "/watch/%ff%00",
    "/watch/wat_%C3%A9",
    "/watch/" + "a" * 4000,
    "/watch/..%2fhealthz",
    "/deliveries/evt_" + "a" * 32,
    "/deliveries/x%0d%0ay",
    "/watch/",
    "/watch/a/b/c",
    "/",
    "/nowhere",
    "//watch",
]


async def test_an_unknown_path_or_id_is_not_found(bridge: Bridge) -> None:
    for path in UNKNOWN_PATHS:
        (await bridge.get(path)).problem(404, "not_found")


# --- pages --------------------------------------------------------------------------------------------------------


async def test_a_page_begins_after_the_previous_one_while_rows_are_added_and_removed(bridge: Bridge) -> None:
    made = [(await bridge.watch(task_id=f"task_{number}"))["id"] for number in range(7)]
    first = (await bridge.get("/watch?limit=3")).json
    assert [watch["id"] for watch in first["items"]] == made[:3:-1]
    newest = await bridge.watch(task_id="newest")
    await bridge.settle(made[5])
    await bridge.store.delete_ended_before(bridge.store.now() + 1, 10)
    second = (await bridge.get(f"/watch?limit=3&cursor={first['next_cursor']}")).json
    assert [watch["id"] for watch in second["items"]] == made[3:0:-1]
    third = (await bridge.get(f"/watch?limit=3&cursor={second['next_cursor']}")).json
    assert [watch["id"] for watch in third["items"]] == made[:1]
    assert third["next_cursor"] is None
    assert (await bridge.get("/watch?limit=1")).json["items"][0]["id"] == newest["id"]


async def test_a_page_that_ends_with_the_last_watch_has_no_next_cursor(bridge: Bridge) -> None:
    for number in range(2):
        await bridge.watch(task_id=f"task_{number}")
    assert (await bridge.get("/watch?limit=2")).json["next_cursor"] is None
    assert (await bridge.get("/watch?limit=1")).json["next_cursor"] is not None


async def test_the_list_is_filtered(bridge: Bridge) -> None:
    active = (await bridge.watch(task_id="a"))["id"]
    cancelled = (await bridge.watch(task_id="c"))["id"]
    dead = (await bridge.watch(task_id="d"))["id"]
    pending = (await bridge.watch(task_id="p"))["id"]
    others = (await bridge.watch(OTHER, task_id="a"))["id"]
    await bridge.ask("DELETE", f"/watch/{cancelled}")
    await bridge.dead(dead)
    await bridge.settle(pending)
    for query, found in {
        "state=active": {active},
        "state=cancelled": {cancelled},
        "state=settled": {dead, pending},
        "outcome=completed": {dead, pending},
        "outcome=failed": set(),
        "task_id=a": {active},
        "delivery_state=dead": {dead},
        "delivery_state=pending": {pending},
        "state=settled&delivery_state=dead&task_id=d": {dead},
    }.items():
        items = (await bridge.get(f"/watch?{query}")).json["items"]
        assert {watch["id"] for watch in items} == found, query
    for query, found in {"": {active, cancelled, dead, pending, others}, "app=lab": {others}, "app=x": set()}.items():
        items = (await bridge.get(f"/watch?{query}", headers=OPERATOR)).json["items"]
        assert {watch["id"] for watch in items} == found, query


BAD_PARAMETERS = [
    ("limit=0", "limit"),
    ("limit=201", "limit"),
    ("limit=1.5", "limit"),
    ("limit=-1", "limit"),
    ("limit=", "limit"),
    ("limit=%D9%A1", "limit"),
    ("cursor=", "cursor"),
    ("cursor=wat_x", "cursor"),
    ("cursor=%00", "cursor"),
    ("state=done", "state"),
    ("outcome=", "outcome"),
    ("delivery_state=DEAD", "delivery_state"),
    ("task_id=a/b", "task_id"),
    ("task_id=%00", "task_id"),
    ("state=active&state=active", "state"),
    ("colour=red", "colour"),
    ("%ff=1", None),
    ("=", ""),
]


async def test_a_bad_parameter_is_named(bridge: Bridge) -> None:
    for query, field in BAD_PARAMETERS:
        fields = (await bridge.get(f"/watch?{query}")).fields()
        assert field is None or fields == {field}, query


async def test_every_bad_parameter_is_named_at_once(bridge: Bridge) -> None:
    query = "zz=1&limit=x&state=y&outcome=z&task_id=a/b&cursor=c&app=&delivery_state=lost"
    fields = (await bridge.get(f"/watch?{query}")).fields()
    assert fields == {"zz", "limit", "state", "outcome", "task_id", "cursor", "app", "delivery_state"}
    watch = await bridge.watch()
    assert (await bridge.get(f"/watch/{watch['id']}?zz=1&wait_seconds=61")).fields() == {"zz", "wait_seconds"}


# --- held answers -------------------------------------------------------------------------------------------------


async def test_a_held_answer_is_sent_when_the_watch_is_final(bridge: Bridge) -> None:
    watch = await bridge.watch()
    bridge.poller.tasks[bridge.poller.added[0][0].row] = live_task()
    async with asyncio.timeout(HELD_SECONDS):
        held = asyncio.create_task(bridge.get(f"/watch/{watch['id']}?wait_seconds=60"))
        await _until_held(bridge, watch["id"])
        bridge.context.change_notifier.announce(
            [watch["id"], NO_WATCH]
        )  # a change after which the watch is still active
        await bridge.settle(watch["id"])
        assert not held.done()
        bridge.context.change_notifier.announce([watch["id"]])
        assert (await held).json["outcome"] == "completed"
    assert bridge.context.change_notifier._listeners == {}


async def test_a_held_answer_is_sent_when_the_watch_is_cancelled(bridge: Bridge) -> None:
    watch = await bridge.watch()
    async with asyncio.timeout(HELD_SECONDS):
        held = asyncio.create_task(bridge.get(f"/watch/{watch['id']}?wait_seconds=60"))
        await _until_held(bridge, watch["id"])
        await bridge.ask("DELETE", f"/watch/{watch['id']}")
        assert (await held).json["state"] == "cancelled"


async def test_a_held_answer_is_sent_when_the_time_is_up(bridge: Bridge) -> None:
    watch = await bridge.watch()
    async with asyncio.timeout(HELD_SECONDS):
        answer = await bridge.get(f"/watch/{watch['id']}?wait_seconds=0.05")
    assert (answer.status, answer.json["state"]) == (200, "active")


async def test_a_stop_of_the_bridge_ends_a_held_answer(bridge: Bridge) -> None:
    watch = await bridge.watch()
    async with asyncio.timeout(HELD_SECONDS):
        held = asyncio.create_task(bridge.get(f"/watch/{watch['id']}?wait_seconds=60"))
        await _until_held(bridge, watch["id"])
        bridge.context.change_notifier.end()
        assert (await held).json["state"] == "active"
        assert (await bridge.get(f"/watch/{watch['id']}?wait_seconds=60")).status == 200


async def test_a_held_request_whose_caller_disconnects_is_removed(bridge: Bridge) -> None:
    watch = await bridge.watch()
    async with asyncio.timeout(HELD_SECONDS):
        _, writer = await asyncio.open_connection("127.0.0.1", bridge.port)
        path = f"/watch/{watch['id']}?wait_seconds=60"
        writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer app-token\r\n\r\n".encode())
        await _until_held(bridge, watch["id"])
        writer.close()
        while bridge.context.change_notifier._listeners:
            await asyncio.sleep(0)


async def test_invalid_wait_seconds_are_refused(bridge: Bridge) -> None:
    for seconds in ("61", "-1", "nan", "inf", "1e2", "1e", "", "0x10", "60.1", "%D9%A1", "1,5", "1" * 400):
        assert (await bridge.get(f"/watch/{NO_WATCH}?wait_seconds={seconds}")).fields() == {"wait_seconds"}


async def _until_held(bridge: Bridge, watch_id: str) -> None:
    while watch_id not in bridge.context.change_notifier._listeners:
        await asyncio.sleep(0)


# --- the envelope -------------------------------------------------------------------------------------------------


async def test_the_envelope_is_the_terminal_event_signed_now(bridge: Bridge) -> None:
    for fields, secret in (({}, SECRET), ({"task_id": "task_2", "secret": OWN_SECRET.text}, OWN_SECRET)):
        watch = await bridge.watch(**fields, events=["video.failed"], context={"order": 7})
        path = f"/watch/{watch['id']}/envelope"
        (await bridge.get(path)).problem(409, "watch_active")
        await bridge.settle(watch["id"])
        answer = await bridge.get(path)
        assert (answer.status, answer.headers["Content-Type"]) == (200, "application/json")
        verify(answer.headers, answer.body, [secret], now=bridge.store.now())
        assert answer.json["id"] == answer.headers["webhook-id"]
        assert answer.json["data"]["context"] == {"order": 7}
        assert (await bridge.get(f"/watch/{watch['id']}")).json["deliveries"] == []


async def test_a_cancelled_watch_has_no_envelope(bridge: Bridge) -> None:
    watch = await bridge.watch()
    await bridge.ask("DELETE", f"/watch/{watch['id']}")
    (await bridge.get(f"/watch/{watch['id']}/envelope")).problem(409, "watch_active")

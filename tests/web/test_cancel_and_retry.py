"""Cancelling watches, retrying deliveries, pings."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from bridge.core.signing import verify
from bridge.store import store as store_module
from bridge.web.rate_limits import PingLimits
from tests.waiting import SAFETY_SECONDS
from tests.web.harness import BODY, OPERATOR, OTHER, SECRET, Bridge, running_bridge


async def test_cancelling_is_repeatable_and_reaches_the_poller(bridge: Bridge) -> None:
    watch = await bridge.watch()
    for _ in range(2):
        answer = await bridge.ask("DELETE", f"/watch/{watch['id']}")
        assert answer.status == 200
        shown = answer.json
        assert (shown["state"], shown["outcome"], shown["settled_at"]) == ("cancelled", None, None)
        assert (shown["next_poll_at"], shown["deliveries"]) == (None, [])
    assert set(bridge.poller.checked) == {bridge.poller.added[0][0].row}
    assert (await bridge.post("/watch", BODY)).status == 201


async def test_a_settled_watch_cannot_be_cancelled(bridge: Bridge) -> None:
    watch = await bridge.watch()
    await bridge.settle(watch["id"])
    (await bridge.ask("DELETE", f"/watch/{watch['id']}")).problem(409, "watch_settled")


async def test_operators_can_cancel_every_watch(bridge: Bridge) -> None:
    watch = await bridge.watch()
    assert (await bridge.ask("DELETE", f"/watch/{watch['id']}", headers=OPERATOR)).json["state"] == "cancelled"


# --- deliveries ---------------------------------------------------------------------------------------------------


async def test_a_delivery_is_shown_with_its_attempts(bridge: Bridge) -> None:
    watch = await bridge.watch()
    delivery_id = await bridge.dead(watch["id"], at=1_795_446_245.5)
    answer = await bridge.get(f"/deliveries/{delivery_id}")
    gone = {"code": "gone", "message": "the receiver answered 410 Gone"}
    assert answer.json == {
        "id": delivery_id,
        "watch_id": watch["id"],
        "type": "video.completed",
        "state": "dead",
        "attempts": 1,
        "next_attempt_at": None,
        "delivered_at": None,
        "last_error": gone,
        "attempt_log": [
            {
                "started_at": "2026-11-23T15:04:05.500Z",
                "duration_seconds": 0.25,
                "status_code": 410,
                "error": gone,
                "body": "no more",
            }
        ],
    }


async def test_a_dead_delivery_is_retried_with_the_same_id(bridge: Bridge) -> None:
    watch = await bridge.watch()
    delivery_id = await bridge.dead(watch["id"])
    for headers in ({}, OPERATOR):  # the second retry finds it pending
        answer = await bridge.ask("POST", f"/deliveries/{delivery_id}/retry", headers=headers)
        assert answer.status == 202
        assert (answer.json["id"], answer.json["state"]) == (delivery_id, "pending")
        assert answer.json["next_attempt_at"]
    assert bridge.deliverer.wakes == 2


async def test_dead_deliveries_are_counted_and_retried_by_filter(bridge: Bridge) -> None:
    shop = [await bridge.watch(task_id=f"s{number}") for number in range(3)]
    far = await bridge.watch(callback_url="http://[2606:4700::1]:8443/", task_id="far")
    lab = await bridge.watch(OTHER)
    for number, watch in enumerate([*shop, far, lab]):
        await bridge.dead(watch["id"], at=1_795_446_245.0 + number)
    for fields, count, headers in (
        ({}, 4, None),
        ({"since": "2026-11-23T15:04:06Z"}, 3, None),
        ({"until": "2026-11-23T16:04:06.000+01:00"}, 2, None),
        ({"since": "2026-11-23T15:04:06.000001Z", "until": "2026-11-23T15:04:07Z"}, 1, None),
        ({"callback_host": "App.Example."}, 3, None),
        ({"callback_host": "2606:4700:0::1"}, 1, None),
        ({"callback_host": "[2606:4700::1]"}, 1, None),
        ({"callback_host": "app.exampl"}, 0, None),
        ({"callback_host": "app.example", "since": None, "dry_run": None}, 4, OPERATOR),
    ):
        body: dict[str, Any] = {"state": "dead", **fields, "dry_run": True}
        answer = await bridge.post("/deliveries/retry", body, headers=headers)
        assert (answer.status, answer.json) == (200, {"count": count}), fields
    assert bridge.deliverer.wakes == 0
    body = {"state": "dead", "callback_host": "app.example"}
    answer = await bridge.post("/deliveries/retry", body)
    assert (answer.status, answer.json, bridge.deliverer.wakes) == (202, {"count": 3}, 1)
    left = (await bridge.get("/watch?delivery_state=dead", headers=OPERATOR)).json["items"]
    assert {watch["id"] for watch in left} == {far["id"], lab["id"]}


async def test_a_retry_of_many_has_one_time_limit_for_all_its_calls(
    bridge: Bridge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "REQUEST_SECONDS", 0.1)

    async def no_answer(*_: object) -> int:
        await asyncio.Event().wait()
        return 0

    for name in ("count_dead", "retry_dead"):
        monkeypatch.setattr(bridge.store, name, no_answer)
        async with asyncio.timeout(SAFETY_SECONDS):
            answer = await bridge.post("/deliveries/retry", {"state": "dead"})
        assert (answer.status, answer.json["code"]) == (503, "store_unavailable")
        monkeypatch.setattr(bridge.store, "count_dead", one_dead)


async def one_dead(*_: object) -> int:
    return 1


BAD_FILTERS: list[tuple[dict[str, Any], str]] = [
    ({"state": None}, "state"),
    ({"state": "pending"}, "state"),
    ({"since": "yesterday"}, "since"),
    ({"since": 1_795_446_245}, "since"),
    ({"since": "2026-11-23T15:04:05"}, "since"),
    ({"since": "2026-13-23T15:04:05Z"}, "since"),
    ({"until": "2026-11-23"}, "until"),
    ({"callback_host": "app.example:443"}, "callback_host"),
    ({"callback_host": "http://app.example"}, "callback_host"),
    ({"callback_host": "a\x00b"}, "callback_host"),
    ({"callback_host": ""}, "callback_host"),
    ({"callback_host": "[x]"}, "callback_host"),
    ({"dry_run": "yes"}, "dry_run"),
    ({"app": "shop"}, "app"),
]


async def test_a_bad_retry_filter_is_named(bridge: Bridge) -> None:
    for fields, field in BAD_FILTERS:
        assert (await bridge.post("/deliveries/retry", {"state": "dead", **fields})).fields() == {field}, fields


# --- pings --------------------------------------------------------------------------------------------------------


class Receiver:
    """Answers each ping with `status` as soon as `go_on` is set. `requests` are the headers and bodies of all pings."""

    def __init__(self, status: int = 200) -> None:
        self.status = status
        self.url = ""
        self.requests: list[tuple[dict[str, str], bytes]] = []
        self.busy = asyncio.Event()
        self.go_on = asyncio.Event()
        self.go_on.set()

    async def answer(self, request: web.Request) -> web.Response:
        self.requests.append((dict(request.headers), await request.read()))
        self.busy.set()
        await self.go_on.wait()
        return web.Response(status=self.status, text="not for the app")


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    made = Receiver()
    app = web.Application()
    app.router.add_post("/hook", made.answer)
    runner = web.AppRunner(app, shutdown_timeout=1.0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}/hook?key=hidden"
    yield made
    made.go_on.set()
    await runner.cleanup()


async def test_a_ping_is_one_signed_event(bridge: Bridge, receiver: Receiver) -> None:
    answer = await bridge.post("/ping", {"callback_url": receiver.url})
    assert answer.status == 200
    result = answer.json
    assert result.pop("duration_seconds") > 0
    assert result == {"ok": True, "status_code": 200, "error": None}
    [(headers, body)] = receiver.requests
    verify(headers, body, [SECRET], now=bridge.store.now())
    assert b'"bridge.ping"' in body


async def test_a_ping_reports_the_receiver_s_status_and_not_its_body(bridge: Bridge, receiver: Receiver) -> None:
    receiver.status = 500
    answer = await bridge.post("/ping", {"callback_url": receiver.url})
    assert (answer.status, answer.json["ok"], answer.json["status_code"]) == (200, False, 500)
    assert answer.json["error"]["code"] == "http_500"
    assert b"not for the app" not in answer.body


async def test_a_ping_without_an_answer_is_a_200(bridge: Bridge) -> None:
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        answer = await bridge.post("/ping", {"callback_url": f"http://127.0.0.1:{port}/"})
    assert (answer.status, answer.json["ok"], answer.json["status_code"]) == (200, False, None)
    assert answer.json["error"]["code"] == "connection_lost"
    answer = await bridge.post("/ping", {"callback_url": "http://nowhere.example/"})
    assert (answer.status, answer.json["ok"], answer.json["error"]["code"]) == (200, False, "name_unresolved")


async def test_a_dry_run_sends_nothing(bridge: Bridge, receiver: Receiver) -> None:
    for target, ok in ((receiver.url, True), ("https://app.example/", True), ("https://nowhere.example/", False)):
        answer = await bridge.post("/ping", {"callback_url": target, "dry_run": True})
        assert (answer.status, answer.json["ok"], answer.json["status_code"]) == (200, ok, None)
    for target in ("http://10.0.0.1/", "https://bad.example/"):
        for dry_run in (True, False):
            body = {"callback_url": target, "dry_run": dry_run}
            (await bridge.post("/ping", body)).problem(422, "callback_refused")
    assert (await bridge.post("/ping", {"callback_url": "nonsense"})).fields() == {"callback_url"}
    assert (await bridge.post("/ping", {"callback_url": receiver.url, "secret": SECRET.text})).fields() == {"secret"}
    assert receiver.requests == []


async def test_pings_go_one_at_a_time_and_30_a_minute_for_each_app(tmp_path: Path, receiver: Receiver) -> None:
    now = 100.0
    async with asyncio.timeout(SAFETY_SECONDS), running_bridge(tmp_path, ping_limits=PingLimits(lambda: now)) as bridge:
        receiver.go_on.clear()
        first = asyncio.create_task(bridge.post("/ping", {"callback_url": receiver.url}))
        await receiver.busy.wait()
        refused = await bridge.post("/ping", {"callback_url": receiver.url})
        refused.problem(429, "too_many_pings")
        assert int(refused.headers["Retry-After"]) >= 1
        receiver.go_on.set()
        assert (await first).json["ok"]
        for _ in range(5):  # neither of these requests counts
            await bridge.post("/ping", {"callback_url": receiver.url, "dry_run": True})
            await bridge.post("/ping", {"callback_url": "http://10.0.0.1/"})
        now = 130.0
        for _ in range(29):
            assert (await bridge.post("/ping", {"callback_url": receiver.url})).json["ok"]
        refused = await bridge.post("/ping", {"callback_url": receiver.url})
        refused.problem(429, "too_many_pings")
        assert refused.headers["Retry-After"] == "30"
        assert (await bridge.post("/ping", {"callback_url": receiver.url}, headers=OTHER)).json["ok"]
        now = 160.0
        assert (await bridge.post("/ping", {"callback_url": receiver.url})).json["ok"]
        (await bridge.post("/ping", {"callback_url": receiver.url})).problem(429, "too_many_pings")


async def test_a_caller_that_disconnects_can_ping_again(bridge: Bridge, receiver: Receiver) -> None:
    receiver.go_on.clear()
    async with asyncio.timeout(SAFETY_SECONDS):
        first = asyncio.create_task(bridge.post("/ping", {"callback_url": receiver.url}))
        await receiver.busy.wait()
        first.cancel()
        while bridge.context.ping_limits._in_progress:
            await asyncio.sleep(0)
        receiver.go_on.set()
        assert (await bridge.post("/ping", {"callback_url": receiver.url})).json["ok"]


# --- who did it ---------------------------------------------------------------------------------------------------


async def test_a_watch_shows_and_the_log_has_who_did_what(bridge: Bridge, caplog: pytest.LogCaptureFixture) -> None:
    cancelled, sent = await bridge.watch(), await bridge.watch(task_id="task_2")
    delivery = await bridge.dead(sent["id"])
    with caplog.at_level("INFO"):
        answer = await bridge.ask("DELETE", f"/watch/{cancelled['id']}")
        await bridge.ask("POST", f"/deliveries/{delivery}/retry", headers=OPERATOR)
        await bridge.ask("POST", "/receivers/app.example:443/pause", headers=OPERATOR)
    [entry] = answer.json["audit"]
    who = {"delivery_id": None, "receiver": None, "at": entry["at"]}
    assert entry == {"action": "cancelled", "by": "shop", "role": "app"} | who
    shown = (await bridge.get(f"/watch/{sent['id']}")).json["audit"]
    assert [(one["action"], one["by"], one["role"], one["delivery_id"], one["receiver"]) for one in shown] == [
        ("resent", "ops", "operator", delivery, None),
        ("paused", "ops", "operator", None, "app.example:443"),
    ]
    lines = {one.getMessage(): one.__dict__.get("bridge_fields", {}) for one in caplog.records}
    for event, by, role in (
        ("cancel_requested", "shop", "app"),
        ("retry_requested", "ops", "operator"),
        ("receiver_paused", "ops", "operator"),
    ):
        assert (lines[event]["by"], lines[event]["role"]) == (by, role)

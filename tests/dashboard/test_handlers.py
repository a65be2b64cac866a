"""The dashboard's routes and its live stream in a running bridge."""

import asyncio
import base64
import json
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks.webhooks import Webhook

from bridge.sandbox import PRIVATE_MARK, Behaviour, Outcome
from tests.dashboard.harness import APP_TOKEN, KEY, Bridge, running_bridge
from tests.ports import free_port
from tests.waiting import SAFETY_SECONDS

MARKUP = "<img src=x onerror=alert(1)><script>alert(2)</script>"


async def test_the_table_has_pages_filters_and_a_search(tmp_path: Path) -> None:
    async with running_bridge(tmp_path) as bridge:
        known = [(await bridge.register(Behaviour(outcome=Outcome.NEVER)))["id"] for _ in range(5)]
        operator = await bridge.operator()
        first = (await operator.get("/page/watches?limit=2")).json
        assert [one["id"] for one in first["items"]] == known[:2:-1]
        rest = (await operator.get(f"/page/watches?limit=9&cursor={first['next_cursor']}")).json
        assert [one["id"] for one in rest["items"]] == known[2::-1]
        assert rest["next_cursor"] is None
        found = (await operator.get(f"/page/watches?q={known[3]}")).json
        assert [one["id"] for one in found["items"]] == [known[3]]
        assert (await operator.get("/page/watches?state=settled&order=oldest&q=&host=")).json["items"] == []


@pytest.mark.parametrize(
    "query",
    [
        "state=strange",
        "outcome=x",
        "delivery_state=x",
        "trouble=x",
        "order=x",
        "cursor=x",
        "limit=0",
        "limit=201",
        "q=%00",
        "app=%00",
        "host=a%20b",
        "event_id=x",
        "created_after=x",
        "strange=1",
        "state=active&state=settled",
        f"q={'a' * 2_049}",
    ],
)
async def test_an_invalid_filter_is_refused_before_a_stream_begins(tmp_path: Path, query: str) -> None:
    async with running_bridge(tmp_path) as bridge:
        operator = await bridge.operator()
        for path in ("/page/watches", "/page/live"):
            assert (await operator.get(f"{path}?{query}")).json["code"] == "invalid_request"


async def test_a_watch_has_a_timeline_with_the_receivers_answers(tmp_path: Path) -> None:
    async with running_bridge(tmp_path) as bridge:
        bridge.receiver.bodies[500] = f"no: {MARKUP}"
        watch = await bridge.register(status=500, headers={"X-Auth": "hidden-header"}, context={"name": MARKUP})
        operator = await bridge.operator()

        def died(one: Any) -> bool:
            return bool(one["deliveries"] and one["deliveries"][0]["state"] == "dead")

        shown = await operator.wait_for("watch", died, f"?watch={watch['id']}")
        kinds = [entry["kind"] for entry in shown["timeline"]]
        assert kinds == ["registered", "polled", "settled", "attempt", "dead"]
        assert shown["timeline"][3]["title"] == "Attempts 1 to 2 of the completed callback: answered 500"
        assert shown["timeline"][3]["body"] == f"no: {MARKUP}"
        assert shown["callback_url"] == f"{bridge.receiver.url}/answer/500"
        assert shown["headers"] == {"X-Auth": "********"}
        assert shown["context"] == f'{{"name":"{MARKUP}"}}'
        text = str(shown)
        for secret in ("hidden-query", "hidden-header", KEY, PRIVATE_MARK):
            assert secret not in text
        assert "dead after 2 attempts" in shown["diagnosis"]["explanation"]


@pytest.mark.parametrize("events", [None, ["video.queued", "video.in_progress", "video.completed"]])
async def test_each_status_change_is_in_the_timeline_once_whether_or_not_its_event_is_sent(
    tmp_path: Path, events: list[str] | None
) -> None:
    async with running_bridge(tmp_path) as bridge:
        options: dict[str, Any] = {} if events is None else {"events": events}
        watch = await bridge.register(Behaviour(queue_seconds=3600), **options)
        operator, query = await bridge.operator(), f"?watch={watch['id']}"
        await operator.wait_for("watch", lambda one: one["status"] == "queued", query)
        bridge.amux.change(watch["task_id"], Behaviour(0, 3600))
        await operator.wait_for("watch", lambda one: one["status"] == "in_progress", query)
        bridge.amux.change(watch["task_id"], Behaviour(0, 0))
        shown = await operator.wait_for("watch", lambda one: one["state"] == "settled", query)
        titles = [entry["title"] for entry in shown["timeline"]]
        assert titles.index("amux: task queued") < titles.index("amux: task in progress")
        assert titles.index("amux: task in progress") < titles.index("Settled: the video is completed")
        assert [entry["kind"] for entry in shown["timeline"]].count("status") == 2


async def test_the_timeline_of_an_active_watch_shows_what_comes_next(tmp_path: Path) -> None:
    async with running_bridge(tmp_path) as bridge:
        watch = await bridge.register(Behaviour(outcome=Outcome.NEVER))
        operator = await bridge.operator()
        shown = await operator.wait_for("watch", lambda one: one["polls"] > 1, f"?watch={watch['id']}")
        ahead = [entry["title"] for entry in shown["timeline"] if entry["ahead"]]
        assert ahead == ["Next poll", "Deadline: the watch times out"]


async def test_an_unknown_watch_is_404_and_an_event_in_the_stream(tmp_path: Path) -> None:
    async with running_bridge(tmp_path) as bridge:
        operator = await bridge.operator()
        unknown = f"wat_{'0' * 26}"
        assert (await operator.get(f"/page/watches/{unknown}")).status == 404
        assert (await operator.get("/page/watches/nonsense")).status == 404
        failure = await operator.wait_for("watch-failed", lambda _: True, f"?watch={unknown}")
        assert failure["code"] == "not_found"


async def test_the_stream_sends_changes(tmp_path: Path) -> None:
    async with running_bridge(tmp_path) as bridge:
        operator = await bridge.operator()
        async with asyncio.TaskGroup() as group:
            seen = group.create_task(
                operator.wait_for("watches", lambda rows: any(one["outcome"] == "completed" for one in rows["items"]))
            )
            await bridge.register()
        assert seen.result()["items"][0]["state"] == "settled"


async def test_data_that_have_not_changed_are_serialized_alike(tmp_path: Path) -> None:
    """Times converted from a monotonic clock vary a little. With them, the stream would send the table every second."""
    async with running_bridge(tmp_path, poll_interval_seconds="3600", poll_max_interval_seconds="3600") as bridge:
        watch = await bridge.register(Behaviour(outcome=Outcome.NEVER))
        operator = await bridge.operator()
        await operator.wait_for("watches", lambda rows: rows["items"][0]["polls"] == 1)
        tables = [(await operator.get("/page/watches")).json["items"] for _ in range(20)]
        assert all(table == tables[0] for table in tables)
        watches = [(await operator.get(f"/page/watches/{watch['id']}")).json for _ in range(20)]
        assert all(one["timeline"] == watches[0]["timeline"] for one in watches)


async def test_the_stream_ends_when_the_bridge_stops(tmp_path: Path) -> None:
    async with running_bridge(tmp_path) as bridge:
        operator = await bridge.operator()
        async with bridge.session.get(f"{bridge.url}/page/live", headers={"Cookie": operator.cookie}) as answer:
            await answer.content.readline()
            async with asyncio.timeout(SAFETY_SECONDS):
                await bridge.runtime.stop()
                await answer.read()


async def test_the_overview_has_figures_keys_receivers_and_the_store(tmp_path: Path) -> None:
    async with running_bridge(tmp_path) as bridge:
        await bridge.register(Behaviour(outcome=Outcome.NEVER))
        operator = await bridge.operator()
        overview = await operator.wait_for("overview", lambda found: found["figures"]["active"] == 1)
        assert overview["store_ok"]
        assert overview["store"]["kind"] == "SQLite"
        assert [key["name"] for key in overview["credentials"]] == ["configured"]
        assert overview["credentials"][0]["tasks"] == 1
        assert (await operator.get("/page/overview")).json["charts"] is not None


async def test_the_overview_shows_how_long_tasks_of_each_class_take(tmp_path: Path) -> None:
    async with running_bridge(tmp_path) as bridge:
        watch = await bridge.register(Behaviour(queue_seconds=0.2, run_seconds=0.2))
        operator = await bridge.operator()
        overview = await operator.wait_for("overview", lambda found: found["classes"])
        [shown] = overview["classes"]
        assert shown["ends"] == 1
        assert 0 < shown["p50"] <= shown["p90"]
        assert (shown["polls"] >= 1, shown["learned_delay"], shown["fixed_delay"] > 0) == (True, None, True)
        settled = (await operator.get(f"/page/watches/{watch['id']}")).json
        assert settled["timing"]["seen_at"] <= settled["timing"]["settled_at"]


# --- changes ------------------------------------------------------------------------------------------------------


async def test_an_active_watch_can_be_cancelled_and_a_settled_one_cannot(tmp_path: Path) -> None:
    async with running_bridge(tmp_path) as bridge:
        active = await bridge.register(Behaviour(outcome=Outcome.NEVER))
        [ended] = await bridge.register_dead()
        operator = await bridge.operator()
        answer = await operator.post(f"/page/watches/{active['id']}/cancel")
        assert (answer.status, answer.json["state"]) == (200, "cancelled")
        assert answer.json["timeline"][-1]["kind"] == "cancelled"
        assert (await operator.post(f"/page/watches/{ended}/cancel")).json["code"] == "watch_settled"


async def test_a_dead_callback_is_sent_again_with_the_same_id(tmp_path: Path) -> None:
    async with running_bridge(tmp_path) as bridge:
        [watch] = await bridge.register_dead()
        operator = await bridge.operator()
        [delivery] = (await operator.get(f"/page/watches/{watch}")).json["deliveries"]
        bridge.receiver.statuses[410] = 204
        assert (await operator.post(f"/page/deliveries/{delivery['id']}/retry")).status == 202
        shown = await operator.wait_for(
            "watch", lambda one: one["deliveries"][0]["state"] == "delivered", f"?watch={watch}"
        )
        [gone, delivered] = [entry for entry in shown["timeline"] if entry["kind"] == "attempt"]
        assert "changes" not in gone
        assert delivered["changes"][0] == {"name": "result", "before": "answered 410", "after": "answered 204"}
        assert bridge.receiver.received == [delivery["id"]] * 2


async def test_many_dead_callbacks_are_counted_first_and_then_sent(tmp_path: Path) -> None:
    async with running_bridge(tmp_path) as bridge:
        await bridge.register_dead(3)
        operator = await bridge.operator()
        path, query = "/page/deliveries/retry", {"state": "dead", "callback_host": "127.0.0.1"}
        assert (await operator.post(path, query | {"dry_run": True})).json == {"count": 3}
        assert (await operator.post(path, {**query, "callback_host": "other.example", "dry_run": True})).json == {
            "count": 0
        }
        assert len(bridge.receiver.received) == 3
        bridge.receiver.statuses[410] = 200
        answer = await operator.post(path, query)
        assert (answer.status, answer.json) == (202, {"count": 3})
        await operator.wait_for(
            "watches", lambda found: sum(one["deliveries"]["delivered"] for one in found["items"]) == 3
        )
        assert len(bridge.receiver.received) == 6


async def test_the_diagnosis_of_a_watch_whose_receiver_is_down_has_the_next_attempt(tmp_path: Path) -> None:
    async with running_bridge(tmp_path, delivery_retry_delays_seconds="300") as bridge:
        watch = await register_unreachable(bridge)
        operator = await bridge.operator()
        shown = await operator.wait_for("watch", lambda one: one["diagnosis"] is not None, f"?watch={watch}")
        assert "1 attempt failed, next in" in shown["diagnosis"]["explanation"]
        assert shown["timeline"][-1]["ahead"]


async def register_unreachable(bridge: Bridge) -> str:
    watch = await bridge.register(callback_url=f"http://127.0.0.1:{free_port()}/hook")
    return str(watch["id"])


async def test_the_overview_lists_receivers_and_an_operator_pauses_and_resumes_one(tmp_path: Path) -> None:
    async with running_bridge(tmp_path) as bridge:
        watch = await bridge.register(status=200)
        operator, name = await bridge.operator(), bridge.receiver.url.removeprefix("http://")

        def shows(paused_by: str | None, pending: int) -> Any:
            def condition(overview: Any) -> bool:
                listed = overview["all_receivers"]
                found = [(one["receiver"], one["paused_by"], one["pending"]) for one in listed["items"]]
                return (listed["count"], found) == (1, [(name, paused_by, pending)])

            return condition

        await operator.wait_for("overview", shows(None, 0))
        paused = await operator.post(f"/page/receivers/{name}/pause")
        assert (paused.status, paused.json["paused_by"]) == (200, "ops")
        [delivery] = (await operator.get(f"/page/watches/{watch['id']}")).json["deliveries"]
        assert (await operator.post(f"/page/deliveries/{delivery['id']}/retry")).status == 202
        await operator.wait_for("overview", shows("ops", 1))
        assert len(bridge.receiver.received) == 1
        assert (await operator.post(f"/page/receivers/{name}/resume")).json["paused_by"] is None
        await operator.wait_for("overview", shows(None, 0))
        assert len(bridge.receiver.received) == 2
        assert (await operator.post("/page/receivers/nonsense/pause")).status == 422
        assert (await operator.post(f"/page/receivers/{name}/pause", **{"X-CSRF-Token": ""})).status == 403


# --- payloads and pings -------------------------------------------------------------------------------------------


async def test_a_payload_is_shown_with_its_exact_bytes_and_signed_now(tmp_path: Path) -> None:
    async with running_bridge(tmp_path) as bridge:
        own = "whsec_" + base64.b64encode(b"a secret of this watch alone 123").decode()
        watch = await bridge.register(headers={"X-Auth": "hidden-header"}, secret=own, context={"name": MARKUP})
        operator = await bridge.operator()
        await operator.wait_for("watch", lambda one: one["state"] == "settled", f"?watch={watch['id']}")
        shown = (await operator.get(f"/page/watches/{watch['id']}/payloads")).json
        [payload] = shown["payloads"]
        headers = dict(payload["headers"])
        assert payload["type"] == "video.completed"
        assert headers["webhook-id"] == payload["id"] == json.loads(payload["payload"])["id"]
        assert abs(int(headers["webhook-timestamp"]) - shown["now"]) < 1
        Webhook(own).verify(payload["payload"], headers)
        assert payload["masked_headers"] == [["X-Auth", "********"]]
        for hidden in ("hidden-header", "hidden-query", own, KEY):
            assert hidden not in str(shown)
        app = {"Authorization": f"Bearer {APP_TOKEN}"}
        envelope = await bridge.request("GET", f"/watch/{watch['id']}/envelope", headers=app)
        assert envelope.body == payload["payload"].encode()


async def test_an_event_that_is_not_to_be_sent_has_its_payload_as_well(tmp_path: Path) -> None:
    async with running_bridge(tmp_path) as bridge:
        watch = await bridge.register(events=["video.failed"])
        active = await bridge.register(Behaviour(outcome=Outcome.NEVER))
        operator = await bridge.operator()
        await operator.wait_for("watch", lambda one: one["state"] == "settled", f"?watch={watch['id']}")
        [payload] = (await operator.get(f"/page/watches/{watch['id']}/payloads")).json["payloads"]
        assert json.loads(payload["payload"])["id"] == payload["id"]
        assert (await operator.get(f"/page/watches/{active['id']}/payloads")).json["payloads"] == []
        assert (await operator.get(f"/page/watches/wat_{'0' * 26}/payloads")).status == 404


async def test_a_payload_in_the_receivers_form_is_shown_as_it_is_sent(tmp_path: Path) -> None:
    async with running_bridge(tmp_path) as bridge:
        watch = await bridge.register(body={"text": "{{type}} {{data.context.name}}"}, context={"name": MARKUP})
        operator = await bridge.operator()
        await operator.wait_for("watch", lambda one: one["state"] == "settled", f"?watch={watch['id']}")
        [payload] = (await operator.get(f"/page/watches/{watch['id']}/payloads")).json["payloads"]
        assert json.loads(payload["payload"]) == {"text": f"video.completed {MARKUP}"}


async def test_payloads_need_a_session_and_a_ping_needs_the_csrf_token(tmp_path: Path) -> None:
    async with running_bridge(tmp_path) as bridge:
        watch = await bridge.register()
        operator = await bridge.operator()
        assert (await bridge.request("GET", f"/page/watches/{watch['id']}/payloads")).status == 401
        ping = f"/page/watches/{watch['id']}/ping"
        for missing in ({"X-CSRF-Token": ""}, {"Origin": "https://evil.example"}):
            assert (await operator.post(ping, **missing)).status == 403


async def test_a_ping_reaches_the_receiver_as_the_watchs_callbacks_do(tmp_path: Path) -> None:
    async with running_bridge(tmp_path) as bridge:
        watch = await bridge.register(Behaviour(outcome=Outcome.NEVER), headers={"X-Auth": "hidden-header"})
        operator = await bridge.operator()
        answer = await operator.post(f"/page/watches/{watch['id']}/ping")
        assert (answer.status, answer.json["ok"], answer.json["status_code"]) == (200, True, 200)
        assert len(bridge.receiver.received) == 1
        bridge.receiver.statuses[200] = 401
        answer = await operator.post(f"/page/watches/{watch['id']}/ping")
        assert answer.json["error"]["message"] == "the receiver answered 401"
        assert (await operator.post(f"/page/watches/wat_{'0' * 26}/ping")).status == 404

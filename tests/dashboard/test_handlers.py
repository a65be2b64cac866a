import asyncio
from pathlib import Path
from typing import Any

import pytest

from bridge.sandbox import PRIVATE_MARK, Behaviour, Outcome
from tests.dashboard.harness import KEY, Stage, free_port, staged

MARKUP = "<img src=x onerror=alert(1)><script>alert(2)</script>"


async def test_the_table_has_pages_filters_and_a_search(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        known = [(await stage.watch(Behaviour(outcome=Outcome.NEVER)))["id"] for _ in range(5)]
        operator = await stage.operator()
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
        "strange=1",
        "state=active&state=settled",
        f"q={'a' * 301}",
    ],
)
async def test_a_filter_that_is_none_is_refused_before_a_stream_begins(tmp_path: Path, query: str) -> None:
    async with staged(tmp_path) as stage:
        operator = await stage.operator()
        for path in ("/page/watches", "/page/live"):
            assert (await operator.get(f"{path}?{query}")).json["code"] == "invalid_request"


async def test_a_watch_is_told_as_a_time_line_with_what_the_receiver_said(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        stage.receiver.bodies[500] = f"no: {MARKUP}"
        watch = await stage.watch(status=500, headers={"X-Auth": "hidden-header"}, context={"name": MARKUP})
        operator = await stage.operator()

        def died(one: Any) -> bool:
            return bool(one["deliveries"] and one["deliveries"][0]["state"] == "dead")

        told = await operator.sees("watch", died, f"?watch={watch['id']}")
        kinds = [entry["kind"] for entry in told["timeline"]]
        assert kinds == ["registered", "polled", "settled", "attempt", "attempt", "dead"]
        assert told["timeline"][3]["title"] == "Attempt 1 of the completed callback: answered 500"
        assert told["timeline"][3]["body"] == f"no: {MARKUP}"
        assert told["callback_url"] == f"{stage.receiver.url}/answer/500"
        assert told["headers"] == {"X-Auth": "********"}
        assert told["context"] == f'{{"name":"{MARKUP}"}}'
        text = str(told)
        for secret in ("hidden-query", "hidden-header", KEY, PRIVATE_MARK):
            assert secret not in text
        assert "dead after 2 attempts" in told["trouble"]["why"]


@pytest.mark.parametrize("events", [None, ["video.queued", "video.in_progress", "video.completed"]])
async def test_each_status_change_is_in_the_time_line_once_asked_for_or_not(
    tmp_path: Path, events: list[str] | None
) -> None:
    async with staged(tmp_path) as stage:
        behaviour = Behaviour(queue_seconds=0.4, run_seconds=0.4)
        wanted: dict[str, Any] = {} if events is None else {"events": events}
        watch = await stage.watch(behaviour, **wanted)
        operator = await stage.operator()
        told = await operator.sees("watch", lambda one: one["state"] == "settled", f"?watch={watch['id']}")
        titles = [entry["title"] for entry in told["timeline"]]
        assert titles.index("The task waits at amux") < titles.index("The task runs at amux")
        assert titles.index("The task runs at amux") < titles.index("Settled: the video is completed")
        assert [entry["kind"] for entry in told["timeline"]].count("status") == 2


async def test_what_comes_next_is_told_of_an_active_watch(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        watch = await stage.watch(Behaviour(outcome=Outcome.NEVER))
        operator = await stage.operator()
        told = await operator.sees("watch", lambda one: one["polls"] > 1, f"?watch={watch['id']}")
        ahead = [entry["title"] for entry in told["timeline"] if entry["ahead"]]
        assert ahead == ["Next poll", "Deadline: it ends as timed out"]


async def test_an_unknown_watch_is_404_and_said_so_in_the_stream(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        operator = await stage.operator()
        nobody = f"wat_{'0' * 26}"
        assert (await operator.get(f"/page/watches/{nobody}")).status == 404
        assert (await operator.get("/page/watches/nonsense")).status == 404
        told = await operator.sees("watch-failed", lambda found: True, f"?watch={nobody}")
        assert told["code"] == "not_found"


async def test_the_stream_tells_what_changes_by_itself(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        operator = await stage.operator()
        async with asyncio.TaskGroup() as group:
            seen = group.create_task(
                operator.sees("watches", lambda rows: any(one["outcome"] == "completed" for one in rows["items"]))
            )
            await stage.watch()
        assert seen.result()["items"][0]["state"] == "settled"


async def test_what_has_not_changed_is_told_in_the_same_words(tmp_path: Path) -> None:
    """Else the stream would send the table every second: a moment of the monotonic clock has no fixed spelling."""
    async with staged(tmp_path, poll_interval_seconds="3600", poll_max_interval_seconds="3600") as stage:
        watch = await stage.watch(Behaviour(outcome=Outcome.NEVER))
        operator = await stage.operator()
        await operator.sees("watches", lambda rows: rows["items"][0]["polls"] == 1)
        tables = [(await operator.get("/page/watches")).json["items"] for _ in range(20)]
        assert all(table == tables[0] for table in tables)
        told = [(await operator.get(f"/page/watches/{watch['id']}")).json for _ in range(20)]
        assert all(one["timeline"] == told[0]["timeline"] for one in told)


async def test_the_stream_ends_when_the_bridge_stops(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        operator = await stage.operator()
        async with stage.session.get(f"{stage.url}/page/live", headers={"Cookie": operator.cookie}) as answer:
            await answer.content.readline()
            async with asyncio.timeout(10):
                await stage.runtime.stop()
                await answer.read()


async def test_the_overview_has_figures_keys_receivers_and_the_store(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.watch(Behaviour(outcome=Outcome.NEVER))
        operator = await stage.operator()
        told = await operator.sees("overview", lambda found: found["figures"]["active"] == 1)
        assert told["store_ok"]
        assert told["store"]["kind"] == "SQLite"
        assert [key["name"] for key in told["credentials"]] == ["configured"]
        assert told["credentials"][0]["tasks"] == 1
        assert (await operator.get("/page/overview")).json["charts"] is not None


# --- doing --------------------------------------------------------------------------------------------------------


async def test_cancelling_and_what_it_cannot(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        active = await stage.watch(Behaviour(outcome=Outcome.NEVER))
        [ended] = await stage.dead()
        operator = await stage.operator()
        told = await operator.post(f"/page/watches/{active['id']}/cancel")
        assert (told.status, told.json["state"]) == (200, "cancelled")
        assert told.json["timeline"][-1]["kind"] == "cancelled"
        assert (await operator.post(f"/page/watches/{ended}/cancel")).json["code"] == "watch_settled"


async def test_a_dead_callback_is_sent_again_under_its_id(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        [watch] = await stage.dead()
        operator = await stage.operator()
        [delivery] = (await operator.get(f"/page/watches/{watch}")).json["deliveries"]
        stage.receiver.statuses[410] = 204
        assert (await operator.post(f"/page/deliveries/{delivery['id']}/retry")).status == 202
        told = await operator.sees("watch", lambda one: one["deliveries"][0]["state"] == "delivered", f"?watch={watch}")
        assert [entry["kind"] for entry in told["timeline"]].count("attempt") == 2
        assert stage.receiver.taken == [delivery["id"]] * 2


async def test_many_are_counted_first_and_then_sent(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.dead(3)
        operator = await stage.operator()
        path, wanted = "/page/deliveries/retry", {"state": "dead", "callback_host": "127.0.0.1"}
        assert (await operator.post(path, wanted | {"dry_run": True})).json == {"count": 3}
        assert (await operator.post(path, {**wanted, "callback_host": "other.example", "dry_run": True})).json == {
            "count": 0
        }
        assert len(stage.receiver.taken) == 3
        stage.receiver.statuses[410] = 200
        answer = await operator.post(path, wanted)
        assert (answer.status, answer.json) == (202, {"count": 3})
        await operator.sees("overview", lambda told: told["figures"]["dead"] == told["figures"]["pending"] == 0)
        assert len(stage.receiver.taken) == 6


async def test_a_watch_whose_receiver_is_down_says_when_it_is_tried_again(tmp_path: Path) -> None:
    async with staged(tmp_path, delivery_retry_delays_seconds="300") as stage:
        watch = await down(stage)
        operator = await stage.operator()
        told = await operator.sees("watch", lambda one: one["trouble"] is not None, f"?watch={watch}")
        assert "1 attempt failed, next in" in told["trouble"]["why"]
        assert told["timeline"][-1]["ahead"]


async def down(stage: Stage) -> str:
    watch = await stage.watch(callback_url=f"http://127.0.0.1:{free_port()}/hook")
    return str(watch["id"])

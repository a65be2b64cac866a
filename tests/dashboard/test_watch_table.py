"""The operators' table: searches, the number of matches, changes of all watches that match, and exports."""

import csv
import io
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import orjson
import pytest

from bridge.core.audit import Action, Actor, Role
from bridge.sandbox import Behaviour, Outcome
from bridge.store import watch_scan
from bridge.web.dashboard import bulk, watch_table
from bridge.web.dashboard.export import COLUMNS
from bridge.web.dashboard.sessions import Session
from bridge.web.requests import Query
from tests.dashboard.harness import Operator, running_bridge

NEVER = Behaviour(outcome=Outcome.NEVER)


async def table(operator: Operator, **filters: str) -> Any:
    answer = await operator.get(f"/page/watches?{urlencode(filters)}")
    assert answer.status == 200, answer
    return answer.json


async def test_the_table_finds_what_support_pastes_and_counts_the_matches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_bridge(tmp_path) as bridge:
        operator = await bridge.operator()
        ids = [(await bridge.register(NEVER, context={"order": f"A-{number}"}))["id"] for number in range(3)]
        for text in ("A-1", "a-1", ids[1], ids[1][6:]):
            found = await table(operator, q=text)
            assert ([one["id"] for one in found["items"]], found["matches"]) == ([ids[1]], 1)
        found = await table(operator, q="A-", limit="2")
        assert ([one["id"] for one in found["items"]], found["matches"]) == ([ids[2], ids[1]], 3)
        rest = await table(operator, q="A-", limit="2", cursor=found["next_cursor"])
        assert ([one["id"] for one in rest["items"]], rest["next_cursor"], rest["matches"]) == ([ids[0]], None, 3)
        oldest = await table(operator, q="A-", limit="2", order="oldest")
        assert [one["id"] for one in oldest["items"]] == ids[:2]
        assert (await table(operator, q="shop"))["matches"] == 3
        assert (await table(operator, q="hidden-query"))["matches"] == 0
        assert (await table(operator, state="active", app="shop"))["matches"] == 3
        assert (await table(operator, app="lab"))["matches"] == 0
        assert (await table(operator))["matches"] is None
        assert (await table(operator, created_after="2199-01-01T00:00:00Z"))["matches"] == 0
        monkeypatch.setattr(watch_scan, "MOST_SEARCHED", 2)
        found = await table(operator, q="A-")
        assert found["matches"] == 2
        assert found["searched_back_to"] == pytest.approx(found["items"][1]["created_at"])


async def test_an_open_page_searches_again_only_after_a_rest(tmp_path: Path) -> None:
    async with running_bridge(tmp_path) as bridge:
        app, now = bridge.runtime._runners[0].app, [0.0]
        searches = bridge.runtime._store.searches
        original, count = searches.all, [0]

        async def takes_a_second(*arguments: Any, **options: Any) -> Any:
            count[0] += 1
            now[0] += 1.0
            return await original(*arguments, **options)

        searches.all = takes_a_second  # type: ignore[method-assign]
        session = Session("ops", 0.0, "")
        shown = watch_table.WatchTable(app, Query({"q": "task"}), session, lambda: now[0])
        one = (await bridge.register(NEVER))["id"]
        assert [row["id"] for row in (await shown.read())["items"]] == [one]
        await bridge.register(NEVER)
        now[0] += 19.0
        assert (await shown.read())["matches"] == 1
        now[0] += 2.0
        assert (await shown.read())["matches"] == 2
        assert count[0] == 2


# --- changes ------------------------------------------------------------------------------------------------------


async def test_all_active_watches_that_match_are_counted_and_cancelled(tmp_path: Path) -> None:
    async with running_bridge(tmp_path) as bridge:
        operator = await bridge.operator()
        ids = [(await bridge.register(NEVER, context={"order": f"A-{number}"}))["id"] for number in range(3)]
        kept = (await bridge.register(NEVER, context={"order": "B-1"}))["id"]
        body: Any = {"filters": {"q": "A-"}}
        counted = await operator.post("/page/watches/cancel", body | {"dry_run": True})
        assert counted.json == {"count": 3, "left": 0, "up_to": ids[2]}
        later = (await bridge.register(NEVER, context={"order": "A-9"}))["id"]
        done = await operator.post("/page/watches/cancel", body | {"up_to": ids[2]})
        assert (done.status, done.json) == (200, {"count": 3, "left": 0, "up_to": ids[2]})
        assert {one["id"] for one in (await table(operator, state="cancelled"))["items"]} == set(ids)
        assert {one["id"] for one in (await table(operator, state="active"))["items"]} == {kept, later}
        [entry] = (await bridge.runtime._store.watch(ids[0], None)).audit
        assert (entry.action, entry.by) == (Action.CANCELLED, Actor("ops", Role.OPERATOR))
        for state in ("settled", "cancelled"):
            body = {"filters": {"state": state}, "dry_run": True}
            assert (await operator.post("/page/watches/cancel", body)).json["count"] == 0


async def test_callbacks_of_all_watches_that_match_are_sent_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_bridge(tmp_path) as bridge:
        operator = await bridge.operator()
        [first, *_] = await bridge.register_dead(3)
        await bridge.register()
        await operator.wait_for(
            "watches", lambda found: sum(one["deliveries"]["delivered"] for one in found["items"]) == 1
        )
        dead = {"filters": {"host": bridge.receiver.url.removeprefix("http://")}}
        assert (await operator.post("/page/watches/resend", dead | {"dry_run": True})).json["count"] == 3
        both = dead | {"delivered": True}
        assert (await operator.post("/page/watches/resend", both | {"dry_run": True})).json["count"] == 4
        monkeypatch.setattr(bulk, "MAX_WATCHES", 2)
        counted = (await operator.post("/page/watches/resend", both | {"dry_run": True})).json
        assert (counted["count"], counted["left"]) == (2, 2)
        monkeypatch.undo()
        bridge.receiver.statuses[410] = 200
        before = len(bridge.receiver.received)
        done = await operator.post("/page/watches/resend", dead)
        assert (done.status, done.json["count"]) == (202, 3)
        await operator.wait_for(
            "watches", lambda found: sum(one["deliveries"]["delivered"] for one in found["items"]) == 4
        )
        assert len(bridge.receiver.received) == before + 3
        [entry] = (await bridge.runtime._store.watch(first, None)).audit
        assert (entry.action, entry.by.name) == (Action.RESENT, "ops")


async def test_a_change_of_many_needs_the_pages_token_and_good_filters(tmp_path: Path) -> None:
    async with running_bridge(tmp_path) as bridge:
        operator = await bridge.operator()
        for path in ("/page/watches/cancel", "/page/watches/resend"):
            body: Any = {"filters": {}, "dry_run": True}
            assert (await operator.post(path, body, **{"X-CSRF-Token": ""})).status == 403
            assert (await operator.post(path, body, Origin="https://other.example")).status == 403
            assert (await bridge.request("POST", path, json=body)).status == 401
            for bad in ({"strange": "1"}, {"state": "x"}, {"cursor": "wat_1"}, {"q": "\0"}):
                answer = await operator.post(path, {"filters": bad})
                assert {one["field"] for one in answer.json["errors"]} == set(bad)
            assert (await operator.post(path, {})).status == 422
            for everything in ({}, {"state": ""}):
                answer = await operator.post(path, {"filters": everything, "dry_run": True})
                assert [one["field"] for one in answer.json["errors"]] == ["filters"]


# --- exports ------------------------------------------------------------------------------------------------------


async def test_an_export_has_every_watch_that_matches_and_no_secret(tmp_path: Path) -> None:
    async with running_bridge(tmp_path) as bridge:
        operator = await bridge.operator()
        ids = []
        for number in range(5):
            context = {"order": f"A-{number}", "name": 'Zoë, "x"'}
            headers = {"X-Auth": "hidden-header"}
            ids.append((await bridge.register(context=context, headers=headers, secret="whsec_" + "c2Vj" * 10))["id"])
        await operator.wait_for("watches", lambda found: all(one["deliveries"]["delivered"] for one in found["items"]))
        for filters in ("", "?q=A-", "?state=settled&limit=1"):
            answer = await operator.get(f"/page/watches.csv{filters}")
            assert answer.headers["Content-Type"] == "text/csv; charset=utf-8"
            assert answer.headers["Content-Disposition"].startswith('attachment; filename="watches-20')
            rows = list(csv.DictReader(io.StringIO(answer.text, newline="")))
            assert [row["id"] for row in rows] == ids[::-1], filters
            assert list(rows[0]) == list(COLUMNS)
            assert orjson.loads(rows[0]["context"])["name"] == 'Zoë, "x"'
            assert (rows[0]["delivery_state"], rows[0]["event_id"][:4]) == ("delivered", "evt_")
            lines = await operator.get(f"/page/watches.jsonl{filters}")
            assert lines.headers["Content-Type"] == "application/jsonl; charset=utf-8"
            assert [orjson.loads(line)["id"] for line in lines.body.splitlines()] == ids[::-1]
            for text in (answer.text, lines.text):
                assert "hidden" not in text
                assert "whsec_" not in text
        assert len((await operator.get("/page/watches.jsonl?q=A-3")).body.splitlines()) == 1
        assert len((await operator.get("/page/watches.csv?q=nothing")).body.splitlines()) == 1
        oldest = (await operator.get("/page/watches.jsonl?q=A-&order=oldest")).body.splitlines()
        assert [orjson.loads(line)["id"] for line in oldest] == ids


async def test_an_export_needs_a_session_and_good_filters(tmp_path: Path) -> None:
    async with running_bridge(tmp_path) as bridge:
        operator = await bridge.operator()
        for path in ("/page/watches.csv", "/page/watches.jsonl"):
            assert (await bridge.request("GET", path)).status == 401
            assert (await operator.get(f"{path}?state=x")).status == 422
            head = await bridge.request("HEAD", path, headers={"Cookie": operator.cookie})
            assert (head.status, head.body) == (200, b"")

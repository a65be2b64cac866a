"""`GET /receivers`, pausing and resuming: operators may, apps may not, and a host can have several spellings."""

from pathlib import Path

import pytest

from bridge.core.receivers import LastAnswer
from tests.web.harness import APP, OPERATOR, Bridge, running_bridge

UNSEEN = {
    "receiver": "[2001:db8::1]:8443",
    "health": "unknown",
    "failures_in_a_row": 0,
    "last_answer": None,
    "pending": 0,
    "dead": 0,
    "attempts": 0,
    "success_share": None,
    "p50_seconds": None,
    "p99_seconds": None,
    "paused_at": None,
    "paused_by": None,
}


async def test_a_receiver_has_every_field(bridge: Bridge) -> None:
    watch = await bridge.watch()
    await bridge.dead(watch["id"])
    last = LastAnswer(bridge.store.now(), 410, None)
    bridge.deliverer.figures.add("app.example:443", 0.25, last, delivered=False)
    answer = await bridge.get("/receivers", headers=OPERATOR)
    assert answer.status == 200
    [one] = answer.json["items"]
    assert one.keys() == UNSEEN.keys()
    assert one["last_answer"].keys() == {"at", "status_code", "error"}
    assert (one["receiver"], one["health"], one["attempts"]) == ("app.example:443", "healthy", 1)
    assert (one["success_share"], one["dead"], one["pending"]) == (0.0, 1, 0)
    assert one["p50_seconds"] == one["p99_seconds"] == pytest.approx(0.25, rel=0.05)


async def test_pausing_and_resuming_can_be_repeated_in_any_spelling(bridge: Bridge) -> None:
    for path in ("[2001:DB8:0::1]:8443", "%5B2001:db8::1%5D:8443"):
        answer = await bridge.ask("POST", f"/receivers/{path}/pause", headers=OPERATOR)
        assert answer.status == 200
        paused = answer.json
        assert paused == UNSEEN | {"paused_at": paused["paused_at"], "paused_by": "ops"}
        assert paused["paused_at"].endswith("Z")
    assert bridge.deliverer.paused == {"[2001:db8::1]:8443"}
    [listed] = (await bridge.get("/receivers", headers=OPERATOR)).json["items"]
    assert listed == paused
    for _ in range(2):
        answer = await bridge.ask("POST", "/receivers/[2001:db8::1]:8443/resume", headers=OPERATOR)
        assert (answer.status, answer.json) == (200, UNSEEN)
    assert (await bridge.get("/receivers", headers=OPERATOR)).json == {"items": []}


async def test_a_retry_to_a_paused_receiver_is_accepted(bridge: Bridge) -> None:
    delivery = await bridge.dead((await bridge.watch())["id"])
    await bridge.ask("POST", "/receivers/APP.example:443/pause", headers=OPERATOR)
    assert (await bridge.ask("POST", f"/deliveries/{delivery}/retry")).status == 202
    [one] = (await bridge.get("/receivers", headers=OPERATOR)).json["items"]
    assert (one["pending"], one["dead"], one["paused_by"]) == (1, 0, "ops")


@pytest.mark.parametrize("path", ["app.example", "app.example:0", "a%20b:80", "[fe80::1%25eth0]:80", "%00:80", ":1"])
async def test_what_is_no_receiver_is_named(bridge: Bridge, path: str) -> None:
    for action in ("pause", "resume"):
        answer = await bridge.ask("POST", f"/receivers/{path}/{action}", headers=OPERATOR)
        assert answer.fields() == {"receiver"}


async def test_apps_may_not(bridge: Bridge) -> None:
    requests = [("GET", "/receivers"), *(("POST", f"/receivers/a.example:80/{one}") for one in ("pause", "resume"))]
    for method, path in requests:
        (await bridge.ask(method, path, headers=APP)).problem(403, "forbidden")
    assert bridge.deliverer.paused == frozenset()


async def test_without_tokens_every_local_caller_may(tmp_path: Path) -> None:
    async with running_bridge(tmp_path, tokens={}, operators={}) as bridge:
        answer = await bridge.ask("POST", "/receivers/a.example:80/pause")
        assert answer.json["paused_by"] == "default"

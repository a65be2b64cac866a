"""`POST /watch` and `POST /watch/batch`: valid and invalid requests, repeated requests."""

import re
from pathlib import Path
from typing import Any

import pytest

from bridge.core.model import TaskStatus
from tests.web.harness import APP, BODY, OPERATOR, OTHER, OWN_SECRET, Bridge, live_task, running_bridge


async def test_a_watch_is_registered_shown_and_polled(bridge: Bridge) -> None:
    answer = await bridge.post("/watch", BODY)
    watch = answer.json
    assert answer.status == 201
    assert answer.headers["Location"] == f"/watch/{watch['id']}"
    assert answer.headers["Content-Type"] == "application/json"
    assert re.fullmatch(r"wat_[0-9a-hjkmnp-tv-z]{26}", watch["id"])
    times = {name: watch.pop(name) for name in ("created_at", "deadline_at")}
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", time) for time in times.values())
    assert watch.pop("id")
    assert watch == {
        "app": "shop",
        "task_id": "task_1",
        "callback_url": BODY["callback_url"],
        "events": ["video.completed", "video.failed", "video.timed_out", "video.unavailable"],
        "context": None,
        "headers": None,
        "state": "active",
        "outcome": None,
        "task": {
            "status": "unknown",
            "progress": None,
            "url": None,
            "format": None,
            "metadata": None,
            "error": None,
            "model": None,
            "submitted_at": None,
            "finished_at": None,
        },
        "polls": 0,
        "last_polled_at": None,
        "next_poll_at": None,
        "last_error": None,
        "settled_at": None,
        "deliveries": [],
        "audit": [],
        "timing": dict.fromkeys(
            ("submitted_at", "finished_at", "seen_at", "settled_at", "first_attempt_at", "delivered_at")
        ),
    }
    [(task, key)] = bridge.poller.added
    assert (task.task_id, task.credential, key) == ("task_1", "configured", None)
    assert bridge.context.metrics.registered._value.get() == 1


async def test_all_fields_are_stored_and_secrets_are_not_shown(bridge: Bridge) -> None:
    fields = {
        "events": ["video.failed", "video.queued", "video.failed"],
        "context": {"order": 7, "ü": ["é", None, 1.5, 2**70]},
        "timeout_seconds": 90.5,
        "headers": {"Authorization": "Bearer hush-hush", "X-Empty": ""},
        "secret": OWN_SECRET.text,
        "api_key": "sk-mine",
    }
    answer = await bridge.post("/watch", BODY | fields)
    watch = answer.json
    assert answer.status == 201
    assert watch["events"] == ["video.failed", "video.queued"]
    assert watch["context"] == fields["context"]
    assert watch["headers"] == {"Authorization": "********", "X-Empty": "********"}
    assert not {"secret", "api_key"} & watch.keys()
    again = await bridge.get(f"/watch/{watch['id']}")
    assert again.json == watch
    for hidden in (b"hush", OWN_SECRET.text.encode(), b"sk-mine"):
        assert hidden not in answer.body + again.body
    [(task, key)] = bridge.poller.added
    assert key == "sk-mine"
    assert task.credential != "configured"
    assert "sk-mine" not in task.credential
    [stored] = await bridge.store.keys_of([task.credential])
    assert stored == task.credential


async def test_the_same_options_return_the_same_watch(bridge: Bridge) -> None:
    fields = {"context": {"a": 1, "b": [2]}, "headers": {"X-A": "1", "x-b": "2"}, "secret": OWN_SECRET.text}
    first = await bridge.watch(**fields, events=["video.failed", "video.completed"], timeout_seconds=60)
    same = {
        "context": {"b": [2], "a": 1},
        "headers": {"X-B": "2", "x-a": "1"},
        "events": ["video.completed", "video.failed", "video.completed"],
        "timeout_seconds": 60.0,
    }
    second = await bridge.post("/watch", BODY | fields | same)
    assert second.status == 200
    assert "Location" not in second.headers
    assert second.json["id"] == first["id"]
    assert len((await bridge.get("/watch")).json["items"]) == 1


async def test_a_default_equals_its_explicit_value(bridge: Bridge) -> None:
    first = await bridge.watch()
    explicit = {
        "events": ["video.unavailable", "video.timed_out", "video.failed", "video.completed"],
        "timeout_seconds": 600,
        "context": None,
        "headers": {},
        "secret": None,
        "api_key": None,
    }
    second = await bridge.post("/watch", BODY | explicit)
    assert (second.status, second.json["id"]) == (200, first["id"])


@pytest.mark.parametrize(
    "other",
    [
        {"events": ["video.completed"]},
        {"context": {}},
        {"timeout_seconds": 601},
        {"headers": {"X-A": "2"}},
        {"secret": OWN_SECRET.text},
        {"api_key": "sk-mine"},
    ],
    ids=lambda other: next(iter(other)),
)
async def test_other_options_are_a_conflict_that_names_the_watch(bridge: Bridge, other: dict[str, Any]) -> None:
    first = await bridge.watch()
    problem = (await bridge.post("/watch", BODY | other)).problem(409, "watch_conflict")
    assert problem["watch_id"] == first["id"]


async def test_two_callbacks_are_two_watches_and_one_polled_task(bridge: Bridge) -> None:
    first = await bridge.watch()
    second = await bridge.watch(callback_url="https://app.example/other")
    third = await bridge.watch(OTHER)
    assert len({first["id"], second["id"], third["id"]}) == 3
    assert len({task.row for task, _ in bridge.poller.added}) == 1


async def test_a_second_watch_shows_the_task_as_its_poller_knows_it(bridge: Bridge) -> None:
    await bridge.watch()
    bridge.poller.tasks[bridge.poller.added[0][0].row] = live_task()
    second = await bridge.watch(callback_url="https://app.example/other")
    assert second["task"]["status"] == TaskStatus.IN_PROGRESS
    assert second["task"]["progress"] == 40
    assert (second["polls"], second["next_poll_at"]) == (7, "2026-11-23T15:04:10.500Z")


# --- Idempotency-Key ----------------------------------------------------------------------------------------------


async def test_an_idempotency_key_returns_the_first_status_again(bridge: Bridge) -> None:
    keyed = {"Idempotency-Key": "k" * 255}
    first = await bridge.post("/watch", BODY, headers=keyed)
    await bridge.settle(first.json["id"])
    again = await bridge.post("/watch", BODY, headers=keyed)
    assert (first.status, again.status) == (201, 201)
    assert again.headers["Location"] == first.headers["Location"]
    assert again.json["state"] == "settled"
    assert again.json["deliveries"][0]["state"] == "pending"
    unkeyed = await bridge.post("/watch", BODY)
    assert (unkeyed.status, unkeyed.json["id"] != first.json["id"]) == (201, True)


async def test_an_idempotency_key_returns_a_first_200_again(bridge: Bridge) -> None:
    await bridge.watch()
    for _ in range(2):
        assert (await bridge.post("/watch", BODY, headers={"Idempotency-Key": "one"})).status == 200


async def test_an_idempotency_key_with_another_body_is_a_conflict(bridge: Bridge) -> None:
    keyed = {"Idempotency-Key": "one"}
    assert (await bridge.post("/watch", BODY, headers=keyed)).status == 201
    for other in (BODY | {"task_id": "task_2"}, BODY | {"context": None}):
        (await bridge.post("/watch", other, headers=keyed)).problem(409, "idempotency_conflict")
    assert (await bridge.post("/watch", BODY, headers={**keyed, **OTHER})).status == 201


@pytest.mark.parametrize("key", ["", "k" * 256, "a b", "é", "\x80"])
async def test_an_invalid_idempotency_key_is_refused(bridge: Bridge, key: str) -> None:
    assert (await bridge.post("/watch", BODY, headers={"Idempotency-Key": key})).fields() == {"Idempotency-Key"}


# --- refusals -----------------------------------------------------------------------------------------------------


async def test_a_refused_target_names_the_rule(bridge: Bridge) -> None:
    for url, rule in {
        "ftp://app.example/": "http",
        "http://10.0.0.1/": "private",
        "http://127.0.0.2/": "loopback",
        "http://[::ffff:10.0.0.1]/": "private",
        "http://0x7f000001/": "usual spelling",
        "https://bad.example/": "private",
        "http://169.254.169.254/latest": "metadata",
    }.items():
        problem = (await bridge.post("/watch", BODY | {"callback_url": url})).problem(422, "callback_refused")
        assert rule in problem["detail"]
        assert "errors" not in problem


@pytest.mark.parametrize(
    ("url", "settings"),
    [
        ("http://10.0.0.1/", ["BRIDGE_CALLBACK_ALLOW_NETWORKS"]),
        ("https://bad.example/", ["BRIDGE_CALLBACK_ALLOW_NETWORKS", "BRIDGE_CALLBACK_ALLOW_PRIVATE_HOSTS"]),
        ("http://169.254.169.254/", None),
        ("ftp://app.example/", None),
    ],
)
async def test_a_refused_target_has_the_settings_that_can_allow_it(
    bridge: Bridge, url: str, settings: list[str] | None
) -> None:
    problem = (await bridge.post("/watch", BODY | {"callback_url": url})).problem(422, "callback_refused")
    assert problem.get("settings") == settings


async def test_a_name_that_does_not_resolve_is_accepted(bridge: Bridge) -> None:
    await bridge.watch(callback_url="https://nowhere.example/")


async def test_values_at_their_limits_are_accepted(bridge: Bridge) -> None:
    """Every field has the largest value that is allowed."""
    await bridge.watch(
        task_id="A-z0._:-" + "a" * 183,
        callback_url="https://app.example/" + "a" * 2028,
        context={"a": "x" * 4088},
        timeout_seconds=3600,
        headers={f"X-{number}" + "x" * 120: "v" * 500 for number in range(10)},
        api_key="k" * 512,
    )


async def test_a_bridge_without_a_key_requires_the_watch_s_own(tmp_path: Path) -> None:
    async with running_bridge(tmp_path, api_key=None) as bridge:
        problem = (await bridge.post("/watch", BODY)).problem(422, "no_api_key")
        assert [error["field"] for error in problem["errors"]] == ["api_key"]
        assert (await bridge.post("/watch", BODY | {"api_key": "sk-mine"})).status == 201


async def test_a_full_bridge_refuses_new_watches(tmp_path: Path) -> None:
    async with running_bridge(tmp_path, max_active_watches=1) as bridge:
        await bridge.watch()
        answer = await bridge.post("/watch", BODY | {"task_id": "task_2"})
        answer.problem(429, "too_many_watches")
        assert int(answer.headers["Retry-After"]) >= 1
        assert (await bridge.post("/watch", BODY)).status == 200


async def test_an_app_at_its_own_limit_is_refused_and_others_are_not(tmp_path: Path) -> None:
    async with running_bridge(tmp_path, max_active_watches_per_app=1) as bridge:
        await bridge.watch()
        answer = await bridge.post("/watch", BODY | {"task_id": "task_2"})
        answer.problem(429, "too_many_watches")
        assert int(answer.headers["Retry-After"]) >= 1
        assert (await bridge.post("/watch", BODY, headers=OTHER)).status == 201


async def test_a_closed_store_is_503(bridge: Bridge) -> None:
    await bridge.store._writer.close()
    answer = await bridge.post("/watch", BODY)
    answer.problem(503, "store_unavailable")
    assert int(answer.headers["Retry-After"]) >= 1


async def test_operators_cannot_register(bridge: Bridge) -> None:
    for path in ("/watch", "/watch/batch"):
        (await bridge.post(path, BODY, headers=OPERATOR)).problem(403, "forbidden")


# --- batches ------------------------------------------------------------------------------------------------------


async def test_a_bad_entry_of_a_batch_does_not_affect_the_others(bridge: Bridge) -> None:
    known = await bridge.watch(task_id="known")
    entries = [
        BODY | {"task_id": "new"},
        BODY | {"task_id": "a/b"},
        BODY | {"task_id": "known"},
        BODY | {"task_id": "known", "context": {}},
        BODY | {"callback_url": "http://10.0.0.1/"},
        7,
        BODY | {"task_id": "new"},
        BODY | {"timeout_seconds": 1e9},
    ]
    answer = await bridge.post("/watch/batch", {"watches": entries})
    assert answer.status == 200
    results = answer.json["results"]
    assert [result["status"] for result in results] == [201, 422, 200, 409, 422, 422, 200, 422]
    codes = [result["problem"]["code"] for result in results if "problem" in result]
    assert codes == ["invalid_request", "watch_conflict", "callback_refused", "invalid_request", "invalid_request"]
    assert results[0]["watch"]["id"] == results[6]["watch"]["id"]
    assert results[2]["watch"]["id"] == results[3]["problem"]["watch_id"] == known["id"]
    assert results[1]["problem"]["errors"][0]["field"] == "task_id"


@pytest.mark.parametrize("watches", [[], {}, None, [BODY] * 501])
async def test_a_batch_has_1_to_500_entries(bridge: Bridge, watches: Any) -> None:
    assert (await bridge.post("/watch/batch", {"watches": watches})).fields() == {"watches"}


async def test_a_full_batch_is_listed_newest_first(bridge: Bridge) -> None:
    entries = [BODY | {"task_id": f"task_{number}"} for number in range(500)]
    results = (await bridge.post("/watch/batch", {"watches": entries})).json["results"]
    assert {result["status"] for result in results} == {201}
    page = (await bridge.get("/watch?limit=200")).json["items"]
    assert [watch["id"] for watch in page] == [result["watch"]["id"] for result in reversed(results)][:200]
    assert len(bridge.poller.added) == 500


async def test_an_idempotency_key_applies_to_every_entry_of_a_batch(bridge: Bridge) -> None:
    body = {"watches": [BODY | {"task_id": "one"}, BODY | {"task_id": "a/b"}, BODY | {"task_id": "two"}]}
    keyed = {**APP, "Idempotency-Key": "batch"}
    first = (await bridge.post("/watch/batch", body, headers=keyed)).json
    again = (await bridge.post("/watch/batch", body, headers=keyed)).json
    assert again == first
    other = (await bridge.post("/watch/batch", {"watches": [BODY]}, headers=keyed)).json
    assert other["results"][0]["problem"]["code"] == "idempotency_conflict"

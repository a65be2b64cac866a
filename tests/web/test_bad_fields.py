"""Bad fields of requests: one answer names all of them with their rules, and repeats no value."""

from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from multidict import CIMultiDict

from tests.web.drop_in_harness import CREATE
from tests.web.harness import BODY, Bridge, running_bridge

MANY_HEADERS = {f"X-{number}": "v" for number in range(11)}


BAD_VALUES: dict[str, list[Any]] = {
    "task_id": ["", ".", "....", "a/b", "a b", "a" * 192, "é", "a\n", "a\x00", "a%2e", 7, None],
    "callback_url": [
        *("", "nonsense", "https://", "https://u:p@app.example/", "https://app.example/#x", "http://a b/", 7, None),
        *("https://app.example/" + "a" * 2029, "https://app.example:99999/"),
    ],
    "events": [[], "video.completed", {}],
    "context": [[], "text", 7, {"a": "x" * 4089}, {"é": "é" * 2045}],
    "timeout_seconds": [0, -1, 3601, True, False, "60", [], 1e300, 10**300],
    "headers": [
        *([], MANY_HEADERS, {"X-A": "1", "x-a": "2"}),
        *({name: "v"} for name in ("", "a b", "é", "X:", "X\r\nY", "x" * 129)),
        *({name: "v"} for name in ("Host", "CONTENT-TYPE", "content-anything", "Connection", "Expect", "TE")),
        *({name: "v"} for name in ("transfer-encoding", "User-Agent", "Webhook-Id", "webhook-x", "Accept-Encoding")),
        *({name: "v"} for name in ("Keep-Alive", "Proxy-Authorization", "Upgrade", "Trailer")),
        *({"X-A": bad} for bad in ("a\r\nb", "a\nb", "a\x00", "é", " a", "a ", "\t", "a\x7f", "v" * 4097)),
    ],
    "secret": ["", "whsec_", "whsec_c2hvcnQ=", "whsec_" + "_" * 32, "not-a-secret", 7],
    "api_key": ["", "a b", "é-hidden", "hidden\n", "k" * 513, 7],
}


@pytest.mark.parametrize("field", BAD_VALUES)
async def test_a_bad_field_is_named(bridge: Bridge, field: str) -> None:
    for value in BAD_VALUES[field]:
        answer = await bridge.post("/watch", BODY | {field: value})
        assert answer.fields() == {field}, value
    assert bridge.poller.added == []


@pytest.mark.parametrize(
    "fields",
    [
        {"secret": "whsec_hidden+value"},
        {"api_key": "hidden value"},
        {"headers": {"Authorization": "hidden\nvalue"}},
        {"headers": {"hidden value": "x"}},
        {"context": {"hidden": "value" * 1000}},
        {"callback_url": "https://app.example/?hidden=value#"},
    ],
    ids=repr,
)
async def test_the_value_of_a_bad_field_is_not_repeated(bridge: Bridge, fields: dict[str, Any]) -> None:
    for bad_fields in (fields, fields | {"task_id": "hidden value"}, {name: [value] for name, value in fields.items()}):
        answer = await bridge.post("/watch", BODY | bad_fields)
        answer.problem(422, "invalid_request")
        assert b"hidden" not in answer.body
        assert b"value" not in answer.body.replace(b"the value of", b"")


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({}, {"task_id", "callback_url"}),
        (BODY | {"colour": 1, "Events": []}, {"colour", "Events"}),
        (BODY | {"events": ["video.completed", "bridge.ping", 7]}, {"events.1", "events.2"}),
        (BODY | {"headers": {"X-A": 7}}, {"headers.X-A"}),
        ([], {"body"}),
        ("text", {"body"}),
        (7, {"body"}),
    ],
)
async def test_every_bad_field_is_named(bridge: Bridge, body: Any, fields: set[str]) -> None:
    assert (await bridge.post("/watch", body)).fields() == fields


async def test_each_bad_field_is_named_together_with_each_other_one(bridge: Bridge) -> None:
    bad = {name: values[0] for name, values in BAD_VALUES.items()} | {"timeout_seconds": 1e9}
    assert (await bridge.post("/watch", bad)).fields() == set(bad)
    for first, second in combinations(bad, 2):
        answer = await bridge.post("/watch", BODY | {first: bad[first], second: bad[second]})
        assert answer.fields() == {first, second}
    [result] = (await bridge.post("/watch/batch", {"watches": [bad]})).json["results"]
    assert {error["field"] for error in result["problem"]["errors"]} == set(bad)


async def test_bad_parameters_and_headers_are_named_together_with_the_bad_fields_of_the_body(bridge: Bridge) -> None:
    key = {"Idempotency-Key": "k" * 256}
    bad = BODY | {"task_id": "a/b", "timeout_seconds": 1e9}
    answer = await bridge.post("/watch?zz=1&yy=2", bad, headers=key)
    assert answer.fields() == {"zz", "yy", "Idempotency-Key", "task_id", "timeout_seconds"}
    answer = await bridge.post("/watch?zz=1", BODY | {"callback_url": "http://10.0.0.1/"})
    assert answer.fields() == {"zz", "callback_url"}
    answer = await bridge.post("/watch/batch?zz=1", {"watches": [], "x": 1}, headers=key)
    assert answer.fields() == {"zz", "Idempotency-Key", "watches", "x"}
    answer = await bridge.post("/ping?zz=1", {"callback_url": "nonsense", "dry_run": 7})
    assert answer.fields() == {"zz", "callback_url", "dry_run"}
    answer = await bridge.post("/deliveries/retry?zz=1", {"since": "now", "callback_host": "a/b"})
    assert answer.fields() == {"zz", "state", "since", "callback_host"}
    assert (await bridge.post("/watch?zz=1", BODY)).fields() == {"zz"}
    for path in ("/watch", "/watch/batch", "/ping", "/deliveries/retry"):
        unreadable = await bridge.ask("POST", f"{path}?zz=1", data=b"{", headers={"Content-Type": "application/json"})
        assert unreadable.fields() == {"zz"}
    assert bridge.poller.added == []


async def test_a_missing_amux_key_is_named_with_the_other_bad_fields(tmp_path: Path) -> None:
    async with running_bridge(tmp_path, api_key=None) as bridge:
        for bad in ({"task_id": "a/b"}, {"timeout_seconds": 1e9}):
            assert (await bridge.post("/watch", BODY | bad)).fields() == {*bad, "api_key"}


async def test_a_refused_target_is_named_with_the_other_bad_fields(bridge: Bridge) -> None:
    answer = await bridge.post("/watch", BODY | {"callback_url": "http://10.0.0.1/?hidden", "timeout_seconds": 1e9})
    assert answer.fields() == {"callback_url", "timeout_seconds"}
    assert b"hidden" not in answer.body


async def test_at_most_20_bad_fields_are_named(bridge: Bridge) -> None:
    answer = await bridge.post("/watch", BODY | {f"f{number}": 0 for number in range(5000)})
    assert len(answer.fields()) == 20


# --- create calls of amux's own routes -----------------------------------------------------------------------------


async def test_all_bad_callback_headers_are_named(drop_in_bridge: Bridge) -> None:
    for other in ({"x-callback-secret": "x"}, {"X-Callback-Timeout": "3601", "X-Amux-Api-Key": "a b"}):
        bad = {"X-Callback-Url": "nonsense", **other}
        assert (await drop_in_bridge.post("/v1/videos", CREATE, headers=bad)).fields() == set(bad)


async def test_parameters_and_repeated_headers_are_named_with_the_bad_callback_headers(drop_in_bridge: Bridge) -> None:
    names = ("X-Callback-Url", "X-Callback-Url", "X-Callback-Context", "X-Callback-Context", "X-Callback-Events")
    headers = CIMultiDict([(name, "nonsense") for name in names])
    answer = await drop_in_bridge.post("/v1/videos?a=1", CREATE, headers=headers)
    assert answer.fields() == {"a", "X-Callback-Url", "X-Callback-Context", "X-Callback-Events.0"}
    only_key = await drop_in_bridge.post("/v1/videos?a=1", CREATE, headers={"X-Amux-Api-Key": "a b"})
    assert only_key.fields() == {"a", "X-Amux-Api-Key"}
    no_url = await drop_in_bridge.post("/v1/videos?a=1", CREATE, headers={"X-Callback-Timeout": "0"})
    assert no_url.fields() == {"a", "X-Callback-Url", "X-Callback-Timeout"}

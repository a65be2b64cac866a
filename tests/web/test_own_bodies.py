"""`body` and the trace headers of `POST /watch`, `POST /watch/batch` and the drop-in routes."""

from typing import Any

import pytest

from bridge.core.trace_context import TraceContext
from tests.web.harness import BODY, Bridge

OWN = {"text": "{{type}}: {{data.url}}", "order": "{{data.context.order}}"}
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


async def registered(bridge: Bridge, watch_id: str) -> Any:
    return (await bridge.context.store.watch(watch_id, "shop")).watch


async def test_a_body_is_stored_as_compact_json(bridge: Bridge) -> None:
    answer = await bridge.post("/watch", BODY | {"body": OWN})
    assert answer.status == 201
    stored = (await registered(bridge, answer.json["id"])).body
    assert stored == b'{"text":"{{type}}: {{data.url}}","order":"{{data.context.order}}"}'


async def test_each_bad_string_of_a_body_is_named_with_its_place(bridge: Bridge) -> None:
    bad = {"a": {"b": ["ok", "{{nothing.x}}"]}, "c": "{{type", "{{d}}": 1, "e": "{{data.no_such_field}}"}
    answer = await bridge.post("/watch", BODY | {"body": bad, "timeout_seconds": -1})
    assert (answer.status, answer.json["code"]) == (422, "invalid_request")
    errors = {error["field"]: error["message"] for error in answer.json["errors"]}
    assert errors.keys() == {"body.a.b.1", "body.c", "body.{{d}}", "timeout_seconds"}
    assert errors["body.a.b.1"].startswith("has a placeholder with an unknown name; begin it with one of id, object")
    assert errors["body.c"].startswith("has a malformed placeholder")


@pytest.mark.parametrize(
    ("body", "rule"),
    [
        ({"a": "x" * 4096}, "must be at most 4,096 bytes as compact JSON; it is 4,104"),
        ([], "must be an object"),
        ("{{type}}", "must be an object"),
    ],
)
async def test_a_body_is_an_object_of_at_most_4_kib(bridge: Bridge, body: Any, rule: str) -> None:
    answer = await bridge.post("/watch", BODY | {"body": body})
    assert answer.status == 422
    assert answer.json["errors"] == [{"field": "body", "message": rule}]


async def test_the_body_is_one_of_the_options_that_are_compared(bridge: Bridge) -> None:
    first = await bridge.post("/watch", BODY | {"body": OWN})
    reordered = await bridge.post("/watch", BODY | {"body": dict(reversed(OWN.items()))})
    assert (reordered.status, reordered.json["id"]) == (200, first.json["id"])
    for other in ({"body": {"text": "other"}}, {"body": None}, {}):
        conflict = await bridge.post("/watch", BODY | other)
        assert (conflict.status, conflict.json["code"]) == (409, "watch_conflict")


async def test_a_batch_takes_bodies_and_has_one_trace(bridge: Bridge) -> None:
    entries = [BODY | {"body": OWN}, BODY | {"task_id": "t2", "body": {"a": "{{x}}"}}, BODY | {"task_id": "t3"}]
    answer = await bridge.post("/watch/batch", {"watches": entries}, headers={"traceparent": PARENT})
    results = answer.json["results"]
    assert [result["status"] for result in results] == [201, 422, 201]
    assert results[1]["problem"]["errors"][0]["field"] == "body.a"
    for result in (results[0], results[2]):
        assert (await registered(bridge, result["watch"]["id"])).trace == TraceContext(PARENT)


@pytest.mark.parametrize(
    ("headers", "kept"),
    [
        ({"traceparent": PARENT, "tracestate": "a=1,b=2"}, TraceContext(PARENT, "a=1,b=2")),
        ({"Traceparent": PARENT, "TraceState": "A=1"}, TraceContext(PARENT)),
        ({"traceparent": "00-" + "0" * 32 + "-b7ad6b7169203331-01", "tracestate": "a=1"}, None),
        ({"tracestate": "a=1"}, None),
        ({}, None),
    ],
)
async def test_the_trace_of_a_request_is_kept_and_a_malformed_one_is_dropped(
    bridge: Bridge, headers: dict[str, str], kept: TraceContext | None
) -> None:
    answer = await bridge.post("/watch", BODY, headers={**headers})
    assert answer.status == 201
    assert (await registered(bridge, answer.json["id"])).trace == kept


async def test_a_repeated_registration_keeps_the_first_trace(bridge: Bridge) -> None:
    first = await bridge.post("/watch", BODY, headers={"traceparent": PARENT})
    again = await bridge.post("/watch", BODY, headers={"traceparent": PARENT.replace("b7", "b8")})
    assert (again.status, again.json["id"]) == (200, first.json["id"])
    assert (await registered(bridge, first.json["id"])).trace == TraceContext(PARENT)

"""A request of the batch route: what is sent, how much of an answer is read, and that no key is passed on."""

import asyncio
import gzip
import logging

import orjson
import pytest

from bridge.amux.client import MAX_BATCH_BYTES
from bridge.core.batch_lane import (
    BatchAnswer,
    BatchFailed,
    BatchObservation,
    BatchTooLarge,
    BatchUnchanged,
    NoBatchRoute,
)
from bridge.core.model import TaskStatus
from bridge.sandbox import Behaviour, Platform, Sandbox
from tests.amux.harness import KEY, MakeClient, answer
from tests.amux.records import records_in
from tests.scripted_server import ScriptedServer, StartServer, endless, raw, reset, silence
from tests.waiting import SAFETY_SECONDS

IDS = ["task_1", "task_2"]
ROWS = [{"id": 1, "task_id": "task_1", "platform": "50", "status": "IN_PROGRESS"}]
USUAL = {"progress": "30%", "submit_time": 1_764_000_000}
FOUND = orjson.dumps({"code": "success", "message": "", "data": ROWS})


async def read(
    start_server: StartServer, make_client: MakeClient, *answers: object
) -> tuple[BatchObservation, ScriptedServer]:
    server = await start_server(*answers)
    return await make_client(server.url).read_many(IDS, KEY), server


async def test_a_batch_is_one_post_with_the_ids_and_the_key(start_server: StartServer, make_client: MakeClient) -> None:
    found, server = await read(start_server, make_client, answer(FOUND))
    assert isinstance(found, BatchAnswer)
    assert found.size == len(FOUND)
    assert {task_id: record.status for task_id, record in records_in(found).items()} == {
        "task_1": TaskStatus.IN_PROGRESS
    }
    assert server.requests[0].startswith(b"POST /suno/fetch HTTP/1.1\r\n")
    assert orjson.loads(server.bodies[0]) == {"ids": IDS}
    assert server.header("Authorization") == [f"Bearer {KEY}"]
    assert server.header("Content-Type") == ["application/json"]
    assert server.header("Accept-Encoding") == ["identity"]
    assert server.header("User-Agent") == ["amux-bridge/test"]


async def test_only_the_names_that_hold_the_key_are_removed_from_the_records(
    start_server: StartServer, make_client: MakeClient
) -> None:
    models = ["kling-v1", f"kling-{KEY}", "kling-v1", KEY.upper(), None, "kling-v1"]
    ids = [f"task_{number}" for number in range(len(models))]
    rows = [
        ROWS[0] | USUAL | {"task_id": task_id, "properties": {"origin_model_name": model}}
        for task_id, model in zip(ids, models, strict=True)
    ]
    server = await start_server(answer(orjson.dumps({"code": "success", "message": "", "data": rows})))
    found = await make_client(server.url).read_many(ids, KEY)
    records = records_in(found)
    named = [(records[task_id].model, records[task_id].platform) for task_id in ids]
    usual = ("kling-v1", "50")
    assert named == [usual, (None, None), usual, (None, None), (None, "50"), usual]


async def test_an_answer_that_is_the_same_as_the_last_one_is_not_read_again(
    start_server: StartServer, make_client: MakeClient
) -> None:
    row = ROWS[0] | USUAL | {"task_id": "task_1"}
    bodies = [orjson.dumps({"code": "success", "data": [row | more]}) for more in ({}, {"quota": 1})]
    other_kind = answer(bodies[0], Content_Type="text/html")
    answers = [answer(bodies[0]), answer(bodies[0]), answer(bodies[1]), answer(bodies[0], "500 Oops"), other_kind]
    client = make_client((await start_server(*answers)).url)
    first = await client.read_many(["task_1"], KEY)
    assert isinstance(first, BatchAnswer)
    assert first.digest is not None
    found = [await client.read_many(["task_1"], KEY, first.digest) for _ in range(4)]
    assert isinstance(found[0], BatchUnchanged)
    assert (found[0].size, found[0].count) == (len(bodies[0]), 1)
    assert records_in(found[0].read()) == records_in(first)
    assert [type(each) for each in found[1:]] == [BatchAnswer, BatchFailed, NoBatchRoute]


@pytest.mark.parametrize("more", [{"task_id": "task_2", "status": "SUCCESS"}, {"task_id": "task_2", "progress": 3}])
async def test_an_answer_with_any_other_row_has_no_digest(
    start_server: StartServer, make_client: MakeClient, more: dict[str, object]
) -> None:
    usual = ROWS[0] | USUAL
    body = orjson.dumps({"code": "success", "data": [usual | {"task_id": "task_1"}, usual | more]})
    found = await make_client((await start_server(answer(body))).url).read_many(["task_1", "task_2"], KEY)
    assert isinstance(found, BatchAnswer)
    assert (found.count, found.digest) == (2, None)


async def test_the_base_urls_path_comes_before_the_route(start_server: StartServer, make_client: MakeClient) -> None:
    server = await start_server(answer(FOUND))
    await make_client(f"{server.url}/amux").read_many(IDS, KEY)
    assert server.targets == ["/amux/suno/fetch"]


async def test_the_sandbox_answers_with_the_records_of_both_kinds_of_platforms(make_client: MakeClient) -> None:
    amux = Sandbox(keys=frozenset({KEY}))
    ids = [amux.create_task(Behaviour(platform=platform)) for platform in Platform]
    try:
        found = await make_client(await amux.start()).read_many([*ids, "task_unknown"], KEY)
    finally:
        await amux.stop()
    records = records_in(found)
    assert {records[task_id].platform for task_id in ids} == {platform.value for platform in Platform}
    assert records.keys() == set(ids)


async def test_a_body_of_many_mebibytes_is_read_and_a_longer_one_is_not(
    start_server: StartServer, make_client: MakeClient
) -> None:
    head, tail = FOUND[:-2], b',{"task_id":"x","pad":"%s"}]}'
    fits = head + tail % (b" " * (MAX_BATCH_BYTES - len(head) - len(tail) - 10))
    found, _ = await read(start_server, make_client, answer(fits))
    assert isinstance(found, BatchAnswer)
    assert found.size > 15 << 20
    too_long, _ = await read(start_server, make_client, answer(head + tail % (b" " * MAX_BATCH_BYTES)))
    assert too_long == BatchTooLarge(MAX_BATCH_BYTES)


async def test_an_endless_body_is_left_at_the_limit(start_server: StartServer, make_client: MakeClient) -> None:
    start = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n" + FOUND[:-2]
    found, _ = await read(start_server, make_client, endless(start, b" " * 65_536))
    assert found == BatchTooLarge(MAX_BATCH_BYTES)


@pytest.mark.parametrize(("size", "kind"), [(1 << 20, BatchAnswer), (MAX_BATCH_BYTES, BatchTooLarge)])
async def test_a_compressed_body_counts_as_it_is_after_inflation(
    start_server: StartServer, make_client: MakeClient, size: int, kind: type[BatchObservation]
) -> None:
    body = gzip.compress(FOUND[:-1] + b" " * size + b"}", 1)
    found, _ = await read(start_server, make_client, answer(body, Content_Encoding="gzip"))
    assert isinstance(found, kind)


@pytest.mark.parametrize(
    "body",
    [b"no gzip", gzip.compress(FOUND, mtime=0)[:-9], gzip.compress(FOUND, mtime=0)[:20], b""],
    ids=["no gzip", "without its end", "only its head", "empty"],
)
async def test_a_compressed_body_that_cannot_be_read_is_a_failure(
    start_server: StartServer, make_client: MakeClient, body: bytes
) -> None:
    found, _ = await read(start_server, make_client, answer(body, Content_Encoding="gzip"))
    assert isinstance(found, BatchFailed)
    assert found.code == "compressed_body"


async def test_a_retry_after_of_429_and_503_is_read(start_server: StartServer, make_client: MakeClient) -> None:
    for status in ("429 Too Many Requests", "503 Service Unavailable"):
        found, _ = await read(start_server, make_client, answer(b"", status, Retry_After="17"))
        assert isinstance(found, BatchFailed)
        assert found.retry_after == 17


async def test_a_redirect_is_not_followed(start_server: StartServer, make_client: MakeClient) -> None:
    found, server = await read(start_server, make_client, answer(b"", "307 Temporary Redirect", Location="/elsewhere"))
    assert isinstance(found, NoBatchRoute)
    assert server.targets == ["/suno/fetch"]


async def test_a_kept_connection_that_breaks_costs_no_batch(start_server: StartServer, make_client: MakeClient) -> None:
    server = await start_server(answer(FOUND), raw(then_close=True), answer(FOUND))
    client = make_client(server.url)
    assert isinstance(await client.read_many(IDS, KEY), BatchAnswer)
    assert isinstance(await client.read_many(IDS, KEY), BatchAnswer)
    assert len(server.requests) == 3


@pytest.mark.parametrize("bad", [raw(then_close=True), reset, raw(answer(FOUND)[:-9], then_close=True)])
async def test_a_connection_that_always_breaks_is_a_failure(
    start_server: StartServer, make_client: MakeClient, bad: object
) -> None:
    found, server = await read(start_server, make_client, bad)
    assert isinstance(found, BatchFailed)
    assert len(server.requests) <= 2


async def test_an_answer_that_does_not_come_is_a_failure_within_the_time_of_a_poll(
    start_server: StartServer, make_client: MakeClient
) -> None:
    server = await start_server(silence)
    async with asyncio.timeout(SAFETY_SECONDS):
        found = await make_client(server.url, timeout_seconds=0.1).read_many(IDS, KEY)
    assert isinstance(found, BatchFailed)
    assert found.code == "timeout"


@pytest.mark.parametrize("key", ["", "sk-\r\nX: y", "sk-\u00e9"])
async def test_a_key_that_no_header_can_carry_is_not_sent(make_client: MakeClient, key: str) -> None:
    assert isinstance(await make_client("http://127.0.0.1:9").read_many(IDS, key), BatchFailed)


async def test_the_key_is_removed_from_records_and_messages(
    start_server: StartServer, make_client: MakeClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    rows = [
        {"task_id": "task_1", "status": "FAILURE", "fail_reason": f"Bearer {KEY}"},
        {"task_id": "task_2", "status": KEY, "platform": KEY, "properties": {"origin_model_name": KEY}},
    ]
    found, _ = await read(start_server, make_client, answer(orjson.dumps({"data": rows})))
    refused, _ = await read(
        start_server, make_client, answer(orjson.dumps({"error": {"message": KEY, "type": "x"}}), "403 Forbidden")
    )
    assert isinstance(found, BatchAnswer)
    assert isinstance(refused, NoBatchRoute)
    assert KEY not in repr(found) + repr(refused) + caplog.text

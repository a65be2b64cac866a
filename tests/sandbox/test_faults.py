"""The stand-in's faults: errors, redirects, broken bodies, resets and stalls."""

import asyncio
import gzip
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import aiohttp
import orjson
import pytest

from bridge.sandbox import Fault, FaultKind
from tests.sandbox.harness import DONE, Amux
from tests.waiting import SAFETY_SECONDS

# --- faults -------------------------------------------------------------------------------------------------------

K = FaultKind
ERRORS: list[tuple[FaultKind, int, Callable[[Any], object], object]] = [
    (K.NOT_FOUND_400, 400, lambda body: body, {"code": "task_not_exist", "message": "task_not_exist", "data": None}),
    (K.NOT_FOUND_404, 404, lambda body: body["error"]["code"], "task_not_found"),
    (K.WRONG_BASE_404, 404, lambda body: body["error"]["type"], "invalid_request_error"),
    (K.UNAUTHORIZED, 401, lambda body: (body["error"]["type"], body["error"]["code"]), ("new_api_error", "")),
    (K.QUOTA, 401, lambda body: (body["error"]["type"], body["error"]["code"]), ("new_api_error", "")),
    (K.FORBIDDEN_KEY, 403, lambda body: (body["error"]["type"], body["error"]["code"]), ("new_api_error", "")),
    (K.FORBIDDEN_TASK, 403, lambda body: body["error"]["code"], "task_not_found"),
    (K.REJECTED, 400, lambda body: (body["code"], body["data"]), ("invalid_request", None)),
    (K.RATE_LIMITED, 429, lambda body: body["error"]["type"], "new_api_error"),
    (K.SERVER_ERROR, 500, set, {"code", "message", "data"}),
    (K.PANIC, 500, lambda body: body["error"]["type"], "new_api_panic"),
    (K.NOT_IMPLEMENTED, 501, lambda body: body["code"], "not_implemented"),
    (K.ECHO_KEY, 500, lambda body: "sk-sandbox-key" in body["message"], True),
    (K.DATA_NULL, 200, lambda body: body, {"code": "success", "data": None}),
]


async def poll_with(amux: Amux, fault: Fault) -> tuple[int, Any, bytes]:
    task_id = amux.sandbox.create_task(replace(DONE, faults=(fault,)), "task_faulty")
    answer = await amux.poll(task_id)
    assert (await amux.polled_json(task_id))["data"]["status"] == "SUCCESS"  # the next answer is good
    return answer


@pytest.mark.parametrize(("kind", "status", "part", "expected"), ERRORS)
async def test_each_error_has_amuxs_form(
    amux: Amux, kind: FaultKind, status: int, part: Callable[[Any], object], expected: object
) -> None:
    found, headers, body = await poll_with(amux, Fault(kind))
    assert (found, part(orjson.loads(body))) == (status, expected)
    assert headers["Content-Type"].startswith("application/json")
    assert "X-Oneapi-Request-Id" in headers


@pytest.mark.parametrize(
    ("fault", "status"),
    [
        (Fault(K.HTML_200), 200),
        (Fault(K.BAD_GATEWAY_HTML), 502),
        (Fault(K.BAD_GATEWAY_HTML, status=522), 522),
        (Fault(K.BAD_GATEWAY_HTML, status=404), 404),
    ],
)
async def test_pages_of_a_proxy_have_no_request_id(amux: Amux, fault: Fault, status: int) -> None:
    found, headers, body = await poll_with(amux, fault)
    assert (found, headers["Content-Type"][:9], body[:9]) == (status, "text/html", b"<!doctype")
    assert "X-Oneapi-Request-Id" not in headers


@pytest.mark.parametrize(
    ("fault", "retry_after"),
    [
        (Fault(K.RATE_LIMITED), None),
        (Fault(K.RATE_LIMITED, retry_after=2), "2"),
        (Fault(K.BAD_GATEWAY_HTML, status=503, retry_after=120), "120"),
    ],
)
async def test_retry_after_is_in_seconds(amux: Amux, fault: Fault, retry_after: str | None) -> None:
    assert (await poll_with(amux, fault))[1].get("Retry-After") == retry_after


async def test_retry_after_may_be_a_date_without_a_body(amux: Amux) -> None:
    _, headers, body = await poll_with(amux, Fault(K.RATE_LIMITED, retry_after=60, as_date=True, empty=True))
    assert headers["Retry-After"].endswith(" GMT")
    assert body == b""


async def test_a_redirect_points_to_an_unknown_path(amux: Amux) -> None:
    status, headers, _ = await poll_with(amux, Fault(K.REDIRECT, status=301))
    assert (status, headers["Location"]) == (301, f"{amux.url}/moved")
    assert (await amux.get("/moved"))[0] == 404
    assert amux.sandbox.unknown_paths == {"/moved": 1}


async def test_faults_whose_body_is_not_json(amux: Amux) -> None:
    assert (await poll_with(amux, Fault(K.EMPTY_BODY)))[2] == b""
    for kind in (K.TRUNCATED_JSON, K.DEEP_JSON):
        with pytest.raises((ValueError, RecursionError)):
            json.loads((await poll_with(amux, Fault(kind)))[2])


@pytest.mark.parametrize("kind", [K.BOM, K.NAN, K.HUGE_NUMBER, K.LONE_SURROGATE])
async def test_faults_whose_body_only_a_lenient_reader_accepts(amux: Amux, kind: FaultKind) -> None:
    _, _, body = await poll_with(amux, Fault(kind))
    if kind is not K.HUGE_NUMBER:  # orjson reads a huge number as infinity
        with pytest.raises(orjson.JSONDecodeError):
            orjson.loads(body)
    assert json.loads(body.decode("utf-8-sig"))["data"]["status"] == "SUCCESS"


async def test_faults_that_change_the_record(amux: Amux) -> None:
    _, headers, body = await poll_with(amux, Fault(K.WRONG_CONTENT_TYPE))
    assert headers["Content-Type"].startswith("text/plain")
    assert orjson.loads(body)["data"]["task_id"] == "task_faulty"
    assert orjson.loads((await poll_with(amux, Fault(K.WRONG_TASK)))[2])["data"]["task_id"] == "task_someone_elses"
    assert orjson.loads((await poll_with(amux, Fault(K.NUL_IN_STRINGS)))[2])["data"]["status"] == "S\0UCCESS"


async def test_faults_with_very_large_bodies(amux: Amux) -> None:
    huge = (await poll_with(amux, Fault(K.HUGE_BODY)))[2]
    assert len(huge) > 2 << 20
    assert orjson.loads(huge)["data"]["status"] == "SUCCESS"
    _, headers, bomb = await poll_with(amux, Fault(K.GZIP_BOMB))
    assert headers["Content-Encoding"] == "gzip"
    assert len(bomb) < 100_000
    assert len(gzip.decompress(bomb)) > 64 << 20


@pytest.mark.parametrize("kind", [K.RESET, K.CUT_BODY])
async def test_faults_that_reset_the_connection(amux: Amux, kind: FaultKind) -> None:
    with pytest.raises(aiohttp.ClientError):
        await poll_with(amux, Fault(kind, times=2))  # 2, because aiohttp's client repeats the request


async def test_an_endless_body_ends_when_its_reader_leaves(amux: Amux) -> None:
    task_id = amux.sandbox.create_task(replace(DONE, faults=(Fault(K.ENDLESS_BODY),)))
    async with amux.client.get(f"{amux.url}/v1/video/generations/{task_id}") as answer:
        await answer.content.readexactly(3 << 20)
        answer.close()


@pytest.mark.parametrize("kind", [K.SLOW, K.STALLED_BODY])
async def test_a_late_answer_is_complete_in_the_end(amux: Amux, kind: FaultKind) -> None:
    status, _, body = await poll_with(amux, Fault(kind, seconds=0.01))
    assert (status, orjson.loads(body)["data"]["status"]) == (200, "SUCCESS")


@pytest.mark.parametrize("kind", [K.SLOW, K.STALLED_BODY])
async def test_a_stop_ends_stalled_answers(amux: Amux, kind: FaultKind) -> None:
    task_id = amux.sandbox.create_task(replace(DONE, faults=(Fault(kind, seconds=3600),)))
    stalled = asyncio.ensure_future(amux.poll(task_id))
    await amux.sandbox.polled(task_id)
    await amux.sandbox.stop()
    await asyncio.wait_for(asyncio.gather(stalled, return_exceptions=True), SAFETY_SECONDS)

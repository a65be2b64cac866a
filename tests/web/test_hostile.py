"""Malformed and random requests cause no 5xx and no traceback in the log.

Every refusal is a problem document (RFC 9457).
"""

import asyncio
import io
import json
import logging
from contextlib import suppress
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bridge.core.errors import InvalidRequest
from bridge.web.api.request_models import BatchRequest, PingRequest, RetryRequest, WatchRequestBody
from bridge.web.app import make_app
from bridge.web.errors import MalformedJson
from bridge.web.requests import parsed
from tests.waiting import SAFETY_SECONDS
from tests.web.harness import APP, BODY, Answer, Bridge

JSON = {**APP, "Content-Type": "application/json"}
POST_PATHS = ("/watch", "/watch/batch", "/ping", "/deliveries/retry")


@pytest.fixture(autouse=True)
def _no_traceback(caplog: pytest.LogCaptureFixture) -> Any:
    """Every test of this file fails if a warning or a traceback is logged."""
    with caplog.at_level(logging.INFO):
        yield
    logged = [record for record in caplog.records if record.exc_info or record.levelno >= logging.WARNING]
    assert logged == []


async def raw(bridge: Bridge, *parts: bytes, more_after_continue: bytes = b"") -> Answer:
    """Sends raw bytes and reads one response. `more_after_continue` is sent after a 100 Continue."""
    async with asyncio.timeout(SAFETY_SECONDS):
        reader, writer = await asyncio.open_connection("127.0.0.1", bridge.port)
        for part in parts:
            writer.write(part)
            await writer.drain()
        head = await reader.readuntil(b"\r\n\r\n")
        if head.startswith(b"HTTP/1.1 100"):
            writer.write(more_after_continue)
            head = await reader.readuntil(b"\r\n\r\n")
        status, *lines = head.decode().split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines if line)
        body = await reader.readexactly(int(headers.get("Content-Length", "0")))
        writer.close()
        return Answer(int(status.split()[1]), headers, body)


def request(path: str = "/watch", *lines: bytes, method: str = "POST", body: bytes = b"") -> bytes:
    head = [f"{method} {path} HTTP/1.1".encode(), b"Host: x", b"Authorization: Bearer app-token", *lines]
    return b"\r\n".join([*head, b"", body])


def chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


# --- bodies -------------------------------------------------------------------------------------------------------


async def test_a_body_that_is_not_json_is_refused(bridge: Bridge) -> None:
    good = orjson.dumps(BODY)
    for body in (
        b"",
        b"{",
        b"nonsense",
        good + b"x",
        good[:-1],
        b"\xef\xbb\xbf" + good,
        b"\xef\xbb\xbf\xef\xbb\xbf" + good,
        good.decode().encode("utf-16"),
        b'{"task_id": NaN}',
        b'{"task_id": -Infinity}',
        b'{"task_id": "\xff"}',
        b'{"task_id": "\\ud800"}',
        b'{"task_id": "a\nb"}',
        b'{"context": ' + b"[" * 30_000,
        b'{"context": ' + b'{"a":' * 2000 + b"1" + b"}" * 2001,
        b'{"timeout_seconds": ' + b"1" * 5000 + b"}",
        b"\x00",
    ):
        for path in POST_PATHS:
            (await bridge.ask("POST", path, data=body, headers=JSON)).problem(400, "malformed_json")


async def test_a_deep_context_is_stored_unchanged_or_refused(bridge: Bridge) -> None:
    """JSON that can be parsed is stored and returned unchanged, or refused with the field's name."""
    for depth in (100, 250, 254, 255, 260, 500, 900):
        deep = b'{"a":' * depth + b"1" + b"}" * depth
        body = b'{"task_id":"deep%d","callback_url":"https://app.example/","context":%s}' % (depth, deep)
        answer = await bridge.ask("POST", "/watch", data=body, headers=JSON)
        assert answer.status in {201, 422}, depth
        if answer.status == 201:
            assert deep in answer.body
            assert deep in (await bridge.get(answer.headers["Location"])).body


async def test_control_characters_in_a_context_are_stored_unchanged(bridge: Bridge) -> None:
    watch = await bridge.watch(context={"a\x00": "\x00\x01\x7f"})
    assert (await bridge.get(f"/watch/{watch['id']}")).json["context"] == {"a\x00": "\x00\x01\x7f"}


async def test_a_body_over_the_limit_is_refused(bridge: Bridge) -> None:
    for path, limit in (("/watch", 65_536), ("/watch/batch", 2_097_152), ("/ping", 65_536)):
        for size, status in ((limit, 422), (limit + 1, 413)):
            body = orjson.dumps({"x": ""})
            body = body[:-2] + b"a" * (size - len(body)) + body[-2:]
            answer = await bridge.ask("POST", path, data=io.BytesIO(body), headers=JSON)
            answer.problem(status, "body_too_large" if status == 413 else "invalid_request")


async def test_a_chunked_body_over_the_limit_is_refused(bridge: Bridge) -> None:
    lines = (b"Content-Type: application/json", b"Transfer-Encoding: chunked")
    good = orjson.dumps(BODY)
    answer = await raw(bridge, request("/watch", *lines), chunk(good[:9]), chunk(good[9:]), b"0\r\n\r\n")
    assert answer.status == 201
    answer = await raw(bridge, request("/watch", *lines), *[chunk(b" " * 16_384)] * 5)
    answer.problem(413, "body_too_large")
    answer = await raw(bridge, request("/watch", *lines), b"zz\r\nnonsense")
    assert answer.status == 400


async def test_a_large_content_length_is_refused_before_the_body_is_read(bridge: Bridge) -> None:
    lines = (b"Content-Type: application/json", b"Content-Length: 9000000000")
    (await raw(bridge, request("/watch", *lines))).problem(413, "body_too_large")


async def test_other_content_types_and_encodings_are_refused(bridge: Bridge) -> None:
    body = orjson.dumps(BODY)
    for kind in ("", "text/plain", "application/jsonx", "application/problem+json", "json", ";", "é"):
        answer = await bridge.ask("POST", "/watch", data=body, headers={"Content-Type": kind})
        answer.problem(415, "unsupported_media_type")
    for encoding in ("gzip", "br", "x"):
        answer = await bridge.ask("POST", "/watch", data=body, headers={**JSON, "Content-Encoding": encoding})
        answer.problem(415, "unsupported_media_type")
    for kind in ("application/json; charset=utf-8", "Application/JSON ;x=y"):
        answer = await bridge.ask("POST", "/watch", data=body, headers={"Content-Type": kind})
        assert answer.status in {200, 201}


# --- lines and headers --------------------------------------------------------------------------------------------


async def test_only_the_expectation_100_continue_is_supported(bridge: Bridge) -> None:
    for path in ("/watch", "/nowhere", "/healthz"):
        for value in (b"\xff\xfe", "é".encode(), b"200-ok", b"100-continue, x"):
            answer = await raw(bridge, request(path, b"Expect: " + value, b"Content-Length: 0"))
            answer.problem(417, "expectation_failed")
    body = orjson.dumps(BODY)
    lines = (b"Content-Type: application/json", b"Expect: 100-Continue", b"Content-Length: %d" % len(body))
    assert (await raw(bridge, request("/watch", *lines), more_after_continue=body)).status == 201


async def test_headers_that_are_not_ascii_cause_no_error(bridge: Bridge) -> None:
    body = orjson.dumps(BODY)
    length = b"Content-Length: %d" % len(body)
    for name in (b"Idempotency-Key", b"Content-Type", b"Content-Encoding", b"Origin", b"X-Other", b"Accept", b"Cookie"):
        for value in (b"\xff\xfe", "é".encode(), b"\x80"):
            lines = [name + b": " + value, length]
            if name != b"Content-Type":
                lines.append(b"Content-Type: application/json")
            answer = await raw(bridge, request("/watch", *lines, body=body))
            assert answer.status in {200, 201, 415, 422}, (name, value, answer)


async def test_tokens_that_are_not_ascii_are_refused(bridge: Bridge) -> None:
    for value in (b"Bearer \xff\xfe", "Bearer app-tokén".encode(), b"\xff", b"Bearer", b"Bearer ", b"Basic app-token"):
        line = b"GET /watch HTTP/1.1\r\nHost: x\r\nAuthorization: " + value + b"\r\n\r\n"
        (await raw(bridge, line)).problem(401, "unauthorized")


async def test_malformed_http_is_refused(bridge: Bridge) -> None:
    for line in (
        b"GET /watch\xff HTTP/1.1\r\nHost: x\r\n\r\n",
        b"nonsense\r\n\r\n",
        b"GET /watch HTTP/1.1\r\nHost: x\r\nBad Header: x\r\n\r\n",
        b"POST /watch HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n",
        b"POST /watch HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"GET /" + b"a" * 40_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX-A: " + b"a" * 40_000 + b"\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS
        b"<script>alert(1)</script> / HTTP/1.1\r\nHost: x\r\n\r\n",
    ):
        answer = await raw(bridge, line)
        answer.problem(400, "malformed_request")
        assert answer.json["error"]["code"] == "malformed_request"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        for echo in (b"nonsense", b"Bad Header", b"aaaa", b"script", b"\xff"):
            assert echo not in answer.body


async def test_a_header_of_32_kib_is_read(bridge: Bridge) -> None:
    line = b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-A: " + b"a" * 32_000 + b"\r\nConnection: close\r\n\r\n"
    assert (await raw(bridge, line)).status == 200


async def test_other_methods_are_refused_with_those_that_are_allowed(bridge: Bridge) -> None:
    for path, allowed in {
        "/watch": "GET, HEAD, POST",
        "/watch/batch": "POST",
        "/watch/wat_x": "DELETE, GET, HEAD",
        "/deliveries/retry": "POST",
        "/deliveries/x/retry": "POST",
        "/healthz": "GET, HEAD",
        "/ping": "POST",
    }.items():
        for method in ("OPTIONS", "PUT", "PATCH", "TRACE", "PROPFIND"):
            answer = await bridge.ask(method, path)
            answer.problem(405, "method_not_allowed")
            assert set(answer.headers["Allow"].split(", ")) >= set(allowed.split(", "))
    (await raw(bridge, request("*", method="OPTIONS"))).problem(404, "not_found")


async def test_head_answers_as_get_without_a_body(bridge: Bridge) -> None:
    watch = await bridge.watch()
    for path in ("/watch", f"/watch/{watch['id']}", "/healthz", "/readyz", "/metrics"):
        answer = await bridge.ask("HEAD", path)
        assert (answer.status, answer.body) == (200, b"")
    assert (await bridge.ask("HEAD", "/watch/wat_x")).status == 404


async def test_every_get_route_has_head(bridge: Bridge) -> None:
    for resource in make_app(bridge.context).router.resources():
        methods = {route.method for route in resource}
        assert "GET" not in methods or "HEAD" in methods, resource.canonical


@pytest.mark.parametrize(
    "path", ["/watch/", "/watch//", "/healthz/", "/watch/batch/", "/ping/", "/docs/", "/deliveries/evt_x/retry/"]
)
async def test_a_slash_at_the_end_is_a_404_that_says_so(bridge: Bridge, path: str) -> None:
    for method in ("GET", "POST"):
        answer = await bridge.ask(method, path)
        answer.problem(404, "not_found")
        assert answer.json["detail"] == "no route has this path; remove the slash at its end"
    assert (await bridge.get("/nowhere/")).json["detail"] == "no route has this path"


async def test_every_route_refuses_unknown_parameters(bridge: Bridge) -> None:
    watch = await bridge.watch()
    path = f"/watch/{watch['id']}"
    for method, asked in (
        ("POST", "/watch"),
        ("POST", "/watch/batch"),
        ("GET", path),
        ("DELETE", path),
        ("GET", f"{path}/envelope"),
        ("GET", "/deliveries/evt_x"),
        ("POST", "/deliveries/evt_x/retry"),
        ("POST", "/deliveries/retry"),
        ("POST", "/ping"),
    ):
        assert (await bridge.ask(method, f"{asked}?x=1&x=2&y")).fields() == {"x", "y"}


# --- random bodies ------------------------------------------------------------------------------------------------

TEXT = st.text(st.characters(codec="utf-8"), max_size=20)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=10,
)
FIELDS = ("task_id", "callback_url", "events", "context", "timeout_seconds", "headers", "secret", "api_key")
OTHER_FIELDS = ("watches", "state", "since", "until", "callback_host", "dry_run")
LIKELY = st.sampled_from(
    [
        *("task_1", "https://app.example/", "dead", "2026-11-23T15:04:05Z", "video.failed", "whsec_" + "a" * 32),
        *([], {}, ["video.failed"], {"X-A": "b"}, 10, 0.5, 2**63, 10**30, 10**300, True, [BODY], "http://[::1"),
    ]
)
BODIES = VALUES | st.dictionaries(st.sampled_from((*FIELDS, *OTHER_FIELDS)) | TEXT, VALUES | LIKELY, max_size=9)


@given(BODIES)
@settings(max_examples=300, deadline=None)
def test_any_json_is_accepted_or_its_bad_fields_are_named(value: Any) -> None:
    try:
        read = parsed(json.dumps(value).encode())
    except MalformedJson:
        return
    for model in (WatchRequestBody, BatchRequest, PingRequest, RetryRequest):
        try:
            model.read(read)
        except InvalidRequest as error:
            found = error.fields
        else:
            continue
        assert found
        assert all(rule for _, rule in found)
        orjson.dumps(found)


@given(st.binary(max_size=64) | BODIES.map(lambda value: json.dumps(value).encode()))
@settings(max_examples=150, deadline=None)
def test_any_bytes_are_json_or_malformed_json(body: bytes) -> None:
    with suppress(MalformedJson):
        parsed(body)


async def test_no_body_causes_a_5xx(bridge: Bridge) -> None:
    bodies: list[bytes] = []

    @given(BODIES | st.dictionaries(st.sampled_from(FIELDS), LIKELY, max_size=8).map(lambda fields: {**BODY, **fields}))
    @settings(max_examples=60, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    def draw(value: Any) -> None:
        bodies.append(json.dumps(value).encode())

    draw()
    for number, body in enumerate(bodies):
        answer = await bridge.ask("POST", POST_PATHS[number % 4], data=body, headers=JSON)
        assert answer.status < 500, body
        watch = await bridge.ask("POST", "/watch", data=body, headers=JSON)
        assert watch.status < 500, body
        if watch.status in {200, 201}:
            assert (await bridge.get(f"/watch/{watch.json['id']}")).json == watch.json

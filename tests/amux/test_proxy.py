"""The proxy alone: calls that run to completion, reserved places, and the headers that are forwarded."""

import asyncio
import gzip
import logging
from collections.abc import AsyncIterator

import pytest
from multidict import CIMultiDict, CIMultiDictProxy

from bridge.amux import AmuxClient
from bridge.amux.proxy import AmuxProxy, forwarded_headers
from bridge.amux.wire import created_task
from bridge.core.errors import StoreUnavailable, TooManyWatches
from tests.amux.harness import KEY, MakeClient, answer
from tests.scripted_server import StartServer
from tests.waiting import SAFETY_SECONDS


@pytest.fixture
async def proxy() -> AsyncIterator[AmuxProxy]:
    client = AmuxClient("http://127.0.0.1:9", user_agent="amux-bridge/test")
    yield AmuxProxy(client, configured_key="sk-configured")
    await client.close()


async def test_a_call_runs_to_completion_when_its_caller_is_cancelled(proxy: AmuxProxy) -> None:
    proceed, started, done = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def call() -> None:
        started.set()
        await proceed.wait()
        done.set()

    caller = asyncio.create_task(proxy.run_to_completion(call))
    await started.wait()
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    proceed.set()
    await proxy.finish(20)
    assert done.is_set()


async def test_a_call_whose_check_fails_does_not_start(proxy: AmuxProxy) -> None:
    async def call() -> None:
        raise AssertionError

    async def check(_: int) -> None:
        raise TooManyWatches("full")

    for _ in range(2):
        with pytest.raises(TooManyWatches):
            await proxy.run_to_completion(call, check)


async def test_each_check_gets_the_number_of_reserved_places(proxy: AmuxProxy) -> None:
    seen: list[int] = []
    proceed = asyncio.Event()

    async def check(places: int) -> None:
        seen.append(places)

    callers = [asyncio.create_task(proxy.run_to_completion(proceed.wait, check)) for _ in range(3)]
    async with asyncio.timeout(SAFETY_SECONDS):
        while len(seen) < 3:
            await asyncio.sleep(0)
        proceed.set()
        await asyncio.gather(*callers)
        await proxy.run_to_completion(proceed.wait, check)
    assert seen == [1, 2, 3, 1]


async def test_a_failure_after_the_caller_left_is_logged(proxy: AmuxProxy, caplog: pytest.LogCaptureFixture) -> None:
    proceed = asyncio.Event()

    async def call(error: Exception) -> None:
        await proceed.wait()
        raise error

    for error, level in ((StoreUnavailable("gone"), logging.WARNING), (RuntimeError("a fault"), logging.ERROR)):
        proceed.clear()
        caller = asyncio.create_task(proxy.run_to_completion(lambda error=error: call(error)))  # type: ignore[misc]
        await asyncio.sleep(0)
        caller.cancel()
        await asyncio.gather(caller, return_exceptions=True)
        proceed.set()
        await proxy.finish(20)
        record = caplog.records[-1]
        assert (record.message, record.levelno) == ("call_failed", level)


async def test_a_stop_cancels_calls_that_take_too_long(proxy: AmuxProxy, caplog: pytest.LogCaptureFixture) -> None:
    caller = asyncio.create_task(proxy.run_to_completion(asyncio.Event().wait))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await proxy.finish(0.01)
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert [record.message for record in caplog.records if record.levelno >= logging.ERROR] == [
        "create_calls_cancelled"
    ]
    await proxy.finish(0.01)


def test_the_callers_own_key_has_priority() -> None:
    proxy = AmuxProxy(None, configured_key="sk-configured")  # type: ignore[arg-type]
    assert [proxy.key(own) for own in ("sk-own", None, "")] == ["sk-own", "sk-configured", "sk-configured"]
    assert AmuxProxy(None, configured_key=None).key(None) is None  # type: ignore[arg-type]


def test_headers_of_the_connection_and_of_the_origin_are_not_forwarded() -> None:
    received = [
        ("Content-Type", "video/mp4"),
        ("X-Oneapi-Request-Id", "r1"),
        ("Cache-Control", "private"),
        ("Connection", "close, X-Hop"),
        ("connection", "x-second"),
        ("X-Hop", "1"),
        ("X-Second", "1"),
        ("Transfer-Encoding", "chunked"),
        ("Set-Cookie", "a=b"),
        ("Access-Control-Allow-Origin", "*"),
        ("X-Watch-Id", "wat_forged"),
        ("X-Bytes", "caf\udce9"),
        ("X-Control", "a\x0bb"),
        ("X-Name", "Zoë"),
    ]
    forwarded = forwarded_headers(CIMultiDictProxy(CIMultiDict(received)))
    assert list(forwarded) == ["Content-Type", "X-Oneapi-Request-Id", "Cache-Control", "X-Name"]


@pytest.mark.parametrize("coding", ["gzip", "br"])
async def test_a_compressed_create_answer_is_inflated_so_that_its_task_and_the_key_are_found(
    start_server: StartServer, make_client: MakeClient, coding: str
) -> None:
    created = b'{"task_id":"task_1","note":"%b"}' % KEY.encode()
    server = await start_server(answer(gzip.compress(created), Content_Encoding=coding))
    proxy = AmuxProxy(make_client(server.url), configured_key=KEY)
    whole = await proxy.create("/v1/videos", KEY, {}, b"{}")
    if coding == "gzip":
        assert (created_task(whole.body), KEY.encode() in whole.body) == ("task_1", False)
        assert "Content-Encoding" not in whole.headers
    else:  # amux has created a task that costs money, so the app gets the answer as it came
        assert gzip.decompress(whole.body) == created
        assert whole.headers["Content-Encoding"] == "br"

"""The relay by itself: work that goes on to its end, places that are held, headers that may pass."""

import asyncio
import logging
from collections.abc import AsyncIterator

import pytest
from multidict import CIMultiDict, CIMultiDictProxy

from bridge.amux import AmuxClient
from bridge.amux.created import created_task
from bridge.amux.proxy import AmuxProxy, passed_headers
from bridge.core.errors import StoreUnavailable, TooManyWatches


@pytest.fixture
async def proxy() -> AsyncIterator[AmuxProxy]:
    client = AmuxClient("http://127.0.0.1:9", user_agent="amux-bridge/test")
    yield AmuxProxy(client, configured_key=lambda: "sk-configured")
    await client.close()


async def test_work_goes_on_when_who_asked_leaves(proxy: AmuxProxy) -> None:
    go_on, begun, done = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def work() -> None:
        begun.set()
        await go_on.wait()
        done.set()

    asking = asyncio.create_task(proxy.to_its_end(work))
    await begun.wait()
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    go_on.set()
    await proxy.finish(20)
    assert done.is_set()


async def test_work_that_is_refused_is_not_begun(proxy: AmuxProxy) -> None:
    async def work() -> None:
        raise AssertionError

    async def check(_: int) -> None:
        raise TooManyWatches("full")

    for _ in range(2):
        with pytest.raises(TooManyWatches):
            await proxy.to_its_end(work, check)


async def test_each_check_knows_of_the_places_that_are_held(proxy: AmuxProxy) -> None:
    seen: list[int] = []
    go_on = asyncio.Event()

    async def check(places: int) -> None:
        seen.append(places)

    asking = [asyncio.create_task(proxy.to_its_end(go_on.wait, check)) for _ in range(3)]
    async with asyncio.timeout(20):
        while len(seen) < 3:
            await asyncio.sleep(0)
        go_on.set()
        await asyncio.gather(*asking)
        await proxy.to_its_end(go_on.wait, check)
    assert seen == [1, 2, 3, 1]


async def test_a_failure_that_nobody_waits_for_is_told(proxy: AmuxProxy, caplog: pytest.LogCaptureFixture) -> None:
    go_on = asyncio.Event()

    async def work(error: Exception) -> None:
        await go_on.wait()
        raise error

    for error, level in ((StoreUnavailable("gone"), logging.WARNING), (RuntimeError("a fault"), logging.ERROR)):
        go_on.clear()
        asking = asyncio.create_task(proxy.to_its_end(lambda error=error: work(error)))  # type: ignore[misc]
        await asyncio.sleep(0)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        go_on.set()
        await proxy.finish(20)
        told = caplog.records[-1]
        assert (told.message, told.levelno) == ("abandoned_call_failed", level)


async def test_a_stop_gives_up_what_takes_too_long(proxy: AmuxProxy, caplog: pytest.LogCaptureFixture) -> None:
    asking = asyncio.create_task(proxy.to_its_end(asyncio.Event().wait))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await proxy.finish(0.01)
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert [record.message for record in caplog.records if record.levelno >= logging.ERROR] == ["creates_given_up"]
    await proxy.finish(0.01)


def test_the_caller_s_own_key_comes_first() -> None:
    proxy = AmuxProxy(None, configured_key=lambda: "sk-configured")  # type: ignore[arg-type]
    assert [proxy.key(own) for own in ("sk-own", None, "")] == ["sk-own", "sk-configured", "sk-configured"]
    assert AmuxProxy(None, configured_key=lambda: None).key(None) is None  # type: ignore[arg-type]


def test_headers_of_the_connection_and_of_the_origin_stay_behind() -> None:
    given = [
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
    passed = passed_headers(CIMultiDictProxy(CIMultiDict(given)))
    assert list(passed) == ["Content-Type", "X-Oneapi-Request-Id", "Cache-Control", "X-Name"]


@pytest.mark.parametrize(
    ("body", "task"),
    [
        (b'{"task_id": "a", "id": "b"}', "a"),
        (b'{"task_id": null, "id": "b"}', "b"),
        (b'{"task_id": 7, "id": "b"}', "b"),
        (b'{"id": 7, "data": {"task_id": "a"}}', "a"),
        (b'{"data": [{"task_id": "a"}]}', None),
        (b'["a"]', None),
        (b"", None),
        (b"<html>", None),
        (b"[" * 100_000, None),
    ],
)
def test_where_a_created_task_is_named(body: bytes, task: str | None) -> None:
    assert created_task(body) == task

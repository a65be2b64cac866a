"""Requests whose answer is forwarded: the answer as it comes, or one kind of error if there is no answer."""

import asyncio
import gzip
import socket
from collections.abc import AsyncIterator

import aiohttp
import pytest

from bridge.amux import AmuxClient, AmuxUnavailable
from bridge.sandbox import Behaviour, Sandbox
from tests.amux.harness import KEY, RECORD, MakeClient, answer
from tests.scripted_server import StartServer, raw, reset, silence


async def pieces() -> AsyncIterator[bytes]:
    for piece in (b"one,", b"two,", b"three"):
        yield piece


async def failure(client: AmuxClient, **options: object) -> str:
    with pytest.raises(AmuxUnavailable) as raised:
        await client.open("GET", "/v1/videos/task_1/content", headers={}, **{"key": KEY, **options})  # type: ignore[arg-type]
    assert raised.value.code == "amux_unavailable"
    assert KEY not in str(raised.value)
    assert "content" not in str(raised.value)
    return str(raised.value)


async def test_a_video_comes_as_amux_sends_it(make_client: MakeClient) -> None:
    sandbox = Sandbox(keys=frozenset({KEY}))
    client = make_client(await sandbox.start())
    task_id = sandbox.create_task(Behaviour(queue_seconds=0, run_seconds=0))
    async with await client.open("GET", f"/v1/videos/{task_id}/content", key=KEY, headers={}) as response:
        assert (response.status, response.headers["Content-Type"]) == (200, "video/mp4")
        assert (await response.content.readexactly(8))[4:] == b"ftyp"
    await sandbox.stop()


async def test_amux_gets_the_whole_request(start_server: StartServer, make_client: MakeClient) -> None:
    server = await start_server()
    client = make_client(f"{server.url}/proxy")
    for headers in ({"Content-Length": "13"}, {"Content-Length": "13", "Accept": "text/event-stream"}):
        sent = {"Content-Type": "application/json", "Idempotency-Key": "k", **headers}
        async with await client.open("POST", "/v1/videos?a=%2F", key=KEY, headers=sent, data=pieces()) as response:
            assert await response.read() == RECORD
    assert server.targets == ["/proxy/v1/videos?a=%2F"] * 2
    assert server.bodies == [b"one,two,three"] * 2
    assert [server.header("Accept", number) for number in (0, 1)] == [["*/*"], ["text/event-stream"]]
    for name, value in {
        "Authorization": f"Bearer {KEY}",
        "Content-Type": "application/json",
        "Idempotency-Key": "k",
        "Accept-Encoding": "identity",
        "User-Agent": "amux-bridge/test",
    }.items():
        assert server.header(name) == [value]


async def test_redirects_compression_and_cookies_are_left_alone(
    start_server: StartServer, make_client: MakeClient
) -> None:
    elsewhere = await start_server()
    packed = gzip.compress(RECORD)
    server = await start_server(
        answer(packed, "307 X", Location=elsewhere.url, Content_Encoding="gzip", Set_Cookie="a=b"), answer()
    )
    client = make_client(f"http://localhost:{server.port}")
    async with await client.open("GET", "/v1/videos/task_1", key=KEY, headers={}) as response:
        assert (response.status, await response.read()) == (307, packed)
    (await client.open("GET", "/v1/videos/task_1", key=KEY, headers={})).close()
    assert (server.header("Cookie"), elsewhere.connections) == ([], 0)


async def test_a_create_call_is_never_sent_twice(start_server: StartServer, make_client: MakeClient) -> None:
    server = await start_server(answer(), reset, answer())
    client = make_client(server.url)
    async with await client.open("GET", "/v1/videos/task_1", key=KEY, headers={}) as response:
        await response.read()
    with pytest.raises(AmuxUnavailable, match="closed the connection without an answer"):
        await client.open("POST", "/v1/videos", key=KEY, headers={}, data=b"{}")
    assert len(server.requests) == 2


async def test_no_answer_raises_amux_unavailable(start_server: StartServer, make_client: MakeClient) -> None:
    stalled = await start_server(silence)
    message = await failure(make_client(stalled.url), idle_seconds=0.1)
    assert message == f"127.0.0.1:{stalled.port} did not answer within 0.1 s"
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{bound.getsockname()[1]}"
        assert await failure(make_client(f"http://{host}")) == f"no connection to {host}: connection refused"
    assert "cannot be sent" in await failure(make_client(stalled.url), key="a\r\nX: y")


async def test_a_connection_that_is_not_accepted_is_given_up(make_client: MakeClient) -> None:
    """A listener whose backlog is full neither accepts nor refuses connections."""
    with socket.socket() as stalled:
        stalled.bind(("127.0.0.1", 0))
        stalled.listen(0)
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(stalled.getsockname())
        host = f"127.0.0.1:{stalled.getsockname()[1]}"
        client = make_client(f"http://{host}", timeout_seconds=0.2)
        assert await failure(client) == f"no connection to {host}: it took too long"
        for filler in fillers:
            filler.close()


async def test_a_body_that_stalls_is_given_up(start_server: StartServer, make_client: MakeClient) -> None:
    server = await start_server(raw(answer()[:-9]))
    response = await make_client(server.url).open("GET", "/v1/x", key=KEY, headers={}, idle_seconds=0.1)
    with pytest.raises(aiohttp.ClientError):
        await response.read()


async def test_a_cancelled_request_raises_cancelled_error(start_server: StartServer, make_client: MakeClient) -> None:
    server = await start_server(silence)
    opening = asyncio.ensure_future(make_client(server.url).open("GET", "/v1/x", key=KEY, headers={}))
    await server.requested.wait()
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening

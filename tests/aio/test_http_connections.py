"""Requests over aiohttp's connections: which connection is kept, when a request is repeated, what a head may hold."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import aiohttp
import pytest
from yarl import URL

from bridge.aio.http_connections import NO_CONNECT_TIMEOUT, HttpAnswer, HttpConnections, Origin, request_head
from tests.scripted_server import StartServer, raw, reset, scripted_servers, silence

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
GET = request_head("GET", "/", {"Host": "amux.example"})
_LONG = 64 << 20  # more than the buffers of two sockets hold
LONG_POST = request_head("POST", "/", {"Host": "amux.example", "Content-Length": str(_LONG)}) + bytes(_LONG)


@asynccontextmanager
async def servers_that_do_not_read(answer: bytes) -> AsyncIterator[str]:
    """Yields the URL of a server that reads one head of each connection, answers it, and reads nothing more."""
    writers: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        for writer in writers:
            writer.transport.abort()


@pytest.fixture
async def start_server() -> AsyncIterator[StartServer]:
    async with scripted_servers(default=[raw(OK)]) as start:
        yield start


@pytest.fixture
async def connections() -> AsyncIterator[HttpConnections]:
    connector = aiohttp.TCPConnector(limit=0)
    yield HttpConnections(connector)
    await connector.close()


async def whole_body(answer: HttpAnswer) -> bytes:
    body = await answer.content.read()
    answer.release()
    return body


def origin_of(connections: HttpConnections, url: str) -> Origin:
    return connections.origin(URL(url))


async def test_a_connection_is_kept_for_the_next_request(
    connections: HttpConnections, start_server: StartServer
) -> None:
    server = await start_server()
    for _ in range(3):
        answer = await connections.send(origin_of(connections, server.url), GET, NO_CONNECT_TIMEOUT)
        assert (answer.status, await whole_body(answer)) == (200, b"ok")
    assert server.connections == 1
    assert server.requests == [GET] * 3


async def test_a_connection_whose_answer_was_not_read_to_its_end_is_not_used_again(
    connections: HttpConnections, start_server: StartServer
) -> None:
    server = await start_server(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok", raw(OK))
    answer = await connections.send(origin_of(connections, server.url), GET, NO_CONNECT_TIMEOUT)
    answer.release()
    second = await connections.send(origin_of(connections, server.url), GET, NO_CONNECT_TIMEOUT)
    assert await whole_body(second) == b"ok"
    assert server.connections == 2


async def test_bytes_that_came_without_a_request_are_not_the_answer_to_the_next_one(
    connections: HttpConnections, start_server: StartServer
) -> None:
    server = await start_server(raw(OK))
    first = await connections.send(origin_of(connections, server.url), GET, NO_CONNECT_TIMEOUT)
    assert first.headers["Content-Length"] == "2"
    kept = first._connection.protocol
    assert kept is not None
    await whole_body(first)
    kept.data_received(b"HTTP/1.1 500 Late\r\nContent-Length: 1\r\n\r\nx")
    second = await connections.send_repeatable(origin_of(connections, server.url), GET)
    assert (second.status, await whole_body(second)) == (200, b"ok")
    assert server.connections == 2


async def test_a_connection_with_unsent_bytes_of_a_request_is_not_used_again(connections: HttpConnections) -> None:
    async with servers_that_do_not_read(OK) as url:
        answer = await connections.send(origin_of(connections, url), LONG_POST, NO_CONNECT_TIMEOUT)
        assert await whole_body(answer) == b"ok"
        second = await connections.send(origin_of(connections, url), GET, NO_CONNECT_TIMEOUT)
        assert await whole_body(second) == b"ok"


async def test_a_given_up_request_is_not_sent_further(connections: HttpConnections) -> None:
    received = asyncio.Event()
    go_on = asyncio.Event()
    ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        count = len(await reader.readuntil(b"\r\n\r\n"))
        received.set()
        await go_on.wait()
        with suppress(ConnectionError):
            while data := await reader.read(1 << 20):
                count += len(data)
        ended.set_result(count)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        sending = asyncio.create_task(connections.send(origin_of(connections, url), LONG_POST, NO_CONNECT_TIMEOUT))
        await received.wait()
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        go_on.set()
        assert await ended < len(LONG_POST)


async def test_a_cancelled_exchange_closes_its_connection(
    connections: HttpConnections, start_server: StartServer
) -> None:
    server = await start_server(silence, raw(OK))
    sending = asyncio.create_task(connections.send(origin_of(connections, server.url), GET, NO_CONNECT_TIMEOUT))
    await server.requested.wait()
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending
    answer = await connections.send(origin_of(connections, server.url), GET, NO_CONNECT_TIMEOUT)
    assert await whole_body(answer) == b"ok"
    assert server.connections == 2


async def test_interim_answers_are_passed_over(connections: HttpConnections, start_server: StartServer) -> None:
    server = await start_server(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + OK)
    answer = await connections.send(origin_of(connections, server.url), GET, NO_CONNECT_TIMEOUT)
    assert (answer.status, "Link" in answer.headers, await whole_body(answer)) == (200, False, b"ok")


async def test_a_body_comes_as_it_was_sent(connections: HttpConnections, start_server: StartServer) -> None:
    server = await start_server(
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n\x1f\x8b\x08\r\n0\r\n\r\n"
    )
    answer = await connections.send(origin_of(connections, server.url), GET, NO_CONNECT_TIMEOUT)
    assert await whole_body(answer) == b"\x1f\x8b\x08"


@pytest.mark.parametrize("breaks", [raw(then_close=True), reset])
async def test_a_repeatable_request_is_sent_once_more_when_the_connection_breaks(
    connections: HttpConnections, start_server: StartServer, breaks: object
) -> None:
    server = await start_server(breaks, raw(OK))
    answer = await connections.send_repeatable(origin_of(connections, server.url), GET)
    assert await whole_body(answer) == b"ok"
    assert server.requests == [GET] * 2


async def test_a_request_is_repeated_only_once(connections: HttpConnections, start_server: StartServer) -> None:
    server = await start_server(raw(then_close=True))
    with pytest.raises(aiohttp.ServerDisconnectedError):
        await connections.send_repeatable(origin_of(connections, server.url), GET)
    assert server.requests == [GET] * 2


async def test_other_requests_are_sent_once(connections: HttpConnections, start_server: StartServer) -> None:
    server = await start_server(raw(then_close=True))
    with pytest.raises(aiohttp.ServerDisconnectedError):
        await connections.send(origin_of(connections, server.url), GET, NO_CONNECT_TIMEOUT)
    assert server.requests == [GET]


async def test_an_answer_with_a_status_below_100_is_no_interim_answer(
    connections: HttpConnections, start_server: StartServer
) -> None:
    server = await start_server(b"HTTP/1.1 099 Odd\r\nContent-Length: 0\r\n\r\n")
    answer = await connections.send(origin_of(connections, server.url), GET, NO_CONNECT_TIMEOUT)
    assert answer.status == 99
    answer.close()


@pytest.mark.parametrize("bad", ["a\r\nX-Injected: 1", "a\nb", "a\rb", "a\0b"])
def test_no_part_of_a_head_begins_another_line(bad: str) -> None:
    for method, path, headers in (("GET", "/", {"X": bad}), ("GET", "/", {bad: "x"}), ("GET", bad, {}), (bad, "/", {})):
        with pytest.raises(ValueError, match="separates lines"):
            request_head(method, path, headers)


def test_a_head_is_sent_as_utf8() -> None:
    assert request_head("GET", "/", {"X": "ü"}) == "GET / HTTP/1.1\r\nX: ü\r\n\r\n".encode()

"""One guarded POST against receivers of every kind: the request, the answer, no answer, refused targets."""

import asyncio
import datetime as dt
import socket
import zlib
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.callback.sender import KEPT_BODY_BYTES
from bridge.core.model import Answered, RefusedTarget
from bridge.core.retry_after import retry_after_seconds
from tests.callback.harness import (
    BODY,
    OK,
    Answering,
    Sending,
    Starting,
    code_of,
    post,
    raw,
    receivers,
    reset,
    senders,
    silence,
)


@pytest.fixture
async def receiver() -> AsyncIterator[Starting]:
    async with receivers() as start:
        yield start


@pytest.fixture
async def sending() -> AsyncIterator[Sending]:
    async with senders() as make:
        yield make


# --- the request --------------------------------------------------------------------------------------------------


async def test_what_a_receiver_gets(receiver: Starting, sending: Sending) -> None:
    got = await receiver(raw(OK))
    result = await sending().send(f"{got.url}?a=%2f&b=+'", {"webhook-id": "evt_1", "X-Own": "yes"}, BODY)
    assert result.answer == Answered(200, None, b"ok")
    assert 0 <= result.duration_seconds < 5
    [request] = got.requests
    assert request.startswith(b"POST /hook?a=%2f&b=+' HTTP/1.1\r\n")
    assert request.endswith(b"\r\n\r\n" + BODY)
    assert got.header("Content-Type") == ["application/json"]
    assert got.header("User-Agent") == ["amux-bridge/test"]
    assert got.header("Accept-Encoding") == ["identity"]
    assert got.header("Content-Length") == [str(len(BODY))]
    assert got.header("Host") == [f"127.0.0.1:{got.port}"]
    assert got.header("webhook-id") == ["evt_1"]
    assert got.header("X-Own") == ["yes"]


async def test_the_host_header_keeps_the_name(receiver: Starting, sending: Sending) -> None:
    got = await receiver(raw(OK))
    assert await post(sending({"hooks.example": [["127.0.0.1"]]}), f"http://Hooks.example:{got.port}/") == Answered(
        200, None, b"ok"
    )
    assert got.header("Host") == [f"hooks.example:{got.port}"]


async def test_no_cookie_is_kept(receiver: Starting, sending: Sending) -> None:
    got = await receiver(raw(b"HTTP/1.1 200 OK\r\nSet-Cookie: a=b; Path=/\r\nContent-Length: 0\r\n\r\n"))
    sender = sending({"hooks.example": [["127.0.0.1"]]})
    for _ in range(2):
        await post(sender, f"http://hooks.example:{got.port}/")
    assert got.header("Cookie") == []


async def test_proxies_from_the_environment_are_not_used(
    receiver: Starting, sending: Sending, monkeypatch: pytest.MonkeyPatch
) -> None:
    got, proxy = await receiver(raw(OK)), await receiver(raw(OK))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
    monkeypatch.delenv("no_proxy", raising=False)
    assert isinstance(await post(sending(), got.url), Answered)
    assert proxy.connections == 0


# --- the answer ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_are_not_followed(receiver: Starting, sending: Sending, status: int) -> None:
    elsewhere = await receiver(raw(OK))
    head = f"HTTP/1.1 {status} Moved\r\nLocation: {elsewhere.url}\r\nContent-Length: 0\r\n\r\n"
    got = await receiver(raw(head.encode()))
    assert await post(sending(), got.url) == Answered(status)
    assert elsewhere.connections == 0


@pytest.mark.parametrize(
    ("field", "status", "seconds"),
    [
        ("7", 503, 7.0),
        ("7", 429, 7.0),
        ("7", 500, None),
        ("7", 200, None),
        ("-7", 503, None),
        ("soon", 503, None),
        ("Mon, 23 Nov 2026 15:04:15 GMT", 503, 10.0),
        ("Mon, 23 Nov 2026 15:04:00 GMT", 503, 0.0),
    ],
)
async def test_retry_after(receiver: Starting, sending: Sending, field: str, status: int, seconds: float) -> None:
    got = await receiver(raw(f"HTTP/1.1 {status} X\r\nRetry-After: {field}\r\nContent-Length: 0\r\n\r\n".encode()))
    assert await post(sending(), got.url) == Answered(status, seconds)


@given(st.text() | st.datetimes().map(lambda moment: moment.strftime("%a, %d %b %Y %H:%M:%S GMT")), st.floats(0, 4e9))
def test_any_retry_after_is_seconds_or_nothing(text: str, now: float) -> None:
    seconds = retry_after_seconds(text, now)
    assert seconds is None or 0 <= seconds < 1e12


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (None, None),
        (" 120 ", 120.0),
        ("Sunday, 06-Nov-94 08:49:37 GMT", 7.0),
        ("Sun Nov  6 08:49:37 1994", 7.0),
        ("Sun, 06 Nov 1994 08:49:37 GMT", 7.0),
        ("Sun, 06 Nov 1994 08:49:20 GMT", 0.0),
    ],
)
def test_every_form_of_retry_after(text: str | None, seconds: float | None) -> None:
    now = dt.datetime(1994, 11, 6, 8, 49, 30, tzinfo=dt.UTC).timestamp()
    assert retry_after_seconds(text, now) == seconds


async def test_the_connection_is_kept_when_the_body_ended(receiver: Starting, sending: Sending) -> None:
    got = await receiver(raw(b"HTTP/1.1 200 OK\r\nContent-Length: 16384\r\n\r\n" + b"x" * 16384))
    sender = sending()
    for _ in range(3):
        assert await post(sender, got.url) == Answered(200, None, b"x" * KEPT_BODY_BYTES)
    assert got.connections == 1


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(raw(b"HTTP/1.1 200 OK\r\nContent-Length: 65536000\r\n\r\n", *[b"x" * 65536] * 1000), id="huge"),
        pytest.param(raw(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 4096, *[b"x" * 65536] * 1000), id="huge, without length"),
        pytest.param(
            raw(
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
                *[b"10000\r\n" + b"x" * 65536 + b"\r\n"] * 1000,
            ),
            id="huge, chunked",
        ),
    ],
)
async def test_a_long_body_is_cut_off(receiver: Starting, sending: Sending, answer: Answering) -> None:
    got = await receiver(answer)
    sender = sending()
    for _ in range(2):
        assert await post(sender, got.url) == Answered(200, None, b"x" * KEPT_BODY_BYTES)
    assert got.connections == 2


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(raw(b"HTTP/1.1 204 No Content\r\n\r\n"), id="no body"),
        pytest.param(raw(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n"), id="a body that never comes"),
        pytest.param(raw(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nab", then_close=True), id="lying length"),
        pytest.param(raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n"), id="endless"),
        pytest.param(raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\nab\r\n"), id="bad chunks"),
        pytest.param(
            raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"2\r\nab\r\nnonsense"), id="late bad chunks"
        ),
        pytest.param(raw(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n\xff\xfe"), id="no text"),
        pytest.param(raw(b"HTTP/1.1 200 \xff\r\nX: \xfe\xff\r\nContent-Length: 0\r\n\r\n"), id="bytes in the head"),
        pytest.param(raw(b"HTTP/1.0 200 OK\r\n\r\nabc", then_close=True), id="HTTP/1.0"),
        pytest.param(raw(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nabHTTP/1.1 500 No\r\n\r\n"), id="two answers"),
        pytest.param(raw(b"HTTP/1.1 103 Early\r\n\r\n" * 5 + OK), id="early hints"),
    ],
)
async def test_a_2xx_is_a_success_whatever_its_body_does(
    receiver: Starting, sending: Sending, answer: Answering
) -> None:
    got = await receiver(answer)
    result = await sending(timeout_seconds=0.3).send(got.url, {}, BODY)
    assert isinstance(result.answer, Answered)
    assert 200 <= result.answer.status < 300
    assert result.duration_seconds < 1


async def test_a_reset_within_the_body_keeps_the_answer(receiver: Starting, sending: Sending) -> None:
    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nab")
        await writer.drain()
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        writer.transport.abort()

    got = await receiver(answer)
    assert await post(sending(), got.url) == Answered(200, None, b"ab")


async def test_a_compression_bomb_stays_packed(receiver: Starting, sending: Sending) -> None:
    bomb = zlib.compress(b"\0" * 10_000_000)[: 16 * 1024]
    head = f"HTTP/1.1 200 OK\r\nContent-Encoding: deflate\r\nContent-Length: {len(bomb)}\r\n\r\n"
    got = await receiver(raw(head.encode() + bomb))
    assert await post(sending(), got.url) == Answered(200, None, bomb[:KEPT_BODY_BYTES])


# --- no answer ----------------------------------------------------------------------------------------------------


async def flood(writer: asyncio.StreamWriter) -> None:
    while not writer.is_closing():
        writer.write(b"HTTP/1.1 102 Processing\r\n\r\n" * 100)
        await writer.drain()
        await asyncio.sleep(0)  # another turn for the client


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        pytest.param(silence, "timeout", id="silence"),
        pytest.param(raw(b"HTTP/1.1 200 OK\r\nX-Slow: "), "timeout", id="unfinished head"),
        pytest.param(flood, "bad_answer", id="1xx flood"),
        pytest.param(reset, "connection_lost", id="reset"),
        pytest.param(raw(then_close=True), "connection_lost", id="closed"),
        pytest.param(raw(b"HTTP/1.1 200 OK\r\nX: ", then_close=True), "connection_lost", id="closed within the head"),
        pytest.param(raw(b"SSH-2.0-OpenSSH\r\n\r\n"), "bad_answer", id="not HTTP"),
        pytest.param(raw(b"\xff\xfe\0\0" * 100), "bad_answer", id="noise"),
        pytest.param(raw(b"HTTP/1.1 abc OK\r\n\r\n"), "bad_answer", id="bad status"),
        pytest.param(raw(b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n"), "bad_answer", id="bad length"),
        pytest.param(raw(b"HTTP/1.1 200 OK\r\nX: " + b"a" * 1_000_000), "bad_answer", id="megabyte header"),
        pytest.param(raw(b"HTTP/1.1 200 OK\r\n", b"X: a\r\n" * 200_000), "bad_answer", id="megabytes of headers"),
    ],
)
async def test_what_is_no_answer(receiver: Starting, sending: Sending, answer: Answering, code: str) -> None:
    got = await receiver(answer)
    result = await sending(timeout_seconds=0.3).send(f"{got.url}?key=secret", {}, BODY)
    assert code_of(result.answer) == code
    assert f"127.0.0.1:{got.port}" in str(result.answer)
    assert "secret" not in str(result.answer)
    assert result.duration_seconds < 1
    assert got.connections == 1, "a new connection's failure is not tried again"


async def test_a_refused_connection(receiver: Starting, sending: Sending) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # bound, not listening
        answer = await post(sending(), f"http://127.0.0.1:{nobody.getsockname()[1]}/")
    assert code_of(answer) == "connection_failed"
    assert "refused" in str(answer)


async def test_names_that_do_not_resolve_or_hang(sending: Sending) -> None:
    assert code_of(await post(sending(), "http://nowhere.example/")) == "name_unresolved"
    hanging = sending({"slow.example": [["hang"]]}, timeout_seconds=0.05)
    assert code_of(await post(hanging, "http://slow.example/")) == "timeout"


async def test_cancelling_a_send_cancels_it(receiver: Starting, sending: Sending) -> None:
    asked = asyncio.Event()

    async def ask(_: asyncio.StreamWriter) -> None:
        asked.set()

    got = await receiver(ask)
    task = asyncio.create_task(post(sending(), got.url))
    await asked.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


# --- refused targets ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "rule"),
    [
        ("http://127.0.0.2/", "loopback"),
        ("http://[::ffff:10.0.0.1]/", "private"),
        ("http://2130706433/", "usual spelling"),
        ("ftp://example.com/", "http"),
        ("http://a.example/#x", "fragment"),
    ],
)
async def test_literals_and_rules_refuse_for_good(sending: Sending, url: str, rule: str) -> None:
    answer = await post(sending(), url)
    assert isinstance(answer, RefusedTarget)
    assert rule in answer.reason


async def test_a_name_that_turns_bad_is_a_failed_attempt_without_a_connection(
    receiver: Starting, sending: Sending
) -> None:
    got = await receiver(raw(OK))
    trap = await receiver(raw(OK), host="127.0.0.2")
    names = {"turns.example": [["127.0.0.1"], ["127.0.0.2"], ["127.0.0.1", "127.0.0.2"], ["127.0.0.1"]]}
    sender = sending(names)
    codes = [await post(sender, f"http://turns.example:{port}/") for port in (got.port, trap.port, got.port, got.port)]
    assert codes[0] == codes[3] == Answered(200, None, b"ok")
    assert code_of(codes[1]) == code_of(codes[2]) == "target_refused"
    assert trap.connections == 0
    assert len(got.requests) == 2

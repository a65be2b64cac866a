"""One guarded POST: the request, every kind of answer, no answer, and refused targets."""

import asyncio
import socket
import zlib

import pytest

from bridge.callback.sender import KEPT_BODY_BYTES
from bridge.core.model import Answered, RefusedTarget
from tests.callback.harness import AT_MOST_SECONDS, BODY, OK, SHORT_SECONDS, MakeSender, code_of, post
from tests.scripted_server import StartServer, WriteAnswer, raw, reset, silence

# --- the request --------------------------------------------------------------------------------------------------


async def test_a_receiver_gets_exactly_this_request(start_receiver: StartServer, make_sender: MakeSender) -> None:
    receiver = await start_receiver(raw(OK))
    result = await make_sender().send(f"{receiver.url}?a=%2f&b=+'", {"webhook-id": "evt_1", "X-Own": "yes"}, BODY)
    assert result.answer == Answered(200, None, b"ok")
    assert 0 <= result.duration_seconds < AT_MOST_SECONDS
    [request] = receiver.requests
    assert request.startswith(b"POST /hook?a=%2f&b=+' HTTP/1.1\r\n")
    assert request.endswith(b"\r\n\r\n")
    assert receiver.bodies == [BODY]
    assert receiver.header("Content-Type") == ["application/json"]
    assert receiver.header("User-Agent") == ["amux-bridge/test"]
    assert receiver.header("Accept-Encoding") == ["identity"]
    assert receiver.header("Content-Length") == [str(len(BODY))]
    assert receiver.header("Host") == [f"127.0.0.1:{receiver.port}"]
    assert receiver.header("webhook-id") == ["evt_1"]
    assert receiver.header("X-Own") == ["yes"]


async def test_the_host_header_keeps_the_name(start_receiver: StartServer, make_sender: MakeSender) -> None:
    receiver = await start_receiver(raw(OK))
    assert await post(
        make_sender({"hooks.example": [["127.0.0.1"]]}), f"http://Hooks.example:{receiver.port}/"
    ) == Answered(200, None, b"ok")
    assert receiver.header("Host") == [f"hooks.example:{receiver.port}"]


async def test_no_cookie_is_kept(start_receiver: StartServer, make_sender: MakeSender) -> None:
    receiver = await start_receiver(raw(b"HTTP/1.1 200 OK\r\nSet-Cookie: a=b; Path=/\r\nContent-Length: 0\r\n\r\n"))
    sender = make_sender({"hooks.example": [["127.0.0.1"]]})
    for _ in range(2):
        await post(sender, f"http://hooks.example:{receiver.port}/")
    assert receiver.header("Cookie") == []


async def test_proxies_from_the_environment_are_not_used(
    start_receiver: StartServer, make_sender: MakeSender, monkeypatch: pytest.MonkeyPatch
) -> None:
    receiver, proxy = await start_receiver(raw(OK)), await start_receiver(raw(OK))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
    monkeypatch.delenv("no_proxy", raising=False)
    assert isinstance(await post(make_sender(), receiver.url), Answered)
    assert proxy.connections == 0


# --- the answer ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_are_not_followed(start_receiver: StartServer, make_sender: MakeSender, status: int) -> None:
    elsewhere = await start_receiver(raw(OK))
    head = f"HTTP/1.1 {status} Moved\r\nLocation: {elsewhere.url}\r\nContent-Length: 0\r\n\r\n"
    receiver = await start_receiver(raw(head.encode()))
    assert await post(make_sender(), receiver.url) == Answered(status)
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
async def test_retry_after_is_read_for_429_and_503(
    start_receiver: StartServer, make_sender: MakeSender, field: str, status: int, seconds: float
) -> None:
    receiver = await start_receiver(
        raw(f"HTTP/1.1 {status} X\r\nRetry-After: {field}\r\nContent-Length: 0\r\n\r\n".encode())
    )
    assert await post(make_sender(), receiver.url) == Answered(status, seconds)


async def test_the_connection_is_kept_after_a_complete_body(
    start_receiver: StartServer, make_sender: MakeSender
) -> None:
    receiver = await start_receiver(raw(b"HTTP/1.1 200 OK\r\nContent-Length: 16384\r\n\r\n" + b"x" * 16384))
    sender = make_sender()
    for _ in range(3):
        assert await post(sender, receiver.url) == Answered(200, None, b"x" * KEPT_BODY_BYTES)
    assert receiver.connections == 1


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
async def test_the_connection_is_closed_after_too_long_a_body(
    start_receiver: StartServer, make_sender: MakeSender, answer: WriteAnswer
) -> None:
    receiver = await start_receiver(answer)
    sender = make_sender()
    for _ in range(2):
        assert await post(sender, receiver.url) == Answered(200, None, b"x" * KEPT_BODY_BYTES)
    assert receiver.connections == 2


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(raw(b"HTTP/1.1 204 No Content\r\n\r\n"), id="no body"),
        pytest.param(raw(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n"), id="a body that never comes"),
        pytest.param(raw(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nab", then_close=True), id="too short a body"),
        pytest.param(raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n"), id="endless"),
        pytest.param(raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\nab\r\n"), id="bad chunks"),
        pytest.param(
            raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"2\r\nab\r\nnonsense"), id="late bad chunks"
        ),
        pytest.param(raw(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n\xff\xfe"), id="bytes that are no text"),
        pytest.param(raw(b"HTTP/1.1 200 \xff\r\nX: \xfe\xff\r\nContent-Length: 0\r\n\r\n"), id="bytes in the head"),
        pytest.param(raw(b"HTTP/1.0 200 OK\r\n\r\nabc", then_close=True), id="HTTP/1.0"),
        pytest.param(raw(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nabHTTP/1.1 500 No\r\n\r\n"), id="two answers"),
        pytest.param(raw(b"HTTP/1.1 103 Early\r\n\r\n" * 5 + OK), id="early hints"),
    ],
)
async def test_a_2xx_is_a_success_whatever_happens_to_its_body(
    start_receiver: StartServer, make_sender: MakeSender, answer: WriteAnswer
) -> None:
    receiver = await start_receiver(answer)
    result = await make_sender(timeout_seconds=SHORT_SECONDS).send(receiver.url, {}, BODY)
    assert isinstance(result.answer, Answered)
    assert 200 <= result.answer.status < 300
    assert result.duration_seconds < AT_MOST_SECONDS


async def test_a_reset_within_the_body_keeps_the_answer(start_receiver: StartServer, make_sender: MakeSender) -> None:
    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nab")
        await writer.drain()
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        writer.transport.abort()

    receiver = await start_receiver(answer)
    assert await post(make_sender(), receiver.url) == Answered(200, None, b"ab")


async def test_a_compression_bomb_is_not_decompressed(start_receiver: StartServer, make_sender: MakeSender) -> None:
    bomb = zlib.compress(b"\0" * 10_000_000)[: 16 * 1024]
    head = f"HTTP/1.1 200 OK\r\nContent-Encoding: deflate\r\nContent-Length: {len(bomb)}\r\n\r\n"
    receiver = await start_receiver(raw(head.encode() + bomb))
    assert await post(make_sender(), receiver.url) == Answered(200, None, bomb[:KEPT_BODY_BYTES])


# --- no answer ----------------------------------------------------------------------------------------------------


async def flood(writer: asyncio.StreamWriter) -> None:
    while not writer.is_closing():
        writer.write(b"HTTP/1.1 102 Processing\r\n\r\n" * 100)
        await writer.drain()
        await asyncio.sleep(0)  # lets the client run


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        pytest.param(silence, "timeout", id="silence"),
        pytest.param(flood, "bad_answer", id="1xx flood"),
        pytest.param(reset, "connection_lost", id="reset"),
        pytest.param(raw(then_close=True), "connection_lost", id="closed"),
        pytest.param(raw(b"SSH-2.0-OpenSSH\r\n\r\n"), "bad_answer", id="not HTTP"),
        pytest.param(raw(b"\xff\xfe\0\0" * 100), "bad_answer", id="random bytes"),
        pytest.param(raw(b"HTTP/1.1 abc OK\r\n\r\n"), "bad_answer", id="bad status"),
    ],
)
async def test_every_broken_answer_has_its_code(
    start_receiver: StartServer, make_sender: MakeSender, answer: WriteAnswer, code: str
) -> None:
    receiver = await start_receiver(answer)
    result = await make_sender(timeout_seconds=SHORT_SECONDS).send(f"{receiver.url}?key=secret", {}, BODY)
    assert code_of(result.answer) == code
    assert f"127.0.0.1:{receiver.port}" in str(result.answer)
    assert "secret" not in str(result.answer)
    assert result.duration_seconds < AT_MOST_SECONDS
    assert receiver.connections == 1, "a failure on a new connection is not tried again"


async def test_a_refused_connection_has_its_code(start_receiver: StartServer, make_sender: MakeSender) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # bound, not listening
        answer = await post(make_sender(), f"http://127.0.0.1:{bound.getsockname()[1]}/")
    assert code_of(answer) == "connection_failed"
    assert "refused" in str(answer)


async def test_names_that_do_not_resolve_or_time_out_have_their_codes(make_sender: MakeSender) -> None:
    assert code_of(await post(make_sender(), "http://nowhere.example/")) == "name_unresolved"
    hanging = make_sender({"slow.example": [["hang"]]}, timeout_seconds=0.05)
    assert code_of(await post(hanging, "http://slow.example/")) == "timeout"


async def test_a_cancelled_send_raises_cancelled_error(start_receiver: StartServer, make_sender: MakeSender) -> None:
    requested = asyncio.Event()

    async def note_request(_: asyncio.StreamWriter) -> None:
        requested.set()

    receiver = await start_receiver(note_request)
    task = asyncio.create_task(post(make_sender(), receiver.url))
    await requested.wait()
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
async def test_a_refused_url_or_literal_address_is_a_refused_target(
    make_sender: MakeSender, url: str, rule: str
) -> None:
    answer = await post(make_sender(), url)
    assert isinstance(answer, RefusedTarget)
    assert rule in answer.reason


async def test_a_name_with_a_refused_address_is_a_failed_attempt_without_a_connection(
    start_receiver: StartServer, make_sender: MakeSender
) -> None:
    receiver = await start_receiver(raw(OK))
    forbidden = await start_receiver(raw(OK), host="127.0.0.2")
    names = {"turns.example": [["127.0.0.1"], ["127.0.0.2"], ["127.0.0.1", "127.0.0.2"], ["127.0.0.1"]]}
    sender = make_sender(names)
    answers = [
        await post(sender, f"http://turns.example:{port}/")
        for port in (receiver.port, forbidden.port, receiver.port, receiver.port)
    ]
    assert answers[0] == answers[3] == Answered(200, None, b"ok")
    assert code_of(answers[1]) == code_of(answers[2]) == "target_refused"
    assert forbidden.connections == 0
    assert len(receiver.requests) == 2

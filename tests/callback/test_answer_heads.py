"""Heads of answers: the bridge accepts each head that curl accepts, and names the target of a redirect."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.callback.answer_head import HeadReader, NotHttp
from bridge.core.delivery import problem_of
from bridge.core.model import Answered
from tests.callback.harness import AT_MOST_SECONDS, BODY, SHORT_SECONDS, MakeSender, code_of, post
from tests.programs import program
from tests.scripted_server import StartServer, WriteAnswer, raw

# --- heads --------------------------------------------------------------------------------------------------------

HEADS = {
    "a long policy": b"Content-Security-Policy: " + b"a" * 8_300 + b"\r\nContent-Length: 2\r\n\r\nok",
    "200 KB in one line": b"X: " + b"a" * 200_000 + b"\r\nContent-Length: 2\r\n\r\nok",
    "2,000 lines": b"".join(b"X-%d: %s\r\n" % (number, b"a" * 100) for number in range(2000)) + b"\r\nok",
    "a header twice": b"Date: x\r\nDate: y\r\nServer: a\r\nServer: a\r\nContent-Length: 2\r\n\r\nok",
    "a length twice": b"Content-Length: 2\r\nContent-Length: 2\r\n\r\nok",
    "two different lengths": b"Content-Length: 2\r\nContent-Length: 5\r\n\r\nok",
    "a length and chunks": b"Content-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    "a bad length": b"Content-Length: -1\r\n\r\nok",
    "an unknown coding": b"Transfer-Encoding: gzip\r\n\r\nok",
    "a line without a colon": b"nothing\r\nContent-Length: 2\r\n\r\nok",
    "a folded line": b"X: a\r\n b: c\r\nContent-Length: 2\r\n\r\nok",
    "control characters": b"X: a\0b\x01\r\nY: \xff\r\nContent-Length: 2\r\n\r\nok",
    "a space before the colon": b"X : a\r\nContent-Length: 2\r\n\r\nok",
    "a bad cookie": b"Set-Cookie: \xff=;;=\r\nContent-Length: 2\r\n\r\nok",
    "line feeds alone": b"X: a\nContent-Length: 2\n\nok",
    "a name of 100 KB": b"a" * 100_000 + b": x\r\nContent-Length: 2\r\n\r\nok",
}


@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
async def test_a_2xx_is_a_success_whatever_its_headers_are(
    start_receiver: StartServer, make_sender: MakeSender, head: bytes
) -> None:
    receiver = await start_receiver(raw(b"HTTP/1.1 200 OK\r\n", head, then_close=True))
    answer = await post(make_sender(), receiver.url)
    assert answer == Answered(200, None, b"ok")
    assert receiver.connections == len(receiver.requests) == 1


async def test_a_head_that_comes_byte_by_byte_is_read(start_receiver: StartServer, make_sender: MakeSender) -> None:
    head = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 202 Accepted\r\nX: y\r\nContent-Length: 2\r\n\r\nok"
    receiver = await start_receiver(raw(*(head[at : at + 1] for at in range(len(head)))))
    sender = make_sender()
    for _ in range(2):
        assert await post(sender, receiver.url) == Answered(202, None, b"ok")
    assert receiver.connections == 1, "the connection is kept"


@pytest.mark.parametrize(
    "line",
    [
        b"HTTP/1.1 200\r\n",
        b"HTTP/1.0 200 OK\r\n",
        b"http/1.1 200 OK\r\n",
        b"HTTP/1.1  200 OK\r\n",
        b"HTTP/1.1 200 \xc3\xa9\r\n",
    ],
)
async def test_a_status_line_is_read_as_leniently_as_curl_reads_it(
    start_receiver: StartServer, make_sender: MakeSender, line: bytes
) -> None:
    receiver = await start_receiver(raw(line, b"Content-Length: 2\r\n\r\nok", then_close=True))
    assert await post(make_sender(), receiver.url) == Answered(200, None, b"ok")


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(raw(b"HTTP/1.1 200 OK\r\nX-Slow: "), id="unfinished"),
        pytest.param(raw(b"HTTP/1.1 200 OK\r\nX: ", then_close=True), id="closed within the head"),
        pytest.param(raw(b"HTTP/1.1 204 No Content\r\n", then_close=True), id="closed after the status"),
        pytest.param(raw(b"HTTP/1.1 200 OK\r\nX: " + b"a" * 1_000_000), id="megabyte header"),
        pytest.param(raw(b"HTTP/1.1 200 OK\r\n", b"X: a\r\n" * 200_000), id="megabytes of headers"),
    ],
)
async def test_a_status_of_2xx_in_time_is_a_success_although_its_head_never_ends(
    start_receiver: StartServer, make_sender: MakeSender, answer: WriteAnswer
) -> None:
    receiver = await start_receiver(answer)
    result = await make_sender(timeout_seconds=SHORT_SECONDS).send(receiver.url, {}, BODY)
    assert isinstance(result.answer, Answered)
    assert result.answer.status in {200, 204}
    assert result.duration_seconds < AT_MOST_SECONDS
    assert receiver.connections == 1


@pytest.mark.parametrize("status", [b"503 Service Unavailable", b"410 Gone"])
async def test_another_status_needs_its_whole_head(
    start_receiver: StartServer, make_sender: MakeSender, status: bytes
) -> None:
    receiver = await start_receiver(raw(b"HTTP/1.1 " + status + b"\r\nX: ", then_close=True))
    assert code_of(await post(make_sender(), receiver.url)) == "connection_lost"


async def test_curl_and_the_bridge_accept_the_same_heads(start_receiver: StartServer, make_sender: MakeSender) -> None:
    """The bridge accepts each head that curl accepts, and some heads that curl refuses."""
    curl = program("curl", "curl")
    for name, head in HEADS.items():
        receiver = await start_receiver(raw(b"HTTP/1.1 200 OK\r\n", head, then_close=True))
        command = [
            curl,
            "-s",
            "-m",
            "5",
            "--noproxy",
            "*",
            "-o",
            "/dev/null",
            "--data-binary",
            BODY.decode(),
            receiver.url,
        ]
        running = await asyncio.create_subprocess_exec(*command)
        taken_by_curl = await running.wait() == 0
        taken = (await post(make_sender(), receiver.url)) == Answered(200, None, b"ok")
        assert taken >= taken_by_curl, name


# --- redirects ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("location", "shown"),
    [
        (b"https://other.example/new?token=secret#x", "https://other.example/new"),
        (b"/new", "http://127.0.0.1:{port}/new"),
        (b"https://user:secret@other.example", "https://other.example"),
        (b"//other.example/a", "http://other.example/a"),
        (b"http://[", None),
        (b"/" + b"a" * 10_000, None),
        (b"/\xff\x01", None),
    ],
)
async def test_the_error_of_a_redirect_says_where_it_points_and_that_it_is_not_followed(
    start_receiver: StartServer, make_sender: MakeSender, location: bytes, shown: str | None
) -> None:
    receiver = await start_receiver(raw(b"HTTP/1.1 301 -\r\nContent-Length: 0\r\nLocation: " + location + b"\r\n\r\n"))
    problem = problem_of(await post(make_sender(), receiver.url))
    assert problem.code == "http_301"
    place = "" if shown is None else f", a redirect to {shown.format(port=receiver.port)}"
    assert str(problem.message).startswith(f"the receiver answered 301{place}; redirects are not followed")
    assert "secret" not in str(problem.message)


@pytest.mark.parametrize("echoed", ["MARK-value-0123456789", "MARK%2Dvalue%2D0123456789"])
async def test_a_location_that_repeats_a_header_of_the_watch_is_not_shown(
    start_receiver: StartServer, make_sender: MakeSender, echoed: str
) -> None:
    head = f"HTTP/1.1 302 -\r\nContent-Length: 0\r\nLocation: /{echoed}/x\r\n\r\n"
    receiver = await start_receiver(raw(head.encode()))
    answer = await post(make_sender(), receiver.url, **{"X-Auth": "MARK-value-0123456789"})
    assert problem_of(answer).message == "the receiver answered 302; redirects are not followed"


# --- the reader ---------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(1, 40), min_size=1))
def test_the_cuts_between_segments_do_not_matter(sizes: list[int]) -> None:
    answer = b"HTTP/1.1 102 -\r\n\r\nHTTP/1.1 302 Found\r\nLocation: /a\r\nContent-Length: 3\r\n\r\nabcdef"
    reader, at, head = HeadReader(), 0, None
    while head is None:
        size = sizes[at % len(sizes)]
        head = reader.feed(answer[at : at + size])
        at += size
    assert (head.status, head.location) == (302, "/a")
    assert head.rewritten == b"HTTP/1.1 302 -\r\nContent-Length: 3\r\n\r\n"
    assert head.rest + answer[at:] == b"abcdef"


@given(st.binary(max_size=200))
def test_any_bytes_are_read_without_an_unexpected_error(data: bytes) -> None:
    for start in (b"", b"HTTP/1.1 200", b"HTTP/1.1 200 OK\r\n"):
        reader = HeadReader()
        try:
            head = reader.feed(start + data)
        except NotHttp:
            assert reader.status is None
        else:
            assert head is None or head.status == reader.status

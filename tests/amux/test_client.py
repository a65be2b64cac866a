"""One poll of amux: the request, every kind of answer, and no answer."""

import asyncio
import logging
import socket
import ssl
from collections.abc import AsyncIterator

import pytest

from bridge.core.model import (
    KeyRefused,
    Observation,
    PollRejected,
    TaskForbidden,
    TaskNotFound,
    TaskRecord,
    TaskStatus,
    Throttled,
    TransientError,
)
from bridge.sandbox import Behaviour, Fault, FaultKind, Sandbox
from tests.amux.harness import KEY, RECORD, MakeClient, answer
from tests.scripted_server import ScriptedServer, StartServer, WriteAnswer, endless, raw, reset, silence
from tests.waiting import SAFETY_SECONDS

RUNNING = TaskRecord(TaskStatus.IN_PROGRESS)


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    amux = Sandbox(keys=frozenset({KEY}), default=Behaviour(queue_seconds=0, run_seconds=0))
    yield amux
    await amux.stop()


def code_of(observation: Observation, server: ScriptedServer | None = None) -> str:
    assert isinstance(observation, TransientError), observation
    assert not observation.misrouted
    for hidden in (KEY, "task_1", "generations", "://"):
        assert hidden not in observation.message
    if server is not None and not observation.code.startswith(("body", "compressed")):
        assert f"127.0.0.1:{server.port}" in observation.message
    return observation.code


# --- the request --------------------------------------------------------------------------------------------------


async def test_a_poll_sends_exactly_this_request(start_server: StartServer, make_client: MakeClient) -> None:
    server = await start_server()
    assert await make_client(server.url).poll("task_1", KEY) == RUNNING
    assert server.requests == [
        f"GET /v1/video/generations/task_1 HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n"
        "User-Agent: amux-bridge/test\r\nAccept-Encoding: identity\r\nAccept: application/json\r\n"
        f"Authorization: Bearer {KEY}\r\n\r\n".encode()
    ]


async def test_a_base_url_may_have_a_path(start_server: StartServer, make_client: MakeClient) -> None:
    server = await start_server()
    for base in (f"{server.url}/proxy/a%20b", f"{server.url}/proxy/a%20b/"):
        await make_client(base).poll("task_1", KEY)
    assert server.targets == ["/proxy/a%20b/v1/video/generations/task_1"] * 2


@pytest.mark.parametrize(
    ("task_id", "segment"),
    [
        ("A.b_c:d-9", "A.b_c:d-9"),
        ("...", "%2E%2E%2E"),
        ("..", "%2E%2E"),
        ("../x", "%2E%2E%2Fx"),
        ("a/b?c#d%2f", "a%2Fb%3Fc%23d%252f"),
        ("a b\r\nX: y", "a%20b%0D%0AX%3A%20y"),
        ("ü\ud800", "%C3%BC%3F"),
    ],
)
async def test_every_task_id_is_one_segment_of_the_path(
    start_server: StartServer, make_client: MakeClient, task_id: str, segment: str
) -> None:
    server = await start_server()
    await make_client(server.url).poll(task_id, KEY)
    assert server.targets == [f"/v1/video/generations/{segment}"]


async def test_each_poll_sends_its_own_key_on_one_connection(
    start_server: StartServer, make_client: MakeClient
) -> None:
    server = await start_server()
    client = make_client(server.url)
    for key in (KEY, "sk-another", KEY):
        assert await client.poll("task_1", key) == RUNNING
    assert [server.header("Authorization", number) for number in range(3)] == [
        [f"Bearer {KEY}"],
        ["Bearer sk-another"],
        [f"Bearer {KEY}"],
    ]
    assert server.connections == 1


@pytest.mark.parametrize("key", ["", "a\r\nX: y", "clé", "a\0"])
async def test_a_key_that_no_header_can_carry_is_never_sent(
    start_server: StartServer, make_client: MakeClient, key: str
) -> None:
    server = await start_server()
    assert await make_client(server.url).poll("task_1", key) == KeyRefused(
        "the key contains characters that cannot be sent"
    )
    assert server.connections == 0


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_are_not_followed(start_server: StartServer, make_client: MakeClient, status: int) -> None:
    elsewhere = await start_server()
    server = await start_server(answer(b"", f"{status} Moved", Location=elsewhere.url))
    assert await make_client(server.url).poll("task_1", KEY) == TransientError(
        f"http_{status}", f"amux answered {status}", True
    )
    assert elsewhere.connections == 0


async def test_proxies_from_the_environment_and_cookies_are_not_used(
    start_server: StartServer, make_client: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, proxy = await start_server(answer(Set_Cookie="a=b; Path=/")), await start_server()
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, proxy.url)
    monkeypatch.delenv("no_proxy", raising=False)
    client = make_client(f"http://localhost:{server.port}")  # not an IP address: aiohttp never keeps cookies of those
    for _ in range(2):
        assert await client.poll("task_1", KEY) == RUNNING
    assert (server.header("Cookie"), proxy.connections) == ([], 0)


# --- every fault of the stand-in ----------------------------------------------------------------------------------

K = FaultKind
FAULTS: dict[FaultKind, Observation | str] = {
    K.HTML_200: TransientError("html", "amux answered with a web page: is the base URL right?", True),
    K.EMPTY_BODY: "empty_body",
    K.DATA_NULL: "no_record",
    K.NOT_FOUND_400: TaskNotFound("amux knows no such task"),
    K.NOT_FOUND_404: TaskNotFound("amux knows no such task: The task does not exist"),
    K.WRONG_BASE_404: TransientError(
        "http_404",
        "amux answered 404 without the error that it gives for a task: is the base URL right?",
        misrouted=True,
    ),
    K.UNAUTHORIZED: KeyRefused("amux refused the key: Invalid token"),
    K.QUOTA: KeyRefused("amux refused the key: The token's quota is used up"),
    K.FORBIDDEN_KEY: KeyRefused("amux refused the key: The user has been banned"),
    K.FORBIDDEN_TASK: TaskForbidden("amux does not let this key see the task: Not your task"),
    K.REJECTED: PollRejected("invalid_request", "amux answered 400: The request cannot be served"),
    K.RATE_LIMITED: Throttled("amux asks for fewer requests: Too many requests"),
    K.SERVER_ERROR: "http_500",
    K.PANIC: "http_500",
    K.NOT_IMPLEMENTED: "http_501",
    K.BAD_GATEWAY_HTML: "http_502",
    K.ECHO_KEY: TransientError("http_500", "amux answered 500: upstream refused Authorization: Bearer [redacted]"),
    K.REDIRECT: TransientError("http_302", "amux answered 302", misrouted=True),
    K.GZIP_BOMB: "body_too_large",
    K.TRUNCATED_JSON: "bad_json",
    K.WRONG_CONTENT_TYPE: "wrong_content_type",
    K.WRONG_TASK: "wrong_task",
    K.HUGE_BODY: "body_too_large",
    K.NUL_IN_STRINGS: "good",
    K.BOM: "good",
    K.NAN: "good",
    K.HUGE_NUMBER: "good",
    K.LONE_SURROGATE: "good",
    K.DEEP_JSON: "bad_json",
    K.SLOW: "timeout",
    K.STALLED_BODY: "timeout",
    K.ENDLESS_BODY: "body_too_large",
    K.CUT_BODY: "connection_lost",
    K.RESET: "connection_lost",
}


@pytest.mark.parametrize("kind", FaultKind)
async def test_every_fault_gives_one_observation_and_the_next_poll_is_good(
    sandbox: Sandbox, make_client: MakeClient, kind: FaultKind
) -> None:
    url = await sandbox.start()
    client = make_client(url)
    fault = Fault(kind, seconds=3600, times=2 if kind is K.RESET else 1)  # 2: the client repeats the request once
    task_id = sandbox.create_task(Behaviour(queue_seconds=0, run_seconds=0, faults=(fault,)))
    good = await client.poll(sandbox.create_task(), KEY)
    assert isinstance(good, TaskRecord)
    assert good.status is TaskStatus.COMPLETED
    # The limit is short only for answers that never come. Other answers may be slow on a busy machine.
    timeout = 0.2 if FAULTS[kind] == "timeout" else 30.0
    observation = await make_client(url, timeout_seconds=timeout).poll(task_id, KEY)
    match FAULTS[kind]:
        case "good":
            assert isinstance(observation, TaskRecord)
            assert observation.url == f"{url}/files/{task_id}.mp4"
        case str(code):
            assert code_of(observation) == code
        case expected:
            assert observation == expected
    again = await client.poll(task_id, KEY)
    assert isinstance(again, TaskRecord)
    assert again.status is TaskStatus.COMPLETED
    assert sandbox.unknown_paths == {}


@pytest.mark.parametrize(
    ("fault", "retry_after"),
    [
        (Fault(K.RATE_LIMITED, retry_after=7), 7.0),
        (Fault(K.RATE_LIMITED, retry_after=0, empty=True), 0.0),
        (Fault(K.RATE_LIMITED), None),
    ],
)
async def test_the_retry_after_of_a_429_is_kept(
    sandbox: Sandbox, make_client: MakeClient, fault: Fault, retry_after: float | None
) -> None:
    client = make_client(await sandbox.start())
    observation = await client.poll(sandbox.create_task(Behaviour(faults=(fault,))), KEY)
    assert isinstance(observation, Throttled)
    assert observation.retry_after == retry_after


async def test_the_retry_after_of_a_429_may_be_a_date(start_server: StartServer, make_client: MakeClient) -> None:
    server = await start_server(answer(b"", "429 X", Retry_After="Mon, 23 Nov 2026 15:04:35 GMT"))
    assert await make_client(server.url).poll("task_1", KEY) == Throttled("amux asks for fewer requests", 30.0)


# --- bodies and connections ---------------------------------------------------------------------------------------

CHUNKED = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("write_answer", "code"),
    [
        pytest.param(endless(CHUNKED, b"10000\r\n" + b" " * 65536 + b"\r\n"), "body_too_large", id="endless"),
        pytest.param(endless(b"HTTP/1.1 200 OK\r\n\r\n", b" " * 65536), "body_too_large", id="endless, no length"),
        pytest.param(raw(answer(RECORD + b" " * (1 << 20))), "body_too_large", id="over 1 MiB"),
        pytest.param(raw(answer(RECORD)[:-9], then_close=True), "connection_lost", id="cut"),
        pytest.param(raw(CHUNKED + b"ZZ\r\n"), "bad_answer", id="bad chunks"),
        pytest.param(reset, "connection_lost", id="reset"),
        pytest.param(raw(then_close=True), "connection_lost", id="closed"),
        pytest.param(raw(b"SSH-2.0-OpenSSH\r\n\r\n"), "bad_answer", id="not HTTP"),
        pytest.param(raw(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70_000 + b"\r\n\r\n"), "bad_answer", id="too long header"),
        pytest.param(raw(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 9999 + b"\r\n"), "bad_answer", id="many headers"),
    ],
)
async def test_every_broken_answer_has_its_code(
    start_server: StartServer, make_client: MakeClient, write_answer: WriteAnswer, code: str
) -> None:
    server = await start_server(write_answer, answer())
    server.answers.insert(0, write_answer)  # twice: the client repeats the request if the connection breaks
    client = make_client(server.url)
    observation = await client.poll("task_1", KEY)
    assert code_of(observation, server) == code
    server.answers[:] = [raw(answer())]
    assert await client.poll("task_1", KEY) == RUNNING
    assert len(server.requests) <= 3


@pytest.mark.parametrize(
    "write_answer",
    [
        pytest.param(silence, id="silence"),
        pytest.param(raw(b"HTTP/1.1 200 OK\r\nX-Slow: "), id="unfinished head"),
        pytest.param(raw(answer(RECORD)[:-9]), id="unfinished body"),
        pytest.param(endless(b"", b"HTTP/1.1 102 Processing\r\n\r\n" * 100), id="1xx flood"),
        pytest.param(endless(CHUNKED, b"1\r\n \r\n"), id="trickle"),
    ],
)
async def test_no_poll_takes_longer_than_its_limit(
    start_server: StartServer, make_client: MakeClient, write_answer: WriteAnswer
) -> None:
    server = await start_server(write_answer)
    loop = asyncio.get_running_loop()
    began = loop.time()
    observation = await make_client(server.url, timeout_seconds=0.2).poll("task_1", KEY)
    assert observation == TransientError("timeout", f"127.0.0.1:{server.port} did not answer within 0.2 s")
    assert 0.19 < loop.time() - began < 10  # a busy machine is slower, but the endless answer is given up


@pytest.mark.parametrize("status", ["401 X", "429 X", "404 X", "502 X"])
@pytest.mark.parametrize("error_answer", [answer(b"x" * (2 << 20), "S"), answer(b"x", "S", Content_Encoding="gzip")])
async def test_an_error_status_counts_even_if_its_body_cannot_be_read(
    start_server: StartServer, make_client: MakeClient, status: str, error_answer: bytes
) -> None:
    server = await start_server(error_answer.replace(b" S\r", b" %b\r" % status.encode(), 1))
    observation = await make_client(server.url).poll("task_1", KEY)
    expected = {"401 X": KeyRefused, "429 X": Throttled}.get(status, TransientError)
    assert type(observation) is expected
    assert getattr(observation, "code", "-") in ("-", f"http_{status[:3]}")


async def test_a_body_just_under_the_limit_is_read_in_many_pieces(
    start_server: StartServer, make_client: MakeClient
) -> None:
    body = RECORD + b" " * ((1 << 20) - len(RECORD))
    head, pieces = answer(body)[: -len(body)], [body[at : at + 99_999] for at in range(0, len(body), 99_999)]
    server = await start_server(raw(head, *pieces))
    client = make_client(server.url)
    for _ in range(2):
        assert await client.poll("task_1", KEY) == RUNNING
    assert server.connections == 1


@pytest.mark.parametrize("end", [reset, raw(then_close=True)])
async def test_a_dead_kept_connection_is_replaced(
    start_server: StartServer, make_client: MakeClient, end: WriteAnswer
) -> None:
    server = await start_server(answer(), end, answer())
    client = make_client(server.url)
    for _ in range(2):
        assert await client.poll("task_1", KEY) == RUNNING
    assert (server.connections, len(server.requests)) == (2, 3)


async def test_a_port_without_a_listener(make_client: MakeClient) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{bound.getsockname()[1]}"
        observation = await make_client(f"http://{host}").poll("task_1", KEY)
    assert observation == TransientError("connection_failed", f"no connection to {host}: connection refused")


async def test_a_name_that_cannot_be_resolved(make_client: MakeClient, monkeypatch: pytest.MonkeyPatch) -> None:
    async def no_name(*_args: object, **_options: object) -> object:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", no_name)
    observation = await make_client("http://amux.invalid").poll("task_1", KEY)
    assert observation == TransientError(
        "connection_failed", "no connection to amux.invalid: the name could not be resolved"
    )


async def test_a_server_without_tls(make_client: MakeClient) -> None:
    async def speak_plainly(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(speak_plainly, "127.0.0.1", 0) as plain:
        host = f"127.0.0.1:{plain.sockets[0].getsockname()[1]}"
        observation = await make_client(f"https://{host}", ssl_context=ssl.create_default_context()).poll("task_1", KEY)
        assert observation == TransientError("tls_failed", f"TLS with {host} failed: wrong version number")


# --- time limits and cancelling -----------------------------------------------------------------------------------


async def test_a_cancelled_poll_raises_cancelled_error(start_server: StartServer, make_client: MakeClient) -> None:
    server = await start_server(silence)
    polling = asyncio.ensure_future(make_client(server.url).poll("task_1", KEY))
    await server.requested.wait()
    polling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await polling


async def test_the_time_limit_uses_the_given_clock(start_server: StartServer, make_client: MakeClient) -> None:
    server, now = await start_server(silence), [100.0]
    client = make_client(server.url, timeout_seconds=0.1, clock=lambda: now[0])
    polling = asyncio.ensure_future(client.poll("task_1", KEY))
    await server.requested.wait()
    _, unfinished = await asyncio.wait([polling], timeout=0.2)
    assert unfinished  # the given clock has not moved
    now[0] += 0.1
    assert code_of(await asyncio.wait_for(polling, SAFETY_SECONDS), server) == "timeout"


async def test_a_failed_poll_is_logged_with_amuxs_request_id(
    start_server: StartServer, make_client: MakeClient, caplog: pytest.LogCaptureFixture
) -> None:
    server = await start_server(answer(b"", "502 X", X_Oneapi_Request_Id="20261123abc"))
    with caplog.at_level(logging.DEBUG, "bridge.amux"):
        await make_client(server.url).poll("task_1", KEY)
    [line] = [record for record in caplog.records if record.name == "bridge.amux"]
    assert getattr(line, "bridge_fields", {}) == {
        "task_id": "task_1",
        "kind": "TransientError",
        "status": 502,
        "request_id": "20261123abc",
    }

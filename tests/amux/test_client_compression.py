"""Answers that amux, or a proxy before it, compresses although the client did not ask for it, and long headers."""

import gzip
import zlib

import pytest

from bridge.core.model import TaskNotFound, TaskRecord, TaskStatus, TransientError
from tests.amux.harness import KEY, RECORD, MakeClient, answer
from tests.scripted_server import StartServer

RUNNING = TaskRecord(TaskStatus.IN_PROGRESS)


@pytest.mark.parametrize(
    ("body", "coding"),
    [
        pytest.param(gzip.compress(RECORD), "gzip", id="gzip"),
        pytest.param(zlib.compress(RECORD), "deflate", id="deflate"),
        pytest.param(gzip.compress(RECORD + b" " * ((1 << 20) - len(RECORD))), "gzip", id="gzip of 1 MiB"),
        pytest.param(RECORD, "identity", id="identity"),
    ],
)
async def test_a_compressed_answer_is_inflated(
    start_server: StartServer, make_client: MakeClient, body: bytes, coding: str
) -> None:
    server = await start_server(answer(body, Content_Encoding=coding))
    assert await make_client(server.url).poll("task_1", KEY) == RUNNING


async def test_a_compressed_error_is_inflated_too(start_server: StartServer, make_client: MakeClient) -> None:
    body = gzip.compress(b'{"code":"task_not_exist","message":"task_not_exist","data":null}')
    server = await start_server(answer(body, "400 X", Content_Encoding="gzip"))
    assert await make_client(server.url).poll("task_1", KEY) == TaskNotFound("amux knows no such task")


async def test_an_answer_may_have_a_header_of_64_kib(start_server: StartServer, make_client: MakeClient) -> None:
    server = await start_server(answer(Content_Security_Policy="x" * 65_536))
    client = make_client(server.url)
    assert await client.poll("task_1", KEY) == RUNNING
    async with await client.open("GET", "/v1/videos/task_1/content", key=KEY, headers={}) as opened:
        assert await opened.read() == RECORD


@pytest.mark.parametrize(
    ("body", "coding", "code"),
    [
        pytest.param(gzip.compress(b" " * (2 << 20)), "gzip", "body_too_large", id="bomb"),
        pytest.param(gzip.compress(RECORD)[:-9], "gzip", "compressed_body", id="cut"),
        pytest.param(RECORD, "gzip", "compressed_body", id="header without compression"),
        pytest.param(RECORD, "br", "compressed_body", id="another compression"),
    ],
)
async def test_a_body_that_cannot_be_inflated_is_a_transient_error(
    start_server: StartServer, make_client: MakeClient, body: bytes, coding: str, code: str
) -> None:
    server = await start_server(answer(body, Content_Encoding=coding), answer())
    client = make_client(server.url)
    observation = await client.poll("task_1", KEY)
    assert isinstance(observation, TransientError)
    assert (observation.code, observation.misrouted) == (code, False)
    assert await client.poll("task_1", KEY) == RUNNING

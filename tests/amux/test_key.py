"""The key of a request is removed wherever amux repeats it."""

from collections.abc import Callable
from urllib.parse import quote

import orjson
import pytest

from bridge.core.model import Problem, TaskRecord, TaskStatus
from tests.amux.harness import KEY, MakeClient, answer
from tests.scripted_server import StartServer


@pytest.mark.parametrize("key", [KEY, "a%Key/of another kind"])
@pytest.mark.parametrize("write", [str, quote, str.lower, "Bearer {}".format])
async def test_the_key_is_removed_from_everything_that_amux_answers(
    start_server: StartServer, make_client: MakeClient, write: Callable[[str], str], key: str
) -> None:
    repeated = write(key)
    bodies = [
        {"status": "failed", "error": {"code": repeated, "message": f"no {repeated}!"}},
        {"status": "failed", "fail_reason": "x" * (4000 - 9) + repeated},
        {"status": "failed", "error": {"code": "x" * (128 - 9) + repeated}},
        {"status": f"odd {repeated}"},
        {"status": "running", "model": f"{repeated}-1"},
        {"status": "running", "model": "x" * (191 - 9) + repeated, "platform": repeated},
        {"status": "failed", "properties": {"origin_model_name": repeated}},
        {"status": "completed", "url": "https://v.example/", "platform": repeated},
        {"status": "completed", "url": f"https://v.example/?k={quote(key)}", "format": key},
        {"status": "completed", "url": f"https://v.example/{key}"},
        {"code": "success", "message": f"no {repeated}", "data": None},
    ]
    error = orjson.dumps({"code": repeated, "message": f"no {repeated}", "data": None})
    refusals = [answer(error, f"{status} X") for status in (400, 401, 403, 429, 500)]
    server = await start_server(*(answer(orjson.dumps(body)) for body in bodies), *refusals)
    client = make_client(server.url)
    for _ in range(len(bodies) + len(refusals)):
        result = repr(await client.poll("task_1", key)).lower()
        for part in (key, repeated, key[: len(key) // 2], quote(key, safe="")):
            assert part.lower() not in result


async def test_a_short_key_and_texts_without_the_key_are_not_changed(
    start_server: StartServer, make_client: MakeClient
) -> None:
    done = {"status": "completed", "url": "https://v.example/k", "format": "mkv"}
    failed = {"status": "failed", "error": {"code": 7, "message": "ok"}}
    server = await start_server(*(answer(orjson.dumps(record)) for record in (done, failed)))
    client = make_client(server.url)
    assert await client.poll("task_1", "k") == TaskRecord(TaskStatus.COMPLETED, url="https://v.example/k", format="mkv")
    assert await client.poll("task_1", "k") == TaskRecord(TaskStatus.FAILED, error=Problem(7, "ok"))

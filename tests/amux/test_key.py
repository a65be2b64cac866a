"""The key that amux was asked with never comes back, wherever amux repeats it."""

from collections.abc import AsyncIterator, Callable
from urllib.parse import quote

import orjson
import pytest

from bridge.core.model import Problem, TaskRecord, TaskStatus
from tests.amux.harness import KEY, Asking, Starting, answer, clients, servers


@pytest.fixture
async def server() -> AsyncIterator[Starting]:
    async with servers() as start:
        yield start


@pytest.fixture
async def asking() -> AsyncIterator[Asking]:
    async with clients() as make:
        yield make


@pytest.mark.parametrize("key", [KEY, "a%Key/of another kind"])
@pytest.mark.parametrize("spell", [str, quote, str.lower, "Bearer {}".format])
async def test_the_key_is_taken_out_of_all_that_amux_says(
    server: Starting, asking: Asking, spell: Callable[[str], str], key: str
) -> None:
    repeated = spell(key)
    bodies = [
        {"status": "failed", "error": {"code": repeated, "message": f"no {repeated}!"}},
        {"status": "failed", "fail_reason": "x" * (4000 - 9) + repeated},
        {"status": "failed", "error": {"code": "x" * (128 - 9) + repeated}},
        {"status": f"odd {repeated}"},
        {"status": "completed", "url": f"https://v.example/?k={quote(key)}", "format": key},
        {"status": "completed", "url": f"https://v.example/{key}"},
        {"code": "success", "message": f"no {repeated}", "data": None},
    ]
    error = orjson.dumps({"code": repeated, "message": f"no {repeated}", "data": None})
    refusals = [answer(error, f"{status} X") for status in (400, 401, 403, 429, 500)]
    got = await server(*(answer(orjson.dumps(body)) for body in bodies), *refusals)
    client = asking(got.url)
    for _ in range(len(bodies) + len(refusals)):
        said = repr(await client.poll("task_1", key)).lower()
        for part in (key, repeated, key[: len(key) // 2], quote(key, safe="")):
            assert part.lower() not in said


async def test_a_short_key_and_texts_without_one_stay_whole(server: Starting, asking: Asking) -> None:
    done = {"status": "completed", "url": "https://v.example/k", "format": "mkv"}
    failed = {"status": "failed", "error": {"code": 7, "message": "ok"}}
    got = await server(*(answer(orjson.dumps(record)) for record in (done, failed)))
    client = asking(got.url)
    assert await client.poll("task_1", "k") == TaskRecord(TaskStatus.COMPLETED, url="https://v.example/k", format="mkv")
    assert await client.poll("task_1", "k") == TaskRecord(TaskStatus.FAILED, error=Problem(7, "ok"))

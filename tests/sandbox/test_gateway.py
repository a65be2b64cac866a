"""amux's answers to requests that reach no task: faulty keys, unknown paths, and the rate limit."""

from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import orjson
import pytest

from bridge.sandbox import BehaviourError, Fault, FaultKind, GatewayFault, Sandbox
from bridge.sandbox.behaviour import parse
from tests.sandbox.harness import DONE, KEY, Amux, Clock


@pytest.fixture
async def deployed() -> AsyncIterator[Amux]:
    """Yields a stand-in whose unknown paths behave as on the real server."""
    clock = Clock()
    sandbox = Sandbox(clock=clock, dashboard=True)
    url = await sandbox.start()
    async with aiohttp.ClientSession(headers=KEY) as client:
        yield Amux(sandbox, clock, client, url)
    await sandbox.stop()


# --- keys ---------------------------------------------------------------------------------------------------------


def error_of(body: bytes) -> Any:
    return orjson.loads(body)["error"]


@pytest.mark.parametrize("status", [400, 403])
async def test_an_admins_key_with_a_dead_channel_is_refused_on_every_task_route(amux: Amux, status: int) -> None:
    task_id = amux.sandbox.create_task(DONE)
    amux.sandbox.key_faults["sk-sandbox-key"] = Fault(GatewayFault.DEAD_CHANNEL, status=status)
    for path in (f"/v1/video/generations/{task_id}", f"/v1/videos/{task_id}", "/v1/videos/unknown"):
        found, headers, body = await amux.get(path)
        request_id = headers["X-Oneapi-Request-Id"]
        assert found == status
        assert error_of(body) == {
            "message": f"Invalid channel ID (request id: {request_id})",
            "type": "new_api_error",
            "code": "",
        }
    assert (await amux.create(json={}))[0] == status
    async with amux.client.post(f"{amux.url}/suno/fetch", json={"ids": [task_id]}) as answer:
        assert answer.status == status
    assert (await amux.get(f"/v1/videos/{task_id}/content"))[0] == 200  # this route needs no channel
    amux.sandbox.key_faults.clear()
    assert (await amux.poll(task_id))[0] == 200


async def test_a_deleted_user_is_a_database_error(amux: Amux) -> None:
    amux.sandbox.outage = Fault(GatewayFault.USER_DELETED)
    status, _, body = await amux.poll("task_1")
    assert (status, error_of(body)["type"]) == (500, "new_api_error")
    assert error_of(body)["message"].startswith("Database error")


async def test_a_key_can_name_its_fault(amux: Amux) -> None:
    task_id = amux.sandbox.create_task(DONE)
    for kind, status in (("dead_channel", 400), ("quota", 401), ("typo", 200)):
        headers = {"Authorization": f"Bearer sandbox-fault-{kind}"}
        assert (await amux.get(f"/v1/videos/{task_id}", headers=headers))[0] == status


def test_a_task_can_have_the_faults_of_the_gateway_too() -> None:
    assert parse({"faults": ["dead_channel"]}).faults == (Fault(GatewayFault.DEAD_CHANNEL),)
    assert parse({"faults": ["reset"]}).faults == (Fault(FaultKind.RESET),)
    with pytest.raises(BehaviourError, match="sandbox.faults.0.kind"):
        parse({"faults": ["dead"]})


# --- other paths --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/", "/wrong/v1/video/generations/t", "//v1/videos/t", "/watch"])
async def test_a_wrong_base_path_shows_the_dashboard(deployed: Amux, path: str) -> None:
    async with deployed.client.get(deployed.url + path) as answer:
        assert (answer.status, answer.content_type) == (200, "text/html")
        assert "X-Oneapi-Request-Id" in answer.headers


@pytest.mark.parametrize("path", ["/v1/v1/videos/t", "/v1/models", "/api/v3/contents/generations/tasks/t"])
async def test_a_wrong_path_below_v1_and_api_is_a_json_404(deployed: Amux, path: str) -> None:
    status, _, body = await deployed.get(path)
    assert (status, error_of(body)["type"]) == (404, "invalid_request_error")
    assert error_of(body)["message"] == f"Invalid URL (GET {path})"


async def test_a_slash_at_the_end_redirects_to_the_route(deployed: Amux) -> None:
    status, headers, _ = await deployed.get("/v1/video/generations/task_1/")
    assert (status, headers["Location"]) == (301, "/v1/video/generations/task_1")
    assert "X-Oneapi-Request-Id" not in headers
    async with deployed.client.post(f"{deployed.url}/v1/videos/", json={}, allow_redirects=False) as answer:
        assert answer.status == 307


@pytest.mark.parametrize(
    ("path", "limit", "good"), [("/v1/nothing", 60, 404), ("/web", 60, 200), ("/api/status", 180, 200)]
)
async def test_the_rate_limit_of_other_paths_answers_with_an_empty_429(
    deployed: Amux, path: str, limit: int, good: int
) -> None:
    assert [(await deployed.get(path))[0] for _ in range(limit)] == [good] * limit
    status, headers, body = await deployed.get(path)
    assert (status, body, headers.get("Retry-After")) == (429, b"", None)
    assert "X-Oneapi-Request-Id" in headers
    assert deployed.sandbox.limited_paths == {path: 1}
    assert deployed.sandbox.unknown_paths[path] == limit + 1
    task_id = deployed.sandbox.create_task(DONE)
    assert (await deployed.poll(task_id))[0] == 200  # the task routes have no limit
    deployed.clock.now += 180
    assert (await deployed.get(path))[0] == good


async def test_without_a_dashboard_every_other_path_is_a_404(amux: Amux) -> None:
    assert [(await amux.get("/web"))[0] for _ in range(70)] == [404] * 70

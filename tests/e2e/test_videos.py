"""Videos through a whole bridge: the folder of its files, a restart, two replicas on one machine, and retention."""

import tempfile
from pathlib import Path

import pytest

import bridge.service.jobs
from bridge.sandbox.video import MP4
from bridge.store.database import sqlite_path
from tests.e2e.bridges import Bridge, runtime
from tests.e2e.harness import Environment, environment


def videos(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*") if path.is_file() and path.name != "lock"}


async def requests(bridge: Bridge, result: str) -> int:
    metrics = (await bridge.ask("GET", "/metrics")).body.decode()
    name = f'amux_bridge_content_requests_total{{result="{result}"}} '
    [line] = [line for line in metrics.splitlines() if line.startswith(name)]
    return int(float(line.removeprefix(name)))


async def read_video(bridge: Bridge, watch: str) -> None:
    answer = await bridge.ask("GET", f"/watch/{watch}/content")
    assert (answer.status, answer.body, answer.headers["Accept-Ranges"]) == (200, MP4, "bytes")


@pytest.fixture
def folder(env: Environment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Returns the folder in which a bridge keeps videos by default."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    if env.database_url.startswith("sqlite"):
        return sqlite_path(env.database_url).parent / "content"
    return temporary


async def test_a_restarted_bridge_serves_its_files_and_retention_removes_them(
    env: Environment, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with runtime(env.database_url, env.amux_url) as running:
        watch = await running.register(env.finished_task(), env.receiver.url)
        await running.final(watch)
        await read_video(running, watch)
        await running.until("GET", "/metrics", lambda _: videos(folder) == {watch})
        await env.receiver.wait_for_events([watch])
    async with runtime(env.database_url, env.amux_url) as running:
        await read_video(running, watch)
        assert await requests(running, "hit") == 1
    monkeypatch.setattr(bridge.service.jobs, "RETENTION_SWEEP_SECONDS", 0.1)
    async with runtime(env.database_url, env.amux_url, retention_seconds="0.001") as running:
        await running.until("GET", f"/watch/{watch}", lambda answer: answer.status == 404)
        await running.until("GET", "/healthz", lambda _: not videos(folder))


async def test_a_bridge_that_kept_nothing_leaves_no_folder_behind(env: Environment, folder: Path) -> None:
    async with runtime(env.database_url, env.amux_url):
        assert len(list(folder.iterdir())) == 1
    assert list(folder.iterdir()) == []


async def test_a_configured_folder_is_used(env: Environment, tmp_path: Path) -> None:
    own = tmp_path / "videos"
    settings = {"content_cache_folder": str(own), "content_cache_bytes": "5000"}
    async with runtime(env.database_url, env.amux_url, **settings) as bridge:
        watches = await bridge.register_many([env.finished_task(), env.finished_task()], env.receiver.url)
        for watch in watches:
            await bridge.final(watch)
            await read_video(bridge, watch)
            await bridge.until("GET", "/healthz", lambda _, watch=watch: videos(own) == {watch})  # type: ignore[misc]
    assert own.stat().st_mode & 0o777 == 0o700


async def test_a_bridge_whose_cache_is_switched_off_passes_videos_through(env: Environment, folder: Path) -> None:
    async with runtime(env.database_url, env.amux_url, content_cache_bytes="0") as bridge:
        watch = await bridge.register(env.finished_task(), env.receiver.url)
        await bridge.final(watch)
        answer = await bridge.ask("GET", f"/watch/{watch}/content")
        assert (answer.status, answer.body, answer.headers["Accept-Ranges"]) == (200, MP4, "none")
        assert await requests(bridge, "passed_through") == 1
    assert videos(folder) == set()


@pytest.mark.long
async def test_two_replicas_on_one_machine_keep_their_own_files(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    async with (
        environment(postgres_url) as env,
        runtime(env.database_url, env.amux_url) as one,
        runtime(env.database_url, env.amux_url) as other,
    ):
        watch = await one.register(env.finished_task(), env.receiver.url)
        await one.final(watch)
        for bridge in (one, other):
            await read_video(bridge, watch)
        await one.until("GET", "/healthz", lambda _: len(list(tmp_path.rglob(watch))) == 2)

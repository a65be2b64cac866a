"""A container with a read-only root file system, with one volume or, on PostgreSQL, with none."""

from pathlib import Path
from typing import Any

import pytest

from bridge.sandbox.video import MP4
from tests.databases import PostgresServer
from tests.e2e.bridges import FAST_SETTINGS
from tests.e2e.harness import Environment
from tests.field.harness import check_works, read_only_root, serving, with_mounts

KEYS = FAST_SETTINGS["encryption_keys"]


@pytest.mark.long
async def test_one_writable_volume_is_enough(folder: Path, env: Environment) -> None:
    async with serving(folder, env, prefix=with_mounts(*read_only_root(folder))) as (running, bridge):
        watch = await check_works(env, bridge)
        video = await bridge.ask("GET", f"/watch/{watch}/content")
        assert (video.status, video.body) == (200, MP4)
        await running.stop()


@pytest.mark.long
async def test_a_replica_on_postgresql_needs_no_writable_folder(
    folder: Path, env: Environment, postgres_server: PostgresServer
) -> None:
    settings: dict[str, Any] = {
        "database_url": postgres_server.empty(),
        "encryption_keys": FAST_SETTINGS["encryption_keys"],
    }
    async with serving(folder, env, prefix=with_mounts(*read_only_root()), **settings) as (running, bridge):
        watch = await check_works(env, bridge)
        video = await bridge.ask("GET", f"/watch/{watch}/content")
        assert (video.status, video.body) == (200, MP4)
        assert [line["event"] for line in running.lines].count("content_cache_unused") == 1
        await running.stop()

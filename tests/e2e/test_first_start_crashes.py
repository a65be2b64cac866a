"""Tests that nothing is lost during the first start, with a SIGKILL at each step and with four starts at once."""

import asyncio
import signal
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest

from tests.databases import PostgresServer
from tests.e2e.bridges import SHORT_LEASE, check_all_delivered, connect_to, process, serving
from tests.e2e.harness import environment
from tests.waiting import SAFETY_SECONDS


@pytest.mark.parametrize(
    "point",
    [
        "the key file is empty",
        "the schema is half made",
        pytest.param("the schema is made, not committed", marks=pytest.mark.long),
        pytest.param("the schema is committed", marks=pytest.mark.long),
        pytest.param("the database is open", marks=pytest.mark.long),
    ],
)
async def test_after_a_crash_in_the_first_start_the_second_one_serves(tmp_path: Path, point: str) -> None:
    database_url = f"sqlite:///{tmp_path}/new.db"
    async with environment(database_url, clock=time.monotonic) as env:
        own = {"encryption_keys": "", "signing_secrets": ""}
        async with process(database_url, env.amux_url, {"crash": point}, **own) as started:
            assert await started.wait_for_exit() == -signal.SIGKILL
        async with process(database_url, env.amux_url, **own) as started:
            listening = await started.wait_for_log("listening")
            async with connect_to(listening["url"]) as bridge:
                watch = await bridge.register(env.finished_task(), env.receiver.url)
                await env.receiver.wait_for_events([watch])
            started.signal(signal.SIGTERM)
            assert await started.wait_for_exit() == 0
        check_all_delivered(database_url, [watch])
        with closing(sqlite3.connect(tmp_path / "new.db")) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


@pytest.mark.long
@pytest.mark.parametrize(
    "point",
    ["the schema is half made", "the schema is made, not committed", "the schema is committed", "the database is open"],
)
async def test_on_postgresql_after_a_crash_in_the_first_start_the_second_one_serves(
    postgres_server: PostgresServer, point: str
) -> None:
    async with environment(postgres_server.empty(), clock=time.monotonic) as env:
        async with process(env.database_url, env.amux_url, {"crash": point}) as started:
            assert await started.wait_for_exit() == -signal.SIGKILL
        async with serving(env.database_url, env.amux_url, SHORT_LEASE) as (started, bridge):
            watch = await bridge.register(env.finished_task(), env.receiver.url)
            await env.receiver.wait_for_events([watch])
            started.signal(signal.SIGTERM)
            assert await started.wait_for_exit() == 0
        check_all_delivered(env.database_url, [watch])
        env.receiver.check_copies()


async def test_of_four_starts_at_once_on_one_file_one_serves(tmp_path: Path) -> None:
    database_url = f"sqlite:///{tmp_path}/new.db"

    async def start() -> str:
        async with process(database_url, "http://127.0.0.1:9") as started:
            listening = asyncio.ensure_future(started.wait_for_log("listening"))
            refused = asyncio.ensure_future(started.wait_for_log("refused"))
            done, waiting = await asyncio.wait({listening, refused}, return_when=asyncio.FIRST_COMPLETED)
            for one in waiting:
                one.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
            line = done.pop().result()
            if line["event"] == "refused":
                return str(line["reason"])
            serving_one.set()
            await others_done.wait()
            return "serving"

    serving_one, others_done = asyncio.Event(), asyncio.Event()
    starts = [asyncio.create_task(start()) for _ in range(4)]
    await asyncio.wait_for(serving_one.wait(), SAFETY_SECONDS)
    pending = set(starts)
    while len(pending) > 1:
        _, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED, timeout=SAFETY_SECONDS)
    others_done.set()
    results = sorted(await asyncio.gather(*starts))
    assert results.count("serving") == 1
    assert all("another bridge uses" in reason for reason in results if reason != "serving"), results

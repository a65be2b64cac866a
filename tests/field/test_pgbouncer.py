"""PgBouncer between the bridge and PostgreSQL, in each of its modes."""

import signal
from pathlib import Path
from typing import Any

import pytest

from tests.databases import PostgresServer
from tests.e2e.bridges import FAST_SETTINGS
from tests.e2e.harness import Environment
from tests.field.harness import check_works, program, serving
from tests.poolers import pgbouncer

KEYS = FAST_SETTINGS["encryption_keys"]


@pytest.mark.long
@pytest.mark.parametrize("mode", ["session", "transaction"])
async def test_a_bridge_and_its_successor_work_through_a_pooler(
    folder: Path, env: Environment, postgres_server: PostgresServer, mode: str
) -> None:
    with pgbouncer(postgres_server.empty(), mode) as url:
        watches: list[str] = []
        for _ in range(2):
            async with serving(folder, env, database_url=url, encryption_keys=KEYS) as (running, bridge):
                for earlier in watches:
                    assert (await bridge.watch(earlier))["state"] == "settled"
                watches += [await check_works(env, bridge) for _ in range(3)]
                await running.stop()
                # All statements of the start, of adoption and of the stop succeeded. The one allowed warning is that of
                # a slow start.
                bad = [line for line in running.lines if line["level"] in {"warning", "error"}]
                assert not [line for line in bad if "does not answer yet" not in line.get("reason", "")], running.raw


@pytest.mark.long
async def test_a_pooler_in_statement_mode_is_refused_in_one_sentence(
    folder: Path, env: Environment, postgres_server: PostgresServer
) -> None:
    with pgbouncer(postgres_server.empty(), "statement") as url:
        async with program(folder, amux_base_url=env.amux_url, database_url=url, encryption_keys=KEYS) as refused:
            assert await refused.wait_for_exit() != 0
            refusals = [line["reason"] for line in refused.lines if line["event"] == "start_refused"]
            assert len(refusals) == 1, refused.raw
            assert "statement" in refusals[0]
            refused.check_no_exceptions()


@pytest.mark.long
async def test_a_replica_takes_over_the_tasks_of_a_dead_one_through_a_pooler(
    folder: Path, env: Environment, postgres_server: PostgresServer
) -> None:
    with pgbouncer(postgres_server.empty(), "transaction") as url:
        settings: dict[str, Any] = {"database_url": url, "encryption_keys": KEYS}
        async with serving(folder, env, **settings) as (one, first):
            tasks = [env.running_task() for _ in range(20)]
            watches = await first.register_many(tasks, env.receiver.url)
            await env.wait_for_polls(*tasks)
            async with serving(folder, env, **settings) as (two, second):
                one.signal(signal.SIGKILL)
                assert await one.wait_for_exit() != 0
                env.clock.now += 60
                for watch in watches:
                    assert (await second.final(watch))["outcome"] == "completed"
                await env.receiver.until(lambda: set(watches) <= env.receiver.ended_watches)
                await two.stop()

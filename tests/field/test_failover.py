"""PostgreSQL fails over: open sessions become read-only, or the server restarts or refuses more connections."""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.databases import NoServer, PostgresServer, running_server
from tests.e2e.bridges import FAST_SETTINGS, Bridge
from tests.e2e.harness import Environment
from tests.field.harness import check_works, serving
from tests.field.standby import primary_and_standby
from tests.programs import skip_or_fail
from tests.waiting import SAFETY_SECONDS

KEYS = FAST_SETTINGS["encryption_keys"]
RECOVERY_SECONDS = 15.0  # normally a few seconds; the rest is for a busy machine


@pytest.fixture(scope="module")
def own_server() -> Iterator[PostgresServer]:
    """A server whose settings a test may change."""
    try:
        with running_server() as server:
            yield server
    except NoServer as missing:
        skip_or_fail(str(missing))


async def until_registered(env: Environment, bridge: Bridge) -> float:
    """Registers watches until one is accepted. Returns the seconds until then. Fails if a status is not 201 or 503."""
    began = time.monotonic()
    async with asyncio.timeout(SAFETY_SECONDS):
        while True:
            body = {"task_id": env.finished_task(), "callback_url": env.receiver.url}
            answer = await bridge.ask("POST", "/watch", json=body)
            assert answer.status in {201, 503}, answer
            if answer.status == 201:
                return time.monotonic() - began
            assert answer.json["code"] == "store_unavailable"
            assert answer.seconds < 5.5


@pytest.mark.long
async def test_sessions_that_became_read_only_are_dropped(
    folder: Path, env: Environment, own_server: PostgresServer
) -> None:
    own_server.execute("CREATE ROLE bridge LOGIN SUPERUSER")
    url = own_server.empty().replace("postgres@", "bridge@")
    async with serving(folder, env, database_url=url, encryption_keys=KEYS) as (running, bridge):
        await check_works(env, bridge)
        # New sessions of the role may write, and open sessions become read-only. A failover behind the same address
        # has the same effect.
        own_server.execute("ALTER ROLE bridge SET default_transaction_read_only = off")
        own_server.execute("ALTER SYSTEM SET default_transaction_read_only = on")
        own_server.execute("SELECT pg_reload_conf()")
        try:
            assert await until_registered(env, bridge) < RECOVERY_SECONDS
            await check_works(env, bridge)
            await bridge.until("GET", "/readyz", lambda answer: answer.status == 200)
        finally:
            own_server.execute("ALTER SYSTEM RESET default_transaction_read_only")
            own_server.execute("SELECT pg_reload_conf()")
        await running.stop()


def end_sessions(server: PostgresServer, name: str) -> None:
    server.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")  # noqa: S608


@pytest.mark.long
@pytest.mark.parametrize("way", ["restart", "sessions ended"])
async def test_a_server_that_ends_its_sessions_costs_seconds(
    folder: Path, env: Environment, own_server: PostgresServer, way: str
) -> None:
    url = own_server.empty()
    async with serving(folder, env, database_url=url, encryption_keys=KEYS) as (running, bridge):
        await check_works(env, bridge)
        if way == "restart":
            await asyncio.to_thread(own_server.restart)
        else:
            end_sessions(own_server, url.rpartition("/")[2])
        assert await until_registered(env, bridge) < RECOVERY_SECONDS
        await check_works(env, bridge)
        await running.stop()


@pytest.mark.long
async def test_a_server_that_takes_no_more_connections_is_waited_for(
    folder: Path, env: Environment, own_server: PostgresServer
) -> None:
    url = own_server.empty().replace("postgres@", "app@")
    name = url.rpartition("/")[2]
    own_server.execute("CREATE ROLE app LOGIN")  # connection limits do not apply to superusers
    own_server.execute(f"ALTER DATABASE {name} OWNER TO app")
    async with serving(folder, env, database_url=url, encryption_keys=KEYS) as (running, bridge):
        await check_works(env, bridge)
        own_server.execute(f"ALTER DATABASE {name} CONNECTION LIMIT 0")
        end_sessions(own_server, name)
        await bridge.unready("too many connections")
        body = {"task_id": env.finished_task(), "callback_url": env.receiver.url}
        assert (await bridge.ask("POST", "/watch", json=body)).status == 503
        own_server.execute(f"ALTER DATABASE {name} CONNECTION LIMIT -1")
        assert await until_registered(env, bridge) < RECOVERY_SECONDS
        await check_works(env, bridge)
        await running.stop()


@pytest.mark.long
async def test_a_standby_that_takes_over_is_used_and_has_every_watch(folder: Path, env: Environment) -> None:
    try:
        with primary_and_standby() as pair:
            pair.primary.execute("CREATE DATABASE bridge")
            url = f"postgres://postgres@127.0.0.1:{pair.primary.port},127.0.0.1:{pair.standby.port}/bridge"
            async with serving(folder, env, database_url=url, encryption_keys=KEYS) as (running, bridge):
                settled = await check_works(env, bridge)
                waiting = await bridge.register(env.running_task(), env.receiver.url)
                await asyncio.to_thread(pair.fail_over)
                assert await until_registered(env, bridge) < RECOVERY_SECONDS
                assert (await bridge.watch(settled))["state"] == "settled"
                env.clock.now += 60
                assert (await bridge.final(waiting))["outcome"] == "completed"
                await check_works(env, bridge)
                await running.stop()
    except NoServer as missing:
        skip_or_fail(str(missing))

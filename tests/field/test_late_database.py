"""PostgreSQL comes up after the bridge, answers on the second of several hosts, or is behind a pooler that restarts."""

from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

from tests.databases import PostgresServer
from tests.e2e.bridges import FAST_SETTINGS, connect_to
from tests.e2e.harness import Environment
from tests.field.harness import check_works, program, serving
from tests.field.relay import relay
from tests.ports import free_port

pytestmark = pytest.mark.long
KEYS = FAST_SETTINGS["encryption_keys"]


async def test_a_start_waits_for_the_database_and_says_so_once(
    folder: Path, env: Environment, postgres_server: PostgresServer
) -> None:
    port, url = free_port(), make_url(postgres_server.empty())
    late = url.set(port=port, drivername="postgres").render_as_string(hide_password=False)
    async with program(folder, amux_base_url=env.amux_url, database_url=late, encryption_keys=KEYS) as running:
        await running.wait_for_log("waiting_for_database")
        async with relay(postgres_server.port, port=port):
            listening = await running.wait_for_log("listening")
            async with connect_to(listening["url"]) as bridge:
                await check_works(env, bridge)
                assert [line["event"] for line in running.lines].count("waiting_for_database") == 1
                await running.stop()


async def test_the_host_of_several_that_answers_is_used(
    folder: Path, env: Environment, postgres_server: PostgresServer
) -> None:
    name = postgres_server.empty().rpartition("/")[2]
    url = f"postgres://postgres@127.0.0.1:{free_port()},127.0.0.1:{postgres_server.port}/{name}"
    async with serving(folder, env, database_url=url, encryption_keys=KEYS) as (running, bridge):
        await check_works(env, bridge)
        await running.stop()


async def test_what_stands_between_may_break_off_and_come_back(
    folder: Path, env: Environment, postgres_server: PostgresServer
) -> None:
    """While a pooler or a proxy restarts, the bridge answers with 503. After that it works again."""
    port = free_port()
    url = make_url(postgres_server.empty()).set(port=port).render_as_string(hide_password=False)
    async with relay(postgres_server.port, port=port):
        serve = serving(folder, env, database_url=url, encryption_keys=KEYS)
        running, bridge = await serve.__aenter__()
    try:
        body = {"task_id": env.finished_task(), "callback_url": env.receiver.url}
        refused = await bridge.ask("POST", "/watch", json=body)
        assert (refused.status, refused.json["code"]) == (503, "store_unavailable")
        assert refused.seconds < 5.5
        await bridge.until("GET", "/readyz", lambda answer: answer.status == 503)
        assert (await bridge.ask("GET", "/healthz")).status == 200
        async with relay(postgres_server.port, port=port):
            await bridge.until("GET", "/readyz", lambda answer: answer.status == 200)
            await check_works(env, bridge)
            await running.stop()
    finally:
        await serve.__aexit__(None, None, None)

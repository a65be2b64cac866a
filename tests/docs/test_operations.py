"""The commands of docs/operations.md work unchanged, with a running bridge and the stand-in for amux."""

import json
import re
import sqlite3
import stat

import pytest
from standardwebhooks import Webhook
from yarl import URL

from bridge.sandbox import Behaviour
from tests.databases import PostgresServer
from tests.docs.harness import DOCS, Workspace, block
from tests.e2e.receiver import receiving
from tests.programs import program

OPERATIONS = DOCS / "operations.md"
SERVE = "AMUX_API_KEY=sk-... BRIDGE_CALLBACK_ALLOW_NETWORKS=127.0.0.0/8 amux-bridge serve"


@pytest.mark.long
async def test_a_sidecar_sends_callbacks_to_loopback(workspace: Workspace) -> None:
    async with (
        workspace.running(block(OPERATIONS, "sh", "127.0.0.0/8,::1/128 amux-bridge serve"), '"listening"'),
        receiving() as receiver,
    ):
        watch = await workspace.register(receiver.url)
        await receiver.wait_for_events([watch])


@pytest.mark.long
async def test_replicas_share_one_env_file(workspace: Workspace, postgres_server: PostgresServer) -> None:
    written = block(OPERATIONS, "sh", "cat > .env").replace(
        "postgresql://bridge:...@db/bridge", postgres_server.empty()
    )
    await workspace.run(written)
    [token] = re.findall(r"^BRIDGE_TOKENS=shop:(\w+)$", (workspace.folder / ".env").read_text(), re.MULTILINE)
    other = Workspace(workspace.folder, workspace.amux, {**workspace.environ, "BRIDGE_PORT": "0"}, 0, 0)
    opened = {"BRIDGE_CALLBACK_ALLOW_NETWORKS": "127.0.0.0/8"}
    async with (
        workspace.running("amux-bridge serve", '"listening"', **opened),
        other.running("amux-bridge serve", '"listening"', **opened) as second,
        receiving() as receiver,
    ):
        watch = await workspace.register(receiver.url, token)
        other.port = URL(json.loads(await second.line_with('"listening"'))["url"]).port or 0
        assert (await other.request("GET", f"/watch/{watch}?wait_seconds=30", token))["outcome"] == "completed"
        await receiver.wait_for_events([watch])


@pytest.mark.long
async def test_a_backup_of_a_running_bridge_restores_everything(workspace: Workspace) -> None:
    secret = (await workspace.run("amux-bridge secret new")).strip()
    task = workspace.amux.create_task(Behaviour(queue_seconds=0, run_seconds=3600))
    async with receiving() as receiver:
        async with workspace.running(SERVE, '"listening"'):
            watch = await workspace.register(receiver.url, task_id=task, secret=secret)
            await workspace.run(block(OPERATIONS, "sh", "700 backup && amux-bridge backup backup/bridge.db\n"))
            workspace.amux.change(task, Behaviour(queue_seconds=0, run_seconds=0))
            await receiver.wait_for_events([watch])
        for name in ("bridge.db", "bridge.key"):
            assert stat.S_IMODE((workspace.folder / "backup" / name).stat().st_mode) == 0o600
        (workspace.folder / "bridge.key").write_text("lost")
        (workspace.folder / "bridge.db").write_text("lost")
        await workspace.run(block(OPERATIONS, "sh", "rm -f bridge.db"))
        with sqlite3.connect(workspace.folder / "bridge.db") as copy:
            assert copy.execute("SELECT state FROM watches").fetchall() == [("active",)]
        copy.close()
        async with workspace.running(SERVE, '"listening"'):
            await receiver.until(lambda: len(receiver.arrived) == 2)
        calls = receiver.arrived
        assert len({call.id for call in calls}) == 1
        for call in calls:
            Webhook(secret).verify(call.body, call.headers)


@pytest.mark.long
async def test_a_dump_of_postgresql_restores_everything(workspace: Workspace, postgres_server: PostgresServer) -> None:
    program("pg_dump", "postgresql-client")
    key = (await workspace.run("amux-bridge secret new --kind encryption-key")).strip()
    kept = {"BRIDGE_DATABASE_URL": postgres_server.empty(), "BRIDGE_ENCRYPTION_KEYS": key}
    task = workspace.amux.create_task(Behaviour(queue_seconds=0, run_seconds=3600))
    async with receiving() as receiver:
        async with workspace.running(SERVE, '"listening"', **kept):
            watch = await workspace.register(receiver.url, task_id=task)
            await workspace.run(block(OPERATIONS, "sh", "pg_dump"), **kept)
            workspace.amux.change(task, Behaviour(queue_seconds=0, run_seconds=0))
            await receiver.wait_for_events([watch])
        await workspace.run(block(OPERATIONS, "sh", "pg_restore"), **kept)
        async with workspace.running(SERVE, '"listening"', **kept):
            await receiver.until(lambda: len(receiver.arrived) == 2)
    assert len({(call.id, call.watch_id) for call in receiver.arrived}) == 1

"""The README's shell blocks, typed as they stand, beside a bridge that runs, and amux's stand-in."""

import asyncio
import json
import re
import shutil
import sqlite3
import stat
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from standardwebhooks import Webhook
from yarl import URL

from bridge.sandbox import Behaviour
from tests.databases import PostgresServer
from tests.docs.harness import ROOT, Newcomer, block, blocks, newcomer, text
from tests.e2e.receiver import receiving
from tests.programs import program

SERVE = "AMUX_API_KEY=sk-... BRIDGE_CALLBACK_ALLOW_NETWORKS=127.0.0.0/8 amux-bridge serve"
# A few words of each block, and what runs it. Those with an engine are read by a shell here, and what they start is
# run by tests/image.
RUN_BY = {
    "amux-bridge demo": "test_the_first_command_shows_what_is_printed",
    f"{SERVE}\n": "test_use_it_for_real",
    "amux-bridge listen --port": "test_use_it_for_real",
    "amux-bridge watch task_": "test_use_it_for_real",
    "curl -s": "test_use_it_for_real",
    "amux-bridge serve --sandbox": "test_without_a_key",
    "amux-bridge listen --task": "test_without_a_key",
    "openssl dgst": "test_the_shell_check_tells_good_from_bad",
    "docker run": "tests/image/run_image.py",
    "docker exec": "tests/image/run_image.py",
    "127.0.0.0/8,::1/128 amux-bridge serve": "test_the_sidecar_calls_back_to_loopback",
    "cat > .env": "test_replicas_share_one_env_file",
    ".backup '": "test_a_copy_of_a_running_bridge_brings_everything_back",
    "pg_dump": "test_a_dump_of_postgresql_brings_everything_back",
    "pg_restore": "test_a_dump_of_postgresql_brings_everything_back",
    "rm -f bridge.db": "test_a_copy_of_a_running_bridge_brings_everything_back",
    ".venv/bin/pytest -n 3\n": ".ci/run",
}


@pytest.fixture
async def at(tmp_path: Path) -> AsyncIterator[Newcomer]:
    async with newcomer(tmp_path) as made:
        yield made


def test_each_block_is_run_by_a_test() -> None:
    sources = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    for one in blocks("sh"):
        subprocess.run(["/bin/sh", "-n"], input=one, text=True, check=True)
        [runner] = [runner for words, runner in RUN_BY.items() if words in one]
        assert f"def {runner}(" in sources or (ROOT / runner).is_file(), runner
    assert len(RUN_BY) == len(blocks("sh"))


# --- see it work --------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_the_first_command_shows_what_is_printed(tmp_path: Path) -> None:
    for name in ("bridge", "pyproject.toml", "README.md", "LICENSE"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)
    # The interpreter of this run may have another name than the newcomer's.
    words = block("sh", "amux-bridge demo").replace("python3 ", f"{sys.executable} ")
    done = subprocess.run(["/bin/sh", "-ec", words], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    printed = {_masked(line) for line in done.stdout.splitlines()}
    [sample] = re.findall(r"^```\n(amux stand-in.*?)^```$", text(), re.MULTILINE | re.DOTALL)
    assert [line for line in sample.splitlines() if _masked(line) not in {*printed, "...", ""}] == []


def _masked(line: str) -> str:
    """A line without what differs from run to run, and without the columns' widths."""
    line = re.sub(r"task_[0-9a-f]+", "task", re.sub(r"127\.0\.0\.1:\d+", "host", line))
    return " ".join(re.sub(r"\b\d+\.\d s\b", "seconds", line).split())


# --- use it for real ----------------------------------------------------------------------------------------------


async def test_use_it_for_real(at: Newcomer) -> None:
    program("curl", "curl")
    first, second = (at.amux.create_task(Behaviour(queue_seconds=0, run_seconds=0.5)) for _ in range(2))
    async with (
        at.going(block("sh", f"{SERVE}\n"), '"listening"') as bridge,
        at.going(block("sh", "amux-bridge listen --port"), "listening on") as receiver,
    ):
        watched = await at.run(block("sh", "amux-bridge watch task_"), first)
        assert watched.splitlines()[-2:] == [f"{first} completed", "video.completed was delivered"]
        assert "video.completed" in await receiver.says("verified")
        watch = json.loads(await at.run(block("sh", "curl -s"), second))
        assert (watch["task_id"], watch["state"], watch["context"]) == (second, "active", {"order": 17})
        assert watch["deliveries"] == []
        await receiver.says(second)
        ping = at.run(f"amux-bridge ping {at.hook_url}", BRIDGE_CALLBACK_ALLOW_NETWORKS="127.0.0.0/8")
        await asyncio.gather(at.run("amux-bridge check"), ping)
    assert json.loads(bridge.lines[-1])["event"] == "stopped"
    assert not [line for line in receiver.lines if "NOT VERIFIED" in line]


@pytest.mark.long
async def test_without_a_key(at: Newcomer) -> None:
    async with at.going(block("sh", "serve --sandbox"), "sandbox_listening"):
        told = await at.run(block("sh", "listen --task"))
        assert re.search(r"^verified .*video\.completed", told, re.MULTILINE), told


async def test_the_small_commands_that_it_names(at: Newcomer) -> None:
    named = set(re.findall(r"`(amux-bridge [^`]+)`", text()))
    needs_more = {"amux-bridge check", "amux-bridge ping URL", "amux-bridge secret rotate", "amux-bridge retry"}
    starts = {words for words in named if re.match(r"amux-bridge (serve|demo)", words)}
    run = sorted(named - needs_more - starts)
    assert len(run) >= 5
    for words in run:
        assert await at.run(words), words


# --- run it -------------------------------------------------------------------------------------------------------


@pytest.mark.long
async def test_the_sidecar_calls_back_to_loopback(at: Newcomer) -> None:
    async with at.going(block("sh", "127.0.0.0/8,::1/128 amux-bridge serve"), '"listening"'), receiving() as receiver:
        watch = await at.registered(receiver.url)
        await receiver.wait_for_events([watch])


@pytest.mark.long
async def test_replicas_share_one_env_file(at: Newcomer, postgres_server: PostgresServer) -> None:
    written = block("sh", "cat > .env").replace("postgresql://bridge:...@db/bridge", postgres_server.empty())
    await at.run(written)
    [token] = re.findall(r"^BRIDGE_TOKENS=shop:(\w+)$", (at.folder / ".env").read_text(), re.MULTILINE)
    other = Newcomer(at.folder, at.amux, {**at.environ, "BRIDGE_PORT": "0"}, 0, 0)
    opened = {"BRIDGE_CALLBACK_ALLOW_NETWORKS": "127.0.0.0/8"}
    async with (
        at.going("amux-bridge serve", '"listening"', **opened),
        other.going("amux-bridge serve", '"listening"', **opened) as second,
        receiving() as receiver,
    ):
        watch = await at.registered(receiver.url, token)
        other.port = URL(json.loads(await second.says('"listening"'))["url"]).port or 0
        assert (await other.asked("GET", f"/watch/{watch}?wait_seconds=30", token))["outcome"] == "completed"
        await receiver.wait_for_events([watch])


@pytest.mark.long
async def test_a_copy_of_a_running_bridge_brings_everything_back(at: Newcomer) -> None:
    program("sqlite3", "sqlite3")
    secret = (await at.run("amux-bridge secret new")).strip()
    task = at.amux.create_task(Behaviour(queue_seconds=0, run_seconds=3600))
    async with receiving() as receiver:
        async with at.going(block("sh", f"{SERVE}\n"), '"listening"'):
            watch = await at.registered(receiver.url, task_id=task, secret=secret)
            await at.run(block("sh", ".backup '"))
            at.amux.change(task, Behaviour(queue_seconds=0, run_seconds=0))
            await receiver.wait_for_events([watch])
        for name in ("backup.db", "backup.key"):
            assert stat.S_IMODE((at.folder / name).stat().st_mode) == 0o600
        (at.folder / "bridge.key").write_text("lost")
        (at.folder / "bridge.db").write_text("lost")
        await at.run(block("sh", "rm -f bridge.db"))
        with sqlite3.connect(at.folder / "bridge.db") as copy:
            assert copy.execute("SELECT state FROM watches").fetchall() == [("active",)]
        copy.close()
        async with at.going(block("sh", f"{SERVE}\n"), '"listening"'):
            await receiver.until(lambda: len(receiver.arrived) == 2)
        calls = receiver.arrived
        assert len({call.id for call in calls}) == 1
        for call in calls:
            Webhook(secret).verify(call.body, call.headers)


@pytest.mark.long
async def test_a_dump_of_postgresql_brings_everything_back(at: Newcomer, postgres_server: PostgresServer) -> None:
    program("pg_dump", "postgresql-client")
    key = (await at.run("amux-bridge secret new --kind encryption-key")).strip()
    kept = {"BRIDGE_DATABASE_URL": postgres_server.empty(), "BRIDGE_ENCRYPTION_KEYS": key}
    task = at.amux.create_task(Behaviour(queue_seconds=0, run_seconds=3600))
    async with receiving() as receiver:
        async with at.going(block("sh", f"{SERVE}\n"), '"listening"', **kept):
            watch = await at.registered(receiver.url, task_id=task)
            await at.run(block("sh", "pg_dump"), **kept)
            at.amux.change(task, Behaviour(queue_seconds=0, run_seconds=0))
            await receiver.wait_for_events([watch])
        await at.run(block("sh", "pg_restore"), **kept)
        async with at.going(block("sh", f"{SERVE}\n"), '"listening"', **kept):
            await receiver.until(lambda: len(receiver.arrived) == 2)
    assert len({(call.id, call.watch_id) for call in receiver.arrived}) == 1

"""A start waits for a database that is not up or does not answer, and a signal can stop it."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from bridge.core.errors import StoreUnavailable
from bridge.service import process
from bridge.service.runtime import Runtime
from bridge.settings.settings import env_name, load
from tests.databases import PostgresServer
from tests.e2e.bridges import FAST_SETTINGS
from tests.ports import free_port
from tests.replicas.harness import run_proxy
from tests.waiting import SAFETY_SECONDS


@asynccontextmanager
async def serve(folder: Path, **settings: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Runs the command `serve`, and kills it at the end if it still runs."""
    texts = {**FAST_SETTINGS, "amux_base_url": "http://127.0.0.1:9", **settings}
    own = {"PATH": os.environ["PATH"], "TMPDIR": str(folder)}
    variables = {**own, **{env_name(name): value for name, value in texts.items()}}
    command = [sys.executable, "-m", "bridge", "serve"]
    pipe = asyncio.subprocess.PIPE
    running = await asyncio.create_subprocess_exec(*command, env=variables, cwd=folder, stdout=pipe, stderr=pipe)
    try:
        yield running
    finally:
        if running.returncode is None:
            running.kill()
            await running.communicate()


async def wait_for_line(running: asyncio.subprocess.Process, event: str) -> dict[str, object]:
    assert running.stdout is not None
    async with asyncio.timeout(SAFETY_SECONDS):
        while line := await running.stdout.readline():
            fields: dict[str, object] = json.loads(line)
            if fields["event"] == event:
                return fields
    raise AssertionError(f"ended without {event}: {await running.communicate()}")


@pytest.mark.parametrize("silent_after", [None, 0, 5])
async def test_sigterm_ends_a_start_that_waits_for_a_silent_or_missing_server(
    postgres_server: PostgresServer, tmp_path: Path, silent_after: int | None
) -> None:
    url = postgres_server.migrated()
    async with run_proxy(url) as proxy:
        proxy.silent_after = silent_after
        used = proxy.url(url) if silent_after is not None else f"postgres://postgres@127.0.0.1:{free_port()}/db"
        async with serve(tmp_path, database_url=used, database_wait_seconds="600") as running:
            line = await wait_for_line(running, "waiting_for_database")
            assert line["seconds_at_most"] == 600
            running.send_signal(signal.SIGTERM)
            async with asyncio.timeout(SAFETY_SECONDS):  # less than the wait for the database
                lines, errors = await running.communicate()
            assert (running.returncode, errors) == (0, b"")
            assert [json.loads(text)["event"] for text in lines.splitlines()] == ["stopped"]


async def test_a_start_that_gives_up_says_why_in_one_sentence(tmp_path: Path) -> None:
    url = f"postgres://u:hidden@127.0.0.1:{free_port()}/db"
    async with serve(tmp_path, database_url=url, database_wait_seconds="0.2") as running:
        async with asyncio.timeout(SAFETY_SECONDS):
            lines, errors = await running.communicate()
    assert running.returncode == 1
    assert b"the database did not open within " in errors
    assert errors.count(b"\n") == 1
    assert b"hidden" not in lines + errors


@pytest.mark.parametrize("error", [StoreUnavailable("the disk is full"), RuntimeError("a bug")])
async def test_a_start_that_fails_after_it_was_stopped_says_why(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    began = asyncio.Event()

    async def start(_: object) -> None:
        """Waits until it is cancelled, then raises the error, like a start that cannot close what it has opened."""
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            raise error

    monkeypatch.setattr(Runtime, "start", start)
    stop = asyncio.Event()
    settings = load(None, **{**FAST_SETTINGS, "database_url": f"sqlite:///{tmp_path / 'bridge.db'}"})
    starting = asyncio.create_task(process._start_unless(stop, settings))
    await began.wait()
    stop.set()
    assert await starting is None
    [line] = [line for line in caplog.records if line.getMessage() == "start_failed"]
    assert line.__dict__["bridge_fields"]["reason"] == str(error)

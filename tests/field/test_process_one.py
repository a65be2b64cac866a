"""The bridge as process 1 of a container, for which the kernel has no default action for signals."""

import asyncio
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.harness import Environment
from tests.field.harness import Program, check_works, need, program, serving
from tests.waiting import SAFETY_SECONDS

PREFIX = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
MOMENTS = ("python", "_pydantic_core", "orjson", "uvloop", "sqlalchemy")


@pytest.fixture(autouse=True)
def namespaces() -> None:
    need(*PREFIX, "true")


async def until_loaded(running: Program, library: str) -> None:
    """Waits until the process handles SIGTERM and has loaded a library."""
    async with asyncio.timeout(SAFETY_SECONDS):
        while not await asyncio.to_thread(is_loaded, running, library):
            await asyncio.sleep(0.001)  # a pause between two checks, not a wait for an effect


def is_loaded(running: Program, library: str) -> bool:
    if running.bridge_pid == running.pid:  # unshare has not started it yet
        return False
    folder = Path(f"/proc/{running.bridge_pid}")
    [caught] = [line for line in (folder / "status").read_text().splitlines() if line.startswith("SigCgt:")]
    return bool(int(caught.split()[1], 16) & 1 << signal.SIGTERM - 1) and library in (folder / "maps").read_text()


async def test_it_works_and_stops_as_process_1(folder: Path, env: Environment) -> None:
    async with serving(folder, env, prefix=PREFIX) as (running, bridge):
        status = Path(f"/proc/{running.bridge_pid}/status").read_text()
        assert next(line for line in status.splitlines() if line.startswith("NSpid:")).split()[-1] == "1"
        await check_works(env, bridge)
        await running.stop()
        assert running.lines[-1]["event"] == "stopped"


@pytest.mark.long
@pytest.mark.parametrize("library", MOMENTS)
async def test_sigterm_at_any_moment_of_the_start_ends_process_1(folder: Path, env: Environment, library: str) -> None:
    async with program(folder, prefix=PREFIX, amux_base_url=env.amux_url) as running:
        await until_loaded(running, library)
        await running.stop()


@pytest.mark.long
async def test_sigterm_ends_process_1_while_it_waits_for_a_database(folder: Path, env: Environment) -> None:
    url = "postgresql://bridge@127.0.0.1:9/bridge"
    keys = "ZTJlLWUyZS1lMmUtZTJlLWUyZS1lMmUtZTJlLWUyZS0="
    settings: dict[str, Any] = {"amux_base_url": env.amux_url, "database_url": url, "encryption_keys": keys}
    async with program(folder, prefix=PREFIX, **settings) as running:
        await running.wait_for_log("waiting_for_database")
        await running.stop()


@pytest.mark.long
@pytest.mark.parametrize("arguments", [["listen", "--port", "0"], ["sandbox", "--port", "0"]])
async def test_sigterm_ends_the_other_commands_that_run_as_process_1(folder: Path, arguments: list[str]) -> None:
    async with program(folder, *arguments, prefix=PREFIX) as running:
        async with asyncio.timeout(SAFETY_SECONDS):
            while not running.raw:
                await asyncio.sleep(0.01)  # a pause between two checks
        running.signal(signal.SIGTERM)
        assert await running.wait_for_exit() in {0, 128 + signal.SIGTERM}
        assert "Traceback" not in "\n".join(running.raw)

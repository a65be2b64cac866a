"""A bridge with the stand-in for amux in this process, and the example programs that use them."""

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import aiohttp

from bridge.core.signing import Secret
from bridge.sandbox import Behaviour, Sandbox
from bridge.service.runtime import Runtime
from bridge.settings.settings import load
from tests.ports import free_port
from tests.programs import npm_install, program
from tests.waiting import SAFETY_SECONDS

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
SECRET, OTHER = Secret(b"e" * 32), Secret(b"x" * 32)
TOKEN = "shop-token-1"
AMUX_KEY = "sk-example"
PROGRAM_TIMEOUT_SECONDS = SAFETY_SECONDS  # a program takes seconds to start on a busy machine


@dataclass(frozen=True)
class BridgeHarness:
    """A bridge that sends callbacks to loopback, and the stand-in for amux."""

    url: str
    amux: Sandbox
    amux_url: str
    session: aiohttp.ClientSession

    @property
    def environ(self) -> dict[str, str]:
        """The environment variables of an app that uses this bridge and the stand-in for amux."""
        variables = {
            "BRIDGE_URL": self.url,
            "BRIDGE_TOKEN": TOKEN,
            "AMUX_BASE_URL": self.amux_url,
            "AMUX_API_KEY": AMUX_KEY,
        }
        return environment({**variables, "WEBHOOK_SECRET": SECRET.text, "PORT": "0"})

    def completed_task(self) -> str:
        return self.amux.create_task(Behaviour(queue_seconds=0, run_seconds=0))

    async def request(self, method: str, path: str, **body: Any) -> Any:
        async with self.session.request(method, self.url + path, json=body or None) as answer:
            assert answer.ok, await answer.text()
            return await answer.json()

    async def register(self, task_id: str, callback_url: str) -> str:
        watch = await self.request("POST", "/watch", task_id=task_id, callback_url=callback_url, context={"order": 17})
        return str(watch["id"])

    async def delivered(self, watch_id: str, attempts: int) -> Any:
        """Wait until the only delivery of a watch succeeded at this attempt, and return the delivery."""
        async with asyncio.timeout(PROGRAM_TIMEOUT_SECONDS):
            while True:
                watch = await self.request("GET", f"/watch/{watch_id}?wait_seconds=30")
                if [(it["state"], it["attempts"]) for it in watch["deliveries"]] == [("delivered", attempts)]:
                    return watch["deliveries"][0]
                await asyncio.sleep(0.05)  # a pause between two requests


def environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of this process without settings of a bridge, and with these variables."""
    own = ("BRIDGE_", "AMUX_")
    return {**{name: value for name, value in os.environ.items() if not name.startswith(own)}, **environ}


@asynccontextmanager
async def start_bridge(folder: Path) -> AsyncIterator[BridgeHarness]:
    """Start a bridge with its database in this folder and the stand-in for amux, and stop both at the end."""
    amux = Sandbox(keys=frozenset({AMUX_KEY}), default=Behaviour(queue_seconds=0.1, run_seconds=0.1))
    amux_url = await amux.start()
    runtime = await Runtime.start(
        load(
            env_file=None,
            amux_api_key=AMUX_KEY,
            amux_base_url=amux_url,
            port=0,
            tokens={TOKEN: "shop"},
            database_url=f"sqlite:///{folder / 'bridge.db'}",
            signing_secrets=(SECRET,),
            callback_allow_networks=(ip_network("127.0.0.0/8"),),
            drop_in=True,
            poll_first_delay_seconds=0.05,
            poll_interval_seconds=0.1,
            poll_max_interval_seconds=0.1,
            delivery_retry_delays_seconds=(0.2,) * 50,
            drain_timeout_seconds=1,
        )
    )
    try:
        async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {TOKEN}"}) as session:
            yield BridgeHarness(runtime.url, amux, amux_url, session)
    finally:
        await runtime.stop()
        await amux.stop()


# --- programs -----------------------------------------------------------------------------------------------------


def packages_of(example: Path) -> list[str]:
    """Return the packages that the first lines of an example tell the reader to install."""
    [packages] = re.findall(r"^(?:// )?(?:pip|npm) install (.*)$", example.read_text(), re.MULTILINE)
    return str(packages).split()


def install(example: Path, folder: Path) -> tuple[Path, dict[str, str]]:
    """Install the packages of an example into `folder`. Return the file to start and the variables that it needs."""
    if example.suffix == ".mjs":
        # Node looks for packages beside the script, so the script is copied into their folder.
        copy = folder / example.name
        copy.write_bytes(example.read_bytes())
        npm_install(folder, *packages_of(example))
        return copy, {}
    target = folder / "packages"
    command = [sys.executable, "-m", "pip", "install", "-q", "--target", str(target), *packages_of(example)]
    subprocess.run(command, check=True)
    return example, {"PYTHONPATH": str(target)}


def interpreter(example: Path) -> str:
    return (
        program("node", "nodejs") if example.suffix == ".mjs" else {".py": sys.executable, ".sh": "sh"}[example.suffix]
    )


async def run_to_end(example: Path, *arguments: str, folder: Path, environ: Mapping[str, str]) -> tuple[int, str, str]:
    """Run an example until it ends. Return its exit code, its stdout and its stderr."""
    pipe = asyncio.subprocess.PIPE
    command = (interpreter(example), str(example), *arguments)
    program = await asyncio.create_subprocess_exec(*command, cwd=folder, env=environ, stdout=pipe, stderr=pipe)
    try:
        async with asyncio.timeout(PROGRAM_TIMEOUT_SECONDS):
            out, err = await program.communicate()
    finally:
        if program.returncode is None:
            program.kill()
            await program.wait()
    assert program.returncode is not None
    return program.returncode, out.decode(), err.decode()


@dataclass(frozen=True)
class RunningReceiver:
    """A receiver's program that runs and accepts connections."""

    url: str
    program: asyncio.subprocess.Process

    async def stop(self) -> list[str]:
        """Stop it and return the lines that it wrote."""
        self.program.terminate()
        out, _ = await self.program.communicate()
        return out.decode().splitlines()


@asynccontextmanager
async def running_receiver(example: Path, folder: Path, environ: Mapping[str, str]) -> AsyncIterator[RunningReceiver]:
    """Start a receiver and wait until it accepts connections."""
    port = free_port()
    variables = environment({**environ, "WEBHOOK_SECRET": SECRET.text, "PORT": str(port)})
    program = await asyncio.create_subprocess_exec(
        interpreter(example), str(example), cwd=folder, env=variables, stdout=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(PROGRAM_TIMEOUT_SECONDS):
            while not await _accepts_connections(port):
                assert program.returncode is None, f"{example.name} ended with {program.returncode}"
                await asyncio.sleep(0.05)  # a pause between two requests
        yield RunningReceiver(f"http://127.0.0.1:{port}/hooks/video", program)
    finally:
        if program.returncode is None:
            program.kill()
            await program.communicate()


async def _accepts_connections(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    await writer.wait_closed()
    return True

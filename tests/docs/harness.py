"""The README's blocks, and a newcomer who types them: a folder, a shell, and amux's stand-in where amux would be.

Only places are changed in what is typed: ports, a task's id, a callback's address. The rest is the README's.
"""

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp.test_utils import unused_port

from bridge.sandbox import Behaviour, Sandbox
from tests.e2e.receiver import SAFETY_SECONDS

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
TASK = "task_8x7Kq2mVn4Jd9sLw3Rb6Tz1Yc5Hf0Gp2"
# Times that a test need not wait for; what the README says of settings is said in its own blocks.
QUICK = {
    "BRIDGE_POLL_FIRST_DELAY_SECONDS": "0.1",
    "BRIDGE_POLL_INTERVAL_SECONDS": "0.1",
    "BRIDGE_POLL_MAX_INTERVAL_SECONDS": "0.1",
    "BRIDGE_DELIVERY_RETRY_DELAYS_SECONDS": "0.2,0.2,0.2,0.2,0.2",
}


def text() -> str:
    return README.read_text("utf-8")


def blocks(language: str) -> list[str]:
    """The README's fenced blocks in one language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text(), re.MULTILINE | re.DOTALL)


def block(language: str, holding: str) -> str:
    [found] = [one for one in blocks(language) if holding in one]
    return found


@dataclass
class Going:
    """A block that goes on. `lines` are what it wrote, stderr as well."""

    process: asyncio.subprocess.Process
    lines: list[str] = field(default_factory=list)
    _more: asyncio.Event = field(default_factory=asyncio.Event)

    async def read(self) -> None:
        assert self.process.stdout is not None
        while line := await self.process.stdout.readline():
            self.lines.append(line.decode().rstrip("\n"))
            self._more.set()
        self._more.set()

    async def says(self, what: str) -> str:
        """Wait for a line that holds this; it."""
        try:
            async with asyncio.timeout(SAFETY_SECONDS):
                while not (found := [line for line in self.lines if what in line]):
                    self._more.clear()
                    await self._more.wait()
        except TimeoutError:
            raise AssertionError(f"waited for {what!r}:\n" + "\n".join(self.lines)) from None
        return found[0]

    def signal(self, number: int) -> None:
        """To the shell and to what it started."""
        with suppress(ProcessLookupError):  # it may have ended, and we not heard of it yet
            if self.process.returncode is None:
                os.killpg(self.process.pid, number)


@dataclass
class Newcomer:
    """Somebody in a folder, with `amux-bridge` in PATH."""

    folder: Path
    amux: Sandbox
    environ: Mapping[str, str]
    port: int
    hook_port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def hook_url(self) -> str:
        return f"http://127.0.0.1:{self.hook_port}/hooks/video"

    def typed(self, words: str, task: str = TASK) -> str:
        """A block as it is typed here."""
        here = {
            TASK: task,
            "https://app.example.com/hooks/video": self.hook_url,
            "127.0.0.1:8080": f"127.0.0.1:{self.port}",
            "127.0.0.1:9000": f"127.0.0.1:{self.hook_port}",
            "--port 9000": f"--port {self.hook_port}",
        }
        for there, ours in here.items():
            words = words.replace(there, ours)
        return words

    async def run(self, words: str, task: str = TASK, **environ: str) -> str:
        """Type a block that must go well; what it wrote."""
        process = await self._start(self.typed(words, task), environ)
        try:
            async with asyncio.timeout(SAFETY_SECONDS):
                out, _ = await process.communicate()
        finally:
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
        assert process.returncode == 0, out.decode()
        return out.decode()

    def built(self, *words: str, **environ: str) -> None:
        """Run a compiler, which takes longer than what a newcomer types, and must have nothing to say."""
        done = subprocess.run(
            words, cwd=self.folder, env={**self.environ, **environ}, capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stdout + done.stderr) == (0, "")

    @asynccontextmanager
    async def going(self, words: str, until: str, task: str = TASK, **environ: str) -> AsyncIterator[Going]:
        """Type a block that goes on, and wait for a line of it; ended by SIGTERM."""
        process = await self._start(self.typed(words, task), environ)
        going = Going(process)
        reading = asyncio.create_task(going.read())
        try:
            await going.says(until)
            yield going
            going.signal(signal.SIGTERM)
            async with asyncio.timeout(SAFETY_SECONDS):
                await process.wait()
                await reading
        finally:
            going.signal(signal.SIGKILL)
            await process.wait()
            await reading

    async def asked(self, method: str, path: str, token: str = "", **body: Any) -> Any:
        """What the bridge answers to a request that it takes."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        async with (
            aiohttp.ClientSession(headers=headers) as session,
            session.request(method, self.url + path, json=body or None) as answer,
        ):
            assert answer.ok, await answer.text()
            return await answer.json()

    async def registered(self, hook_url: str, token: str = "", **fields: str) -> str:
        """Register a watch, on a task that is over if none is given; its id."""
        body = {"task_id": self.amux.create_task(), "callback_url": hook_url, **fields}
        return str((await self.asked("POST", "/watch", token, **body))["id"])

    async def _start(self, words: str, environ: Mapping[str, str]) -> asyncio.subprocess.Process:
        pipe, stdout = asyncio.subprocess.PIPE, asyncio.subprocess.STDOUT
        # A session of its own: a signal reaches what the shell started.
        return await asyncio.create_subprocess_exec(
            *("/bin/sh", "-ec", words),
            cwd=self.folder,
            env={**self.environ, **environ},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=pipe,
            stderr=stdout,
            start_new_session=True,
        )


@asynccontextmanager
async def newcomer(folder: Path) -> AsyncIterator[Newcomer]:
    """A newcomer to an empty folder."""
    amux = Sandbox(default=Behaviour(queue_seconds=0, run_seconds=0))
    amux_url = await amux.start()
    port = unused_port()
    own = {name: value for name, value in os.environ.items() if not name.startswith(("BRIDGE_", "AMUX_"))}
    environ = {
        **own,
        **QUICK,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONUNBUFFERED": "1",
        "AMUX_BASE_URL": amux_url,
        "BRIDGE_PORT": str(port),
    }
    try:
        yield Newcomer(folder, amux, environ, port, unused_port())
    finally:
        await amux.stop()

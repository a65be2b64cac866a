"""The pages of the documentation, their code blocks, and a shell that runs the blocks.

A block runs as a reader would paste it, with the stand-in for amux. Only addresses and ids are replaced: ports, the id
of a task, the URL of a callback.
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

from bridge.sandbox import Behaviour, Sandbox
from tests.ports import free_port
from tests.waiting import SAFETY_SECONDS

ROOT = Path(__file__).parents[2]
README, DOCS = ROOT / "README.md", ROOT / "docs"
PAGES = [
    README,
    *sorted(DOCS.glob("*.md")),
    ROOT / "examples/README.md",
    ROOT / "CHANGELOG.md",
    *sorted((ROOT / ".github").glob("*.md")),
]
TASK = "task_8x7Kq2mVn4Jd9sLw3Rb6Tz1Yc5Hf0Gp2"
# Short delays, so that a test does not wait for the defaults. A block that sets a delay overrides these.
QUICK = {
    "BRIDGE_POLL_FIRST_DELAY_SECONDS": "0.1",
    "BRIDGE_POLL_INTERVAL_SECONDS": "0.1",
    "BRIDGE_POLL_MAX_INTERVAL_SECONDS": "0.1",
    "BRIDGE_DELIVERY_RETRY_DELAYS_SECONDS": ",".join(["0.2"] * 50),
}


def page_name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def text(page: Path) -> str:
    return page.read_text("utf-8")


def all_text() -> str:
    """Return the joined texts of all pages."""
    return "\n".join(map(text, PAGES))


def blocks(page: Path, language: str) -> list[str]:
    """Return the fenced blocks of a page in one language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text(page), re.MULTILINE | re.DOTALL)


def block(page: Path, language: str, containing: str) -> str:
    """Return the only block of a page that contains these words."""
    [found] = [one for one in blocks(page, language) if containing in one]
    return found


def section(page: Path, heading: str) -> str:
    """Return the text below a heading, up to the next heading of the same level or a higher one."""
    level = heading.partition(" ")[0]
    _, found, rest = text(page).partition(f"\n{heading}\n")
    assert found, f"{page_name(page)} has no heading {heading!r}"
    return re.split(rf"^#{{1,{len(level)}}} ", rest, maxsplit=1, flags=re.MULTILINE)[0]


def table_rows(markdown: str) -> list[list[str]]:
    """Return the cells of each row of the first table, without its header."""
    [table] = re.findall(r"(?:^\|.*\|\n)+", markdown, re.MULTILINE)[:1]
    rows = [[cell.strip() for cell in line.strip("|").split(" |")] for line in table.splitlines()]
    return rows[2:]


@dataclass
class RunningCommand:
    """A block that is still running. `lines` are its stdout and stderr so far."""

    process: asyncio.subprocess.Process
    lines: list[str] = field(default_factory=list)
    _more: asyncio.Event = field(default_factory=asyncio.Event)

    async def read(self) -> None:
        assert self.process.stdout is not None
        while line := await self.process.stdout.readline():
            self.lines.append(line.decode().rstrip("\n"))
            self._more.set()
        self._more.set()

    async def line_with(self, words: str) -> str:
        """Wait for a line that contains these words, and return it."""
        try:
            async with asyncio.timeout(SAFETY_SECONDS):
                while not (found := [line for line in self.lines if words in line]):
                    self._more.clear()
                    await self._more.wait()
        except TimeoutError:
            raise AssertionError(f"waited for {words!r}:\n" + "\n".join(self.lines)) from None
        return found[0]

    def signal(self, number: int) -> None:
        """Send a signal to the shell and to the programs that it started."""
        with suppress(ProcessLookupError):  # the process may have ended just now
            if self.process.returncode is None:
                os.killpg(self.process.pid, number)


@dataclass
class Workspace:
    """A folder and a shell in it, with `amux-bridge` in PATH."""

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

    def localized(self, script: str, task: str = TASK) -> str:
        """Return a block with the addresses and the task of this workspace."""
        replacements = {
            TASK: task,
            "https://app.example.com/hooks/video": self.hook_url,
            "127.0.0.1:8080": f"127.0.0.1:{self.port}",
            "127.0.0.1:9000": f"127.0.0.1:{self.hook_port}",
            "--port 9000": f"--port {self.hook_port}",
        }
        for documented, ours in replacements.items():
            script = script.replace(documented, ours)
        return script

    async def run(self, script: str, task: str = TASK, **environ: str) -> str:
        """Run a block that must succeed, and return its output."""
        process = await self._start(self.localized(script, task), environ)
        try:
            async with asyncio.timeout(SAFETY_SECONDS):
                out, _ = await process.communicate()
        finally:
            # Kills the whole process group, because a block may start programs in the background.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
        assert process.returncode == 0, out.decode()
        return out.decode()

    def compile(self, *command: str, **environ: str) -> None:
        """Run a compiler, which must print nothing. It may take longer than a block."""
        done = subprocess.run(
            command, cwd=self.folder, env={**self.environ, **environ}, capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stdout + done.stderr) == (0, "")

    @asynccontextmanager
    async def running(self, script: str, until: str, task: str = TASK, **environ: str) -> AsyncIterator[RunningCommand]:
        """Start a block, wait for a line with the words `until`, and send SIGTERM at the end of the context."""
        process = await self._start(self.localized(script, task), environ)
        command = RunningCommand(process)
        reading = asyncio.create_task(command.read())
        try:
            await command.line_with(until)
            yield command
            command.signal(signal.SIGTERM)
            async with asyncio.timeout(SAFETY_SECONDS):
                await process.wait()
                await reading
        finally:
            command.signal(signal.SIGKILL)
            await process.wait()
            await reading

    async def request(self, method: str, path: str, token: str = "", **body: Any) -> Any:
        """Send a request to the bridge, which must succeed, and return the JSON of the answer."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        async with (
            aiohttp.ClientSession(headers=headers) as session,
            session.request(method, self.url + path, json=body or None) as answer,
        ):
            assert answer.ok, await answer.text()
            return await answer.json()

    async def register(self, hook_url: str, token: str = "", **fields: str) -> str:
        """Register a watch and return its id. The default task has already completed."""
        body = {"task_id": self.amux.create_task(), "callback_url": hook_url, **fields}
        return str((await self.request("POST", "/watch", token, **body))["id"])

    async def _start(self, script: str, environ: Mapping[str, str]) -> asyncio.subprocess.Process:
        pipe, stdout = asyncio.subprocess.PIPE, asyncio.subprocess.STDOUT
        # A separate session, so that a signal reaches every program that the shell started.
        return await asyncio.create_subprocess_exec(
            *("/bin/sh", "-ec", script),
            cwd=self.folder,
            env={**self.environ, **environ},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=pipe,
            stderr=stdout,
            start_new_session=True,
        )


@asynccontextmanager
async def open_workspace(folder: Path) -> AsyncIterator[Workspace]:
    """Start the stand-in for amux, and yield a workspace in an empty folder. Stop the stand-in at the end."""
    amux = Sandbox(default=Behaviour(queue_seconds=0, run_seconds=0))
    amux_url = await amux.start()
    port = free_port()
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
        yield Workspace(folder, amux, environ, port, free_port())
    finally:
        await amux.stop()

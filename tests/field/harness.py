"""Starts `amux-bridge serve` as a separate process, also as another user, in namespaces or with other mounts."""

import asyncio
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from bridge.settings.settings import env_name
from tests.e2e.bridges import FAST_SETTINGS, ROOT, Bridge, Process, connect_to
from tests.e2e.harness import Environment

PROGRAM = Path(sys.executable).with_name("amux-bridge")
COMMAND_SECONDS = 60.0
LOG_LINE_BYTES = 1 << 20


@dataclass(eq=False)
class Program(Process):
    """The running program. A prefix such as `unshare` may be its parent."""

    process: asyncio.subprocess.Process | None = None

    @property
    def bridge_pid(self) -> int:
        """The process id of the bridge, as this process sees it outside the bridge's namespaces."""
        pid = self.pid
        with suppress(OSError):
            while children := Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
                pid = int(children[0])
        return pid

    @property
    def root(self) -> Path:
        """The root folder as the bridge sees it, with its own mounts."""
        return Path(f"/proc/{self.bridge_pid}/root")

    def signal(self, number: int) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.bridge_pid, number)

    async def stop(self) -> None:
        """Sends SIGTERM to the bridge, as an operator does, and checks that it exits with 0 and without exceptions."""
        self.signal(signal.SIGTERM)
        assert await self.wait_for_exit() == 0, "\n".join(self.raw[-20:])
        self.check_no_exceptions()

    async def close(self) -> None:
        if self.code is None:
            with suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
        await super().close()

    async def _read(self) -> None:
        await super()._read()
        assert self.process is not None
        self.code = await self.process.wait()
        self._changed.set()


def environment_of(environ: Mapping[str, str] | None = None, /, **settings: Any) -> dict[str, str]:
    """Returns the environment variables of a bridge with short times. Only PATH comes from the test's own environment.

    A setting that is None is not set. Without `encryption_keys`, the bridge uses its key file, as most bridges do.
    """
    texts: dict[str, str | None] = {**FAST_SETTINGS, "encryption_keys": None, **settings}
    variables = {env_name(name): value for name, value in texts.items() if value is not None}
    return {"PATH": os.environ["PATH"], **variables, **(environ or {})}


@asynccontextmanager
async def program(
    folder: Path,
    *arguments: str,
    prefix: Sequence[str] = (),
    environ: Mapping[str, str] | None = None,
    **settings: Any,
) -> AsyncIterator[Program]:
    """Starts the program in a folder, and kills it at the end if it still runs. Its stderr is read like its log.

    Its temporary folder is the same folder, unless `environ` has another one.
    """
    started = await asyncio.create_subprocess_exec(
        *prefix,
        str(PROGRAM),
        *(arguments or ("serve",)),
        cwd=folder,
        env=environment_of({"TMPDIR": str(folder), **(environ or {})}, **settings),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        limit=LOG_LINE_BYTES,
        start_new_session=True,
    )
    assert started.stdout is not None
    assert started.stdin is not None
    running = Program(started.pid, started.stdout, started.stdin, process=started)
    running.start_reading()
    try:
        yield running
    finally:
        await running.close()


@asynccontextmanager
async def serving(
    folder: Path,
    env: Environment,
    *,
    prefix: Sequence[str] = (),
    environ: Mapping[str, str] | None = None,
    **settings: Any,
) -> AsyncIterator[tuple[Program, Bridge]]:
    """Starts the program and waits until it listens. Yields the process and its API."""
    settings = {"amux_base_url": env.amux_url, **settings}
    async with program(folder, "serve", prefix=prefix, environ=environ, **settings) as running:
        listening = await running.wait_for_log("listening")
        async with connect_to(listening["url"]) as bridge:
            yield running, bridge


async def check_works(env: Environment, bridge: Bridge) -> str:
    """Checks that a task that has ended becomes one verified callback. Returns the watch's id."""
    watch = await bridge.register(env.finished_task(), env.receiver.url)
    await bridge.until("GET", f"/watch/{watch}", lambda answer: is_delivered(answer.json))
    assert len(env.receiver.bodies[watch]) == 1
    assert env.receiver.unverified == []
    return watch


def is_delivered(watch: object) -> bool:
    """Returns whether a watch has exactly one delivery, and its state is `delivered`."""
    assert isinstance(watch, dict)
    return [one["state"] for one in watch["deliveries"]] == ["delivered"]


def run_command(
    *arguments: str, folder: Path, prefix: Sequence[str] = (), environ: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs another command of the program, such as `healthy`, and waits for its end."""
    return subprocess.run(
        [*prefix, str(PROGRAM), *arguments],
        cwd=folder,
        env={"PATH": os.environ["PATH"], **(environ or {})},
        capture_output=True,
        text=True,
        timeout=COMMAND_SECONDS,
        check=False,
    )


# --- users, namespaces and mounts ---------------------------------------------------------------------------------


@cache
def _refusal(*command: str) -> str | None:
    """Returns why a command fails on this machine, or None if it succeeds."""
    if shutil.which(command[0]) is None:
        return f"there is no {command[0]} here"
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return None if done.returncode == 0 else f"{shlex.join(command)}: {done.stderr.strip()}"


def need(*command: str) -> None:
    """Skips the test if a command fails, also in CI, because many runners are containers without privileges."""
    if (reason := _refusal(*command)) is not None:
        pytest.skip(f"this machine does not allow it: {reason}")


@contextmanager
def open_folder() -> Iterator[Path]:
    """A temporary folder that any user may enter, unlike pytest's own."""
    folder = Path(tempfile.mkdtemp(prefix="bridge-field-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def as_user(uid: int, gid: int, *groups: int, mounts: Sequence[str] = ()) -> list[str]:
    """Returns a prefix that runs the program as another user without capabilities. /etc/passwd need not contain it.

    `mounts` are commands for its mount namespace, such as those of `read_only_root`.
    """
    need("unshare", "--mount", "true")
    need("setpriv", "--reuid", str(uid), "--regid", str(gid), "--clear-groups", "true")
    names = ["--groups", ",".join(map(str, groups))] if groups else ["--clear-groups"]
    user = ["setpriv", "--reuid", str(uid), "--regid", str(gid), *names, "--inh-caps=-all", "--bounding-set=-all"]
    return with_mounts(*_readable_by_all(), *mounts, then=[*user, "--no-new-privs"])


def with_mounts(*commands: str, then: Sequence[str] = ()) -> list[str]:
    """Returns a prefix that makes a mount namespace, runs these shell commands in it, and then the program."""
    need("unshare", "--mount", "true")
    script = "\n".join(["set -e", *commands, 'exec "$@"'])
    return ["unshare", "--mount", "sh", "-c", script, "sh", *then]


def read_only_root(*writable: Path) -> list[str]:
    """Returns commands that make the file system read-only except for some folders, which become mounts.

    The commands enter the first folder again, because the working folder is still the one below the new mount.
    """
    need("unshare", "--mount", "mount", "-o", "remount,ro,bind", "/")
    places = [shlex.quote(str(path)) for path in writable]
    binds = [f"mount --bind {place} {place}" for place in places]
    return [*binds, "mount -o remount,ro,bind /", *(f"cd {place}" for place in places[:1])]


def _readable_by_all() -> list[str]:
    """Returns commands that let every user read Python and this project, even if a folder above is closed to others."""
    needed = sorted({sys.base_prefix, sys.prefix, str(ROOT)})
    closed: dict[Path, list[str]] = {}
    for path in needed:
        for folder in reversed(Path(path).parents):
            if not folder.stat().st_mode & 0o001:
                closed.setdefault(folder, []).append(path)
                break
    commands = []
    for folder, paths in closed.items():
        commands += ["mount -t tmpfs -o mode=755 none /mnt"]
        kept = [f"/mnt/{number}" for number in range(len(paths))]
        for path, place in zip(paths, kept, strict=True):
            commands += [f"mkdir {place}", f"mount --bind {shlex.quote(path)} {place}"]
        commands.append(f"mount -t tmpfs -o mode=755 none {shlex.quote(str(folder))}")
        for path, place in zip(paths, kept, strict=True):
            commands += [f"mkdir -p {shlex.quote(path)}", f"mount --bind {place} {shlex.quote(path)}"]
    return commands

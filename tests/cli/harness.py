"""Runs commands of the command line, in this process or in another one, and a bridge for them to connect to."""

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from bridge.cli.main import main
from bridge.cli.receiver import ReceivedCallback, Receiver, status_for
from bridge.core.signing import Secret
from bridge.sandbox import Sandbox
from bridge.service.runtime import Runtime
from bridge.settings.settings import load
from tests.waiting import SAFETY_SECONDS

SECRET = Secret(b"c" * 32)
OTHER_SECRET = Secret(b"o" * 32)
TOKEN = "shop-token-1"
CALL_TIMEOUT_SECONDS = SAFETY_SECONDS  # for processes, which take seconds to start on a busy machine


@dataclass(frozen=True)
class CommandResult:
    """The exit code and the output of a command."""

    code: int
    out: str
    err: str


Command = Callable[..., CommandResult]


def command_in(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], folder: Path) -> Command:
    """Returns a function that runs commands in this process, in `folder`, with only the settings given to it."""
    monkeypatch.chdir(folder)
    for name in bridge_variables():
        monkeypatch.delenv(name)

    def run(*arguments: str, **environ: str) -> CommandResult:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in environ.items():
                patch.setenv(name, value)
            try:
                code: Any = main(arguments)
            except SystemExit as exit_:
                code = exit_.code
        written = capsys.readouterr()
        return CommandResult(int(code or 0), written.out, written.err)

    return run


def bridge_variables() -> list[str]:
    return [name for name in os.environ if name.startswith(("BRIDGE_", "AMUX_"))]


def environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Returns this process's environment without the bridge's variables and PYTHONUNBUFFERED, and with `environ`.

    Without PYTHONUNBUFFERED, output waits in a buffer. An interpreter that cannot write the buffer exits with 120.
    """
    left_out = {*bridge_variables(), "PYTHONUNBUFFERED"}
    return {**{name: value for name, value in os.environ.items() if name not in left_out}, **environ}


def run_process(*arguments: str, folder: Path, **environ: str) -> CommandResult:
    """Runs a command in another process and waits for its end."""
    done = subprocess.run(
        [sys.executable, "-m", "bridge", *arguments],
        cwd=folder,
        env=environment(environ),
        capture_output=True,
        text=True,
        timeout=CALL_TIMEOUT_SECONDS,
        check=False,
    )
    return CommandResult(done.returncode, done.stdout, done.stderr)


@contextmanager
def process(*arguments: str, folder: Path, **environ: str) -> Iterator[subprocess.Popen[str]]:
    """Starts a command that runs until it is stopped. Kills the process at the end if it still runs."""
    with subprocess.Popen(
        [sys.executable, "-m", "bridge", *arguments],
        cwd=folder,
        env=environment({"PYTHONUNBUFFERED": "1", **environ}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as started:
        # Reading from a pipe that stays empty has no timeout of its own.
        watchdog = threading.Timer(CALL_TIMEOUT_SECONDS, started.kill)
        watchdog.start()
        try:
            yield started
        finally:
            watchdog.cancel()
            watchdog.join()
            started.kill()


# --- a bridge to connect to ---------------------------------------------------------------------------------------


@dataclass
class BridgeInThread:
    """A bridge with its stand-in and a receiver, on an event loop in another thread."""

    url: str
    amux_url: str
    hook_url: str
    callbacks: list[ReceivedCallback]
    database_url: str

    @property
    def client(self) -> dict[str, str]:
        """Returns the environment variables with which a command connects to this bridge."""
        return {"BRIDGE_URL": self.url, "BRIDGE_TOKEN": TOKEN}


@contextmanager
def bridge_in_thread(folder: Path) -> Iterator[BridgeInThread]:
    """Serves a bridge in another thread, because commands run event loops in the thread of the test."""
    ready: Future[BridgeInThread] = Future()
    stopping: Future[Callable[[], object]] = Future()
    thread = threading.Thread(target=lambda: asyncio.run(_serve(folder, ready, stopping)), name="a bridge")
    thread.start()
    try:
        yield ready.result(CALL_TIMEOUT_SECONDS)
    finally:
        if stopping.done():
            stopping.result()()
        thread.join(CALL_TIMEOUT_SECONDS)


async def _serve(folder: Path, ready: "Future[BridgeInThread]", stopping: "Future[Callable[[], object]]") -> None:
    callbacks: list[ReceivedCallback] = []

    def on_callback(callback: ReceivedCallback) -> int:
        callbacks.append(callback)
        return status_for(callback)

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    sandbox, receiver = Sandbox(), Receiver([SECRET], on_callback)
    amux_url = await sandbox.start()
    hook_url = await receiver.start("127.0.0.1", 0)
    database_url = f"sqlite:///{folder / 'served.db'}"
    runtime = None
    try:
        runtime = await Runtime.start(
            load(
                env_file=None,
                amux_api_key="any",
                amux_base_url=amux_url,
                port=0,
                tokens={TOKEN: "shop"},
                database_url=database_url,
                signing_secrets=(SECRET,),
                callback_allow_networks=(ip_network("127.0.0.1/32"),),
                poll_first_delay_seconds=0.05,
                poll_interval_seconds=0.1,
                poll_max_interval_seconds=0.1,
                delivery_retry_delays_seconds=(0.05,),
                drain_timeout_seconds=1,
            )
        )
        stopping.set_result(lambda: loop.call_soon_threadsafe(stop.set))
        ready.set_result(BridgeInThread(runtime.url, amux_url, hook_url, callbacks, database_url))
        await stop.wait()
    except BaseException as error:
        if not ready.done():
            ready.set_exception(error)
        raise
    finally:
        if runtime is not None:
            await runtime.stop()
        await receiver.stop()
        await sandbox.stop()

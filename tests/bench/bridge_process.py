"""The measured bridge: the real service in its own process, with all features on. A file gets its log."""

import cProfile
import http.client
import json
import re
import sys
import time
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import uvloop
from aiohttp import connector
from sqlalchemy import Engine, event

from bridge.aio.threads import Threads
from bridge.service import jobs, process
from bridge.settings import settings as settings_module
from tests.bench.processes import MEASURED, Child

TOKEN = "bench-token-0123456789"
KEY = "YmVuY2gtYmVuY2gtYmVuY2gtYmVuY2gtYmVuY2gtYmU="
SECRET = "whsec_" + "Q" * 43 + "="
NEVER = "86400"  # seconds: longer than any run
DRAIN_SECONDS = "5"
INTERVALS = frozenset({"retention_sweep", "heartbeat", "adoption", "deadlines", "gauges", "stuck_monitor"})

# As in production, except for loopback. Each benchmark sets the poll settings itself.
SETTINGS: Mapping[str, str] = {
    "host": "127.0.0.1",
    "port": "0",
    "amux_api_key": "sk-bench-0123456789abcdef",
    "encryption_keys": KEY,
    "tokens": f"bench:{TOKEN}",
    "signing_secrets": SECRET,
    "callback_allow_networks": "127.0.0.0/8,::1/128",
    "max_active_watches": "2000000",
    "watch_timeout_seconds": NEVER,
    "log_level": "INFO",
    "drain_timeout_seconds": DRAIN_SECONDS,
}
POLLS_NOTHING: Mapping[str, str] = {
    "amux_base_url": "http://127.0.0.1:9",
    **dict.fromkeys(("poll_first_delay_seconds", "poll_interval_seconds", "poll_max_interval_seconds"), NEVER),
}


def every(seconds: float) -> dict[str, str]:
    """Returns settings that poll each task at one interval."""
    names = ("poll_first_delay_seconds", "poll_interval_seconds", "poll_max_interval_seconds")
    return dict.fromkeys(names, str(seconds)) | {"poll_backoff": "1"}


class Bridge(Child):
    """A running bridge. `database` is a path or a URL. The log is `bridge.log` in `folder`.

    The hook `core` chooses the bridge's core. The other hooks are those of the function `bridge`.
    """

    def __init__(self, folder: Path, database: Path | str, settings: Mapping[str, str], **hooks: Any) -> None:
        url = f"sqlite:///{database}" if isinstance(database, Path) else database
        all_settings = {**SETTINGS, "database_url": url, **settings}
        began = time.monotonic()
        super().__init__(hooks.get("core", MEASURED), bridge, all_settings, folder / "bridge.log", hooks)
        self.started_in = time.monotonic() - began
        self.url = str(self.ready_message)

    def metrics(self) -> dict[str, float]:
        """Returns every sample of `/metrics` by its name and labels."""
        text = ask(self.url, "GET", "/metrics").decode()
        return {name: float(value) for name, value in re.findall(r"^([^#\s]\S*) (\S+)$", text, re.MULTILINE)}


def bridge(pipe: Connection, settings: Mapping[str, str], log: Path, hooks: Mapping[str, Any]) -> None:
    """Serves until SIGTERM, as `amux-bridge serve` does. The ready message is the URL.

    Hooks: `profile` (a file for the profile of the event loop's thread; the profile of the store's thread gets the
    same name with `.writer`), the names in INTERVALS (seconds between two runs of that job), `certificate` (a file of
    trusted CAs), `counts` (two shared integers: the statements and the commits so far).
    """
    sys.stdout = sys.stderr = log.open("a")
    for name in INTERVALS & hooks.keys():
        constant = f"{name.upper()}_SECONDS"
        getattr(jobs, constant)  # fails if the constant has another name now
        setattr(jobs, constant, hooks[name])
    if "certificate" in hooks:
        # SSL_CERT_FILE would not help: aiohttp reads it at its import, and the parent process has imported aiohttp.
        connector._SSL_CONTEXT_VERIFIED.load_verify_locations(hooks["certificate"])
    if "counts" in hooks:
        _count(hooks["counts"])
    if "profile" not in hooks:
        uvloop.run(process.serve(settings_module.load(None, **settings), on_ready=pipe.send))
        return
    profile = cProfile.Profile(time.thread_time)  # CPU time: waiting costs nothing
    _profile_writer(f"{hooks['profile']}.writer")

    def ready(url: str) -> None:
        pipe.send(url)
        profile.enable()

    uvloop.run(process.serve(settings_module.load(None, **settings), on_ready=ready))
    profile.disable()
    profile.dump_stats(hooks["profile"])


def _count(counts: Any) -> None:
    """Counts commits and other statements of this process's connections to SQLite. Do not measure CPU meanwhile."""

    def count(statement: str) -> None:
        counts[int(statement == "COMMIT")] += 1

    @event.listens_for(Engine, "connect")
    def trace(connection: Any, _record: object) -> None:
        connection.set_trace_callback(count)


def _profile_writer(file: str) -> None:
    """Profiles the store's thread in a profile of its own, because a profile covers one thread."""
    run, profile = Threads._run, cProfile.Profile(time.thread_time)

    def profiled(threads: Threads) -> None:
        if threads._name != "bridge-writer":
            run(threads)
            return
        profile.runcall(run, threads)
        profile.dump_stats(file)

    Threads._run = profiled  # type: ignore[method-assign,assignment]


def ask(url: str, method: str, path: str, body: Any = None, *, seconds: float = 120.0) -> bytes:
    """Sends one request and returns the body of the answer. Raises RuntimeError for an error status."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=seconds)
    try:
        headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        answer = connection.getresponse()
        read = answer.read()
        if answer.status >= 300:
            raise RuntimeError(f"{method} {path}: {answer.status} {read[:300]!r}")
        return read
    finally:
        connection.close()

"""The bridge under test: the real service in a process of its own, with everything on and its log in a file."""

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

from bridge.service import process, runtime
from bridge.settings import settings as reading
from bridge.store.group_commit import GroupWriter
from tests.bench.processes import MEASURED, Child

TOKEN = "bench-token-0123456789"
KEY = "YmVuY2gtYmVuY2gtYmVuY2gtYmVuY2gtYmVuY2gtYmU="
SECRET = "whsec_" + "Q" * 43 + "="
NEVER = "86400"  # seconds: of what shall not happen in a run
DRAIN_SECONDS = "5"

# As a service would have it, but for loopback; polls are each benchmark's own to set.
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
    """Settings that have each task polled at one interval."""
    names = ("poll_first_delay_seconds", "poll_interval_seconds", "poll_max_interval_seconds")
    return dict.fromkeys(names, str(seconds)) | {"poll_backoff": "1"}


class Bridge(Child):
    """A bridge that runs. `database` is a path, or a URL as the setting has it; its log stands beside it.

    Of its hooks, `core` is the one that it runs on; the others are `bridge`'s.
    """

    def __init__(self, folder: Path, database: Path | str, settings: Mapping[str, str], **hooks: Any) -> None:
        url = f"sqlite:///{database}" if isinstance(database, Path) else database
        given = {**SETTINGS, "database_url": url, **settings}
        began = time.monotonic()
        super().__init__(hooks.get("core", MEASURED), bridge, given, folder / "bridge.log", hooks)
        self.started_in = time.monotonic() - began
        self.url = str(self.greeting)

    def metrics(self) -> dict[str, float]:
        """Every sample of `/metrics`, by its name and labels."""
        text = ask(self.url, "GET", "/metrics").decode()
        return {name: float(value) for name, value in re.findall(r"^([^#\s]\S*) (\S+)$", text, re.MULTILINE)}


def bridge(pipe: Connection, given: Mapping[str, str], log: Path, hooks: Mapping[str, Any]) -> None:
    """Serve until SIGTERM, as `amux-bridge serve` does; the greeting is the URL.

    Hooks: `profile` (a file for cProfile's figures of the event loop's thread, and `.writer` for the store's),
    `retention`, `beat`, `look`, `deadlines`, `gauges`, `lookout` (seconds between two), `certificate` (CAs to trust).
    """
    sys.stdout = sys.stderr = log.open("a")
    for name in ("retention", "beat", "look", "deadlines", "gauges", "lookout"):
        if name in hooks:
            setattr(runtime, f"{name.upper()}_SECONDS", hooks[name])
    if "certificate" in hooks:
        # As SSL_CERT_FILE would, but aiohttp reads that when it is imported, which was in the process we come from.
        connector._SSL_CONTEXT_VERIFIED.load_verify_locations(hooks["certificate"])
    if "profile" not in hooks:
        uvloop.run(process.serve(reading.load(None, **given), on_ready=pipe.send))
        return
    profile = cProfile.Profile(time.thread_time)  # CPU time: what waits for the disk or for others costs nothing
    _profile_writer(f"{hooks['profile']}.writer")

    def ready(url: str) -> None:
        pipe.send(url)
        profile.enable()

    uvloop.run(process.serve(reading.load(None, **given), on_ready=ready))
    profile.disable()
    profile.dump_stats(hooks["profile"])


def _profile_writer(file: str) -> None:
    """Have the store's thread watched as well: a profile counts one thread."""
    run = GroupWriter._run

    def profiled(writer: GroupWriter) -> None:
        profile = cProfile.Profile(time.thread_time)
        profile.runcall(run, writer)
        profile.dump_stats(file)

    GroupWriter._run = profiled  # type: ignore[method-assign,assignment]


def ask(url: str, method: str, path: str, body: Any = None, *, seconds: float = 120.0) -> bytes:
    """One request of the bench's own; the answer's body. RuntimeError for a refusal."""
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

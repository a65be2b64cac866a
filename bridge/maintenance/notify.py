"""Notifies people with apprise, best effort. apprise runs in a process of its own, one for up to 20 sentences.

So the many libraries of apprise cannot block the bridge, and cannot log a URL, which contains a secret. The process's
environment has no proxy. If a server does not answer, the process is killed after 60 s.
"""

import asyncio
import logging
import os
import sys
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import orjson

from bridge.core.errors import BadSetting
from bridge.telemetry import get_logger

SETTING = "BRIDGE_NOTIFY_URLS"
PROGRAM = "bridge.maintenance.notify_process"
SEND_SECONDS = 60.0  # for all sentences of one process; after it the process is killed
CHECK_SECONDS = 30.0  # importing apprise takes 1 s, on a busy machine ten
MOST_WAITING = 100  # sentences; older ones are dropped
MOST_AT_ONCE = 20  # sentences in a message
# Only these variables are passed to the process unchanged. Most others, such as proxies, are not passed.
_PASSED_ON = ("PATH", "LANG", "LC_ALL", "TZ", "TMPDIR", "SYSTEMROOT")

_log = get_logger("operations")


def scheme_of(url: str) -> str:
    """Returns the scheme of an apprise URL, which is not secret, for example `slack` or `mailtos`."""
    return url.partition("://")[0]


class AppriseNotifier:
    """Sends sentences to apprise URLs. One process runs at a time; later sentences wait for the next one."""

    def __init__(self, urls: Sequence[str]) -> None:
        self._urls = list(urls)
        self._waiting: deque[str] = deque(maxlen=MOST_WAITING)
        self._sending: asyncio.Task[None] | None = None

    async def check(self) -> None:
        """Raises BadSetting if the extra `notify` is missing, or if apprise does not know a URL.

        The error names the URL by its number only. Raises nothing if apprise fails or takes longer than 30 s.
        """
        if find_spec("apprise") is None:
            install = "pip install 'amux-bridge[notify]' (a container image: docker build --build-arg EXTRAS=notify)"
            raise BadSetting(f"{SETTING}: needs the extra `notify`; install it with: {install}")
        results = await self._run([], CHECK_SECONDS)
        for number, readable in enumerate(results or (), 1):
            if not readable:
                raise BadSetting(f"{SETTING}: apprise does not know entry {number}; see its list of services")

    def send(self, messages: Sequence[str]) -> None:
        """Starts to send these sentences and returns at once. A failure is logged; the sentences are not sent again.

        If more than 100 sentences wait, the oldest are dropped.
        """
        self._waiting.extend(messages)
        if self._sending is None or self._sending.done():
            self._sending = asyncio.create_task(self._send(), name="notify")

    async def close(self) -> None:
        """Ends the running process, if there is one."""
        if self._sending is not None:
            self._sending.cancel()
            await asyncio.gather(self._sending, return_exceptions=True)

    async def _send(self) -> None:
        while self._waiting:
            messages = [self._waiting.popleft() for _ in range(min(MOST_AT_ONCE, len(self._waiting)))]
            results = await self._run(messages, SEND_SECONDS)
            failed = sorted({scheme_of(url) for url, sent in zip(self._urls, results or (), strict=False) if not sent})
            if results is None or failed:
                means = "these notices may not have reached people, and they are not sent again"
                schemes = failed or sorted(set(map(scheme_of, self._urls)))
                _log.event(
                    "notify_failed", level=logging.WARNING, services=schemes, sentences=len(messages), means=means
                )

    async def _run(self, messages: Sequence[str], seconds: float) -> list[bool] | None:
        """Returns whether each URL could be used; None if the process failed or took too long."""
        try:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", PROGRAM),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                env=_environment(),
            )
        except OSError:  # for example too many open files
            return None
        try:
            async with asyncio.timeout(seconds):
                out, _ = await process.communicate(orjson.dumps({"urls": self._urls, "messages": list(messages)}))
            return _results(out) if process.returncode == 0 else None
        except TimeoutError:
            return None
        finally:
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    process.kill()
                await process.wait()


def _results(out: bytes) -> list[bool] | None:
    with suppress(orjson.JSONDecodeError):
        found: Any = orjson.loads(out)
        return [bool(one) for one in found]
    return None


def _environment() -> dict[str, str]:
    """Returns the process's environment: the same modules and private CAs, but no proxy and no login from a file."""
    found = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    found |= {"PYTHONPATH": os.pathsep.join(path or str(Path.cwd()) for path in sys.path), "NETRC": os.devnull}
    if ca_file := os.environ.get("SSL_CERT_FILE"):
        found |= {"SSL_CERT_FILE": ca_file, "REQUESTS_CA_BUNDLE": ca_file}
    return found

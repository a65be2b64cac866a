"""Starts bridges in other processes that can be killed, by forking a process that has imported everything.

As a script, this module listens on loopback, prints its port, and serves until its standard input is closed. Each
connection starts one bridge. The client sends a line of JSON: `{"env": {...}, "hooks": {...}}`. It gets
`{"event": "forked", "pid": n}`, then the bridge's log lines, then `{"event": "exited", "code": n}`. A negative code
is the signal that killed the bridge.

Importing the bridge takes longer than the rest of a start; a fork takes a few milliseconds. A forked process has its
own memory, sockets and file locks, so SIGKILL has the same effect as on any other process.
"""

import datetime as datetimes
import json
import os
import select
import signal
import socket
import sys
import time
import traceback
from contextlib import suppress
from itertools import product
from typing import Any

_real_time = time.time
_real_datetime = datetimes.datetime


class _Clock:
    """Shifts the wall clock of this process by an offset that a file contains."""

    file: int | None = None

    def offset(self) -> float:
        """Returns the offset in seconds; the file contains it as text."""
        return 0.0 if self.file is None else float(os.pread(self.file, 32, 0) or b"0")


CLOCK = _Clock()


class _RealDatetimeIsInstance(type):
    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, _real_datetime)


class _ShiftedDatetime(_real_datetime, metaclass=_RealDatetimeIsInstance):
    """The `datetime` that APScheduler gets. The real `datetime.now` does not call `time.time`, so it is not shifted."""

    @classmethod
    def now(cls, tz: datetimes.tzinfo | None = None) -> "_ShiftedDatetime":
        return cls.fromtimestamp(time.time(), tz)


def patch_time() -> None:
    """Shifts `time.time`. Call this before other imports, because many modules keep a reference to `time.time`."""
    time.time = lambda: _real_time() + CLOCK.offset()


def patch_scheduler_datetime() -> None:
    """Shifts the scheduler's `datetime`. Call this after all imports, because compiled modules need the real class."""
    for name, module in list(sys.modules.items()):
        if (
            name.startswith(("apscheduler.", "bridge.maintenance.scheduler"))
            and vars(module).get("datetime") is _real_datetime
        ):
            module.datetime = _ShiftedDatetime  # type: ignore[attr-defined]


# --- one bridge ---------------------------------------------------------------------------------------------------


def run_bridge(order: dict[str, Any]) -> int:
    """Serves as `amux-bridge serve` does; returns the exit code."""
    import uvloop

    from bridge.core.errors import BridgeError
    from bridge.service.process import serve
    from bridge.settings import settings
    from tests.store_limits import FACTOR, multiply_store_limits

    os.environ.clear()
    os.environ.update(order["env"])
    hooks = order["hooks"]
    if "clock" in hooks:
        CLOCK.file = os.open(hooks["clock"], os.O_RDONLY)
    if "lease" in hooks:
        set_lease(hooks["lease"])
    multiply_store_limits(hooks.get("store_limits", FACTOR))
    if "migrations" in hooks:  # a folder with a newer bridge's package of migrations
        from bridge.store import migrate

        sys.path.insert(0, hooks["migrations"])
        migrate.PACKAGE = "newer.migrations"
    if "crash" in hooks:
        from tests.e2e import crash_points

        crash_points.arm(hooks["crash"], hooks.get("crash_at", 1))
    if "read_only" in hooks:
        from tests.e2e import crash_points

        crash_points.read_only_while(hooks["read_only"])
    try:
        uvloop.run(serve(settings.load(None)))
    except BridgeError as error:
        print(json.dumps({"event": "refused", "reason": str(error)}), flush=True)  # noqa: T201  as the command does
        return 2
    return 0


def set_lease(seconds: float) -> None:
    """Changes the length of a replica's lease, and the heartbeat, look and margin times proportionally."""
    from bridge.maintenance import replica_lease
    from bridge.service import jobs
    from bridge.store import replicas

    scale = seconds / replicas.LEASE_SECONDS
    names = ("LEASE_SECONDS", "MARGIN_SECONDS", "HEARTBEAT_SECONDS", "ADOPTION_SECONDS")
    for module, name in product((replicas, replica_lease, jobs), names):
        if hasattr(module, name):
            setattr(module, name, getattr(module, name) * scale)


def _child(connection: socket.socket, order: dict[str, Any]) -> None:
    """Runs the bridge in the forked process. Never returns: the process always exits here."""
    code = 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        # The child sends this line, not the launcher, because the line must come before the bridge's own lines.
        connection.sendall(json.dumps({"event": "forked", "pid": os.getpid()}).encode() + b"\n")
        os.dup2(connection.fileno(), 1)
        os.dup2(connection.fileno(), 2)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        code = run_bridge(order)
    except BaseException:  # noqa: BLE001  the test sees the traceback among the log lines
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


# --- the launcher -------------------------------------------------------------------------------------------------


class Launcher:
    """Forks a bridge for each connection and reports its exit."""

    def __init__(self) -> None:
        self._children: dict[int, socket.socket] = {}
        self._listener = socket.create_server(("127.0.0.1", 0))
        woken, waker = os.pipe()
        os.set_blocking(waker, False)
        signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self._woken = woken

    def run(self) -> None:
        """Serves until standard input is closed."""
        print(self._listener.getsockname()[1], flush=True)  # noqa: T201  the test reads it
        while True:
            ready, _, _ = select.select([self._listener, self._woken, sys.stdin], [], [])
            if self._woken in ready:
                os.read(self._woken, 4096)
                self._reap()
            if self._listener in ready:
                self._start()
            if sys.stdin in ready:
                break
        self._listener.close()
        for pid, connection in self._children.items():
            os.kill(pid, signal.SIGKILL)
            connection.close()

    def _start(self) -> None:
        connection, _ = self._listener.accept()
        with connection.makefile("rb") as lines:
            order = json.loads(lines.readline())
        pid = os.fork()
        if pid == 0:
            signal.set_wakeup_fd(-1)
            self._listener.close()
            os.close(self._woken)
            for other in self._children.values():
                other.close()
            _child(connection, order)
        self._children[pid] = connection

    def _reap(self) -> None:
        while self._children:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            with self._children.pop(pid) as connection:
                code = os.waitstatus_to_exitcode(status)
                try:
                    connection.sendall(b"\n" + json.dumps({"event": "exited", "code": code}).encode() + b"\n")
                except OSError:
                    continue  # the test has closed its connection


if __name__ == "__main__":
    patch_time()
    # Imported here so that the forked processes need not import them.
    import uvloop  # noqa: F401

    import bridge.service.runtime  # noqa: F401

    with suppress(ImportError):
        import psycopg  # noqa: F401

    patch_scheduler_datetime()
    Launcher().run()

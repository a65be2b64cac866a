"""Counts, with strace, how often a process calls fsync and fdatasync, which write a file to the disk."""

import shutil
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

_ATTACH_SECONDS = 10.0


class SyncCount:
    """Counts the syncs of a process with all its threads, from `start` to `stop`. Do not measure CPU meanwhile."""

    def __init__(self, pid: int, file: Path) -> None:
        self._pid = pid
        self._file = file
        self._strace: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Begins to count, if strace is installed."""
        program = shutil.which("strace")
        if program is None:
            return
        only = "trace=fsync,fdatasync"
        arguments = [program, "-f", "-c", "-U", "name,calls", "-e", only, "-o", str(self._file), "-p", str(self._pid)]
        self._strace = subprocess.Popen(arguments, stderr=subprocess.PIPE)
        assert self._strace.stderr is not None
        self._strace.stderr.readline()  # "attached"

    def stop(self) -> int | None:
        """Ends the count and returns it, or None without strace."""
        if self._strace is None:
            return None
        self._strace.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            self._strace.communicate(timeout=_ATTACH_SECONDS)
        self._strace.kill()
        rows = [line.split() for line in self._file.read_text().splitlines()]
        return sum(int(row[1]) for row in rows if row and row[0] in {"fsync", "fdatasync"})

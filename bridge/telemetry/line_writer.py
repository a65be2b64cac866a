"""Writes log lines to a file descriptor in a thread of its own, so a full pipe or a slow disk delays no other work."""

import os
import select
import threading
from collections.abc import Callable
from contextlib import suppress

MAX_WAITING_BYTES = 4 * 1024 * 1024  # about 12,000 lines; more are dropped and counted
FLUSH_SECONDS = 2.0  # the end of the process waits this long for a reader that reads nothing
_STDERR = 2


class LineWriter:
    """A bounded queue of texts and the thread that writes them. `put` never blocks.

    When the queue is full, new lines are dropped. `describe_dropped` gets their number and returns the line that
    replaces them. When a write fails, stderr gets one message, and later lines are still tried.
    """

    def __init__(self, descriptor: int, describe_dropped: Callable[[int], str], encoding: str = "utf-8") -> None:
        self._descriptor = descriptor
        self._describe_dropped = describe_dropped
        self._encoding = encoding
        self._waiting: list[str] = []
        self._waiting_bytes = 0
        self._dropped = 0
        self._changed = threading.Condition()
        self._writing = False
        self._closed = False
        self._broken = False
        self._thread: threading.Thread | None = None

    def put(self, text: str, lines: int) -> None:
        """Adds a text of `lines` lines to the queue, or drops it if the queue is full."""
        with self._changed:
            if self._waiting_bytes + len(text) > MAX_WAITING_BYTES:
                self._dropped += lines
                return
            self._waiting.append(text)
            self._waiting_bytes += len(text)
            if self._closed:  # the interpreter is ending, and its threads may have stopped already
                self._write_waiting()
            elif self._thread is None:
                self._thread = threading.Thread(target=self._run, name="bridge-log", daemon=True)
                self._thread.start()
            elif not self._writing:
                self._changed.notify_all()

    def flush(self, seconds: float = FLUSH_SECONDS) -> bool:
        """Waits for at most `seconds` until everything is written. Returns whether everything is written."""
        with self._changed:
            return self._changed.wait_for(lambda: self._thread is None or not self._has_work(), seconds)

    def close(self) -> None:
        """Waits at most 2 s until everything is written, then ends the thread. `put` then writes later lines itself.

        If a write is blocked for longer, the thread continues.
        """
        done = self.flush()
        with self._changed:
            self._closed = done
            self._changed.notify_all()

    def _has_work(self) -> bool:
        return bool(self._waiting or self._dropped or self._writing)

    # --- the thread -----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            with self._changed:
                self._writing = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._closed or self._waiting or self._dropped)
                if self._closed:
                    return
                self._writing = True
                text = self._take()
            self._write(text)

    def _take(self) -> str:
        """Removes the waiting texts and returns them, with a line about dropped lines. Call it under the lock."""
        text = "".join(self._waiting)
        self._waiting.clear()
        self._waiting_bytes = 0
        if self._dropped:
            text += self._describe_dropped(self._dropped)
            self._dropped = 0
        return text

    def _write_waiting(self) -> None:
        self._write(self._take())

    def _write(self, text: str) -> None:
        data = memoryview(text.encode(self._encoding, errors="backslashreplace"))
        try:
            while data:
                try:
                    data = data[os.write(self._descriptor, data) :]
                except BlockingIOError:  # another process has made the descriptor non-blocking
                    select.select([], [self._descriptor], [])
        except (OSError, ValueError) as error:  # a full disk or a closed pipe: the service continues without its log
            self._report(error)
        else:
            self._broken = False

    def _report(self, error: Exception) -> None:
        if self._broken:
            return
        self._broken = True
        # Not sys.stderr: it keeps a text that it cannot write, and the interpreter then ends with exit status 120.
        with suppress(OSError):
            os.write(_STDERR, f"the log cannot be written: {error}\n".encode(errors="backslashreplace"))

"""Writes log lines. The lines of 0.1 s are written as one text. A single line costs as much as ten lines in a text."""

import asyncio
import io
import logging
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import TextIO

from bridge.telemetry.line_writer import LineWriter

FIELDS = "bridge_fields"  # the attribute that only the bridge's own records have
WAIT_SECONDS = 0.1  # each text wakes the writing thread, which takes CPU time from the event loop
MAX_WAITING = 256  # lines; formatting them takes a millisecond
_WRITE_AT_ONCE = logging.WARNING  # lines of this level and above do not wait: one may be the last before a crash


class LineFormatter(logging.Formatter):
    """Formats records as lines. No record makes it raise."""

    def text_of(self, records: Sequence[logging.LogRecord]) -> str:
        """Returns the records as text, separated by line feeds."""
        return "\n".join(map(self.format, records))


class LineHandler(logging.Handler):
    """Writes each record as a line, in order, from any thread.

    A line below WARNING that is logged on an event loop waits up to 0.1 s for others. All other lines are written at
    once, after the lines that wait. When the stream fails, stderr gets one message, and logging continues.

    A thread writes to a stream with a file descriptor, so no caller waits for a full pipe. `close` ends the thread.
    """

    def __init__(self, stream: TextIO, formatter: LineFormatter) -> None:
        super().__init__()
        self.setFormatter(formatter)
        self._stream = stream
        self._text_of = formatter.text_of
        self._waiting: list[logging.LogRecord] = []
        self._flushing_loop: asyncio.AbstractEventLoop | None = None  # its timer writes the waiting lines
        self._broken = False
        self._writer = self._make_writer(stream)

    def _make_writer(self, stream: TextIO) -> LineWriter | None:
        """Returns the writer for the stream's descriptor. None for a stream in memory, which cannot block."""
        with suppress(OSError, ValueError, AttributeError):
            stream.flush()
        try:
            descriptor = stream.fileno()
        except (OSError, ValueError, AttributeError):
            return None
        encoding = stream.encoding if isinstance(stream, io.TextIOWrapper) else "utf-8"
        return LineWriter(descriptor, self._describe_dropped, encoding)

    def _describe_dropped(self, count: int) -> str:
        record = logging.LogRecord("bridge.process", logging.WARNING, "", 0, "log_lines_dropped", None, None)
        means = "the reader of the log was too slow: these lines are lost, because the bridge does not wait"
        setattr(record, FIELDS, {"count": count, "means": means})
        return self._text_of([record]) + "\n"

    def emit(self, record: logging.LogRecord) -> None:
        """Writes the record, or adds it to the waiting ones. Called under the handler's lock."""
        self._waiting.append(record)
        loop = asyncio._get_running_loop()  # noqa: SLF001  documented for libraries; the public function raises
        if loop is None or record.levelno >= _WRITE_AT_ONCE or len(self._waiting) >= MAX_WAITING:
            self._write()
        elif self._flushing_loop is not loop:
            self._flushing_loop = loop
            loop.call_later(WAIT_SECONDS, self._end_wait)

    def flush(self) -> None:
        """Writes the waiting lines. Waits for the writing thread, at most 2 s if the log's reader reads nothing."""
        self._write_waiting()
        if self._writer is not None:
            self._writer.flush()

    def close(self) -> None:
        """Writes the waiting lines and ends the thread."""
        self._write_waiting()
        if self._writer is not None:
            self._writer.close()
        super().close()

    def _end_wait(self) -> None:
        self._flushing_loop = None
        self._write_waiting()

    def _write_waiting(self) -> None:
        self.acquire()
        try:
            self._write()
        finally:
            self.release()

    def _write(self) -> None:
        if not self._waiting:
            return
        text, lines = self._text_of(self._waiting) + "\n", len(self._waiting)
        self._waiting.clear()
        if self._writer is not None:
            self._writer.put(text, lines)
            return
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError) as error:  # a full disk or a closed pipe: the service continues without its log
            if not self._broken:
                self._broken = True
                with suppress(OSError, ValueError, AttributeError):
                    sys.stderr.write(f"the log cannot be written: {error}\n")
        else:
            self._broken = False

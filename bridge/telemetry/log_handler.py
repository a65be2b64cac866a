"""Writes log lines. All lines of one turn of the event loop are one write: a write costs half as much as a line."""

import asyncio
import logging
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import TextIO

_WRITE_AT_ONCE = logging.WARNING  # lines of this level and above do not wait for the turn's end: one may be the last


class LineFormatter(logging.Formatter):
    """Makes lines of records. It raises for no record."""

    def text_of(self, records: Sequence[logging.LogRecord]) -> str:
        """Returns the records as text, separated by line feeds."""
        return "\n".join(map(self.format, records))


class LineHandler(logging.Handler):
    """Writes each record as a line, in order, from any thread.

    A line below WARNING that is logged on an event loop is written when the loop's turn ends. All others are written
    at once, after the lines that wait. When the stream fails, logging goes on, and stderr gets one message.
    """

    def __init__(self, stream: TextIO, formatter: LineFormatter) -> None:
        super().__init__()
        self.setFormatter(formatter)
        self._stream = stream
        self._text_of = formatter.text_of
        self._waiting: list[logging.LogRecord] = []
        self._flushing_loop: asyncio.AbstractEventLoop | None = None  # it writes the waiting lines when its turn ends
        self._broken = False

    def emit(self, record: logging.LogRecord) -> None:
        """Writes the record, or adds it to the waiting ones. Called under the handler's lock."""
        self._waiting.append(record)
        loop = asyncio._get_running_loop()  # noqa: SLF001  documented for libraries; the public function raises
        if loop is None or record.levelno >= _WRITE_AT_ONCE:
            self._write()
        elif self._flushing_loop is not loop:
            self._flushing_loop = loop
            loop.call_soon(self._end_turn)

    def flush(self) -> None:
        """Writes the waiting lines."""
        self.acquire()
        try:
            self._write()
        finally:
            self.release()

    def _end_turn(self) -> None:
        self._flushing_loop = None
        self.flush()

    def _write(self) -> None:
        if not self._waiting:
            return
        text = self._text_of(self._waiting) + "\n"
        self._waiting.clear()
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError) as error:  # a full disk or a closed pipe: the service goes on without its log
            if not self._broken:
                self._broken = True
                with suppress(OSError, ValueError, AttributeError):
                    sys.stderr.write(f"the log cannot be written: {error}\n")
        else:
            self._broken = False

"""Where lines go: what one turn of the event loop logs is one write, for a write costs half of what a line does."""

import asyncio
import logging
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import TextIO

_AT_ONCE = logging.WARNING  # from here on a line is not kept for the turn's end: it may be the last one


class LineFormatter(logging.Formatter):
    """Makes lines of records; it raises for none."""

    def text_of(self, records: Sequence[logging.LogRecord]) -> str:
        """The records as text, a line feed between them."""
        return "\n".join(map(self.format, records))


class LineHandler(logging.Handler):
    """Writes each record as a line, in order, whichever thread it comes from.

    A line below a warning that is logged on an event loop is written when the loop's turn ends; all others at once,
    after those that wait. A stream that takes nothing more fails nobody: it is said once on stderr.
    """

    def __init__(self, stream: TextIO, formatter: LineFormatter) -> None:
        super().__init__()
        self.setFormatter(formatter)
        self._stream = stream
        self._text_of = formatter.text_of
        self._kept: list[logging.LogRecord] = []
        self._turn: asyncio.AbstractEventLoop | None = None  # whose end will write what is kept
        self._broken = False

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record, or keep it for the turn's end; called under the handler's lock."""
        self._kept.append(record)
        loop = asyncio._get_running_loop()  # noqa: SLF001  public in all but name; the public one raises
        if loop is None or record.levelno >= _AT_ONCE:
            self._write()
        elif self._turn is not loop:
            self._turn = loop
            loop.call_soon(self._turn_ends)

    def flush(self) -> None:
        """Write what is kept."""
        self.acquire()
        try:
            self._write()
        finally:
            self.release()

    def _turn_ends(self) -> None:
        self._turn = None
        self.flush()

    def _write(self) -> None:
        if not self._kept:
            return
        text = self._text_of(self._kept) + "\n"
        self._kept.clear()
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError) as error:  # a full disk, a closed pipe: the service goes on without its log
            if not self._broken:
                self._broken = True
                with suppress(OSError, ValueError, AttributeError):
                    sys.stderr.write(f"the log cannot be written: {error}\n")
        else:
            self._broken = False

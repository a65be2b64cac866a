"""Writing for people: colour, width, and a block of lines that is drawn over itself; plain lines in a pipe."""

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from typing import Final, TextIO, TypeAlias

Piece: TypeAlias = tuple[str, str]
"""A text and its style's name."""
Line: TypeAlias = Sequence[Piece | str]

_STYLES: Final[Mapping[str, str]] = {
    "plain": "",
    "bold": "1",
    "dim": "2",
    "good": "32",
    "bad": "31",
    "doubtful": "33",
    "accent": "36",
}
_UP_AND_CLEAR = "\x1b[{}F\x1b[J"
_HIDE_CURSOR, _SHOW_CURSOR = "\x1b[?25l", "\x1b[?25h"


def printable(text: str) -> str:
    """A stranger's text, safe to show: control characters are spelled out, not sent."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


class Terminal:
    """An output stream, and what it can do.

    `live` is whether lines may be drawn over: a terminal that is not dumb. Colour needs that too, and is left out
    while NO_COLOR is set (no-color.org).
    """

    def __init__(self, stream: TextIO | None = None, environ: Mapping[str, str] = os.environ) -> None:
        self._stream = stream if stream is not None else sys.stdout
        self.live = self._stream.isatty() and environ.get("TERM", "") not in {"", "dumb"}
        self._colour = self.live and not environ.get("NO_COLOR")
        self.unicode = (getattr(self._stream, "encoding", None) or "").lower().replace("-", "") == "utf8"
        self._drawn = 0

    @property
    def width(self) -> int:
        """Columns that a line may take; the last one stays free, for some terminals wrap at it."""
        return max(20, shutil.get_terminal_size((100, 24)).columns - 1)

    def say(self, *pieces: Piece | str) -> None:
        """Write one line, above the block that is drawn."""
        self._wipe()
        self._write(self._text(pieces, None) + "\n")

    def draw(self, block: Sequence[Line]) -> None:
        """Draw a block of lines over the last one, each cut to the terminal's width; nothing in a pipe."""
        if not self.live:
            return
        room = max(1, shutil.get_terminal_size((100, 24)).lines - 1)
        block = block[-room:]
        text = "".join(self._text(line, self.width) + "\n" for line in block)
        up = _UP_AND_CLEAR.format(self._drawn) if self._drawn else _HIDE_CURSOR
        self._write(up + text)
        self._drawn = len(block)

    def leave(self) -> None:
        """Let the block that is drawn stand, and give the cursor back."""
        if self._drawn:
            self._drawn = 0
            self._write(_SHOW_CURSOR)

    def _wipe(self) -> None:
        if self._drawn:
            self._write(_UP_AND_CLEAR.format(self._drawn) + _SHOW_CURSOR)
            self._drawn = 0

    def _text(self, pieces: Sequence[Piece | str], width: int | None) -> str:
        told = []
        left = width
        for piece in pieces:
            text, style = (piece, "plain") if isinstance(piece, str) else piece
            if left is not None:
                text, left = text[:left], left - len(text[:left])
            code = _STYLES[style]
            told.append(f"\x1b[{code}m{text}\x1b[0m" if self._colour and code and text else text)
        return "".join(told)

    def _write(self, text: str) -> None:
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        self._stream.write(text.encode(encoding, "replace").decode(encoding))
        self._stream.flush()


def bar(progress: float, cells: int, *, unicode: bool) -> str:
    """Progress from 0 to 100 as a bar of so many cells."""
    full = round(min(max(progress, 0.0), 100.0) / 100 * cells)
    done, rest = ("\u2501", "\u2500") if unicode else ("#", "-")
    return done * full + rest * (cells - full)

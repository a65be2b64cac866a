"""Output for people: colours, the width, and a block of lines that is redrawn in place. A pipe gets plain lines."""

import os
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from typing import Final, TextIO, TypeAlias

from bridge.telemetry.colour import has_colour, is_screen

Piece: TypeAlias = tuple[str, str]
"""A text and the name of its style."""
Line: TypeAlias = Sequence[Piece | str]

_STYLES: Final[Mapping[str, str]] = {
    "plain": "",
    "bold": "1",
    "dim": "2",
    "good": "32",
    "bad": "31",
    "warning": "33",
    "accent": "36",
}
_WORDS: Final = re.compile(r"( *)([^ ]*)")
_UP_AND_CLEAR = "\x1b[{}F\x1b[J"
_HIDE_CURSOR, _SHOW_CURSOR = "\x1b[?25l", "\x1b[?25h"


def note(line: str) -> None:
    """Prints a line on stderr, so that stdout has only the command's output."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def printable(text: str) -> str:
    """Returns text of unknown origin with its control characters escaped, so that a terminal can show it safely."""
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)


class Terminal:
    """An output stream and its capabilities.

    `live` is true for a terminal that is not dumb: there, lines can be redrawn. Colours are used only where `live` is
    true and NO_COLOR is not set (no-color.org).
    """

    def __init__(self, stream: TextIO | None = None, environ: Mapping[str, str] = os.environ) -> None:
        self._stream = stream if stream is not None else sys.stdout
        self.live = is_screen(self._stream, environ)
        self._colour = has_colour(self._stream, environ)
        self.unicode = (getattr(self._stream, "encoding", None) or "").lower().replace("-", "") == "utf8"
        self._drawn = 0

    @property
    def width(self) -> int:
        """The columns that a line may use. The last one stays empty, because some terminals wrap a full line."""
        return max(20, shutil.get_terminal_size((100, 24)).columns - 1)

    def print_line(self, *pieces: Piece | str) -> None:
        """Writes one line. A block that `draw` has drawn is erased first."""
        self._erase()
        self._write(self._text(pieces, None) + "\n")

    def print_wrapped(self, *pieces: Piece | str, indent: int = 0) -> None:
        """Writes one line. On a terminal that is too narrow for it, the line breaks between words.

        The lines after the first one begin with `indent` spaces. A word that is longer than the width stays whole.
        """
        if not self.live:
            self.print_line(*pieces)
            return
        for line in wrapped(pieces, self.width, indent):
            self.print_line(*line)

    def draw(self, block: Sequence[Line]) -> None:
        """Draws a block of lines in place of the last block, each cut to the terminal's width. A pipe gets nothing."""
        if not self.live:
            return
        visible_lines = max(1, shutil.get_terminal_size((100, 24)).lines - 1)
        block = block[-visible_lines:]
        text = "".join(self._text(line, self.width) + "\n" for line in block)
        move_up = _UP_AND_CLEAR.format(self._drawn) if self._drawn else _HIDE_CURSOR
        self._write(move_up + text)
        self._drawn = len(block)

    def release(self) -> None:
        """Keeps the block that was drawn on the screen and shows the cursor again."""
        if self._drawn:
            self._drawn = 0
            self._write(_SHOW_CURSOR)

    def _erase(self) -> None:
        if self._drawn:
            self._write(_UP_AND_CLEAR.format(self._drawn) + _SHOW_CURSOR)
            self._drawn = 0

    def _text(self, pieces: Sequence[Piece | str], width: int | None) -> str:
        styled = []
        left = width
        for piece in pieces:
            text, style = (piece, "plain") if isinstance(piece, str) else piece
            if left is not None:
                text, left = text[:left], left - len(text[:left])
            code = _STYLES[style]
            styled.append(f"\x1b[{code}m{text}\x1b[0m" if self._colour and code and text else text)
        return "".join(styled)

    def _write(self, text: str) -> None:
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        self._stream.write(text.encode(encoding, "replace").decode(encoding))
        self._stream.flush()


def wrapped(pieces: Sequence[Piece | str], width: int, indent: int = 0) -> list[list[Piece]]:
    """Returns the lines of a text that breaks between words. Each word keeps its style."""
    lines: list[list[Piece]] = [[]]
    used, begun = 0, False  # `begun`: the line has a word
    for piece in pieces:
        text, style = (piece, "plain") if isinstance(piece, str) else piece
        for gap, word in _WORDS.findall(text):
            if word and begun and used + len(gap) + len(word) > width:
                lines.append([(" " * indent, "plain")])
                used = indent
            else:
                lines[-1].append((gap, "plain"))
                used += len(gap)
            lines[-1].append((word, style))
            used, begun = used + len(word), begun or bool(word)
    return [_without_end_space(line) for line in lines]


def _without_end_space(line: list[Piece]) -> list[Piece]:
    while line and not line[-1][0].strip():
        line = line[:-1]
    return line


def shortened(text: str, width: int) -> str:
    """Returns a text. If it is longer than `width` characters, its middle is replaced by an ellipsis."""
    if len(text) <= width or width < 3:
        return text[:width]
    head = (width - 1) // 2
    return f"{text[:head]}\u2026{text[-(width - 1 - head) :]}"


def bar(progress: float, cells: int, *, unicode: bool) -> str:
    """Returns progress from 0 to 100 as a bar of `cells` characters."""
    filled = round(min(max(progress, 0.0), 100.0) / 100 * cells)
    filled_cell, empty_cell = ("\u2501", "\u2500") if unicode else ("#", "-")
    return filled_cell * filled + empty_cell * (cells - filled)

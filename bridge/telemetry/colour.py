"""Whether a stream shows colours."""

import os
from collections.abc import Mapping
from typing import TextIO


def is_screen(stream: TextIO, environ: Mapping[str, str] = os.environ) -> bool:
    """Whether a stream is a terminal that supports escape sequences."""
    return stream.isatty() and environ.get("TERM", "") not in {"", "dumb"}


def has_colour(stream: TextIO, environ: Mapping[str, str] = os.environ) -> bool:
    """Whether to use colours on a stream: on a screen, unless NO_COLOR is set to any text (no-color.org)."""
    return is_screen(stream, environ) and not environ.get("NO_COLOR")

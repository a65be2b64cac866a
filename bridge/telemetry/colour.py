"""Finds out whether a stream is a terminal, and whether it shows colours."""

import os
from collections.abc import Mapping
from typing import TextIO


def is_screen(stream: TextIO, environ: Mapping[str, str] = os.environ) -> bool:
    """Returns whether a stream is a terminal that supports escape sequences."""
    return stream.isatty() and environ.get("TERM", "") not in {"", "dumb"}


def has_colour(stream: TextIO, environ: Mapping[str, str] = os.environ) -> bool:
    """Returns whether to use colours: `is_screen` is true, and NO_COLOR is not set to any text (no-color.org)."""
    return is_screen(stream, environ) and not environ.get("NO_COLOR")

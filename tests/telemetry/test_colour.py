"""Colours of the console log, and where they are used."""

import io
import logging

import pytest

from bridge.telemetry.colour import has_colour
from bridge.telemetry.logs import ConsoleFormatter


def test_colours_mark_the_level_and_no_field_can_forge_one() -> None:
    record = logging.LogRecord("bridge.delivery", logging.ERROR, "", 0, "dead \x1b[32m", None, None)
    text = ConsoleFormatter(colour=True).format(record)
    assert "\x1b[31mERROR   \x1b[0m" in text
    assert "\x1b[2mlogger=\x1b[0m" in text
    assert "\x1b[32m" not in text


@pytest.mark.parametrize(
    ("terminal", "environ", "expected"),
    [
        (True, {"TERM": "xterm"}, True),
        (True, {"TERM": "xterm", "NO_COLOR": ""}, True),
        (True, {"TERM": "xterm", "NO_COLOR": "1"}, False),
        (True, {"TERM": "dumb"}, False),
        (True, {}, False),
        (False, {"TERM": "xterm"}, False),
    ],
)
def test_colours_need_a_terminal_that_has_them_and_no_no_color(
    *, terminal: bool, environ: dict[str, str], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(screen, "isatty", lambda: terminal)
    assert has_colour(screen, environ) is expected

"""`demo`: the stand-in, a bridge and a receiver in one process; tasks of every kind, each callback verified."""

import io
import sys
from argparse import Namespace

from bridge.cli.terminal import Terminal


def run(given: Namespace) -> int:
    """Play it; 0 when every task was told once, as it ended, under a good signature. Raises CommandFailed if not."""
    terminal = Terminal()
    terminal.say(("Starting the amux stand-in, a bridge and a receiver in this process ...", "dim"))
    # Only now: they take a second or two, and a reader should not wait before an empty screen.
    from bridge.cli.demo.scenario import Scenario
    from bridge.cli.demo.screen import Screen
    from bridge.cli.event_loop import run_fast
    from bridge.telemetry import configure_logging

    configure_logging("INFO", "console", sys.stderr if given.logs else io.StringIO())
    run_fast(Scenario(Screen(terminal)).play())
    return 0

"""`demo`: runs the stand-in, a bridge and a receiver in one process, with tasks that end in different ways."""

import io
import sys
from argparse import Namespace

from bridge.cli.terminal import Terminal


def run(args: Namespace) -> int:
    """Runs the demo. Returns 0 if each task's event was verified and accepted exactly once.

    Raises CommandFailed if not.
    """
    terminal = Terminal()
    terminal.print_wrapped(("Starting the amux stand-in, a bridge and a receiver in this process ...", "dim"))
    # Imported here: the imports take a second or two, and the line above must appear before that.
    from bridge.cli.demo.scenario import Scenario
    from bridge.cli.demo.screen import Screen
    from bridge.cli.event_loop import run_fast
    from bridge.telemetry import configure_logging

    configure_logging("INFO", "console", sys.stderr if args.logs else io.StringIO())
    run_fast(Scenario(Screen(terminal)).run())
    return 0

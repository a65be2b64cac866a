"""The entry of the program. It first makes SIGTERM end the process, and then imports everything else.

Process 1 of a container has no default action for signals, so a SIGTERM before there is a handler is lost. The imports
of this module take a millisecond; `typing` or `argparse` here would take ten more.
"""

import os
import signal
import sys

INTERRUPTED, TERMINATED = 130, 143


def main(arguments: tuple[str, ...] | list[str] | None = None) -> int:
    """Runs a command and returns its exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    _stop_on_sigterm(is_service="serve" in given[:1])
    try:
        from bridge.cli.dispatch import run

        return run(given)
    except KeyboardInterrupt:  # also during the imports
        return INTERRUPTED


def _stop_on_sigterm(*, is_service: bool) -> None:
    """Makes SIGTERM end the process from now on. When the event loop of `serve` runs, `serve` handles SIGTERM."""
    try:
        if is_service:
            signal.signal(signal.SIGTERM, lambda *_: os._exit(0))  # no work has begun yet
        elif os.getpid() == 1:
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))
    except ValueError:
        return  # only the main thread can set signal handlers

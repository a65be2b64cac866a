"""`completion`: prints a script that completes commands, options and values in a shell."""

import sys
from argparse import Namespace

import shtab

from bridge.cli.parser import build_parser


def run(args: Namespace) -> int:
    """Prints the script."""
    sys.stdout.write(shtab.complete(build_parser(), args.shell) + "\n")
    return 0

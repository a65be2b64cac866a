"""Lets `python -m bridge` run the `amux-bridge` command."""

import sys

from bridge.cli.main import main

if __name__ == "__main__":
    sys.exit(main())

"""`python -m bridge` is `amux-bridge`."""

import sys

from bridge.cli.main import main

if __name__ == "__main__":
    sys.exit(main())

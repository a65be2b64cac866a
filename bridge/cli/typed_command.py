"""The command that starts this program, for texts that show a command to copy."""

import shlex
import shutil
import sys
from pathlib import Path

from bridge.cli.errors import PROGRAM


def typed_command() -> str:
    """Returns `amux-bridge` if a shell finds it, else the path or the module that started this process."""
    if shutil.which(PROGRAM) is not None:
        return PROGRAM
    started = Path(sys.argv[0])
    if started.name == PROGRAM:
        return shlex.quote(sys.argv[0])
    return f"{shlex.quote(sys.executable)} -m bridge"

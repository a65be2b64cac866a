"""The errors of commands, and the exit codes; 130 and 143 are in `main.py`.

An error is one sentence on stderr and an exit code for scripts.
"""

import sys
from typing import Final

from bridge.core.errors import BridgeError

PROGRAM: Final = "amux-bridge"
FAILED, USAGE_ERROR = 1, 2


class CommandFailed(BridgeError):
    """A command did not do what was asked. The message says what went wrong and, where known, how to fix it."""

    code = "command_failed"


class WrongUsage(CommandFailed):
    """The command cannot use an argument. It sends nothing and ends with exit code 2."""


def cannot_listen(host: str, port: int, error: OSError) -> CommandFailed:
    """Returns the error for an address that cannot be listened on.

    asyncio adds the system's message to its own, after a colon. Only the system's message is shown.
    """
    reason = (error.strerror or str(error)).rpartition(": ")[2]
    return CommandFailed(f"cannot listen on {f'[{host}]' if ':' in host else host}:{port}: {reason}")


def print_error(sentences: str, code: int, command: str | None) -> int:
    """Writes each line of `sentences` to stderr and returns `code`.

    A line is a JSON object if the command is `serve` and its log is JSON.
    """
    if command == "serve":
        from bridge.cli.serve_errors import as_json_lines, writes_json

        if writes_json():
            sys.stderr.write(as_json_lines(sentences, code))
            return code
    for sentence in sentences.splitlines():
        sys.stderr.write(f"{PROGRAM}: {sentence}\n")
    return code

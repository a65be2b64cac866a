"""A command that did not do what was asked: one sentence for people, an exit code for scripts."""

from bridge.core.errors import BridgeError

FAILED, MISUSED, INTERRUPTED = 1, 2, 130


class CommandFailed(BridgeError):
    """What went wrong, and what to do about it where that is known."""

    code = "command_failed"


def cannot_listen(host: str, port: int, error: OSError) -> CommandFailed:
    """The sentence for an address that can't be taken; asyncio puts the system's words at the end of its own."""
    why = (error.strerror or str(error)).rpartition(": ")[2]
    return CommandFailed(f"cannot listen on {f'[{host}]' if ':' in host else host}:{port}: {why}")

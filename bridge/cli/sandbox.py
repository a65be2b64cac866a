"""`sandbox`: runs the amux stand-in alone, for development without amux."""

import asyncio
import signal
import sys
from argparse import Namespace
from contextlib import suppress

from bridge.cli.errors import cannot_listen
from bridge.cli.event_loop import run_fast
from bridge.sandbox import Sandbox

_USAGE_NOTES = """\
Any bearer key is accepted. POST /v1/video/generations creates a task. The first word of the prompt selects how the
task ends: fail, cancel, expire or never. With any other word it completes. A task id such as
sandbox_0_5000_completed_1 needs no creation: the task starts when its status is first requested. A number after
`sandbox` is the platform: sandbox50_0_5000_completed_1 is a task of Kling (50), which amux updates about every 15 s.
Tasks of the platforms 24, 41 and 54 are live. Ctrl-C stops the stand-in.
"""


def run(args: Namespace) -> int:
    """Prints the base URL and serves until SIGTERM or Ctrl-C."""
    return run_fast(_serve(args.host, args.port))


async def _serve(host: str, port: int) -> int:
    sandbox = Sandbox()
    try:
        base_url = await sandbox.start(host, port)
    except OSError as error:
        raise cannot_listen(host, port, error) from None
    stop = asyncio.Event()
    with suppress(NotImplementedError):  # Windows has no SIGTERM handler
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    sys.stdout.write(base_url + "\n")
    sys.stdout.flush()
    sys.stderr.write(_USAGE_NOTES)
    try:
        await stop.wait()
    finally:
        await sandbox.stop()
    return 0

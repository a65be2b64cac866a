"""`sandbox`: the amux stand-in alone, for development against amux without amux."""

import asyncio
import signal
import sys
from argparse import Namespace
from contextlib import suppress

from bridge.cli.errors import cannot_listen
from bridge.cli.event_loop import run_fast
from bridge.sandbox import Sandbox

_HOW = """\
Any bearer key will do. POST /v1/video/generations creates a task; a prompt whose first word is fail, cancel, expire
or never says how it goes. An id such as sandbox_0_5000_completed_1 is a task that begins when it is first asked for.
Ctrl-C ends it.
"""


def run(given: Namespace) -> int:
    """Serve until a signal."""
    return run_fast(_serve(given.host, given.port))


async def _serve(host: str, port: int) -> int:
    sandbox = Sandbox()
    try:
        base_url = await sandbox.start(host, port)
    except OSError as error:
        raise cannot_listen(host, port, error) from None
    stop = asyncio.Event()
    with suppress(NotImplementedError):  # Windows has no SIGTERM to wait for
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    sys.stdout.write(base_url + "\n")
    sys.stdout.flush()
    sys.stderr.write(_HOW)
    try:
        await stop.wait()
    finally:
        await sandbox.stop()
    return 0

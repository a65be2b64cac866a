"""`serve`: runs the bridge until SIGTERM or SIGINT."""

import logging
import sys
from argparse import Namespace

from bridge.cli.banner import show_banner
from bridge.cli.errors import FAILED
from bridge.cli.event_loop import run_fast
from bridge.core.errors import BridgeError
from bridge.settings.parsers import LOOPBACK
from bridge.settings.settings import Settings, load_to_serve

# The key is redacted from log lines, so it must not be a word that they contain.
SANDBOX_KEY = "any-key-will-do"
EXAMPLE_TASK = "sandbox_0_5000_completed_1"


def run(args: Namespace) -> int:
    """Serves, and returns 0 after a drain. An unexpected error is logged, and 1 is returned."""
    settings = load_to_serve()
    try:
        run_fast(_serve_with_sandbox(settings) if args.sandbox else _serve(settings))
    except (BridgeError, ImportError, OSError):
        raise
    except Exception as error:  # noqa: BLE001  operators read the log, not stderr
        from bridge.telemetry import get_logger

        means = "the process ends; restart the bridge: it then continues all watches"
        get_logger("process").event("died", level=logging.CRITICAL, trace=error, means=means)
        return FAILED
    return 0


async def _serve(settings: Settings) -> None:
    from bridge.service.process import serve

    await serve(settings, on_ready=lambda url: show_banner(settings, url, sys.stdout))


async def _serve_with_sandbox(settings: Settings) -> None:
    """Serves with the stand-in instead of amux, and with callbacks to this machine.

    The AMUX_API_KEY and AMUX_BASE_URL of the environment are ignored.
    """
    from bridge.sandbox import Sandbox
    from bridge.service.process import serve
    from bridge.telemetry import get_logger

    sandbox = Sandbox()
    base_url = await sandbox.start()

    settings = load_to_serve(
        amux_base_url=base_url,
        amux_api_key=SANDBOX_KEY,
        callback_allow_networks=(*settings.callback_allow_networks, *LOOPBACK),
    )

    def on_ready(url: str) -> None:
        get_logger("sandbox").event("sandbox_listening", url=base_url, example=f"task id {EXAMPLE_TASK}")
        show_banner(settings, url, sys.stdout, task=EXAMPLE_TASK)

    try:
        await serve(settings, on_ready=on_ready)
    finally:
        await sandbox.stop()

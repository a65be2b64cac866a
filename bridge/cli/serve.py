"""`serve`: runs the bridge until SIGTERM or SIGINT."""

import logging
from argparse import Namespace

from bridge.cli.errors import FAILED
from bridge.cli.event_loop import run_fast
from bridge.core.errors import BridgeError
from bridge.settings.settings import Settings, load

_LOOPBACK = ("127.0.0.0/8", "::1/128")
# No word that log lines contain: the key is redacted from them.
SANDBOX_KEY = "any-key-will-do"


def run(args: Namespace) -> int:
    """Serves; returns 0 after a drain. An unexpected error goes to the log, like everything that `serve` writes."""
    settings = load()
    try:
        run_fast(_serve_with_sandbox() if args.sandbox else _serve(settings))
    except (BridgeError, ImportError, OSError):
        raise
    except Exception as error:  # noqa: BLE001  operators read the log, not stderr
        from bridge.telemetry import get_logger

        get_logger("process").event("died", level=logging.CRITICAL, trace=error)
        return FAILED
    return 0


async def _serve(settings: Settings) -> None:
    from bridge.service.process import serve

    await serve(settings)


async def _serve_with_sandbox() -> None:
    """Serves with the stand-in instead of amux; the AMUX_API_KEY and AMUX_BASE_URL of the environment are ignored.

    Callbacks may go to this machine: a person who tries the bridge receives them here.
    """
    from bridge.sandbox import Sandbox
    from bridge.service.process import serve
    from bridge.telemetry import get_logger

    sandbox = Sandbox()
    base_url = await sandbox.start()

    def log_sandbox(_url: str) -> None:
        get_logger("sandbox").event("sandbox_listening", url=base_url, example="task id sandbox_0_5000_completed_1")

    try:
        await serve(_sandbox_settings(base_url), on_ready=log_sandbox)
    finally:
        await sandbox.stop()


def _sandbox_settings(base_url: str) -> Settings:
    networks = (*load().callback_allow_networks, *_LOOPBACK)
    return load(amux_base_url=base_url, amux_api_key=SANDBOX_KEY, callback_allow_networks=networks)

"""`serve`: the bridge itself, until SIGTERM or SIGINT."""

import logging
from argparse import Namespace

from bridge.cli.errors import FAILED
from bridge.cli.event_loop import run_fast
from bridge.core.errors import BridgeError
from bridge.settings.settings import Settings, load

SANDBOX_KEY = "any-key-will-do"  # no word that log lines use: a key is redacted from them


def run(given: Namespace) -> int:
    """Serve; 0 after a drain. What nobody foresaw is a line of the log, as everything is that `serve` writes."""
    settings = load()
    try:
        run_fast(_with_sandbox() if given.sandbox else _serve(settings))
    except (BridgeError, ImportError, OSError):
        raise
    except Exception as error:  # noqa: BLE001  whatever it is, the log is read and stderr is not
        from bridge.telemetry import get_logger

        get_logger("process").event("died", level=logging.CRITICAL, trace=error)
        return FAILED
    return 0


async def _serve(settings: Settings) -> None:
    from bridge.service.process import serve

    await serve(settings)


async def _with_sandbox() -> None:
    """Serve with the stand-in in amux's place, whatever key and base URL the environment has."""
    from bridge.sandbox import Sandbox
    from bridge.service.process import serve
    from bridge.telemetry import get_logger

    sandbox = Sandbox()
    base_url = await sandbox.start()

    def tell(_url: str) -> None:
        get_logger("sandbox").event("sandbox_listening", url=base_url, example="task id sandbox_0_5000_completed_1")

    try:
        await serve(load(amux_base_url=base_url, amux_api_key=SANDBOX_KEY), on_ready=tell)
    finally:
        await sandbox.stop()

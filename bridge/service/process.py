"""A bridge as a process: sets up logging, signals and garbage collection, and runs one runtime."""

import asyncio
import gc
import logging
import os
import signal
from collections.abc import Callable

from bridge.core.errors import BridgeError
from bridge.service.runtime import Runtime
from bridge.settings.cautions import cautions, variable_cautions
from bridge.settings.proxies import certificate_cautions, proxy_cautions
from bridge.settings.settings import Settings, secret_texts
from bridge.telemetry import REDACTOR, configure_logging, get_logger
from bridge.telemetry.logs import flush_logs, log_loop_errors

ABANDON_SECONDS = 2.0  # a cancelled start has this long to close everything; then the process exits

_log = get_logger("runtime")


async def serve(settings: Settings, *, on_ready: Callable[[str], None] | None = None) -> None:
    """Runs a bridge until SIGTERM or SIGINT, then drains it. When it serves, `on_ready` is called with its URL.

    A second signal ends the process at once. Claimed deliveries then become due when their claims expire. Raises
    BadSetting or StoreUnavailable if the bridge cannot start.
    """
    for secret in secret_texts(settings):
        REDACTOR.add(secret)
    configure_logging(settings.log_level, settings.log_format)
    loop = asyncio.get_running_loop()
    log_loop_errors(loop)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _stop_then_exit(stop, number))
    for caution in [*cautions(settings), *proxy_cautions(), *certificate_cautions(), *variable_cautions()]:
        _log.event("caution", level=logging.WARNING, what=caution)
    # Most objects that exist after the start stay. `_run` freezes them, so the collector does not scan them. This saves
    # a quarter of a poll's cost. The collection is here, before polls are due, because it takes a third of a second.
    gc.collect()
    gc.set_threshold(20_000, 20, 50)
    try:
        await _run(settings, stop, on_ready)
    finally:
        flush_logs()


async def _run(settings: Settings, stop: asyncio.Event, on_ready: Callable[[str], None] | None) -> None:
    """Runs a bridge until `stop` is set."""
    runtime = await _start_unless(stop, settings)
    if runtime is None:
        _log.event("stopped", during="the start")
        return
    gc.freeze()
    if on_ready is not None:
        on_ready(runtime.url)
    await stop.wait()
    await runtime.stop()


async def _start_unless(stop: asyncio.Event, settings: Settings) -> Runtime | None:
    """Returns a started bridge; None if `stop` was set before that. Raises the errors of `Runtime.start`."""
    starting = asyncio.create_task(Runtime.start(settings))
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
    if starting.done():
        stopping.cancel()
        return starting.result()
    starting.cancel()
    done, _ = await asyncio.wait({starting}, timeout=ABANDON_SECONDS)
    if not done:
        # A thread waits for a database that does not answer. Without `_exit` the interpreter would wait for the thread.
        _log.event("stopped", during="the start")
        logging.shutdown()
        os._exit(0)
    if starting.cancelled():
        return None
    if (error := starting.exception()) is not None:
        known = isinstance(error, BridgeError)
        _log.event(
            "start_failed",
            level=logging.WARNING if known else logging.ERROR,
            trace=None if known else error,
            reason=str(error),
            means="a stop was requested during the start, so the exit code is 0 in spite of the error",
        )
        return None
    return starting.result()


def _stop_then_exit(stop: asyncio.Event, number: int) -> Callable[[], None]:
    """Returns a signal handler: the first signal sets `stop`, a second one exits the process at once."""

    def handle() -> None:
        if stop.is_set():
            os._exit(128 + number)
        stop.set()

    return handle

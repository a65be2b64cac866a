"""A bridge as a process: its log, its signals, its memory, around one runtime."""

import asyncio
import gc
import logging
import os
import signal
from collections.abc import Callable

from bridge.service.runtime import Runtime
from bridge.settings import settings as reading
from bridge.settings.settings import Settings
from bridge.telemetry import REDACTOR, configure_logging, get_logger
from bridge.telemetry.logs import log_loop_errors

_log = get_logger("runtime")


async def serve(settings: Settings, *, on_ready: Callable[[str], None] | None = None) -> None:
    """Run a bridge until SIGTERM or SIGINT, then drain. Raises BadSetting or StoreUnavailable when it can't start.

    A second signal ends it at once: what was claimed becomes due again by itself.
    """
    for secret in reading.secret_texts(settings):
        REDACTOR.add(secret)
    configure_logging(settings.log_level, settings.log_format)
    loop = asyncio.get_running_loop()
    log_loop_errors(loop)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _once_more_ends_it(stop, number))
    for caution in reading.cautions(settings):
        _log.event("caution", level=logging.WARNING, what=caution)
    for name in reading.unknown_names():
        _log.event("caution", level=logging.WARNING, what=f"{name} is no setting of this bridge; is it a typo?")
    # What is here now stays: the collector need not look at it again, which is a quarter of a poll's cost. It looks
    # before anything is due, for that takes a third of a second, in which polls would pile up.
    gc.collect()
    gc.set_threshold(20_000, 20, 50)
    runtime = await Runtime.start(settings)
    gc.freeze()
    if on_ready is not None:
        on_ready(runtime.url)
    await stop.wait()
    await runtime.stop()


def _once_more_ends_it(stop: asyncio.Event, number: int) -> Callable[[], None]:
    def signalled() -> None:
        if stop.is_set():
            os._exit(128 + number)
        stop.set()

    return signalled

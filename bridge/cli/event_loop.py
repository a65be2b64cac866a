"""Running an event loop: uvloop's where there is one, which halves what a poll costs."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")


def run_fast(main: Coroutine[Any, Any, Result]) -> Result:
    """As `asyncio.run`."""
    new_loop: Callable[[], asyncio.AbstractEventLoop] | None = None
    try:
        import uvloop
    except ImportError:  # Windows, and Pythons that it has no wheel for
        pass
    else:
        new_loop = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=new_loop) as runner:
        return runner.run(main)

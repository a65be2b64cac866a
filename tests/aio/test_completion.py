"""Run to completion: operations whose callers are cancelled, and a stop that waits for the operations."""

import asyncio
import gc
import logging
from collections.abc import AsyncIterator

import pytest

from bridge.aio.completion import Operations
from bridge.core.errors import StoreUnavailable
from bridge.telemetry import get_logger


@pytest.fixture
async def operations() -> AsyncIterator[Operations]:
    operations = Operations(get_logger("test"))
    yield operations
    await operations.finish(0)


async def cancelled(call: "asyncio.Task[object]") -> None:
    await asyncio.sleep(0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call


async def test_a_caller_gets_the_result_of_its_operation(operations: Operations) -> None:
    assert await operations.run(asyncio.sleep(0, 5)) == 5
    with pytest.raises(StoreUnavailable, match="gone"):
        await operations.run(failing(asyncio.Event(), StoreUnavailable("gone"), wait=False))


async def failing(gate: asyncio.Event, error: Exception, *, wait: bool = True) -> None:
    if wait:
        await gate.wait()
    raise error


async def test_an_operation_continues_when_its_caller_is_cancelled(operations: Operations) -> None:
    gate, done = asyncio.Event(), asyncio.Event()

    async def operation() -> None:
        await gate.wait()
        done.set()

    await cancelled(asyncio.create_task(operations.run(operation())))
    assert operations.running == 1
    gate.set()
    assert await operations.finish() == 0
    assert done.is_set()
    assert operations.running == 0


@pytest.mark.parametrize(
    ("error", "level"), [(StoreUnavailable("gone"), logging.WARNING), (RuntimeError("a bug"), logging.ERROR)]
)
async def test_an_error_that_no_caller_sees_is_logged(
    operations: Operations, caplog: pytest.LogCaptureFixture, error: Exception, level: int
) -> None:
    gate = asyncio.Event()
    await cancelled(asyncio.create_task(operations.run(failing(gate, error))))
    gate.set()
    await operations.finish()
    [record] = caplog.records
    assert (record.message, record.levelno) == ("call_failed", level)


async def test_a_stop_cancels_operations_that_take_too_long(operations: Operations) -> None:
    operation = operations.start(asyncio.Event().wait())
    assert await operations.finish(0.01) == 1
    assert operation.cancelled()


async def test_a_caller_cancelled_in_the_turn_of_the_failure_leaves_no_unretrieved_error(
    operations: Operations,
) -> None:
    reported: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    release = asyncio.Event()

    async def fail() -> None:
        await release.wait()
        raise StoreUnavailable("no")

    operation = operations.start(fail())
    caller = asyncio.create_task(operations.wait(operation))
    await asyncio.sleep(0)
    operation.add_done_callback(lambda _: caller.cancel())  # the shield has the error, the caller not yet
    release.set()
    with pytest.raises(asyncio.CancelledError):
        await caller
    gc.collect()
    assert reported == []

"""A caller that disconnects in the middle of an answer causes no error in the log."""

import asyncio
import gc
import logging
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from bridge.web.app import _errors_as_responses
from bridge.web.server import make_runner


async def test_a_caller_who_leaves_in_the_middle_of_a_stream_leaves_no_error(caplog: pytest.LogCaptureFixture) -> None:
    """The next write fails in the same turn of the loop in which aiohttp learns that the connection is closed."""
    reported: list[Any] = []
    ended = asyncio.Event()
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))

    async def stream(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"first")
        assert request.transport is not None
        request.transport.abort()  # has the effect of a reset by the client
        ended.set()
        await response.write(b"second")
        return response

    app = web.Application(middlewares=[_errors_as_responses])
    app.router.add_get("/", stream)
    runner = make_runner(app)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        async with aiohttp.ClientSession() as session:
            with pytest.raises(aiohttp.ClientError):
                async with session.get(f"http://127.0.0.1:{runner.addresses[0][1]}/") as answer:
                    await answer.read()
        await ended.wait()
    finally:
        await runner.cleanup()
    gc.collect()
    assert reported == []
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []

"""The HTTP server below the routes."""

import asyncio
import logging

import aiohttp
import pytest
from aiohttp import web

from bridge.web.server import make_runner


async def test_an_answer_that_is_sent_as_a_stop_gives_up_is_no_error_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """aiohttp sets the result of a future that a timeout has just cancelled. The simulation found this, seed 107004."""
    begun, may_end = asyncio.Event(), asyncio.Event()

    async def handler(_request: web.Request) -> web.Response:
        begun.set()
        await may_end.wait()
        return web.Response(text="whole")

    app = web.Application()
    app.router.add_get("/", handler)
    runner = make_runner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    async with aiohttp.ClientSession() as session:
        asked = asyncio.create_task(session.get(f"http://127.0.0.1:{runner.addresses[0][1]}/"))
        await begun.wait()
        assert runner.server is not None
        [protocol] = runner.server.connections
        ending = asyncio.create_task(protocol.shutdown(3600.0))
        while protocol._handler_waiter is None:
            await asyncio.sleep(0)
        may_end.set()
        protocol._handler_waiter.cancel()  # as the time limit does, just when the handler continues
        await ending
        async with await asked as answer:
            assert await answer.text() == "whole"
    await runner.cleanup()
    assert [one.message for one in caplog.records if one.levelno >= logging.WARNING] == []

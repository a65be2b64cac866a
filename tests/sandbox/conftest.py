"""Fixtures for the tests of the stand-in."""

from collections.abc import AsyncIterator

import aiohttp
import pytest

from bridge.sandbox import Sandbox
from tests.sandbox.harness import KEY, Amux, Clock


@pytest.fixture
async def amux() -> AsyncIterator[Amux]:
    clock = Clock()
    sandbox = Sandbox(clock=clock)
    url = await sandbox.start()
    async with aiohttp.ClientSession(headers=KEY, auto_decompress=False) as client:
        yield Amux(sandbox, clock, client, url)
    await sandbox.stop()

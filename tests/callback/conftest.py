"""Fixtures that start receivers, and senders for them."""

from collections.abc import AsyncIterator

import pytest

from tests.callback.harness import MakeSender, senders
from tests.scripted_server import StartServer, scripted_servers


@pytest.fixture
async def start_receiver() -> AsyncIterator[StartServer]:
    async with scripted_servers(path="/hook") as start:
        yield start


@pytest.fixture
async def make_sender() -> AsyncIterator[MakeSender]:
    async with senders() as make:
        yield make

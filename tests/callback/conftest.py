"""Fixtures that start receivers, and senders for them."""

from collections.abc import AsyncIterator

import pytest

from tests.callback.harness import MakeSender, StartReceiver, receivers, senders


@pytest.fixture
async def start_receiver() -> AsyncIterator[StartReceiver]:
    async with receivers() as start:
        yield start


@pytest.fixture
async def make_sender() -> AsyncIterator[MakeSender]:
    async with senders() as make:
        yield make

"""Fixtures that start servers in amux's place, and clients for them."""

from collections.abc import AsyncIterator

import pytest

from tests.amux.harness import MakeClient, answer, clients
from tests.scripted_server import StartServer, raw, scripted_servers


@pytest.fixture
async def start_server() -> AsyncIterator[StartServer]:
    async with scripted_servers(default=[raw(answer())]) as start:
        yield start


@pytest.fixture
async def make_client() -> AsyncIterator[MakeClient]:
    async with clients() as make:
        yield make

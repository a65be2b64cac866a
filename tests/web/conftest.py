"""Fixtures for the tests of the routes."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bridge.sandbox import Behaviour, Sandbox
from tests.web.drop_in_harness import DROP_IN, KEY
from tests.web.harness import Bridge, running_bridge


@pytest.fixture
async def bridge(tmp_path: Path) -> AsyncIterator[Bridge]:
    """A bridge without amux."""
    async with running_bridge(tmp_path) as running:
        yield running


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    """The stand-in for amux: it accepts two keys, and its tasks complete at once."""
    made = Sandbox(keys=frozenset({KEY, "sk-own"}), default=Behaviour(queue_seconds=0, run_seconds=0))
    yield made
    await made.stop()


@pytest.fixture
async def drop_in_bridge(tmp_path: Path, sandbox: Sandbox) -> AsyncIterator[Bridge]:
    """A bridge with drop-in creation, whose amux is the stand-in."""
    async with running_bridge(tmp_path, amux_url=await sandbox.start(), drop_in=DROP_IN) as running:
        yield running

"""The fixtures of the tests of the examples."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.examples.harness import BridgeHarness, start_bridge
from tests.programs import program


@pytest.fixture
async def harness(tmp_path: Path) -> AsyncIterator[BridgeHarness]:
    """A bridge in this process with the stand-in for amux."""
    async with start_bridge(tmp_path) as started:
        yield started


@pytest.fixture(scope="session")
def promtool() -> str:
    """The path of promtool, the tool of Prometheus."""
    return program("promtool", "prometheus")

"""The fixtures of the tests of the documentation."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.docs.harness import Workspace, open_workspace
from tests.docs.sender import Sender
from tests.e2e.bridges import runtime
from tests.e2e.harness import environment


@pytest.fixture
async def workspace(tmp_path: Path) -> AsyncIterator[Workspace]:
    """An empty folder with a shell, and the stand-in for amux."""
    async with open_workspace(tmp_path) as opened:
        yield opened


@pytest.fixture
async def sender(sqlite_url: str) -> AsyncIterator[Sender]:
    """A bridge that sends callbacks, with the stand-in for amux."""
    async with environment(sqlite_url) as amux, runtime(sqlite_url, amux.amux_url) as bridge:
        yield Sender(amux, bridge)

"""The fixtures of the tests of the documentation."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.docs.harness import Workspace, open_workspace


@pytest.fixture
async def workspace(tmp_path: Path) -> AsyncIterator[Workspace]:
    """An empty folder with a shell, and the stand-in for amux."""
    async with open_workspace(tmp_path) as opened:
        yield opened

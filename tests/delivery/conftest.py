from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.delivery.harness import Harness, delivery_harness


@pytest.fixture
async def harness(sqlite_url: str, tmp_path: Path) -> AsyncIterator[Harness]:
    async with delivery_harness(tmp_path) as made:
        yield made

"""Fixtures of the field lab."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.e2e.harness import Environment, environment
from tests.field.harness import open_folder

# Programs, proxies and servers are cut off here, and the collector may find a transport of the test's own client that
# had no time to close, in this test or in a later one. The program under test runs in a process of its own.
LEFT_TRANSPORT = "ignore:Exception ignored in. <function _SelectorTransport:pytest.PytestUnraisableExceptionWarning"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let a client's cut transport fail no test of the field lab."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.filterwarnings(LEFT_TRANSPORT))


@pytest.fixture
async def env() -> AsyncIterator[Environment]:
    """amux and a receiver, on loopback."""
    async with environment("") as surroundings:
        yield surroundings


@pytest.fixture
def folder() -> Iterator[Path]:
    """The folder in which the program runs. Any user may enter it."""
    with open_folder() as made:
        yield made

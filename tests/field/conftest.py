"""Fixtures of the field lab."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.e2e.harness import Environment, environment
from tests.field.harness import open_folder


@pytest.fixture
async def env() -> AsyncIterator[Environment]:
    """amux and a receiver, which listen on loopback."""
    async with environment("") as surroundings:
        yield surroundings


@pytest.fixture
def folder() -> Iterator[Path]:
    """The folder in which the program runs. Any user may enter it."""
    with open_folder() as made:
        yield made

"""Fixtures of the end-to-end tests."""

from collections.abc import AsyncIterator

import pytest

from tests.e2e.harness import Environment, environment


@pytest.fixture
async def env(either_url: str) -> AsyncIterator[Environment]:
    """amux, a receiver and a SQLite database. The long run repeats the test on PostgreSQL."""
    async with environment(either_url) as env:
        yield env


@pytest.fixture
async def sqlite_env(sqlite_url: str) -> AsyncIterator[Environment]:
    """amux, a receiver and a SQLite database."""
    async with environment(sqlite_url) as env:
        yield env

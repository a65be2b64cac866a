"""Fixtures of the tests with several replicas."""

from collections.abc import AsyncIterator

import pytest

from tests.databases import PostgresServer
from tests.e2e.harness import Environment, environment
from tests.replicas.harness import Cluster, run_cluster


@pytest.fixture
async def env(postgres_server: PostgresServer) -> AsyncIterator[Environment]:
    """amux, a receiver and a PostgreSQL database."""
    async with environment(postgres_server.migrated()) as env:
        yield env


@pytest.fixture
async def cluster(env: Environment) -> AsyncIterator[Cluster]:
    """Starts replicas on the environment's database."""
    async with run_cluster(env) as cluster:
        yield cluster

"""The harness of the poller as a fixture."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bridge.amux.client import AmuxClient
from bridge.sandbox import Sandbox
from bridge.store import group_commit
from tests.polling.batch_amux import BATCH, BatchAmux, Bench, batch_amux
from tests.polling.harness import QUICK, Harness, open_harness


@pytest.fixture(autouse=True)
def _no_write_lingers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Writes of a status do not linger for 0.1 s here. tests/store tests the lingering."""
    monkeypatch.setattr(group_commit, "LINGER_SECONDS", 0.0)


@pytest.fixture
async def harness(tmp_path: Path) -> AsyncIterator[Harness]:
    async with open_harness(tmp_path) as opened:
        yield opened


@pytest.fixture
async def served() -> AsyncIterator[tuple[BatchAmux, AmuxClient]]:
    """A server in amux's place with a batch route, and a client of it."""
    async with batch_amux() as both:
        yield both


@pytest.fixture
async def batch_harness(tmp_path: Path, served: tuple[BatchAmux, AmuxClient]) -> AsyncIterator[Harness]:
    """A harness whose pollers are drained before the server closes. The stand-in pauses 50 ms between two sweeps."""
    assert served
    async with open_harness(tmp_path, Sandbox(sweep_seconds=0.05, sweep_task_seconds=0)) as opened:
        yield opened


@pytest.fixture
def bench(batch_harness: Harness, served: tuple[BatchAmux, AmuxClient]) -> Bench:
    amux, client = served
    return Bench(batch_harness, amux, batch_harness.poller(QUICK, client=client, batch=BATCH))

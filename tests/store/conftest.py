"""Fixtures of the store's tests."""

from collections.abc import Iterator

import pytest

from bridge.store import group_commit
from bridge.store.store import Store
from tests.store_limits import store_limits_times


@pytest.fixture
def short_limits() -> Iterator[None]:
    """Shortens the time limits of stores that are opened afterwards to a tenth. Another test checks the real limits."""
    with store_limits_times(0.1):
        yield


@pytest.fixture
def short_limit_store(store: Store, short_limits: None, monkeypatch: pytest.MonkeyPatch) -> Store:
    """The shared store with a tenth of its time limits."""
    monkeypatch.setattr(store._writer.limits, "seconds", group_commit.CALL_TIMEOUT_SECONDS)
    return store

"""Fixtures of the store's tests."""

from collections.abc import Iterator

import pytest

from bridge.store import group_commit
from bridge.store.store import Store
from tests.store_limits import store_limits_times


@pytest.fixture
def short_limits() -> Iterator[None]:
    """A tenth of each time limit, for stores that are opened from now on. Another test checks the real limits."""
    with store_limits_times(0.1):
        yield


@pytest.fixture
def short_limit_store(store: Store, short_limits: None, monkeypatch: pytest.MonkeyPatch) -> Store:
    """The shared store with a tenth of its time limits."""
    monkeypatch.setattr(store._writer.limits, "seconds", group_commit.CALL_TIMEOUT_SECONDS)
    return store

"""Fixtures of the store's tests."""

import pytest

from bridge.store import database, group_commit
from bridge.store.store import Store


@pytest.fixture
def short_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tenth of each time limit, for stores that are opened from now on. Another test checks the real limits."""
    monkeypatch.setattr(database, "BUSY_SECONDS", database.BUSY_SECONDS / 10)
    monkeypatch.setattr(group_commit, "CALL_TIMEOUT_SECONDS", group_commit.CALL_TIMEOUT_SECONDS / 10)
    monkeypatch.setattr(group_commit, "BEGIN_WITHIN_SECONDS", group_commit.BEGIN_WITHIN_SECONDS / 10)


@pytest.fixture
def short_limit_store(store: Store, short_limits: None, monkeypatch: pytest.MonkeyPatch) -> Store:
    """The shared store with a tenth of its time limits."""
    monkeypatch.setattr(store._writer.limits, "seconds", group_commit.CALL_TIMEOUT_SECONDS)
    return store

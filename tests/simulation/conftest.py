"""In virtual time no machine is slow, and the store's time limits are among what the simulation checks."""

import pytest


@pytest.fixture(autouse=True)
def _real_limits(real_store_limits: None) -> None:
    """The store's time limits, as in a running bridge."""

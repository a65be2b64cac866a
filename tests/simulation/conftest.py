"""Gives the tests the store's real time limits: the simulation checks them, and in virtual time no machine is slow."""

import pytest


@pytest.fixture(autouse=True)
def _real_limits(real_store_limits: None) -> None:
    """Use the store's time limits as in a running bridge."""

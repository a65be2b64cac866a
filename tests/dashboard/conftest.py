"""Fixtures of the dashboard's tests."""

from tests.dashboard.browser import browser_fixture  # noqa: F401  a fixture

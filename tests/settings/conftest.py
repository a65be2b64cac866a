"""Loads settings from only the variables of a test."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from bridge.settings.settings import Settings, load

Load = Callable[..., Settings]


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Load:
    """Returns a function that loads the settings from only the given variables, in an empty folder."""
    for name in list(os.environ):
        if name.upper().startswith(("BRIDGE_", "AMUX_")):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)

    def with_variables(**variables: str) -> Settings:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        return load()

    return with_variables

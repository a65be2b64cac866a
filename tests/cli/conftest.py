"""Fixtures of the command line's tests."""

from pathlib import Path

import pytest

from tests.cli.harness import Command, command_in


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Command:
    """Runs commands in this process, in an empty folder, with only the settings that the test gives."""
    return command_in(monkeypatch, capsys, tmp_path)

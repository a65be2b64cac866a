"""Lines wrapped between words, texts shortened in the middle, and commands that a user can paste."""

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.cli.terminal import Piece, shortened, wrapped
from bridge.cli.typed_command import typed_command

WORDS = st.lists(st.text("abc", min_size=1, max_size=12), min_size=1, max_size=12)


def texts(pieces: list[str | Piece], width: int, indent: int = 0) -> list[str]:
    return ["".join(text for text, _ in line) for line in wrapped(pieces, width, indent)]


@given(st.lists(WORDS, min_size=1, max_size=4), st.integers(20, 60), st.integers(0, 12))
def test_no_word_is_broken_or_lost_and_no_line_is_too_long(sentences: list[list[str]], width: int, indent: int) -> None:
    pieces: list[str | Piece] = [(" ".join(words) + " ", "bold") for words in sentences]
    lines = texts(pieces, width, indent)
    assert " ".join(lines).split() == [word for words in sentences for word in words]
    for line in lines:
        assert len(line) <= max(width, indent + 12)
        assert line == line.rstrip()


def test_columns_stay_where_they_are_while_the_line_fits() -> None:
    assert texts([("name      ", "bold"), "value   note"], 40) == ["name      value   note"]
    assert texts([("name      ", "bold"), "value   note"], 16, indent=10) == ["name      value", "          note"]


def test_a_word_keeps_its_style_on_the_next_line() -> None:
    assert wrapped([("aaaa ", "bold"), ("bbbb", "dim")], 6) == [
        [("", "plain"), ("aaaa", "bold")],
        [("", "plain"), ("bbbb", "dim")],
    ]


@pytest.mark.parametrize(
    ("text", "width", "shown"),
    [("short", 9, "short"), ("0123456789", 9, "0123\u20266789"), ("0123456789", 2, "01"), ("", 5, "")],
)
def test_a_long_text_loses_its_middle(text: str, width: int, shown: str) -> None:
    assert shortened(text, width) == shown


def test_a_command_is_shown_as_the_shell_finds_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "a folder" / "amux-bridge"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "argv", [str(program), "demo"])
    assert typed_command() == f"'{program}'"
    monkeypatch.setattr(sys, "argv", ["/somewhere/bridge/__main__.py", "demo"])
    assert subprocess.run(["/bin/sh", "-c", f"{typed_command()} --version"], check=False).returncode == 0
    monkeypatch.setenv("PATH", str(program.parent))
    assert typed_command() == "amux-bridge"

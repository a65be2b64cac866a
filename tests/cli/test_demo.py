"""The demo as a newcomer runs it: in a pipe or on a terminal, with any environment. It leaves no file behind."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import threading
import time
from pathlib import Path

import pytest

from bridge.cli.demo.tasks import DEMO_TASKS
from tests.cli.terminal_screen import shown_lines
from tests.waiting import SAFETY_SECONDS

# The demo promises 20 s on an idle machine. This machine may be loaded, so the test allows more.
CALL_TIMEOUT_SECONDS = SAFETY_SECONDS
BAD_SETTINGS = {
    "AMUX_API_KEY": "not a key",
    "AMUX_BASE_URL": "ftp://",
    "BRIDGE_PORT": "x",
    "BRIDGE_DATABASE_URL": "mysql://",
}


def test_the_demo_delivers_an_event_for_each_task_and_leaves_no_files(tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "bridge", "demo"],
        cwd=tmp_path,
        env={**os.environ, **BAD_SETTINGS, "TMPDIR": str(tmp_path / "tmp")},
        capture_output=True,
        text=True,
        timeout=CALL_TIMEOUT_SECONDS,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout
    rows = re.findall(r"(?:\u2713|\u2717|ok|no) (video\.\w+) +(.*?) {2,}verified \(v1, v1a\)(.*)", done.stdout)
    assert [row for row in rows if row[0] != "video.completed"] == [
        ("video.failed", "something amux will not draw", ", delivered"),
        ("video.timed_out", "a film without an end", ", delivered"),
    ]
    fox_results = [row[2] for row in rows if row[1] == "a fox in the first snow"]
    assert fox_results == [", failed: answered 500", ", delivered at attempt 2"]
    marks = re.findall(r"(\S+) video\.completed  a fox in the first snow", done.stdout)
    assert marks in (["\u2717", "\u2713"], ["no", "ok"])
    assert len(rows) == 8
    assert re.search(
        r"^7 of 7 callbacks delivered in [\d.]+ s: 5 completed, 1 failed, 1 timed out\.$", done.stdout, re.MULTILINE
    )
    assert list(tmp_path.rglob("*")) == [tmp_path / "tmp"]


def on_terminal(folder: Path, lines: int, columns: int, **environ: str) -> str:
    """Runs the demo on a terminal of this size. Returns everything that it writes."""
    our_end, process_end = pty.openpty()
    fcntl.ioctl(process_end, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    inherited = {name: value for name, value in os.environ.items() if name not in {"COLUMNS", "LINES"}}
    with subprocess.Popen(
        [sys.executable, "-m", "bridge", "demo"],
        cwd=folder,
        env={**inherited, "TERM": "xterm", **environ},
        stdout=process_end,
        stderr=process_end,
    ) as running:
        os.close(process_end)
        drawn = _read_all(our_end, running)
    assert running.returncode == 0
    return drawn


@pytest.mark.long
@pytest.mark.parametrize("no_colour", ["", "1"])
def test_on_a_terminal_the_demo_draws_a_table_and_shows_the_cursor_again(no_colour: str, tmp_path: Path) -> None:
    drawn = on_terminal(tmp_path, 24, 60, NO_COLOR=no_colour)
    assert ("\x1b[32m" in drawn) is (no_colour == "")
    assert "\x1b[J" in drawn
    assert drawn.rindex("\x1b[?25h") > drawn.rindex("\x1b[?25l")


@pytest.mark.long
@pytest.mark.parametrize(("lines", "columns"), [(10, 40), (10, 80), (10, 200)])
def test_the_demo_fits_any_terminal_and_breaks_no_word(lines: int, columns: int, tmp_path: Path) -> None:
    found_by_shell = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    shown = shown_lines(on_terminal(tmp_path, lines, columns, PATH=found_by_shell), lines, columns)
    # A line of full width would be a line that the terminal broke.
    assert [line for line in shown if len(line) == columns] == []
    text = " ".join(" ".join(shown).split())
    for task in DEMO_TASKS:
        assert task.prompt in text
        assert task.description in text
    assert "verified (v1, v1a), failed: answered 500 the bridge will send it again" in text
    table_rows = [line for line in shown if line.endswith("delivered") and line.startswith("a ")]
    assert len(table_rows) == 3, table_rows  # the lighthouse, the fox and the film: one table
    assert len([line for line in shown if "7 of 7 delivered" in line]) == 1


@pytest.mark.long
def test_the_next_command_of_the_demo_works_when_pasted(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bridge", "demo"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    [command] = re.findall(r"^Next.*:\n(.*)$", done.stdout, re.MULTILINE)
    with subprocess.Popen(
        ["/bin/sh", "-c", f"exec {command.strip()}"],
        cwd=tmp_path,
        env={**os.environ, "BRIDGE_PORT": "0"},
        stdout=subprocess.PIPE,
        text=True,
    ) as running:
        assert running.stdout is not None
        try:
            assert any("sandbox_listening" in line for line in running.stdout)
        finally:
            running.terminate()


def _read_all(terminal: int, running: "subprocess.Popen[bytes]") -> str:
    """Returns everything that is written until the other end is closed. Linux reports this as an OSError."""
    watchdog = threading.Timer(CALL_TIMEOUT_SECONDS, running.kill)
    watchdog.start()
    drawn = b""
    until = time.monotonic() + CALL_TIMEOUT_SECONDS
    try:
        while time.monotonic() < until and (piece := os.read(terminal, 65_536)):
            drawn += piece
    except OSError:
        pass
    finally:
        os.close(terminal)
        watchdog.cancel()
        watchdog.join()
    return drawn.decode()

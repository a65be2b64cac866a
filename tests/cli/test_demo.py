"""The demo as a newcomer runs it: in a pipe or on a terminal, with any environment. It leaves no file behind."""

import os
import pty
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

# The demo promises 20 s on an idle machine. This machine may be loaded, so the test allows more.
CALL_TIMEOUT_SECONDS = 90.0
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
    rows = re.findall(r"(?:\u2713|ok) (video\.\w+) +(.*?) {2,}verified \(v1, v1a\)(.*)", done.stdout)
    assert [row for row in rows if row[0] != "video.completed"] == [
        ("video.failed", "something amux will not draw", ", delivered"),
        ("video.timed_out", "a film without an end", ", delivered"),
    ]
    fox_results = [row[2] for row in rows if row[1] == "a fox in the first snow"]
    assert fox_results == [", answered 500", ", delivered at attempt 2"]
    assert len(rows) == 8
    assert re.search(
        r"^7 of 7 callbacks delivered in [\d.]+ s: 5 completed, 1 failed, 1 timed out\.$", done.stdout, re.MULTILINE
    )
    assert list(tmp_path.rglob("*")) == [tmp_path / "tmp"]


@pytest.mark.long
@pytest.mark.parametrize("no_colour", ["", "1"])
def test_on_a_terminal_the_demo_draws_a_table_and_shows_the_cursor_again(no_colour: str, tmp_path: Path) -> None:
    our_end, process_end = pty.openpty()
    environ = {**os.environ, "TERM": "xterm", "NO_COLOR": no_colour, "COLUMNS": "60", "LINES": "24"}
    with subprocess.Popen(
        [sys.executable, "-m", "bridge", "demo"], cwd=tmp_path, env=environ, stdout=process_end, stderr=process_end
    ) as running:
        os.close(process_end)
        drawn = _read_all(our_end, running)
    assert running.returncode == 0
    assert ("\x1b[32m" in drawn) is (no_colour == "")
    assert "\x1b[J" in drawn
    assert drawn.rindex("\x1b[?25h") > drawn.rindex("\x1b[?25l")
    table = re.findall(r"^(?:\x1b\[\d+F\x1b\[J)?(.*delivered.*)$", drawn.replace("\r", ""), re.MULTILINE)
    assert any("7 of 7 delivered" in re.sub(r"\x1b\[[0-9;]*m", "", line) for line in table)


def _read_all(terminal: int, running: "subprocess.Popen[bytes]") -> str:
    """Returns everything that is written until the other end closes; Linux reports the close as an OSError."""
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

"""The demo as a newcomer runs it: in a pipe, whatever the environment holds, with nothing left behind."""

import os
import pty
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

# 20 s are promised on any machine that runs nothing else; a loaded one gets more, and the demo's own count is checked.
CALL_TIMEOUT_SECONDS = 90.0
HOSTILE = {
    "AMUX_API_KEY": "not a key",
    "AMUX_BASE_URL": "ftp://",
    "BRIDGE_PORT": "x",
    "BRIDGE_DATABASE_URL": "mysql://",
}


def test_the_demo_tells_of_every_task_and_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "bridge", "demo"],
        cwd=tmp_path,
        env={**os.environ, **HOSTILE, "TMPDIR": str(tmp_path / "tmp")},
        capture_output=True,
        text=True,
        timeout=CALL_TIMEOUT_SECONDS,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout
    told = re.findall(r"(?:\u2713|ok) (video\.\w+) +(.*?) {2,}verified \(v1, v1a\)(.*)", done.stdout)
    assert [row for row in told if row[0] != "video.completed"] == [
        ("video.failed", "something amux will not draw", ""),
        ("video.timed_out", "a film without an end", ""),
    ]
    foxes = [row[2] for row in told if row[1] == "a fox in the first snow"]
    assert foxes == [", answered 500", ", attempt 2"]
    assert len(told) == 8
    assert re.search(
        r"^7 of 7 tasks told in [\d.]+ s: 5 completed, 1 failed, 1 timed out\.$", done.stdout, re.MULTILINE
    )
    assert list(tmp_path.rglob("*")) == [tmp_path / "tmp"]


@pytest.mark.long
@pytest.mark.parametrize("no_colour", ["", "1"])
def test_on_a_terminal_the_demo_draws_and_gives_the_cursor_back(no_colour: str, tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    environ = {**os.environ, "TERM": "xterm", "NO_COLOR": no_colour, "COLUMNS": "60", "LINES": "24"}
    with subprocess.Popen(
        [sys.executable, "-m", "bridge", "demo"], cwd=tmp_path, env=environ, stdout=theirs, stderr=theirs
    ) as running:
        os.close(theirs)
        drawn = _all_of(ours, running)
    assert running.returncode == 0
    assert ("\x1b[32m" in drawn) is (no_colour == "")
    assert "\x1b[J" in drawn
    assert drawn.rindex("\x1b[?25h") > drawn.rindex("\x1b[?25l")
    table = re.findall(r"^(?:\x1b\[\d+F\x1b\[J)?(.*told.*)$", drawn.replace("\r", ""), re.MULTILINE)
    assert any("7 of 7" in re.sub(r"\x1b\[[0-9;]*m", "", line) for line in table)


def _all_of(terminal: int, running: "subprocess.Popen[bytes]") -> str:
    """Everything that is written until the other end closes, which Linux tells by an error."""
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

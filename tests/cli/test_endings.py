"""How commands end: by a signal, by a bad setting, by a reader that leaves, by what nobody foresaw."""

import io
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.command_line import Command, in_process, process, run_process


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Command:
    return in_process(monkeypatch, capsys, tmp_path)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_the_sandbox_prints_its_url_and_ends_cleanly(number: signal.Signals, code: int, tmp_path: Path) -> None:
    with process("sandbox", folder=tmp_path) as running:
        assert running.stdout is not None
        assert running.stdout.readline().startswith("http://127.0.0.1:")
        running.send_signal(number)
        _, err = running.communicate()
    assert running.returncode == code
    assert "Traceback" not in err


def test_serve_with_the_stand_in_needs_no_key_and_drains_on_a_signal(tmp_path: Path) -> None:
    with process("serve", "--sandbox", folder=tmp_path, BRIDGE_PORT="0", AMUX_BASE_URL="http://127.0.0.1:9") as running:
        assert running.stdout is not None
        lines = []
        while (line := json.loads(running.stdout.readline()))["event"] != "sandbox_listening":
            lines.append(line)
        running.send_signal(signal.SIGTERM)
        out, err = running.communicate()
    events = [line["event"] for line in [*lines, *map(json.loads, out.splitlines())]]
    assert "listening" in events
    assert events[-1] == "stopped"
    assert (running.returncode, err) == (0, "")


def test_a_bad_setting_stops_serve_with_a_sentence_for_each_and_code_2(command: Command) -> None:
    ended = command("serve", BRIDGE_PORT="99999", BRIDGE_TOKENS="no-colon", BRIDGE_LOG_LEVEL="loud")
    assert ended.code == 2
    assert [line.split(": ")[1] for line in ended.err.splitlines()] == [
        "BRIDGE_PORT",
        "BRIDGE_TOKENS",
        "BRIDGE_LOG_LEVEL",
    ]


def test_a_listener_that_is_interrupted_ends_with_130_and_no_traceback(tmp_path: Path) -> None:
    with process("listen", "--port", "0", "--secret", "whsec_" + "c" * 40, folder=tmp_path) as running:
        assert running.stderr is not None
        assert running.stderr.readline().startswith("listening on http://127.0.0.1:")
        running.send_signal(signal.SIGINT)
        out, err = running.communicate()
    assert (running.returncode, out, err) == (130, "", "")


def test_a_reader_that_leaves_is_no_traceback(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "bridge", "secret", "new"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        running.stdout.close()
        assert running.stderr.read() == ""
    assert running.returncode == 1


def test_what_nobody_foresaw_is_one_sentence(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise RuntimeError("the disk is full of nothing")

    monkeypatch.setattr(sys, "stdout", Full())
    ended = command("secret", "new")
    assert ended.code == 1
    assert ended.err.startswith("amux-bridge: unexpected RuntimeError: the disk is full of nothing (")
    assert len(ended.err.splitlines()) == 1


def test_it_runs_as_a_module_too(tmp_path: Path) -> None:
    ended = run_process("--version", folder=tmp_path)
    assert (ended.code, ended.out.split()[0]) == (0, "amux-bridge")

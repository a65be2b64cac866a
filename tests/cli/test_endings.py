"""How commands end: on a signal, a bad setting, a closed pipe or an unexpected error."""

import io
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.harness import Command, process, run_process


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_the_sandbox_prints_its_url_and_stops_on_a_signal(number: signal.Signals, code: int, tmp_path: Path) -> None:
    with process("sandbox", folder=tmp_path) as running:
        assert running.stdout is not None
        assert running.stdout.readline().startswith("http://127.0.0.1:")
        running.send_signal(number)
        _, err = running.communicate()
    assert running.returncode == code
    assert "Traceback" not in err


def test_serve_with_the_sandbox_needs_no_key_and_drains_on_a_signal(tmp_path: Path) -> None:
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


def test_serve_with_the_sandbox_allows_callbacks_to_this_machine(tmp_path: Path) -> None:
    with process("serve", "--sandbox", folder=tmp_path, BRIDGE_PORT="0") as running:
        assert running.stdout is not None
        while (line := json.loads(running.stdout.readline()))["event"] != "listening":
            pass
        for number, host in enumerate(("127.0.0.1", "[::1]")):
            task, hook = f"sandbox_0_0_never_{number}", f"http://{host}:9/hook"
            result = run_process("watch", task, "--callback", hook, folder=tmp_path, BRIDGE_URL=line["url"])
            assert result.code == 0, result.err
        running.send_signal(signal.SIGTERM)
        running.communicate()


def test_serve_reports_each_bad_setting_in_one_line_and_exits_with_2(command: Command) -> None:
    bad = {"BRIDGE_PORT": "99999", "BRIDGE_TOKENS": "no-colon", "BRIDGE_LOG_LEVEL": "loud"}
    result = command("serve", **bad, BRIDGE_LOG_FORMAT="console")
    assert result.code == 2
    assert [line.split(": ")[1] for line in result.err.splitlines()] == list(bad)


@pytest.mark.parametrize("fmt", ["json", "JSON", "auto", "", "xml"])
def test_an_error_before_the_settings_are_read_is_one_json_object_a_line(command: Command, fmt: str) -> None:
    result = command("serve", BRIDGE_PORT="99999", BRIDGE_TOKENS='no"colon', BRIDGE_LOG_FORMAT=fmt)
    assert (result.code, result.out) == (2, "")
    lines = [json.loads(line) for line in result.err.splitlines()]
    assert [line["reason"].partition(":")[0] for line in lines][:2] == ["BRIDGE_PORT", "BRIDGE_TOKENS"]
    assert {(line["level"], line["event"], line["logger"]) for line in lines} == {("error", "start_refused", "cli")}


def test_wrong_usage_of_serve_is_a_json_object_too(command: Command) -> None:
    result = command("serve", "--sand", BRIDGE_LOG_FORMAT="json")
    assert result.code == 2
    assert json.loads(result.err)["reason"].startswith("serve has no option --sand (did you mean --sandbox?)")
    assert command("serve", "--sand", BRIDGE_LOG_FORMAT="console").err.startswith("amux-bridge: serve has no option")


def test_the_format_of_an_early_error_may_stand_in_dotenv(command: Command, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("BRIDGE_LOG_FORMAT=console\nBRIDGE_PORT=99999\n")
    assert command("serve").err.startswith("amux-bridge: BRIDGE_PORT: ")
    (tmp_path / ".env").write_bytes(b"BRIDGE_LOG_FORMAT=console\n\xff")
    assert json.loads(command("serve").err)["reason"] == ".env: cannot be read: it is not UTF-8"


def test_an_interrupted_listener_exits_with_130_and_no_traceback(tmp_path: Path) -> None:
    with process("listen", "--port", "0", "--secret", "whsec_" + "c" * 40, folder=tmp_path) as running:
        assert running.stderr is not None
        assert running.stderr.readline().startswith("listening on http://127.0.0.1:")
        running.send_signal(signal.SIGINT)
        out, err = running.communicate()
    assert (running.returncode, out, err) == (130, "", "")


def test_a_closed_pipe_causes_no_traceback(tmp_path: Path) -> None:
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


def test_an_unexpected_error_is_one_sentence(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise RuntimeError("the disk is full of nothing")

    monkeypatch.setattr(sys, "stdout", Full())
    result = command("secret", "new")
    assert result.code == 1
    assert result.err.startswith("amux-bridge: unexpected RuntimeError: the disk is full of nothing (")
    assert len(result.err.splitlines()) == 1


def test_python_m_bridge_runs_the_command_line(tmp_path: Path) -> None:
    result = run_process("--version", folder=tmp_path)
    assert (result.code, result.out.split()[0]) == (0, "amux-bridge")

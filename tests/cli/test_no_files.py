"""The commands in this file make no file in the folder where they run."""

import signal
from pathlib import Path

import pytest

from tests.cli.harness import Command, process

NO_BRIDGE = {"BRIDGE_URL": "http://127.0.0.1:9"}
COMMANDS = (
    ("check",),
    ("check", "--json"),
    ("healthy",),
    ("watch", "task_1", "--callback", "http://h"),
    ("watch", "task_1", "--callback", "http://h", "--wait"),
    ("listen",),
    ("listen", "--task", "task_1"),
    ("list",),
    ("events", "--limit", "1"),
    ("show", "wat_1"),
    ("cancel", "wat_1"),
    ("ping", "http://127.0.0.1:9/", "--dry-run"),
    ("ping", "http://127.0.0.1:9/"),
    ("retry", "evt_1"),
    ("retry", "--dead"),
    ("secret", "new"),
    ("secret", "show"),
    ("secret", "rotate"),
    ("completion", "bash"),
    ("--help",),
    ("--version",),
    ("lst",),
)


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_a_command_in_an_empty_folder_that_is_read_only_makes_no_file(
    command: Command, arguments: tuple[str, ...], tmp_path: Path
) -> None:
    tmp_path.chmod(0o500)
    home = {"HOME": str(tmp_path), "XDG_STATE_HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}
    result = command(*arguments, **NO_BRIDGE, **home)
    tmp_path.chmod(0o700)
    assert list(tmp_path.iterdir()) == []
    assert len(result.err.splitlines()) <= 1 or "no receiver knows" in result.err
    assert "unexpected" not in result.err


@pytest.mark.parametrize("arguments", [("listen", "--secret", "env:S", "--port", "0"), ("sandbox",)], ids=" ".join)
def test_a_command_that_serves_makes_no_file_and_ends_at_ctrl_c(arguments: tuple[str, ...], tmp_path: Path) -> None:
    secret = "whsec_" + "c" * 32
    with process(*arguments, folder=tmp_path, S=secret) as running:
        stream = running.stderr if arguments[0] == "listen" else running.stdout
        assert stream is not None
        assert "http://" in stream.readline()
        running.send_signal(signal.SIGINT)
        running.communicate()
        assert running.returncode == 130  # as the help says
    assert list(tmp_path.iterdir()) == []

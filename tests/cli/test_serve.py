"""`serve` on a terminal and in a pipe, its sandbox, and SIGTERM at any moment of its start."""

import contextlib
import json
import os
import pty
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bridge.cli.typed_command import typed_command
from tests.cli.harness import CALL_TIMEOUT_SECONDS, environment, process, run_process


@pytest.fixture
def unmeasured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Turns off the measurement of coverage in processes, because coverage installs its own handler of SIGTERM."""
    for name in [name for name in os.environ if name.startswith("COVERAGE_")]:
        monkeypatch.delenv(name)


def on_terminal(folder: Path, until: str, **environ: str) -> str:
    """Runs `serve --sandbox` on a terminal until its output contains `until`, then stops it. Returns the output."""
    master, slave = pty.openpty()
    started = subprocess.Popen(
        [sys.executable, "-m", "bridge", "serve", "--sandbox"],
        cwd=folder,
        env=environment({"TERM": "xterm", "BRIDGE_PORT": "0", **environ}),
        stdin=slave,
        stdout=slave,
        stderr=slave,
    )
    os.close(slave)
    output = b""
    stopping = False
    deadline = time.monotonic() + CALL_TIMEOUT_SECONDS
    with contextlib.suppress(OSError):  # EIO: the program has ended
        while time.monotonic() < deadline:
            if select.select([master], [], [], 1.0)[0]:
                output += os.read(master, 65_536)
            if until.encode() in output and not stopping:
                stopping = True
                started.send_signal(signal.SIGTERM)
    assert started.wait(CALL_TIMEOUT_SECONDS) == 0
    os.close(master)
    return output.decode().replace("\r\n", "\n")


def test_on_a_terminal_the_log_is_for_people_and_four_lines_say_what_to_do_next(tmp_path: Path) -> None:
    output = on_terminal(tmp_path, "listen --task", NO_COLOR="1")
    assert "INFO" in output
    assert not [line for line in output.splitlines() if line.startswith("{")]
    banner = [line.split() for line in output.splitlines() if line.startswith("  ")]
    assert [line[0] for line in banner] == ["page", "docs", "secret", "try"]
    [page, docs, secret, attempt] = banner
    assert page[1].startswith("http://127.0.0.1:")
    assert docs[1] == f"{page[1]}docs"
    assert " ".join(secret[1:]).startswith(f"{typed_command()} secret show")
    # The command names the URL, because the port is not the default of another terminal.
    url = page[1].removesuffix("/")
    assert " ".join(attempt[1:]).startswith(
        f"BRIDGE_URL={url} {typed_command()} listen --task sandbox_0_5000_completed_1"
    )
    assert "\x1b[" not in output


def test_colours_are_used_on_a_terminal_unless_no_color_is_set(tmp_path: Path) -> None:
    output = on_terminal(tmp_path, "listen --task")
    assert "\x1b[1m  page" in output
    assert "\x1b[1mlistening\x1b[0m" in output


def test_a_json_log_on_a_terminal_has_no_banner(tmp_path: Path) -> None:
    output = on_terminal(tmp_path, "sandbox_listening", BRIDGE_LOG_FORMAT="json")
    assert {type(json.loads(line)) for line in output.splitlines()} == {dict}


def test_in_a_pipe_every_line_is_json_and_there_is_no_banner(tmp_path: Path) -> None:
    with process("serve", "--sandbox", folder=tmp_path, BRIDGE_PORT="0", BRIDGE_PROT="1") as running:
        assert running.stdout is not None
        lines = []
        while (line := json.loads(running.stdout.readline()))["event"] != "sandbox_listening":
            lines.append(line)
        running.send_signal(signal.SIGTERM)
        out, err = running.communicate()
    assert (running.returncode, err) == (0, "")
    assert {type(json.loads(line)) for line in out.splitlines()} == {dict}
    assert "The nearest name is BRIDGE_PORT" in next(line["what"] for line in lines if "BRIDGE_PROT" in str(line))


def test_a_port_in_use_is_one_json_object_on_stderr(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        result = run_process("serve", folder=tmp_path, BRIDGE_PORT=str(taken.getsockname()[1]))
    assert result.code == 2
    assert json.loads(result.err)["reason"].startswith("BRIDGE_PORT: cannot listen on ")


def test_a_callback_to_this_machine_works_with_the_sandbox(tmp_path: Path) -> None:
    """Runs the first commands of the README: `serve --sandbox` and, at the same time, `listen --task ...`."""
    with process("serve", "--sandbox", folder=tmp_path, BRIDGE_PORT="0") as running:
        assert running.stdout is not None
        while (line := json.loads(running.stdout.readline()))["event"] != "listening":
            pass
        heard = run_process("listen", "--task", "sandbox_0_0_completed_1", folder=tmp_path, BRIDGE_URL=line["url"])
        running.send_signal(signal.SIGTERM)
        running.communicate()
    assert heard.code == 0, heard.err
    assert "video.completed" in heard.out


# --- SIGTERM during the start -------------------------------------------------------------------------------------


@pytest.mark.parametrize("loaded", ["python", "_pydantic_core", "orjson", "uvloop", "sqlalchemy"])
@pytest.mark.usefixtures("unmeasured")
def test_sigterm_at_any_moment_of_the_start_ends_the_process_at_once(tmp_path: Path, loaded: str) -> None:
    """The signal is sent when the process has loaded a certain library."""
    with process("serve", "--sandbox", folder=tmp_path, BRIDGE_PORT="0") as running:
        status, maps = (Path(f"/proc/{running.pid}/{name}") for name in ("status", "maps"))
        deadline = time.monotonic() + CALL_TIMEOUT_SECONDS
        # Before there is a handler, the signal has its default action.
        while not (_catches_sigterm(status.read_text()) and loaded in maps.read_text()):
            assert time.monotonic() < deadline
        running.send_signal(signal.SIGTERM)
        out, err = running.communicate()
    assert (running.returncode, err) == (0, "")
    assert all(type(json.loads(line)) is dict for line in out.splitlines())


@pytest.mark.usefixtures("unmeasured")
def test_ctrl_c_during_the_imports_shows_no_traceback(tmp_path: Path) -> None:
    with process("serve", "--sandbox", folder=tmp_path, BRIDGE_PORT="0") as running:
        status = Path(f"/proc/{running.pid}/status")
        deadline = time.monotonic() + CALL_TIMEOUT_SECONDS
        while not _catches_sigterm(status.read_text()):
            assert time.monotonic() < deadline
        running.send_signal(signal.SIGINT)
        out, err = running.communicate()
    assert (running.returncode, out, err) == (130, "", "")


@pytest.mark.usefixtures("unmeasured")
def test_nothing_that_takes_time_is_imported_before_sigterm_has_a_handler(tmp_path: Path) -> None:
    """The kernel discards a SIGTERM for process 1 while the process has no handler for it."""
    slow = ("argparse", "dataclasses", "pydantic", "threading", "typing")
    code = f"import sys, bridge.cli.main; print(*[name for name in {slow} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment({}), capture_output=True, text=True, check=True
    )
    assert done.stdout == "\n"


def _catches_sigterm(status: str) -> bool:
    [caught] = [line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:")]
    return bool(int(caught, 16) & 1 << (signal.SIGTERM - 1))


def test_sigterm_while_the_database_hangs_ends_the_start(tmp_path: Path) -> None:
    pytest.importorskip("psycopg")
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts connections and never answers
        url = f"postgresql://bridge@127.0.0.1:{silent.getsockname()[1]}/bridge"
        with process(
            "serve",
            folder=tmp_path,
            BRIDGE_PORT="0",
            BRIDGE_DATABASE_URL=url,
            BRIDGE_DATABASE_WAIT_SECONDS="600",
            BRIDGE_ENCRYPTION_KEYS="ZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmY=",
            BRIDGE_TOKENS="shop:token-1",
        ) as running:
            connection, _ = silent.accept()
            running.send_signal(signal.SIGTERM)
            out, err = running.communicate()  # long before the wait for the database would end
            connection.close()
    assert (running.returncode, err) == (0, "")
    assert json.loads(out.splitlines()[-1])["event"] == "stopped"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a process 1")
@pytest.mark.usefixtures("unmeasured")
def test_process_1_stops_on_sigterm_during_its_start(tmp_path: Path) -> None:
    """The bridge is process 1 of its own PID namespace, so no signal has its default action."""
    command = ["unshare", "--pid", "--fork", "--kill-child", sys.executable, "-m", "bridge", "serve", "--sandbox"]
    env = environment({"BRIDGE_PORT": "0"})
    with subprocess.Popen(
        command, cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as outer:
        try:
            inner = _child_of(outer)
            if inner is None:
                pytest.skip("no PID namespace can be made here")
            deadline = time.monotonic() + CALL_TIMEOUT_SECONDS
            while not _catches_sigterm(Path(f"/proc/{inner}/status").read_text()):
                assert time.monotonic() < deadline
            os.kill(inner, signal.SIGTERM)
            out, err = outer.communicate(timeout=CALL_TIMEOUT_SECONDS)
        finally:
            outer.kill()
    assert (outer.returncode, err) == (0, "")
    assert all(json.loads(line)["event"] != "listening" for line in out.splitlines())


def _child_of(outer: "subprocess.Popen[str]") -> int | None:
    """Returns the id of the process that `unshare` has started, or None if `unshare` failed."""
    children = Path(f"/proc/{outer.pid}/task/{outer.pid}/children")
    while outer.poll() is None:
        if found := children.read_text().split():
            return int(found[0])
    return None

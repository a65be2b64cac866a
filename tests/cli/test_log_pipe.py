"""`serve` when the reader of its log reads nothing, or has closed the pipe."""

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import Request, urlopen

import pytest

from tests.cli.harness import CALL_TIMEOUT_SECONDS, environment

PID_1 = ["unshare", "--pid", "--fork"]


@contextmanager
def serving(folder: Path, *prefix: str) -> Iterator[tuple["subprocess.Popen[bytes]", str]]:
    """Starts `serve --sandbox`. Yields the process and its URL when it listens, and reads no more of its log."""
    command = [*prefix, sys.executable, "-m", "bridge", "serve", "--sandbox"]
    environ = environment({"BRIDGE_PORT": "0", "BRIDGE_LOG_FORMAT": "json", "BRIDGE_DRAIN_TIMEOUT_SECONDS": "2"})
    with subprocess.Popen(command, cwd=folder, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        try:
            assert running.stdout is not None
            while (line := json.loads(running.stdout.readline()))["event"] != "listening":
                pass
            yield running, line["url"]
        finally:
            running.kill()


def stop(running: "subprocess.Popen[bytes]") -> int:
    """Sends SIGTERM to the bridge and returns its exit status."""
    child = subprocess.run(["pgrep", "-P", str(running.pid)], capture_output=True, text=True, check=False)
    pid = int(child.stdout) if running.args[0] == "unshare" else running.pid  # type: ignore[index]
    subprocess.run(["kill", "-TERM", str(pid)], check=True)
    return running.wait(CALL_TIMEOUT_SECONDS)


@pytest.mark.parametrize("prefix", [[], PID_1], ids=["a process", "process 1"])
def test_with_the_reader_of_the_log_gone_a_clean_stop_exits_with_0(tmp_path: Path, prefix: list[str]) -> None:
    if prefix and (
        shutil.which("unshare") is None
        or subprocess.run([*prefix, "true"], check=False, capture_output=True).returncode
    ):
        pytest.skip("a PID namespace needs root")
    with serving(tmp_path, *prefix) as (running, _):
        assert running.stdout is not None
        assert running.stderr is not None
        running.stdout.close()
        running.stderr.close()
        assert stop(running) == 0


def test_a_full_log_pipe_delays_no_answer_and_no_stop(tmp_path: Path) -> None:
    with serving(tmp_path) as (running, url):
        watches = [
            {"task_id": f"task_{number}", "callback_url": "https://1.1.1.1/" + "x" * 200} for number in range(500)
        ]
        body = json.dumps({"watches": watches}).encode()
        registering = Request(url + "/watch/batch", body, {"Content-Type": "application/json"})  # noqa: S310
        with urlopen(registering, timeout=CALL_TIMEOUT_SECONDS) as answer:  # noqa: S310
            assert {one["status"] for one in json.load(answer)["results"]} == {201}  # 200 KB of log; a pipe holds 64
        with urlopen(url + "/healthz", timeout=5) as answer:  # noqa: S310
            assert answer.status == 200
        running.send_signal(signal.SIGTERM)
        assert running.wait(CALL_TIMEOUT_SECONDS) == 0

"""`healthy`: the exit code of a probe."""

import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from tests.cli.harness import BridgeInThread, Command, bridge_in_thread


@pytest.fixture
def bridge(tmp_path: Path) -> Iterator[BridgeInThread]:
    with bridge_in_thread(tmp_path) as running:
        yield running


def test_a_ready_bridge_is_healthy_without_a_token(command: Command, bridge: BridgeInThread) -> None:
    port = bridge.url.rpartition(":")[2]
    for arguments in ([], ["--alive"]):
        result = command("healthy", *arguments, BRIDGE_PORT=port)
        assert (result.code, result.err) == (0, "")
    assert command("healthy", BRIDGE_URL=bridge.url, http_proxy="http://127.0.0.1:9").code == 0


def test_no_answer_is_one_sentence_and_exit_code_1(command: Command) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    result = command("healthy", BRIDGE_PORT=str(port))
    assert (result.code, result.out) == (1, "")
    assert result.err == f"amux-bridge: the bridge at http://127.0.0.1:{port} does not answer: connection refused\n"


class _Unready(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(503 if self.path == "/readyz" else 200)
        self.end_headers()
        self.wfile.write(b'{"status": "draining"}')

    def log_message(self, *_: object) -> None:
        """Writes nothing."""


@pytest.fixture
def unready() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), _Unready) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield str(server.server_port)
        server.shutdown()
        thread.join()


def test_a_bridge_that_is_not_ready_is_alive_and_not_healthy(command: Command, unready: str) -> None:
    result = command("healthy", BRIDGE_PORT=unready)
    assert (result.code, result.out.strip()) == (1, '{"status": "draining"}')
    assert command("healthy", "--alive", BRIDGE_PORT=unready).code == 0


def test_a_bad_setting_is_exit_code_1_because_docker_reserves_2(command: Command) -> None:
    result = command("healthy", BRIDGE_PORT="none")
    assert result.code == 1
    assert result.err.startswith("amux-bridge: BRIDGE_PORT: ")

"""nginx as a reverse proxy in front of a bridge."""

import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.ports import free_port
from tests.programs import program

START_SECONDS = 20.0


@contextmanager
def nginx(server: str) -> Iterator[str]:
    """Starts nginx with this text in its `http` block, and yields its URL. PORT in the text becomes nginx's port.

    All settings for requests that the text does not contain have nginx's defaults.
    """
    path = program("nginx", "nginx-light")
    folder, port = Path(tempfile.mkdtemp(prefix="bridge-nginx-")), free_port()
    temporary = "\n".join(
        f"{name}_temp_path {folder}/{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    config = folder / "nginx.conf"
    config.write_text(
        f"daemon off;\nmaster_process off;\npid {folder}/pid;\nerror_log {folder}/error.log;\nevents {{}}\n"
        f"http {{\naccess_log off;\n{temporary}\n{server.replace('PORT', str(port))}\n}}\n"
    )
    log = folder / "output"
    with log.open("w") as output:
        command = [path, "-p", str(folder), "-e", f"{folder}/error.log", "-c", str(config)]
        running = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        _wait_until_open(port, running, folder)
        yield f"http://127.0.0.1:{port}"
    finally:
        running.terminate()
        running.wait(START_SECONDS)
        shutil.rmtree(folder, ignore_errors=True)


def _wait_until_open(port: int, running: "subprocess.Popen[bytes]", folder: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            texts = "".join(file.read_text() for file in (folder / "output", folder / "error.log") if file.exists())
            assert running.poll() is None, texts
            assert time.monotonic() < end, texts
            time.sleep(0.02)
        else:
            return

"""Builds the image and runs it as docs/operations.md says, with Docker, or with Buildah and runc.

    python3 -m tests.image.run_image

The bridge is PID 1, with a read-only root, without capabilities and without a way to gain any. The base is
PYTHON_IMAGE, else the default of the Dockerfile, else an image that mmdebstrap makes. Exit codes: 0 for success, 1 when
a check fails, 77 when there is no engine to build or run the image.
"""

import json
import re
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.image.container_engines import IMAGE, ROOT, USER, Container, Engine, NoEngine, base_image, found_engine

OPERATIONS = ROOT / "docs/operations.md"
MAX_MEGABYTES = 160
NO_ENGINE_EXIT_CODE = 77
SETTINGS = {
    "BRIDGE_TOKENS": "shop:image-token-0123456789",
    "BRIDGE_CALLBACK_ALLOW_NETWORKS": "127.0.0.0/8",
    "BRIDGE_POLL_FIRST_DELAY_SECONDS": "0.1",
    "BRIDGE_POLL_INTERVAL_SECONDS": "0.1",
}
RECEIVER = "http://127.0.0.1:9000/hooks/video"

# Runs in the container. Prints how PID 1 was started, and each folder that its user can write to.
INSPECT_PROCESS = """
import json, os, shutil, stat
status = dict(line.split(":", 1) for line in open("/proc/1/status").read().splitlines())
writable = []
for folder, names, _ in os.walk("/"):
    if folder == "/":
        names[:] = [name for name in names if name not in ("proc", "sys", "dev")]
    if os.access(folder, os.W_OK):
        writable.append(folder)
print(json.dumps({
    "command": open("/proc/1/cmdline").read().split("\\0")[:-1],
    "ids": status["Uid"].split() + status["Gid"].split(),
    "capabilities": [status[name].strip("0\\t ") for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")],
    "no_new_privileges": status["NoNewPrivs"].strip(),
    "writable": writable,
    "data": [os.stat("/data").st_uid, os.stat("/data").st_gid, oct(stat.S_IMODE(os.stat("/data").st_mode))],
    "compilers": [name for name in ("cc", "gcc", "g++", "make") if shutil.which(name)],
    "modes": {name: oct(stat.S_IMODE(os.stat("/data/" + name).st_mode)) for name in os.listdir("/data")},
}))
"""
INSPECT_BACKUP = """
import os, sqlite3
copy = sqlite3.connect("backup/bridge.db")
[whole], [watches] = (copy.execute(q).fetchone() for q in ("PRAGMA integrity_check", "SELECT count(*) FROM watches"))
modes = [oct(os.stat(name).st_mode & 0o777) for name in ("backup/bridge.db", "backup/bridge.key")]
print(whole, watches, open("bridge.key").read() == open("backup/bridge.key").read(), *modes)
"""
LIST_ACTIVE_TASKS = """
import json, os, urllib.request as u
token = os.environ["BRIDGE_TOKENS"].partition(":")[2]
ask = u.Request("http://127.0.0.1:8080/watch?state=active", headers={"Authorization": "Bearer " + token})
print(*(it["task_id"] for it in json.load(u.build_opener(u.ProxyHandler({})).open(ask))["items"]))
"""


def check_rights(container: Container) -> None:
    """Check that PID 1 is the bridge, has no capabilities, and can write to /data only."""
    inspected = container.run("python3", "-c", INSPECT_PROCESS)
    assert inspected.returncode == 0, inspected.stderr
    found = json.loads(inspected.stdout)
    modes = found.pop("modes")
    assert found.pop("command")[-2:] == ["serve", "--sandbox"], found
    assert found == {
        "ids": [str(USER)] * 8,
        "capabilities": [""] * 5,
        "no_new_privileges": "1",
        "writable": ["/data"],
        "data": [USER, 0, "0o770"],
        "compilers": [],
    }
    assert {"bridge.db", "bridge.key"} <= modes.keys()
    assert set(modes.values()) == {"0o600"}, modes
    assert container.run("python3", "-c", "import pip").returncode != 0, "pip is installed beside the bridge"


def check_health(container: Container, test: list[str]) -> None:
    """Check that the HEALTHCHECK of the image succeeds for this bridge, and fails where no bridge answers."""
    kind, *command = test
    assert kind == "CMD"
    checked = container.run(*command)
    assert checked.returncode == 0, checked.stderr
    assert container.run(*command, environ={"BRIDGE_PORT": "1"}).returncode != 0


def check_callback(container: Container) -> None:
    """Check that a receiver gets the callback for a task that ends, and verifies it with the secret in /data."""
    listen = container.command("amux-bridge", "listen", "--port", "9000", "--count", "1", "--json")
    with subprocess.Popen(listen, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as receiver:
        assert receiver.stderr is not None
        assert "listening on" in receiver.stderr.readline()
        watched = container.run("amux-bridge", "watch", "sandbox_0_300_completed_1", "--callback", RECEIVER, "--wait")
        assert watched.returncode == 0, watched.stdout + watched.stderr
        assert "video.completed was delivered" in watched.stdout
        event = json.loads(receiver.communicate(timeout=60)[0])
    assert event["verified"] is True, event


def check_backup(container: Container) -> None:
    """Check that the documented backup of a running bridge has the data and the key, and only its user can read it."""
    [command] = re.findall(r"^docker exec bridge (sh -c '.*?')$", OPERATIONS.read_text(), re.MULTILINE | re.DOTALL)
    made = container.run(*shlex.split(command))
    assert (made.returncode, made.stderr) == (0, "")
    inspected = container.run("python3", "-c", INSPECT_BACKUP)
    assert inspected.stdout == "ok 1 True 0o600 0o600\n", inspected


def check_stop(container: Container) -> None:
    """Check that SIGTERM stops the bridge although a watch is active."""
    watched = container.run("amux-bridge", "watch", "sandbox_0_0_never_1", "--callback", RECEIVER)
    assert watched.returncode == 0, watched.stderr
    began = time.monotonic()
    code, lines = container.terminate()
    assert (code, lines[-1]["event"]) == (0, "stopped"), lines
    assert time.monotonic() - began < 20, "it was killed, not stopped"


def check_restart(container: Container) -> None:
    """Check that the next container with the same /data has the active watches of the stopped one."""
    listed = container.run("python3", "-c", LIST_ACTIVE_TASKS)
    assert (listed.stdout, listed.stderr) == ("sandbox_0_0_never_1\n", "")
    assert container.terminate()[0] == 0


def report(sentence: str) -> None:
    sys.stdout.write(sentence + "\n")
    sys.stdout.flush()


def run_all(engine: Engine, folder: Path) -> None:
    """Build the image, check its size, run it, stop it, and run it again."""
    base = base_image(engine, folder)
    engine.build(base)
    above = engine.megabytes(IMAGE) - engine.megabytes(base)
    assert 0 < above < MAX_MEGABYTES, f"{above:.0f} MB"
    report(f"built on {base}: {above:.0f} MB unpacked above it")
    arguments = ("serve", "--sandbox")
    with engine.running(*arguments, environ=SETTINGS) as container:
        container.until("sandbox_listening")
        check_rights(container)
        report("it runs as PID 1 without rights, and can write to /data only")
        check_health(container, engine.config()["Healthcheck"]["Test"])
        report("its HEALTHCHECK detects whether a bridge answers")
        check_callback(container)
        report("a receiver got and verified a callback")
        check_backup(container)
        report("a backup of the running bridge is complete, with its key")
        check_stop(container)
        report("SIGTERM stopped it with exit code 0")
    with engine.running(*arguments, environ=SETTINGS) as container:
        container.until("sandbox_listening")
        check_restart(container)
        report("the next container continues the active watches")


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="bridge-image-") as name:
        folder = Path(name)
        try:
            engine = found_engine(folder)
        except NoEngine as missing:
            return _no_engine(missing)
        try:
            run_all(engine, folder)
        except NoEngine as missing:
            return _no_engine(missing)
        finally:
            engine.forget()
    return 0


def _no_engine(missing: NoEngine) -> int:
    sys.stderr.write(f"{missing}\n")
    return NO_ENGINE_EXIT_CODE


if __name__ == "__main__":
    sys.exit(main())

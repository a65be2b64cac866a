"""Builds the image and runs it as it is meant to be run, wherever Docker, or Buildah with runc, is found.

    python3 -m tests.image.run_image

As PID 1, with a read-only root, no capabilities and no way to gain any. The base is PYTHON_IMAGE's, else the
Dockerfile's; where that cannot be pulled, one is made by mmdebstrap. Exit codes: 0, or 1 when something is not as
promised, or 77 when there is nothing to build or run it with.
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

README = ROOT / "README.md"
MOST_MEGABYTES = 160
NOTHING_TO_RUN_WITH = 77
SETTINGS = {
    "BRIDGE_TOKENS": "shop:image-token-0123456789",
    "BRIDGE_CALLBACK_ALLOW_NETWORKS": "127.0.0.0/8",
    "BRIDGE_POLL_FIRST_DELAY_SECONDS": "0.1",
    "BRIDGE_POLL_INTERVAL_SECONDS": "0.1",
}
RECEIVER = "http://127.0.0.1:9000/hooks/video"

# Run inside: how PID 1 was started, and each folder of the image's that its user could write to.
LOOK = """
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
    "compilers": [name for name in ("cc", "gcc", "g++", "make") if shutil.which(name)],
    "modes": {name: oct(stat.S_IMODE(os.stat("/data/" + name).st_mode)) for name in os.listdir("/data")},
}))
"""
COPY = """
import os, sqlite3
copy = sqlite3.connect("backup.db")
[whole], [watches] = (copy.execute(q).fetchone() for q in ("PRAGMA integrity_check", "SELECT count(*) FROM watches"))
modes = [oct(os.stat(name).st_mode & 0o777) for name in ("backup.db", "backup.key")]
print(whole, watches, open("bridge.key").read() == open("backup.key").read(), *modes)
"""
ACTIVE = """
import json, os, urllib.request as u
token = os.environ["BRIDGE_TOKENS"].partition(":")[2]
ask = u.Request("http://127.0.0.1:8080/watch?state=active", headers={"Authorization": "Bearer " + token})
print(*(it["task_id"] for it in json.load(u.build_opener(u.ProxyHandler({})).open(ask))["items"]))
"""


def check_rights(container: Container) -> None:
    """PID 1 is the bridge, a plain user without any right, and /data is all that it can write to."""
    looked = container.run("python3", "-c", LOOK)
    assert looked.returncode == 0, looked.stderr
    found = json.loads(looked.stdout)
    modes = found.pop("modes")
    assert found.pop("command")[-2:] == ["serve", "--sandbox"], found
    assert found == {
        "ids": [str(USER)] * 8,
        "capabilities": [""] * 5,
        "no_new_privileges": "1",
        "writable": ["/data"],
        "compilers": [],
    }
    assert {"bridge.db", "bridge.key"} <= modes.keys()
    assert set(modes.values()) == {"0o600"}, modes
    assert container.run("python3", "-c", "import pip").returncode != 0, "there is a pip beside the bridge"


def check_health(container: Container, test: list[str]) -> None:
    """The image's HEALTHCHECK says yes to this bridge, and no where none answers."""
    kind, *command = test
    assert kind == "CMD"
    asked = container.run(*command)
    assert asked.returncode == 0, asked.stderr
    assert container.run(*command, environ={"BRIDGE_PORT": "1"}).returncode != 0


def check_callback(container: Container) -> None:
    """A task that ends is told to a receiver, which verifies it with the secret from /data."""
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
    """The README's copy of a running bridge is whole, with its key, and nobody else's to read."""
    [command] = re.findall(r"^docker exec bridge (sh -c '.*?')$", README.read_text(), re.MULTILINE | re.DOTALL)
    made = container.run(*shlex.split(command))
    assert (made.returncode, made.stderr) == (0, "")
    looked = container.run("python3", "-c", COPY)
    assert looked.stdout == "ok 1 True 0o600 0o600\n", looked


def check_end(container: Container) -> None:
    """SIGTERM drains, whatever is still watched."""
    left = container.run("amux-bridge", "watch", "sandbox_0_0_never_1", "--callback", RECEIVER)
    assert left.returncode == 0, left.stderr
    began = time.monotonic()
    code, lines = container.terminate()
    assert (code, lines[-1]["event"]) == (0, "stopped"), lines
    assert time.monotonic() - began < 20, "it was killed rather than stopped"


def check_return(container: Container) -> None:
    """What a stopped one watched is watched by the next one on the same /data."""
    asked = container.run("python3", "-c", ACTIVE)
    assert (asked.stdout, asked.stderr) == ("sandbox_0_0_never_1\n", "")
    assert container.terminate()[0] == 0


def tell(sentence: str) -> None:
    sys.stdout.write(sentence + "\n")
    sys.stdout.flush()


def run_all(engine: Engine, folder: Path) -> None:
    """Build, look at what was built, run it, stop it, and run it again."""
    base = base_image(engine, folder)
    engine.build(base)
    above = engine.megabytes(IMAGE) - engine.megabytes(base)
    assert 0 < above < MOST_MEGABYTES, f"{above:.0f} MB"
    tell(f"built on {base}: {above:.0f} MB unpacked above it")
    arguments = ("serve", "--sandbox")
    with engine.running(*arguments, environ=SETTINGS) as container:
        container.until("sandbox_listening")
        check_rights(container)
        tell("runs as PID 1 without a right, and can write to /data only")
        check_health(container, engine.config()["Healthcheck"]["Test"])
        tell("its HEALTHCHECK tells a bridge that answers from none")
        check_callback(container)
        tell("a task's end was told to a receiver, and verified")
        check_backup(container)
        tell("it was copied while it ran, with its key")
        check_end(container)
        tell("SIGTERM ended it with 0")
    with engine.running(*arguments, environ=SETTINGS) as container:
        container.until("sandbox_listening")
        check_return(container)
        tell("what was watched is watched again by the next one")


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="bridge-image-") as name:
        folder = Path(name)
        try:
            engine = found_engine(folder)
        except NoEngine as missing:
            return _nothing(missing)
        try:
            run_all(engine, folder)
        except NoEngine as missing:
            return _nothing(missing)
        finally:
            engine.forget()
    return 0


def _nothing(missing: NoEngine) -> int:
    sys.stderr.write(f"{missing}\n")
    return NOTHING_TO_RUN_WITH


if __name__ == "__main__":
    sys.exit(main())

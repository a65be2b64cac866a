"""The engines that build and run the image: Docker, or Buildah with runc. Both implement `Engine`.

A container has no network except its own loopback, so every client of the bridge runs inside the container.
"""

import json
import os
import platform
import re
import shutil
import stat
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

ROOT = Path(__file__).parents[2]
IMAGE, BASE = "localhost/amux-bridge-under-test", "localhost/amux-bridge-base"
COMMAND_TIMEOUT_SECONDS = 900.0  # a build installs every dependency
USER = 10001
# The mounts of Docker. The writable ones are in memory.
MOUNTS = (
    ("/proc", "proc", ["nosuid", "noexec", "nodev"]),
    ("/dev", "tmpfs", ["nosuid", "strictatime", "mode=755", "size=65536k"]),
    ("/dev/shm", "tmpfs", ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),  # noqa: S108  of the container
    ("/sys", "sysfs", ["nosuid", "noexec", "nodev", "ro"]),
)


class NoEngine(Exception):
    """There is no engine to build or run the image. The text names what is missing."""


@dataclass(frozen=True)
class Container:
    """A running container: read-only and without capabilities. The next container uses its /data volume again."""

    process: "subprocess.Popen[str]"
    enter: Sequence[str]
    name: str
    kill: Sequence[str]

    def command(self, *words: str, environ: Mapping[str, str] | None = None) -> list[str]:
        """Return the command that runs a program inside, as the user of PID 1 and with these variables added."""
        given = [f"--env={name}={value}" for name, value in (environ or {}).items()]
        return [*self.enter, *given, self.name, *words]

    def run(self, *words: str, environ: Mapping[str, str] | None = None) -> "subprocess.CompletedProcess[str]":
        """Run a command inside and wait for its end."""
        return subprocess.run(
            self.command(*words, environ=environ), capture_output=True, text=True, check=False, timeout=60
        )

    def until(self, event: str) -> None:
        """Read the log of the bridge until a line has this event."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if json.loads(line)["event"] == event:
                return
        raise AssertionError(f"the bridge ended, and {event!r} was not in its log")

    def terminate(self) -> tuple[int, list[Any]]:
        """Send SIGTERM to PID 1. Return its exit code and the log lines that were not read yet."""
        run(*self.kill)
        out, _ = self.process.communicate(timeout=60)
        return self.process.returncode, [json.loads(line) for line in out.splitlines()]


class Engine(Protocol):
    """Builds and runs the image."""

    def pull(self, name: str) -> bool:
        """Pull an image. Return whether that succeeded."""

    def take(self, archive: Path) -> None:
        """Make the image `BASE` from the archive of a root file system."""

    def build(self, base: str) -> None:
        """Build `IMAGE` with the Dockerfile."""

    def config(self) -> Mapping[str, Any]:
        """Return the configuration of `IMAGE`, with Docker's names of the fields."""

    def megabytes(self, name: str) -> float:
        """Return the unpacked size of an image."""

    def running(self, *arguments: str, environ: Mapping[str, str]) -> AbstractContextManager[Container]:
        """Run a container of `IMAGE` while the context is open. The next container has the same /data."""

    def forget(self) -> None:
        """Remove what this test made, except a base image that was pulled."""


def run(*command: str | Path) -> str:
    """Run a command that must succeed, and return its output."""
    done = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, check=False, timeout=COMMAND_TIMEOUT_SECONDS
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))} failed:\n{(done.stdout + done.stderr)[-3000:]}")
    return done.stdout


# --- Docker -------------------------------------------------------------------------------------------------------


class Docker:
    """Builds and runs the image with Docker."""

    volume = "amux-bridge-under-test"

    def pull(self, name: str) -> bool:
        return subprocess.run(["docker", "pull", "--quiet", name], capture_output=True, check=False).returncode == 0

    def take(self, archive: Path) -> None:
        run("docker", "import", archive, BASE)

    def build(self, base: str) -> None:
        run("docker", "build", "--build-arg", f"PYTHON_IMAGE={base}", "--tag", IMAGE, ROOT)

    def config(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = json.loads(run("docker", "image", "inspect", "--format={{json .Config}}", IMAGE))
        return found

    def megabytes(self, name: str) -> float:
        return int(run("docker", "image", "inspect", "--format={{.Size}}", name)) / 1e6

    @contextmanager
    def running(self, *arguments: str, environ: Mapping[str, str]) -> Iterator[Container]:
        name = "amux-bridge-under-test"
        safety = ["--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--network=none"]
        given = [f"--env={key}={value}" for key, value in environ.items()]
        command = ["docker", "run", "--rm", f"--name={name}", f"--volume={self.volume}:/data", *safety, *given, IMAGE]
        with subprocess.Popen([*command, *arguments], stdout=subprocess.PIPE, text=True) as process:
            try:
                yield Container(process, ["docker", "exec"], name, ["docker", "kill", "--signal=TERM", name])
            finally:
                subprocess.run(["docker", "rm", "--force", name], capture_output=True, check=False)

    def forget(self) -> None:
        subprocess.run(["docker", "volume", "rm", "--force", self.volume], capture_output=True, check=False)
        subprocess.run(["docker", "image", "rm", "--force", IMAGE, BASE], capture_output=True, check=False)


# --- Buildah ------------------------------------------------------------------------------------------------------


class Buildah:
    """Builds with Buildah and runs with runc: `buildah run` has no read-only root. All files are in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._buildah = ["buildah", "--root", str(folder / "store"), "--runroot", str(folder / "run")]
        self._runc = ["runc", "--root", str(folder / "containers")]

    def pull(self, name: str) -> bool:
        return subprocess.run([*self._buildah, "pull", name], capture_output=True, check=False).returncode == 0

    def take(self, archive: Path) -> None:
        working = run(*self._buildah, "from", "scratch").strip()
        run(*self._buildah, "add", working, archive, "/")
        run(*self._buildah, "commit", "--rm", working, BASE)

    def build(self, base: str) -> None:
        # Only the format of Docker has a HEALTHCHECK. The isolation by chroot needs no new namespaces.
        how = ["--isolation=chroot", "--format=docker", f"--build-arg=PYTHON_IMAGE={base}", f"--tag={IMAGE}"]
        run(*self._buildah, "bud", *how, ROOT)

    def config(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = json.loads(run(*self._buildah, "inspect", "--type=image", IMAGE))["Docker"]["config"]
        return found

    def megabytes(self, name: str) -> float:
        with self._mounted(name) as root:
            return int(run("du", "--summarize", "--block-size=1000", root).split()[0]) / 1000

    @contextmanager
    def running(self, *arguments: str, environ: Mapping[str, str]) -> Iterator[Container]:
        data, bundle, name = self._folder / "data", self._folder / "bundle", f"under-test-{os.getpid()}"
        bundle.mkdir(exist_ok=True)
        with self._mounted(IMAGE) as root:
            if not data.exists():  # as Docker makes a new volume: with the owner and the mode of /data in the image
                found = Path(root, "data").stat()
                data.mkdir()
                data.chmod(stat.S_IMODE(found.st_mode))
                os.chown(data, found.st_uid, found.st_gid)
            config = runtime_config(self.config(), arguments, environ, root, data)
            (bundle / "config.json").write_text(json.dumps(config))
            command = [*self._runc, "run", f"--bundle={bundle}", name]
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
                try:
                    yield Container(process, [*self._runc, "exec"], name, [*self._runc, "kill", name, "TERM"])
                finally:
                    delete = [*self._runc, "delete", "--force", name]
                    subprocess.run(delete, capture_output=True, check=False)

    @contextmanager
    def _mounted(self, name: str) -> Iterator[str]:
        working = run(*self._buildah, "from", name).strip()
        try:
            yield run(*self._buildah, "mount", working).strip()
        finally:
            run(*self._buildah, "rm", working)  # this unmounts it as well

    def forget(self) -> None:
        subprocess.run([*self._buildah, "rmi", "--all", "--force"], capture_output=True, check=False)


def runtime_config(
    image: Mapping[str, Any], arguments: Sequence[str], environ: Mapping[str, str], root: str, data: Path
) -> Mapping[str, Any]:
    """Return the configuration for runc: the settings of the image, without any capability."""
    user, group = map(int, image["User"].split(":"))
    mounts = [{"destination": to, "type": kind, "source": kind, "options": options} for to, kind, options in MOUNTS]
    own = {"destination": "/data", "type": "bind", "source": str(data), "options": ["bind", "rw", "nosuid", "nodev"]}
    return {
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": user, "gid": group},
            "args": [*image["Entrypoint"], *arguments],
            "env": [*image["Env"], *(f"{name}={value}" for name, value in environ.items())],
            "cwd": image["WorkingDir"],
            "capabilities": {},
            "noNewPrivileges": True,
        },
        "root": {"path": root, "readonly": True},
        "hostname": "bridge",
        "mounts": [*mounts, own],
        "linux": {"namespaces": [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount")]},
    }


# --- the available engine -----------------------------------------------------------------------------------------


def found_engine(folder: Path) -> Engine:
    """Return an engine that works, or raise NoEngine. Docker's client is often installed without a running engine."""
    answer = shutil.which("docker") and subprocess.run(["docker", "info"], capture_output=True, check=False)
    if answer and answer.returncode == 0:
        return Docker()
    if shutil.which("buildah") is None:
        raise NoEngine("there is neither a Docker engine that answers nor buildah")
    if shutil.which("runc") is None:
        raise NoEngine("buildah is installed, but runc is not")
    if os.geteuid() != 0:
        raise NoEngine("buildah is installed, but only root can mount its images")
    return Buildah(folder)


def base_image(engine: Engine, folder: Path) -> str:
    """Return PYTHON_IMAGE, else the default of the Dockerfile, else an image of Debian packages. Raises NoEngine."""
    if given := os.environ.get("PYTHON_IMAGE"):
        return given
    [name] = re.findall(r"^ARG PYTHON_IMAGE=(.+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    if engine.pull(name):
        return str(name)
    if shutil.which("mmdebstrap") is None:
        raise NoEngine(f"{name} cannot be pulled, and mmdebstrap is not installed to make a base; set PYTHON_IMAGE")
    archive, trusted = folder / "base.tar", "/etc/ssl/certs/ca-certificates.crt"
    packages = "--include=python3,python3-venv,python3-pip,ca-certificates"
    # The image gets the certificates of this machine, because a proxy with its own certificate may pass packages on.
    hooks = [f"--customize-hook=upload {trusted} {trusted}"] if Path(trusted).exists() else []
    release = platform.freedesktop_os_release()["VERSION_CODENAME"]
    run("mmdebstrap", "--variant=minbase", packages, *hooks, release, archive)
    engine.take(archive)
    archive.unlink()
    return BASE

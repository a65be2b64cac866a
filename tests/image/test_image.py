"""Tests of the image that need no engine: the linter, rules for the Dockerfile, and its steps."""

import json
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from fnmatch import fnmatch
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from bridge import __version__
from bridge.cli.parser import build_parser
from bridge.settings.describing import describe

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "Dockerfile"
HOME = "/opt/amux-bridge"
MAX_MEGABYTES = 160


def instructions() -> list[tuple[str, str]]:
    """Returns the name and the text of each instruction. Continued lines are joined."""
    joined = re.sub(r"\\\n\s*", " ", re.sub(r"^\s*#.*\n", "", DOCKERFILE.read_text(), flags=re.MULTILINE))
    return [(name, rest.strip()) for name, _, rest in (line.partition(" ") for line in joined.splitlines() if line)]


def instructions_named(kind: str) -> list[str]:
    return [rest for name, rest in instructions() if name == kind]


def reaches_build(path: str) -> bool:
    """Returns whether `.dockerignore` lets a path into a build. The last rule for it or a folder above it decides."""
    verdict = True
    for rule in (ROOT / ".dockerignore").read_text().splitlines():
        if not rule or rule.startswith("#"):
            continue
        pattern = rule.removeprefix("!")
        folders = [path, *(str(folder) for folder in Path(path).parents)][: path.count("/") + 1]
        if any(_matches(folder, pattern) for folder in folders):
            verdict = rule.startswith("!")
    return verdict


def _matches(path: str, pattern: str) -> bool:
    if pattern.startswith("**/"):
        return any(fnmatch(part, pattern[3:]) for part in path.split("/"))
    return fnmatch(path, pattern) and path.count("/") == pattern.count("/")


def copied_sources() -> list[str]:
    """Returns the files and folders that COPY takes from the build context."""
    words = [shlex.split(rest) for rest in instructions_named("COPY") if not rest.startswith("--from")]
    return [source for copy in words for source in copy[:-1]]


# --- rules ----------------------------------------------------------------------------------------------------


def test_hadolint_finds_no_problem() -> None:
    hadolint = shutil.which("hadolint", path=sysconfig.get_path("scripts")) or "hadolint"
    done = subprocess.run([hadolint, str(DOCKERFILE)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_every_copied_file_exists_and_reaches_the_build() -> None:
    for source in copied_sources():
        assert (ROOT / source).exists(), source
        assert reaches_build(source), source
    assert reaches_build("bridge/store/migrations/versions/0001_first.py")


@pytest.mark.parametrize(
    "path",
    [
        ".env",
        "bridge.db",
        "bridge.key",
        "bridge/bridge.key",
        "bridge/x.db-wal",
        ".git/config",
        "tests/image/test_image.py",
    ],
)
def test_secrets_and_unneeded_files_do_not_reach_a_build(path: str) -> None:
    assert not reaches_build(path)


def load_default_database() -> str:
    [default] = [each.default for each in describe() if each.name == "BRIDGE_DATABASE_URL"]
    return default


def test_the_image_has_a_numeric_user_one_volume_and_no_shell_in_its_entrypoint() -> None:
    final = instructions()[max(number for number, (name, _) in enumerate(instructions()) if name == "FROM") :]
    last = dict(final)
    assert last["USER"] == "10001:10001"
    assert json.loads(last["VOLUME"]) == ["/data"]
    assert json.loads(last["ENTRYPOINT"]) == ["amux-bridge"]
    assert json.loads(last["CMD"]) == ["serve"]
    environ = dict(pair.partition("=")[::2] for pair in shlex.split(last["ENV"]))
    # A setting in ENV would silently override a user's `.env` file.
    assert {name: value for name, value in environ.items() if name.startswith("BRIDGE_")} == {"BRIDGE_HOST": "0.0.0.0"}  # noqa: S104
    assert (last["WORKDIR"], load_default_database()) == ("/data", "sqlite:///bridge.db")
    assert environ["PYTHONDONTWRITEBYTECODE"] == "1"
    assert "org.opencontainers.image.title" in last["LABEL"]
    assert "EXTRAS=" in [rest.replace('"', "") for rest in instructions_named("ARG")]  # no extras by default
    assert dict(pair.split("=") for pair in instructions_named("ARG"))["VERSION"] == __version__
    assert not any("pip" in rest for name, rest in final if name == "RUN")


def test_the_data_folder_belongs_to_group_0_with_its_owners_rights() -> None:
    """OpenShift runs an image under any user id, in group 0."""
    [install] = [rest for name, rest in instructions() if name == "RUN" and "/data" in rest]
    assert " ".join(install.split()) == "install -d -o 10001 -g 0 -m 0700 /data && chmod g=u /data"


def test_the_health_check_is_a_command_without_a_shell() -> None:
    [check] = instructions_named("HEALTHCHECK")
    command = json.loads(check.partition("CMD ")[2])
    assert command == ["amux-bridge", "healthy", "--alive"]
    assert build_parser().parse_args(command[1:]).alive


def test_the_lock_file_has_only_versions_and_every_package_that_the_bridge_needs() -> None:
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    assert [line for line in lines if not re.fullmatch(r"[a-z0-9-]+==[\w.]+( ; .*)?", line)] == []
    pinned = dict(line.partition(" ")[0].split("==") for line in lines)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    required = [Requirement(each) for each in project["dependencies"] + project["optional-dependencies"]["postgres"]]
    assert {"pydantic", "typing-extensions", "psycopg"} <= {each.name for each in required}
    assert [str(each) for each in required if pinned.get(each.name, "0") not in each.specifier] == []


def test_the_extra_notify_of_the_image_is_locked_with_all_that_it_needs() -> None:
    locked = {line.partition("==")[0] for line in _chosen_lines("notify")}
    needed, waiting = set(), ["apprise"]
    while waiting:
        name = waiting.pop().lower().replace("_", "-")
        needed.add(name)
        found = [Requirement(each) for each in distribution(name).requires or ()]
        applies = [each.name for each in found if each.marker is None or each.marker.evaluate({"extra": ""})]
        waiting += [each for each in applies if each.lower() not in needed]
    assert needed <= locked
    assert {line.partition("==")[0] for line in _chosen_lines("")} == locked - needed | {"idna"}


def _chosen_lines(extras: str) -> list[str]:
    """Returns the lines of the lock file that pip installs for a build argument. Runs the Dockerfile's own command."""
    [command] = re.findall(r"(sed .*?) /build", DOCKERFILE.read_text())
    done = subprocess.run(
        ["/bin/sh", "-ec", f"{command} {ROOT / 'requirements.lock'}"],
        env={"EXTRAS": extras, "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    return [line for line in done.stdout.splitlines() if "extra ==" not in line]


# --- steps ----------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_the_steps_of_the_dockerfile_make_a_bridge_that_runs(tmp_path: Path) -> None:
    """Runs every COPY and RUN up to the install of the package, on a copy of the build context."""
    context = tmp_path / "context"
    for name in _files():
        if reaches_build(name):
            (context / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, context / name)
    home, build = tmp_path / "home", tmp_path / "build"
    build.mkdir()
    for name, rest in instructions():
        if name == "FROM" and " AS " not in rest:
            break
        here = rest.replace(HOME, str(home)).replace("/build", str(build))
        if name == "COPY":
            *sources, target = shlex.split(here)
            for source in sources:
                _copy(context / source, Path(target))
        if name == "RUN":
            subprocess.run(["/bin/sh", "-ec", here.replace("python3 ", f"{sys.executable} ")], check=True)
    printed = subprocess.run([home / "bin/amux-bridge", "--version"], capture_output=True, text=True, check=True)
    assert printed.stdout == f"amux-bridge {__version__}\n"
    assert not list(home.rglob("pip"))
    megabytes = sum(file.stat().st_size for file in home.rglob("*") if file.is_file() and not file.is_symlink()) / 2**20
    assert megabytes < MAX_MEGABYTES
    subprocess.run([home / "bin/amux-bridge", "demo"], cwd=tmp_path, check=True, stdout=subprocess.DEVNULL)


def _files() -> list[str]:
    return [
        str(path.relative_to(ROOT))
        for name in (*copied_sources(), "tests")
        for path in ((ROOT / name).rglob("*") if (ROOT / name).is_dir() else [ROOT / name])
        if path.is_file()
    ]


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copy(source, target)

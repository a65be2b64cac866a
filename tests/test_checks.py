"""The checks that every change passes: types, lint, format, layers, and what the tree may hold."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
CHECKS = {
    "mypy": ["mypy"],
    "ruff check": ["ruff", "check", "."],
    "ruff format": ["ruff", "format", "--check", "."],
    "import-linter": ["lint-imports"],
}
ALLOWED_AT_THE_TOP = {
    "pyproject.toml",
    "README.md",
    "LICENSE",
    "requirements.lock",
    "Dockerfile",
    ".dockerignore",
    ".gitignore",
    ".ci/run",
}
ALLOWED_FOLDERS = {"bridge", "tests", "examples"}
LONGEST_FILE, LONGEST_LINE = 400, 120

# Put together here, so that this file does not hold what it looks for.
REGISTRIES = [
    "".join(parts)
    for parts in (
        ("pypi", ".org"),
        ("python", "hosted.org"),
        ("npmjs", ".org"),
        ("npmjs", ".com"),
        ("crates", ".io"),
        ("docker", ".io"),
        ("ghcr", ".io"),
        ("quay", ".io"),
        ("golang", ".org"),
        ("debian", ".org"),
        ("maven", ".org"),
    )
]
MACHINE_PATHS = [f"/{first}/" for first in ("work", "root", "home", "Users")]


@pytest.mark.parametrize("check", CHECKS)
def test_the_check_passes(check: str) -> None:
    command, *arguments = CHECKS[check]
    done = subprocess.run(
        [shutil.which(command, path=str(BIN)) or command, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def files() -> list[str]:
    """What is tracked, or will be: all that git does not ignore. In a copy without git, every file of ours."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode:
        pytest.skip("this is no work tree of git's")
    return [name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]


def test_the_top_holds_what_it_may_and_nothing_else() -> None:
    strange = [
        name for name in files() if name not in ALLOWED_AT_THE_TOP and name.partition("/")[0] not in ALLOWED_FOLDERS
    ]
    assert strange == []


def test_no_file_names_a_registry_or_a_place_on_a_machine() -> None:
    hosts = re.compile("|".join(rf"(?<![\w-]){re.escape(name)}(?![\w-])" for name in REGISTRIES))
    # A path in a URL is no path on a machine.
    places = re.compile("|".join(rf"(?<![\w.:/-]){re.escape(place)}" for place in MACHINE_PATHS))
    found = [
        f"{name}:{number}: {line.strip()[:100]}"
        for name in files()
        for number, line in enumerate(_lines(ROOT / name), 1)
        if hosts.search(line) or places.search(line)
    ]
    assert found == []


def test_no_module_is_longer_than_it_may_be() -> None:
    sizes = {name: len(_lines(ROOT / name)) for name in files() if name.endswith(".py")}
    assert {name: size for name, size in sizes.items() if size > LONGEST_FILE} == {}


def _lines(path: Path) -> list[str]:
    return path.read_bytes().decode(errors="replace").splitlines()

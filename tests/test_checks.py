"""The checks that every change must pass: types, lint, format, layers, and which files the repository may have."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
CHECKS = {
    "mypy": ["mypy"],
    "ruff check": ["ruff", "check", "."],
    "ruff format": ["ruff", "format", "--check", "."],
    "import-linter": ["lint-imports"],
}
ALLOWED_TOP_LEVEL_FILES = {
    "pyproject.toml",
    "README.md",
    "CHANGELOG.md",
    "LICENSE",
    "requirements.lock",
    "Dockerfile",
    ".dockerignore",
    ".gitignore",
    ".pre-commit-config.yaml",
    ".ci/run",
}
ALLOWED_FOLDERS = {"bridge", "tests", "examples", "docs", ".github"}
MAX_LINES_OF_A_MODULE = 400

# The parts are joined here, so that this file does not contain the names that it searches for.
REGISTRY_HOSTS = [
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
MACHINE_FOLDERS = [f"/{first}/" for first in ("work", "root", "home", "Users")]


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


def repository_files() -> list[str]:
    """Returns the files that git tracks or would add. Skips the test where there is no git repository."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode:
        pytest.skip("this folder is not a git work tree")
    return [name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]


def lines_of(path: Path) -> list[str]:
    return path.read_bytes().decode(errors="replace").splitlines()


def test_the_top_level_has_only_allowed_files_and_folders() -> None:
    unexpected = [
        name
        for name in repository_files()
        if name not in ALLOWED_TOP_LEVEL_FILES and name.partition("/")[0] not in ALLOWED_FOLDERS
    ]
    assert unexpected == []


def test_no_file_names_a_package_registry_or_a_folder_of_a_machine() -> None:
    hosts = re.compile("|".join(rf"(?<![\w-]){re.escape(name)}(?![\w-])" for name in REGISTRY_HOSTS))
    # A path inside a URL is not a path of a machine.
    folders = re.compile("|".join(rf"(?<![\w.:/-]){re.escape(folder)}" for folder in MACHINE_FOLDERS))
    found = [
        f"{name}:{number}: {line.strip()[:100]}"
        for name in repository_files()
        for number, line in enumerate(lines_of(ROOT / name), 1)
        if hosts.search(line) or folders.search(line)
    ]
    assert found == []


def test_no_module_has_more_lines_than_allowed() -> None:
    sizes = {name: len(lines_of(ROOT / name)) for name in repository_files() if name.endswith(".py")}
    assert {name: size for name, size in sizes.items() if size > MAX_LINES_OF_A_MODULE} == {}


# --- CI and pre-commit --------------------------------------------------------------------------------------------


def test_the_workflow_tests_each_python_version_on_both_databases() -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    test, everything = workflow["jobs"]["test"], workflow["jobs"]["all"]
    assert test["strategy"]["matrix"] == {
        "python": ["3.11", "3.12", "3.13", "3.14"],
        "database": ["SQLite", "PostgreSQL"],
    }
    commands = [step["run"] for step in test["steps"] if "run" in step]
    [pattern] = re.findall(r"sed -n '/(\^python3 .*)/p' README\.md", "\n".join(commands))
    assert pattern in (ROOT / ".ci/run").read_text()
    assert ".ci/run" in [step.get("run") for step in everything["steps"]]
    for script in [step["run"] for job in (test, everything) for step in job["steps"] if "run" in step]:
        subprocess.run(["bash", "-n"], input=re.sub(r"\$\{\{.*?\}\}", "value", script), text=True, check=True)
    assert workflow["permissions"] == {"contents": "read"}


def test_the_pre_commit_hooks_run_the_same_checks_from_the_environment() -> None:
    repositories = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert [repository["repo"] for repository in repositories] == ["local"]
    hooks = {hook["name"]: hook for hook in repositories[0]["hooks"]}
    assert hooks.keys() == CHECKS.keys()
    for name, hook in hooks.items():
        assert hook["language"] == "system"
        assert hook["entry"].split() == [word for word in CHECKS[name] if word != "."]
        assert hook.get("pass_filenames", True) is (name in {"ruff check", "ruff format"})

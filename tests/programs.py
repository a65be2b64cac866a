"""Programs of others that tests start: without one a test is skipped, and under CI, which installs them, it fails."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import NoReturn

import pytest


def under_ci() -> bool:
    return os.environ.get("CI", "").lower() not in {"", "0", "false", "no"}


def do_without(reason: str) -> NoReturn:
    """End a test that cannot be made here."""
    if under_ci():
        pytest.fail(reason)
    pytest.skip(reason)


def program(name: str, package: str) -> str:
    """Where a program is; `package` is Debian's that has it."""
    found = shutil.which(name)
    if found is None:
        do_without(f"there is no {name} here: install Debian's `{package}`")
    return found


def npm_install(folder: Path, *packages: str) -> None:
    """Install packages of Node's into `folder`, without running what they bring along."""
    quiet = ["--no-audit", "--no-fund", "--ignore-scripts", "--prefer-offline"]
    npm = program("npm", "npm")
    program("node", "nodejs")
    command = [npm, "install", "--prefix", str(folder), *quiet, *packages]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=300)
    if done.returncode:
        do_without(f"npm could not install {' '.join(packages)}: {done.stderr.strip()[-300:]}")

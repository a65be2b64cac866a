"""External programs that tests start. If a program is missing, its tests are skipped. In CI they fail instead."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import NoReturn

import pytest


def under_ci() -> bool:
    return os.environ.get("CI", "").lower() not in {"", "0", "false", "no"}


def skip_or_fail(reason: str) -> NoReturn:
    """End a test that cannot run here. The test fails in CI and is skipped elsewhere."""
    if under_ci():
        pytest.fail(reason)
    pytest.skip(reason)


def program(name: str, package: str) -> str:
    """Return the path of a program. `package` is the Debian package that contains it."""
    found = shutil.which(name)
    if found is None:
        skip_or_fail(f"there is no {name} here: install Debian's `{package}`")
    return found


def helm_program() -> str:
    """Return the path of helm. Debian has no package of helm, so .ci/run builds it with Go."""
    found = shutil.which("helm", path=f"{os.environ.get('PATH', '')}:{Path.home() / 'go/bin'}")
    if found is None:
        skip_or_fail("there is no helm here: `go install helm.sh/helm/v3/cmd/helm@v3.12.3` builds it")
    return found


def npm_install(folder: Path, *packages: str) -> None:
    """Install npm packages into `folder`, without running their scripts."""
    quiet = ["--no-audit", "--no-fund", "--ignore-scripts", "--prefer-offline"]
    npm = program("npm", "npm")
    program("node", "nodejs")
    command = [npm, "install", "--prefix", str(folder), *quiet, *packages]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=300)
    if done.returncode:
        skip_or_fail(f"npm could not install {' '.join(packages)}: {done.stderr.strip()[-300:]}")
